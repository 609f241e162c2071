"""Our numbers beside those the paper prints: for every column and row whether the sign agrees, and the order.

The paper's data are not ours, so its values are no target; what can agree is which rows gain over the baseline, and in
what order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.experiment import Column, Experiment
from experiments.tables import MISSING, Cell, Table, pipes
from hccp_jax.evaluation.statistics import rank_correlation

SAME, OPPOSITE, OPEN = "same sign", "opposite sign", "open"
FEWEST = 3  # rows that have an order worth a correlation
TITLE = "Beside the paper's numbers"


@dataclass(frozen=True)
class Pair:
    """One row in one column.

    Attributes:
        label: of the row.
        ours: our number with its interval, as the table prints it.
        paper: what the paper prints.
        agrees: whether our difference to the baseline has the sign of the paper's: "same sign", "opposite sign", "open"
            where our 95 % interval includes 0, or empty where there are no two differences to compare.
    """

    label: str
    ours: str
    paper: str
    agrees: str


@dataclass(frozen=True)
class Beside:
    """One column beside the paper's.

    Attributes:
        column: the column.
        pairs: the rows that both have, in the order of the table.
        correlation: Spearman's, of the order of those rows and the baseline; None with fewer than three.
        ordered: how many rows it is over.
    """

    column: Column
    pairs: tuple[Pair, ...]
    correlation: float | None
    ordered: int

    def count(self, agrees: str) -> int:
        """How many rows agree, disagree or are open."""
        return sum(pair.agrees == agrees for pair in self.pairs)

    @property
    def order(self) -> str:
        """The correlation as it is printed."""
        return MISSING if self.correlation is None else f"{self.correlation:+.2f}"


def beside_paper(table: Table) -> list[Beside]:
    """A comparison for every column of the table that the paper has numbers for, where a row of ours has results."""
    found = [_beside(table, index) for index, c in enumerate(table.experiment.columns) if c.metric in _printed(table)]
    return [one for one in found if one.pairs]


def _printed(table: Table) -> dict[str, dict[str, float]]:
    return {metric: dict(rows) for metric, rows in table.experiment.printed.items()}


def _beside(table: Table, index: int) -> Beside:
    experiment = table.experiment
    column, baseline = experiment.columns[index], experiment.baseline.name
    printed = _printed(table)[column.metric]
    cells = {row.row.name: row.cells[index] for row in table.rows if row.cells[index].interval}
    labels = {row.row.name: row.row.label for row in table.rows}
    pairs = [_pair(experiment, labels[n], cells[n], printed, n) for n in cells if n in printed]
    values = printed if experiment.printed_absolute else {baseline: 0.0} | printed
    both = [name for name in cells if name in values]
    ours = [cell.interval.mean for name in both if (cell := cells[name]).interval]
    order = rank_correlation(ours, [values[name] for name in both]) if len(both) >= FEWEST else None
    return Beside(column, tuple(pairs), order, len(both))


def _pair(experiment: Experiment, label: str, cell: Cell, printed: dict[str, float], name: str) -> Pair:
    number = printed[name]
    decimals = max(len(f"{other:.10g}".partition(".")[2]) for other in printed.values())  # with all its digits
    if not experiment.printed_absolute:
        return Pair(label, cell.difference_text(), f"{number:+.{decimals}f}", _agrees(cell, number))
    base = printed.get(experiment.baseline.name)
    ahead = "" if base is None or name == experiment.baseline.name else _agrees(cell, number - base)
    return Pair(label, cell.text(), f"{number:.{decimals}f}", ahead)


def _agrees(cell: Cell, paper: float) -> str:
    """Whether the paired difference has the sign of the paper's."""
    if cell.difference is None:
        return ""
    if not cell.differs or paper == 0:
        return OPEN
    return SAME if (cell.difference.mean > 0) == (paper > 0) else OPPOSITE


def what_is_printed(experiment: Experiment) -> str:
    """What the paper's numbers are, in a sentence."""
    kind = "values" if experiment.printed_absolute else f"differences to {experiment.baseline.label}"
    note = f" ({experiment.printed_note})" if experiment.printed_note else ""
    return f"The paper prints {kind}{note}."


LEGEND = (
    "Sign: of the difference to the baseline; open: our 95 % interval includes 0. Order: Spearman's rank correlation "
    "of the rows, the baseline among them, +1 for the paper's order and -1 for its reverse."
)


def to_markdown(table: Table, found: Sequence[Beside]) -> str:
    """The section of table.md: a summary of the columns, then every number beside the paper's; empty without any."""
    if not found:
        return ""
    header = ["", SAME, OPPOSITE, OPEN, "order", "rows"]
    lines = [
        [table.header(b.column), *(str(b.count(w)) for w in (SAME, OPPOSITE, OPEN)), b.order, str(b.ordered)]
        for b in found
    ]
    labels = [row.row.label for row in table.rows if any(p.label == row.row.label for b in found for p in b.pairs)]
    cells = [[label.replace("|", "\\|"), *(_cell(one, label) for one in found)] for label in labels]
    return "\n\n".join(
        [
            f"## {TITLE}",
            f"{what_is_printed(table.experiment)} {LEGEND}",
            pipes([header, *lines]),
            "Ours, then the paper's:",
            pipes([["", *(table.header(one.column) for one in found)], *cells]),
            table.experiment.data.sentence,
        ]
    )


def _cell(one: Beside, label: str) -> str:
    return next((f"{pair.ours}; {pair.paper}" for pair in one.pairs if pair.label == label), MISSING)
