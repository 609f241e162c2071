"""What an experiment is: the rows of one table or figure, the columns it prints and the claims it tests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: what `--rows` and the results call it.
        label: what the table prints.
        overrides: dotted configuration fields that make this row, such as {"hyper.margin": 0.0}.
        reference: True for a floor or ceiling that is not trained (truth, ranker, random, popularity).
    """

    name: str
    label: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    reference: bool = False


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        metric: its name in results.jsonl.
        header: what the table prints above it.
        percent: whether the numbers are printed in per cent.
        decimals: how many are printed; None decides by size.
        cost: whether it is a cost; then the mean is printed alone, without an interval or a difference.
    """

    metric: str
    header: str
    percent: bool = True
    decimals: int | None = None
    cost: bool = False


@dataclass(frozen=True)
class Claim:
    """A statement `better > worse` on a metric, of a paper or of ours.

    Attributes:
        id: such as "HCCP-5a".
        paper: where it is stated.
        statement: one sentence.
        metric: name in results.jsonl; larger is better.
        better: row that should be ahead.
        worse: row that should be behind.
        smallest_effect: the smallest difference that matters, in units of the metric.
    """

    id: str
    paper: str
    statement: str
    metric: str
    better: str
    worse: str
    smallest_effect: float = 0.005


@dataclass(frozen=True)
class Experiment:
    """One table or figure of a paper, or of ours.

    Attributes:
        name: what `--experiment` calls it.
        title: heading of the table and the report.
        paper: citation.
        table: which table or figure it re-runs.
        minutes: expected minutes on two CPU cores at full size.
        data: one sentence that says what is real and what is simulated; printed under every table.
        settings: the default configuration, a frozen dataclass tree.
        smoke: overrides that shrink minutes to seconds.
        rows: all rows, in the order of the table; the first trained row is the baseline of the differences.
        columns: what the table prints.
        claims: what is decided from the paired differences.
        seeds: default number of seeds.
        pictured: names of the rows that the pictures show, at most ten, so that each has a colour; empty for all.
        run: (context) -> None, trains and evaluates the asked rows; see `experiments.trials`.
    """

    name: str
    title: str
    paper: str
    table: str
    minutes: float
    data: str
    settings: Any
    smoke: Mapping[str, Any]
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    claims: tuple[Claim, ...]
    seeds: int
    run: Callable[..., None]
    pictured: tuple[str, ...] = ()

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    @property
    def baseline(self) -> Row:
        """The first trained row."""
        return next(row for row in self.rows if not row.reference)
