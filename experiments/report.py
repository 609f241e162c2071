"""What a finished experiment leaves to read: table.{md,csv,tex}, claims.json, figures/*.png and report.html."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from rich.console import Console
from rich.text import Text

from experiments.atomic import write_atomically
from experiments.beside_paper import LEGEND, TITLE, Beside, beside_paper, what_is_printed
from experiments.beside_paper import to_markdown as beside_markdown
from experiments.claims import INCONCLUSIVE, SUPPORTED, Record, Verdict, decide, read_json, read_records
from experiments.experiment import Experiment
from experiments.latex import to_latex
from experiments.printed_effects import printed_text
from experiments.provenance import (
    COMMAND,
    CONFIGURATION,
    ENVIRONMENT,
    Provenance,
    flat,
    is_smoke_command,
    provenance_of,
)
from experiments.sweep_answer import Answer, answers, chosen_text, interval_text
from experiments.sweep_answer import to_markdown as sweep_markdown
from experiments.sweeps import Tried
from experiments.tables import Table, build_table, to_csv, to_markdown, to_terminal
from hccp_jax import config

TEMPLATE = "report.html.j2"
SMOKE = "Smoke run: shrunk to seconds to show that everything runs; its numbers decide nothing."

SWEEP_CAPTION = "Mean over seeds of the validation value that settings are chosen by; brighter is better."


def write_all(
    out_dir: Path | str, experiment: Experiment, command: str, console: Console, over: Sequence[Tried] = ()
) -> None:
    """Write everything that follows from results.jsonl and print the table and the verdicts.

    Args:
        out_dir: the directory of `--out`, with results.jsonl and trials/.
        experiment: the experiment that was run.
        command: the command line that made the results, printed under "Run it again".
        console: where the table goes.
        over: the settings of a sweep; then sweep.md is written, too, and the report has its answer.

    Raises:
        UserError: if there is no results.jsonl.

    """
    out_dir = Path(out_dir)
    records = read_records(out_dir, experiment)
    references = [row.name for row in experiment.rows if row.reference]
    table = build_table(experiment, records, notes=_notes(command))
    verdicts = decide(experiment.claims, records, references)
    write_atomically(out_dir / COMMAND, command + "\n")
    provenance = provenance_of(out_dir, experiment, command)
    beside = beside_paper(table)
    write_atomically(out_dir / "table.md", _markdown(table, beside, provenance))
    write_atomically(out_dir / "table.csv", to_csv(table))
    write_atomically(out_dir / "table.tex", to_latex(table, provenance))
    entries = [verdict.as_json() for verdict in verdicts]
    write_atomically(out_dir / "claims.json", json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    found = answers(over, records)
    if found:
        write_atomically(out_dir / "sweep.md", sweep_markdown(experiment, found, command))
    made_from = _made_from(out_dir, records, command)
    if f'content="{made_from}"' not in _beginning(out_dir / "report.html"):
        figures = _draw(out_dir, experiment, records, found)
        write_report(out_dir, experiment, table, verdicts, figures, command, found, made_from)
    to_terminal(table, console)
    print_verdicts(verdicts, console)
    for answer in found:
        console.print(Text(f"best of {answer.of.label}: {chosen_text(answer)}"))


def _markdown(table: Table, beside: Sequence[Beside], provenance: Provenance) -> str:
    """table.md: the table, the paper's numbers beside it, and what made it."""
    made = ". ".join(f"{name}: {f'`{text}`' if name == 'Command' else text}" for name, text in provenance.facts)
    parts = [to_markdown(table).rstrip(), beside_markdown(table, beside), f"{made}."]
    return "\n\n".join(part for part in parts if part) + "\n"


def _draw(out_dir: Path, experiment: Experiment, records: Sequence[Record], found: Sequence[Answer]) -> list[Path]:
    """All pictures."""
    from experiments.figures import save_all  # what is not drawn again need not load a drawing library
    from experiments.sweep_figures import save_sweep

    figures = save_all(out_dir, experiment, records)
    return [*save_sweep(out_dir, found), *figures] if found else figures


def _made_from(out_dir: Path, records: Sequence[Record], command: str) -> str:
    """A digest of all that the pictures and the report follow from: results, configuration, command, this code."""
    here = Path(__file__).parent
    code = [path.read_text(encoding="utf-8") for path in sorted((*here.glob("*.py"), *here.glob("*.j2")))]
    told = [[record.row, record.world, record.seed, record.metrics, record.result] for record in records]
    logs = [_size(record.directory / "metrics.jsonl") for record in records]
    noted = [read_json(out_dir / name) for name in (CONFIGURATION, ENVIRONMENT)]
    return config.digest(code, told, logs, command, *noted)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _beginning(report: Path) -> str:
    """The head of the report that is there, if its pictures are there, too."""
    if not report.exists() or not any((report.parent / "figures").glob("*.png")):
        return ""
    with report.open(encoding="utf-8") as file:
        return file.read(2000)


def write_report(
    out_dir: Path | str,
    experiment: Experiment,
    table: Table,
    verdicts: Sequence[Verdict],
    figures: Sequence[Path],
    command: str,
    found: Sequence[Answer] = (),
    made_from: str = "",
) -> Path:
    """Write report.html, one self-contained page: no network, no script, images inside."""
    from experiments.figures import CAPTIONS

    out_dir = Path(out_dir)
    resolved = read_json(out_dir / CONFIGURATION)
    text = page(TEMPLATE).render(
        experiment=experiment,
        table=table,
        verdicts=verdicts,
        effect=effect_text,
        by_world=by_world_text,
        chance=chance_text,
        printed=printed_text,
        beside=beside_paper(table),
        beside_title=TITLE,
        beside_legend=f"{what_is_printed(experiment)} {LEGEND}",
        provenance=provenance_of(out_dir, experiment, command),
        answers=found,
        chosen=chosen_text,
        value=interval_text,
        figures=[_figure(path, CAPTIONS | {name: text for name, text, _ in experiment.figures}) for path in figures],
        made_from=made_from,
        command=command,
        notes=_notes(command),
        config=flat(resolved.get("config", resolved)),
        environment=flat(read_json(out_dir / ENVIRONMENT)),
    )
    return write_atomically(out_dir / "report.html", text)


def page(template: str) -> Template:
    """A page's template; what it is given is escaped, and a name that is missing is an error."""
    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return pages.get_template(template)


def effect_text(verdict: Verdict) -> str:
    """The paired difference in units of the metric, such as `+0.0123 [+0.0041, +0.0205]`."""
    interval = verdict.interval
    if interval is None:
        return "no difference to show"
    mean, low, high = interval.mean, interval.low, interval.high
    return f"{mean:+z.4f}" + ("" if low is None or high is None else f" [{low:+z.4f}, {high:+z.4f}]")


def by_world_text(verdict: Verdict) -> str:
    """The effect in each world, such as `+0.012, -0.003`."""
    return ", ".join(f"{effect:+z.4f}" for effect in verdict.by_world)


def chance_text(chance: float) -> str:
    """A p-value with two digits."""
    return "below 0.0001" if chance < 0.0001 else f"{chance:.2g}"


def print_verdicts(verdicts: Sequence[Verdict], console: Console) -> None:
    """Print one line a claim: the verdict in colour and word, the effect and the number of seeds."""
    for verdict in verdicts:
        colour = {SUPPORTED: "green", INCONCLUSIVE: "yellow"}.get(verdict.verdict, "red")
        line = Text.assemble((verdict.word, f"bold {colour}"), f"  {verdict.claim.id}: {verdict.claim.statement} ")
        line.append(f"{effect_text(verdict)}, {verdict.note}" + (f"; {verdict.reason}" if verdict.reason else ""))
        console.print(line)


def _figure(path: Path, captions: Mapping[str, str]) -> dict[str, str]:
    uri = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    caption = captions.get(path.stem, SWEEP_CAPTION if path.stem.startswith("sweep_") else "")
    return {"uri": uri, "title": path.stem.replace("_", " "), "caption": caption}


def _notes(command: str) -> tuple[str, ...]:
    """What must stand beside the numbers of a run by this command."""
    return (SMOKE,) if is_smoke_command(command) else ()
