"""The ledger: every claim of every known experiment, with what each run below a directory says of it."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.claims import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED, Record, Verdict, decide, read_json, read_records
from experiments.experiment import Claim, Experiment
from experiments.provenance import CONFIGURATION, Provenance, kind_of_data, provenance_of
from experiments.tables import build_table
from hccp_jax.errors import UserError

SMOKE, NOT_RUN = "smoke", "not_run"
STATUSES = {
    SUPPORTED: "supported",
    NOT_SUPPORTED: "not supported",
    INCONCLUSIVE: "inconclusive",
    SMOKE: "smoke run only",
    NOT_RUN: "not run",
}
PAPERS = ("HCCP", "SDCL", "RankTower", "CROLoss", "HAP")
SHORT = {"RT": "RankTower", "CRO": "CROLoss"}
OURS = "Ours"


@dataclass(frozen=True)
class Run:
    """What one run says: read from its directory, or from the record of a ledger that was written earlier.

    Attributes:
        name: its directory, as seen from that of the ledger.
        experiment: what was run.
        verdicts: on the experiment's claims, in order.
        provenance: what made it.
        seeds: training seeds x worlds.
        size: how much was trained on and how many parameters; then the paper's, if it says.
        data: what the data are, see `provenance`.
        facts: what stands beside its table: epochs, tuning, rows that were not run.
        directory: where it is; None where only its record is there.
    """

    name: str
    experiment: Experiment
    verdicts: tuple[Verdict, ...]
    provenance: Provenance
    seeds: str
    size: str
    data: str
    facts: tuple[str, ...]
    directory: Path | None = None


@dataclass(frozen=True)
class Entry:
    """A claim, and what one run says of it.

    Attributes:
        claim: the claim.
        experiment: the one that tests it.
        status: a verdict, "smoke" where only a smoke run has results, or "not_run".
        run: the run; None where there is none.
        verdict: the run's verdict, where it has an effect and is no smoke run.
        reason: why there is no verdict, or why it is open.
    """

    claim: Claim
    experiment: Experiment
    status: str
    run: Run | None = None
    verdict: Verdict | None = None
    reason: str = ""

    @property
    def word(self) -> str:
        """The status as a reader sees it."""
        return STATUSES[self.status]

    @property
    def data(self) -> str:
        """What the data are, see `provenance`."""
        return self.run.data if self.run else kind_of_data(self.experiment)

    @property
    def seeds(self) -> str:
        """Fewest training seeds of a world x worlds that the effect is over."""
        return f"{self.verdict.seeds} x {len(self.verdict.by_world)}" if self.verdict else ""


@dataclass(frozen=True)
class Ledger:
    """All of it.

    Attributes:
        out: the directory that the runs are below.
        runs: the runs, by name.
        entries: the claims, by paper and number.
        aside: (directory, reason) of results that are not in it.
    """

    out: Path
    runs: tuple[Run, ...]
    entries: tuple[Entry, ...]
    aside: tuple[tuple[str, str], ...]

    @property
    def groups(self) -> list[tuple[str, list[Entry]]]:
        """(Paper, its entries), papers without entries left out."""
        found = [(name, [e for e in self.entries if paper_of(e.claim) == name]) for name in (*PAPERS, OURS)]
        return [(name, entries) for name, entries in found if entries]

    @property
    def counts(self) -> dict[str, int]:
        """How many entries have each status."""
        return {status: sum(entry.status == status for entry in self.entries) for status in STATUSES}

    @property
    def tally(self) -> str:
        """The counts in a line."""
        told = ", ".join(f"{count} {STATUSES[status]}" for status, count in self.counts.items() if count)
        return f"{len(self.entries)} lines: {told}"


def read_ledger(out: Path | str, experiments: Sequence[Experiment]) -> Ledger:
    """The ledger of the runs below a directory.

    Args:
        out: the directory; it may be a run itself.
        experiments: those whose claims are listed, run or not.

    Returns:
        The ledger: of each experiment the claims of every full run, else of its smoke runs, else as not run.

    Raises:
        UserError: if there are no results of these experiments.
    """
    out = Path(out)
    runs, aside = [], []
    for directory in _with_results(out):
        name = directory.relative_to(out).as_posix()
        try:
            runs += _runs(directory, name, experiments)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            aside.append((name, f"cannot be read ({type(error).__name__}: {error})"))
        except UserError as refusal:
            aside.append((name, str(refusal)))
    if not runs:
        why = f" ({aside[0][0]}: {aside[0][1]})" if aside else ""
        raise UserError(f"out={out}: no results of a known experiment in it or below{why}; expected --out of runs")
    return of_runs(out, runs, aside, experiments)


def of_runs(
    out: Path, runs: Sequence[Run], aside: Iterable[tuple[str, str]], experiments: Sequence[Experiment]
) -> Ledger:
    """The ledger that runs make: of each experiment the claims of every full run, else of its smoke runs.

    A claim of an experiment without a run is left out where a run of another experiment, such as a view of its trials,
    says something of the same claim.
    """
    found = [entry for experiment in experiments for entry in _entries(experiment, runs)]
    told = {(entry.claim.id, entry.claim.measured) for entry in found if entry.run}
    entries = [entry for entry in found if entry.run or (entry.claim.id, entry.claim.measured) not in told]
    return Ledger(out, tuple(runs), tuple(sorted(entries, key=_place)), tuple(aside))


def _with_results(out: Path) -> Iterator[Path]:
    """Directories with results.jsonl, in order of their names; what is below one of them belongs to it."""
    for directory, below, files in os.walk(out):
        if "results.jsonl" in files:
            below.clear()
            yield Path(directory)
        below[:] = sorted(name for name in below if name != "trials")


def _runs(directory: Path, name: str, experiments: Sequence[Experiment]) -> list[Run]:
    """The run of a directory.

    Raises:
        UserError: if it is of no known experiment, or has none of its rows.
    """
    lines = (directory / "results.jsonl").read_text(encoding="utf-8").splitlines()
    names = dict.fromkeys(json.loads(line)["experiment"] for line in lines if line.strip())
    known = [experiment for experiment in experiments if experiment.name in names]
    if not known:
        raise UserError(f"results of {', '.join(map(repr, names)) or 'nothing'}, no known experiment")
    return [_run(directory, name, experiment) for experiment in known]


def _run(directory: Path, name: str, experiment: Experiment) -> Run:
    records = read_records(directory, experiment)
    references = [row.name for row in experiment.rows if row.reference]
    if all(record.row in references for record in records):
        raise UserError(f"has no trained row of {experiment.name}; the rows of a sweep decide no claims")
    _, *facts = build_table(experiment, records).facts  # the first names the paper
    return Run(
        name,
        experiment,
        tuple(decide(experiment.claims, records, references)),
        provenance_of(directory, experiment),
        _seeds(records, references),
        _size(directory, records, experiment),
        kind_of_data(experiment, records),
        tuple(fact for fact in facts if fact != experiment.data.sentence),
        directory,
    )


def _seeds(records: Sequence[Record], references: Sequence[str]) -> str:
    trained = [record for record in records if record.row not in references]
    return f"{len({r.seed for r in trained})} x {len({r.world for r in trained})}"


def _size(directory: Path, records: Sequence[Record], experiment: Experiment) -> str:
    found: Mapping[str, Any] = read_json(directory / CONFIGURATION).get("config") or {}
    train, world = found.get("train", {}), found.get("world", {})
    parts = [f"{train['steps']:,} steps of {train['batch']:,}"] if "steps" in train and "batch" in train else []
    parts += [f"{world[name]:,} {name}" for name in ("items", "users", "candidates") if name in world]
    counts = sorted({int(v) for record in records if (v := record.metrics.get("parameters")) is not None})
    shown = list(dict.fromkeys(f"{count:,}" for count in counts[:1] + counts[-1:]))
    parts += [f"{' to '.join(shown)} parameters"] if shown else []
    paper = f" The paper's: {experiment.paper_size}" if experiment.paper_size else ""
    return f"{', '.join(parts) or 'not recorded'}.{paper}"


def _entries(experiment: Experiment, runs: Sequence[Run]) -> Iterator[Entry]:
    own = [run for run in runs if run.experiment is experiment]
    full = [run for run in own if not run.provenance.smoke]
    for place, claim in enumerate(experiment.claims):
        for run in full:
            yield _decided(run, run.verdicts[place])
        if not full:
            for run in own:
                yield Entry(claim, experiment, SMOKE, run, None, "a smoke run decides nothing")
        if not own:
            yield Entry(claim, experiment, NOT_RUN)


def _decided(run: Run, verdict: Verdict) -> Entry:
    if verdict.interval is None:  # a row or a metric is missing
        return Entry(verdict.claim, run.experiment, NOT_RUN, run, None, verdict.reason)
    return Entry(verdict.claim, run.experiment, verdict.verdict, run, verdict, verdict.reason)


def paper_of(claim: Claim) -> str:
    """Which paper a claim is of: by its id, else by where it is stated; what no paper states is ours."""
    if claim.paper.startswith("ours"):
        return OURS
    for word in (claim.id.partition("-")[0], claim.paper.partition(" ")[0]):
        name = SHORT.get(word, word)
        if name in PAPERS:
            return name
    return OURS


def _place(entry: Entry) -> tuple[Any, ...]:
    """By paper, then by id, the numbers in it as numbers."""
    parts = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", entry.claim.id)]
    return (*PAPERS, OURS).index(paper_of(entry.claim)), parts, entry.run.name if entry.run else ""
