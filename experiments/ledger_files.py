"""What the ledger of claims leaves to read: ledger.{md,csv,json,tex,html}, RESULTS.md, and a line a claim."""

import base64
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from rich.console import Console
from rich.text import Text

from experiments.atomic import write_atomically
from experiments.claims import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED
from experiments.experiment import Experiment
from experiments.latex import PACKAGES, long_table
from experiments.ledger import STATUSES, Entry, Ledger, Run
from experiments.ledger_record import entry_json, to_json, with_recorded
from experiments.printed_effects import printed_text
from experiments.provenance import portable
from experiments.report import by_world_text, chance_text, effect_text, page
from experiments.tables import MISSING, pipes

TEMPLATE = "ledger.html.j2"
COLOURS = {SUPPORTED: "green", NOT_SUPPORTED: "red", INCONCLUSIVE: "yellow"}
TITLE = "Claims and verdicts"
THUMBNAIL = 340  # pixels of width, twice what the page shows

LEGEND = (
    "Supported: the 95 % interval of the paired effect is wholly above 0, its mean is at least the smallest effect "
    "that matters, and it holds after Holm's adjustment over the claims of its family in one run. Not supported: the "
    "interval lies wholly below that smallest effect. Inconclusive: anything else, or too few seeds. Effects are in "
    "units of the metric; \"as printed\" is the claim's effect by the numbers of the paper's own table. Of one "
    "simulated world (seeds x 1) an interval is over training seeds that answer the same requests, and says nothing of "
    "other worlds. A smoke run decides nothing; a claim that was not run is listed as such."
)
PREFACE = """# Results

Every claim that the experiments of this package test, with the verdict of every run that was made, written by

    {command}

and not by hand. The runs were made by the commands that stand with them; each writes its directory with `table.md`,
`table.csv`, `table.tex`, `claims.json`, figures and `report.html`. To renew a run, make it again, then give the command
above: it reads the runs below `runs/` and takes the others from `{record}` as they were recorded, each with its commit.
The papers' data are private or larger than what was run here: what is tested is the order of the rows and the signs of
the effects, at the sizes given.
"""
HEADER = (
    *("id", "stated in", "statement", "verdict", "effect [95 %]", "as printed"),
    *("by world", "p (Holm)", "seeds x worlds"),
)
CSV_HEADER = (
    *("id", "paper", "statement", "measured", "threshold", "status", "effect", "low", "high", "printed_effect"),
    *("by_world", "p_holm", "seeds", "worlds", "data", "experiment", "run", "commit", "reason"),
)


def write_all(ledger: Ledger, command: str, console: Console) -> None:
    """Write the ledger's files into its directory; print a line a claim."""
    title = f"# {TITLE}\n\nWritten by `{command}`.\n"
    write_atomically(ledger.out / "ledger.md", to_markdown(ledger, title))
    write_atomically(ledger.out / "ledger.csv", to_csv(ledger))
    write_atomically(ledger.out / "ledger.json", to_json(ledger))
    write_atomically(ledger.out / "ledger.tex", to_latex(ledger, command))
    write_atomically(ledger.out / "ledger.html", to_html(ledger, command))
    to_terminal(ledger, console)
    console.print(f"ledger.md, .csv, .json, .tex and .html are in {ledger.out}", highlight=False, soft_wrap=True)


def write_results(
    ledger: Ledger, experiments: Sequence[Experiment], path: Path, command: str, console: Console
) -> None:
    """Write RESULTS.md and its record beside it; runs that are in the record alone are kept as they stand.

    Raises:
        UserError: if what lies in the record's place is none.
    """
    record = path.with_suffix(".json")
    whole = with_recorded(ledger, record, experiments)
    write_atomically(path, to_markdown(whole, PREFACE.format(command=command, record=record.name)))
    write_atomically(record, to_json(whole))
    kept = sum(run.directory is None for run in whole.runs)
    told = f"{path} and {record}: {len(whole.runs)} runs, {kept} of them as recorded earlier; {whole.tally}"
    console.print(told, highlight=False, soft_wrap=True)


def to_terminal(ledger: Ledger, console: Console) -> None:
    """Print one line a claim, grouped by paper, and the counts."""
    for paper, entries in ledger.groups:
        console.print(Text(paper, style="bold"))
        for entry in entries:
            line = Text.assemble(
                ("  " + entry.word, f"bold {COLOURS.get(entry.status, 'dim')}"), f"  {entry.claim.id}  "
            )
            line.append(f"{entry.claim.statement} ({entry.claim.paper})  {told(entry)}")
            console.print(line, soft_wrap=True)
    console.print(Text(ledger.tally, style="bold"), soft_wrap=True)
    for name, reason in ledger.aside:
        console.print(Text(f"left aside: {name}: {reason}", style="dim"), soft_wrap=True)


def told(entry: Entry) -> str:
    """Effect, worlds, seeds, data and run of an entry, in a line."""
    parts = [f"{effect_text(entry.verdict)}"] if entry.verdict else []
    if entry.verdict and (printed := printed_text(entry.experiment, entry.claim)):
        parts.append(f"as printed {printed}")
    if entry.verdict and len(entry.verdict.by_world) > 1:
        parts.append(f"by world {by_world_text(entry.verdict)}")
    parts += [f"{entry.seeds} seeds x worlds"] if entry.seeds else []
    parts += [entry.reason] if entry.reason else []
    return "; ".join([*parts, entry.data, entry.run.name if entry.run else f"--experiment={entry.experiment.name}"])


def to_markdown(ledger: Ledger, beginning: str) -> str:
    """A beginning, the counts, each run with what made it, and the claims by paper, those without a verdict apart."""
    parts = [beginning.rstrip(), f"{ledger.tally}.", LEGEND, "## Runs", *map(_run_markdown, ledger.runs)]
    if ledger.aside:
        parts.append("Left aside: " + "; ".join(f"`{name}` ({reason})" for name, reason in ledger.aside) + ".")
    for paper, entries in ledger.groups:
        parts.append(f"## {paper}")
        decided = [entry for entry in entries if entry.verdict]
        if decided:
            parts.append(pipes([[*HEADER, "data", "run"], *map(_decided_line, decided)], right=False))
        if open_ := [entry for entry in entries if not entry.verdict]:
            header = ["id", "stated in", "statement", "", "why", "data", "experiment"]
            parts.append(pipes([header, *map(_open_line, open_)], right=False))
    return "\n\n".join(parts) + "\n"


def _run_markdown(run: Run) -> str:
    """A run: what it is, what made it, its size."""
    lines = [f"### {run.name}", f"{run.experiment.title}: {run.experiment.table}. {run.experiment.paper}."]
    facts = [(name, f"`{portable(text)}`" if name == "Command" else text) for name, text in run_facts(run)]
    return "\n\n".join([*lines, "\n".join(f"* {name}: {text}" for name, text in facts)])


def run_facts(run: Run) -> list[tuple[str, str]]:
    """What must be known of a run, as names and values."""
    facts = [*run.provenance.facts, ("Seeds x worlds", run.seeds), ("Size", run.size)]
    facts += [("Changed", "; ".join(run.provenance.changed))] if run.provenance.changed else []
    facts += [("Smoke run", "shrunk to seconds; its numbers decide nothing")] if run.provenance.smoke else []
    return [*facts, ("Data", f"{run.data}. {run.experiment.data.sentence}"), ("Facts", " ".join(run.facts))]


def _columns(entry: Entry) -> list[str]:
    """The cells of HEADER."""
    found = entry.verdict
    worlds = by_world_text(found) if found and len(found.by_world) > 1 else MISSING
    chance = MISSING if found is None or found.chance is None else chance_text(found.chance)
    effect = effect_text(found) if found else MISSING
    claim = entry.claim
    printed = printed_text(entry.experiment, claim) or MISSING
    seeds = entry.seeds or MISSING
    return [claim.id, claim.paper, claim.statement, entry.word, effect, printed, worlds, chance, seeds]


def _decided_line(entry: Entry) -> list[str]:
    cells = [*_columns(entry), entry.data, entry.run.name if entry.run else ""]
    cells[3] = f"**{entry.word}**" + (f": {entry.reason}" if entry.reason else "")
    return [cell.replace("|", "\\|") for cell in cells]


def _open_line(entry: Entry) -> list[str]:
    why = entry.reason or "no run of this experiment"
    where = f"{entry.experiment.name} in {entry.run.name}" if entry.run else entry.experiment.name
    cells = [entry.claim.id, entry.claim.paper, entry.claim.statement, entry.word, why, entry.data, where]
    return [cell.replace("|", "\\|") for cell in cells]


def to_csv(ledger: Ledger) -> str:
    """A line an entry, unscaled numbers, empty where there is none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_HEADER, lineterminator="\n")
    writer.writeheader()
    for entry in ledger.entries:
        line = entry_json(entry)
        low, high = line.pop("ci95") or (None, None)
        writer.writerow(line | {"low": low, "high": high, "by_world": " ".join(map(str, line["by_world"]))})
    return text.getvalue()


def to_latex(ledger: Ledger, command: str) -> str:
    """ledger.tex: a table over pages, a group a paper."""
    header = ["claim", "statement", "verdict", "effect [95 %]", "seeds x worlds", "data"]
    groups = []
    for paper, entries in ledger.groups:
        cells = [_columns(entry) for entry in entries]
        lines = [[c[0], c[2], c[3], c[4], c[8], e.data] for c, e in zip(cells, entries, strict=True)]
        groups.append((paper, lines))
    commits = sorted({run.provenance.commit for run in ledger.runs if not run.provenance.smoke})
    beginning = [f"% command: {' '.join(command.split())}", f"% commits of the runs: {', '.join(commits) or 'none'}"]
    return "\n".join([*beginning, PACKAGES, long_table(header, (0.18, 0.25, 0.13, 0.15, 0.075, 0.115), groups)])


def to_html(ledger: Ledger, command: str) -> str:
    """ledger.html: one page that needs nothing else; it links to the pages and pictures of the runs beside it."""
    pictures = {run.name: _pictures(ledger.out, run.directory) for run in ledger.runs if run.directory}
    links = {run.name: _link(ledger.out, run.directory / "report.html") for run in ledger.runs if run.directory}
    return page(TEMPLATE).render(
        title=TITLE,
        ledger=ledger,
        legend=LEGEND,
        command=command,
        links=links,
        pictures=pictures,
        told=told,
        words=STATUSES,
        facts=run_facts,
    )


def _link(out: Path, path: Path) -> str:
    """A file as the ledger's page links to it; empty where there is none."""
    return quote(path.relative_to(out).as_posix()) if path.exists() else ""


def _pictures(out: Path, directory: Path) -> Sequence[dict[str, str]]:
    """Small pictures of a run's figures, each with a link to the whole."""
    return [
        {"uri": _thumbnail(path), "title": path.stem.replace("_", " "), "link": _link(out, path)}
        for path in sorted((directory / "figures").glob("*.png"))
    ]


def _thumbnail(path: Path) -> str:
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        content = io.BytesIO()
        small.save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
