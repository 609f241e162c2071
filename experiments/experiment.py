"""What an experiment is: the rows of one table or figure, the columns it prints and the claims it tests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: what `--rows` and the results call it.
        label: what the table prints.
        overrides: dotted configuration fields that make this row, such as {"hyper.margin": 0.0}.
        reference: True for a floor or ceiling that is not trained (truth, ranker, random, popularity).
        against: the row that differences are to; empty: the baseline of the table. Where a table holds several worlds,
            each row is compared with the baseline of its own.
        derived: whether it is computed from other rows' results (`Experiment.derive`) and never run.
    """

    name: str
    label: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    reference: bool = False
    against: str = ""
    derived: bool = False


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        metric: its name in results.jsonl.
        header: what the table prints above it.
        percent: whether the numbers are printed in per cent.
        decimals: how many are printed; None decides by size.
        cost: whether it is a cost; then the mean is printed alone, without an interval or a difference.
        lift: whether the difference to the baseline is printed as a share of the baseline's value, in per cent.
    """

    metric: str
    header: str
    percent: bool = True
    decimals: int | None = None
    cost: bool = False
    lift: bool = False


@dataclass(frozen=True)
class Claim:
    """A statement that something is above 0, of a paper or of ours: `better - worse` on a metric, or a contrast.

    Attributes:
        id: such as "HCCP-5a".
        paper: where it is stated.
        statement: one sentence.
        metric: name in results.jsonl; larger is better.
        better: row that should be ahead.
        worse: row that should be behind.
        smallest_effect: the smallest difference that matters, in units of the metric.
        terms: (weight, row, metric) whose weighted sum should be above 0; empty: better minus worse on the metric. For
            statements on several metrics or rows, such as a gain that shrinks with K.
        relative: whether the sum is divided by the value of its last term, for lifts in per cent.
        within: if above 0, the statement is that the sum lies between -within and within.
    """

    id: str
    paper: str
    statement: str
    metric: str = ""
    better: str = ""
    worse: str = ""
    smallest_effect: float = 0.005
    terms: tuple[tuple[float, str, str], ...] = ()
    relative: bool = False
    within: float = 0.0

    @property
    def measured(self) -> str:
        """What the effect is, for readers."""
        if not self.terms:
            return f"{self.metric}, {self.better} minus {self.worse}"
        parts = [f"{'+-'[weight < 0]} {abs(weight):g} x {row} {metric}" for weight, row, metric in self.terms]
        text = " ".join(parts).replace(" 1 x ", " ").removeprefix("+ ")
        return f"({text}) / {self.terms[-1][1]} {self.terms[-1][2]}" if self.relative else text

    @property
    def threshold(self) -> str:
        """The size that decides."""
        if self.within:
            return f"Level means within {self.within:g}."
        return f"Smallest effect that matters: {self.smallest_effect:g}."

    @property
    def anchor(self) -> str:
        """The id as a place in a page, to link to."""
        return "claim-" + "".join(letter if letter.isalnum() else "-" for letter in self.id)

    @property
    def family(self) -> str:
        """What a paper states in one breath: the id without what follows a dot. Holm's adjustment is over a family."""
        return self.id.partition(".")[0]

    @property
    def contrast(self) -> tuple[tuple[float, str, str], ...]:
        """What is summed."""
        return self.terms or ((1.0, self.better, self.metric), (-1.0, self.worse, self.metric))


class Kind(StrEnum):
    """What the data of a run are, as a reader sees it."""

    SIMULATED = "simulated"
    STAGED = "real with simulated stages"
    REAL = "real"
    STORED = "as the store says"  # until a result tells which
    COMPUTED = "computed"  # nothing is trained


@dataclass(frozen=True)
class Data:
    """What is real and what is simulated.

    Attributes:
        kind: in a word.
        sentence: printed under every table.
    """

    kind: Kind
    sentence: str


@dataclass(frozen=True)
class Experiment:
    """One table or figure of a paper, or of ours.

    Attributes:
        name: what `--experiment` calls it.
        title: heading of the table and the report.
        paper: citation.
        table: which table or figure it re-runs.
        minutes: expected minutes on two CPU cores at full size.
        data: what is real and what is simulated.
        settings: the default configuration, a frozen dataclass tree.
        smoke: overrides that shrink minutes to seconds.
        smoke_rows: rows of a smoke run, references among them, unless others are named; empty for all.
        rows: all rows, in the order of the table; the first trained row is the baseline of the differences.
        columns: what the table prints.
        claims: what is decided from the paired differences.
        seeds: default number of seeds.
        worlds: default number of simulated worlds; world w has the seed world.seed + w. 1 on real logs.
        shares: name under which trials are hashed, the same for tables that are views of the same runs; one that is
            finished in a directory beside --out is then taken from there. Empty: the experiment's own name.
        printed: the paper's numbers, as metric -> row -> number in the table's unit; shown beside ours.
        printed_note: what those numbers are.
        printed_absolute: whether they are values (in per cent where the column is) and not differences to the
            baseline (in points where the column is in per cent).
        paper_size: how much data and how many parameters the paper had, in a sentence; empty if it does not say.
        derive: records of the rows that are run -> records of the derived rows.
        figures: (file name, caption, (experiment, records) -> Figure or None) of figures of its own.
        notes: (experiment, records) -> lines of its own, printed under the table and in the report.
        configured: (settings of a trained row) -> further metrics that follow from its configuration, without training.
        pictured: names of the rows that the pictures show, at most ten, so that each has a colour; empty for all.
        run: (context) -> None, trains and evaluates the asked rows; see `experiments.trials`.
    """

    name: str
    title: str
    paper: str
    table: str
    minutes: float
    data: Data
    settings: Any
    smoke: Mapping[str, Any]
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    claims: tuple[Claim, ...]
    seeds: int
    run: Callable[..., None]
    pictured: tuple[str, ...] = ()
    worlds: int = 1
    shares: str = ""
    printed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    printed_note: str = ""
    printed_absolute: bool = False
    paper_size: str = ""
    derive: Callable[..., Any] | None = None
    figures: tuple[tuple[str, str, Callable[..., Any]], ...] = ()
    notes: Callable[..., Sequence[str]] | None = None
    configured: Callable[[Any], dict[str, float]] | None = None
    smoke_rows: tuple[str, ...] = ()

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    @property
    def baseline(self) -> Row:
        """The first trained row."""
        return next(row for row in self.rows if not row.reference)
