"""A table of an experiment: means over seeds with 95 % intervals, and differences to the baseline paired by seed."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from experiments.claims import Record, by_seed, difference, over_worlds
from experiments.experiment import Column, Experiment, Row
from hccp_jax.config import flatten
from hccp_jax.evaluation.statistics import Interval

MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """A row's mean in one column and its paired difference to the baseline; None where there is no data."""

    column: Column
    interval: Interval | None
    difference: Interval | None

    @property
    def differs(self) -> bool:
        """Whether the paired 95 % interval excludes 0."""
        low, high = (self.difference.low, self.difference.high) if self.difference else (None, None)
        return low is not None and high is not None and (low > 0 or high < 0)

    def text(self) -> str:
        """Such as `84.3 ±0.6`; without the half width when there is one seed."""
        if self.interval is None:
            return MISSING
        low, high = self.interval.low, self.interval.high
        mean = number_text(self.column, self.interval.mean)
        if low is None or high is None:
            return mean
        return f"{mean} ±{number_text(self.column, (high - low) / 2, self.interval.mean)}"

    def difference_text(self) -> str:
        """Such as `+1.2 [+0.6, +1.8]`; without the interval when there is one seed."""
        if self.difference is None:
            return MISSING
        mean, low, high = self.difference.mean, self.difference.low, self.difference.high
        column = replace(self.column, percent=True, decimals=1) if self.column.lift else self.column
        shown = number_text(column, mean, sign="+") + ("%" if column.lift else "")
        if low is None or high is None:
            return shown
        return f"{shown} [{number_text(column, low, mean, '+')}, {number_text(column, high, mean, '+')}]"


@dataclass(frozen=True)
class TableRow:
    """One printed row: which row of the experiment, over which seeds, and its cells in the order of the columns."""

    row: Row
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """The rows that have results, the facts that must stand beside them, and notes of the experiment's own."""

    experiment: Experiment
    rows: tuple[TableRow, ...]
    facts: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def compared(self) -> tuple[TableRow, ...]:
        """Trained rows other than the baseline, where the baseline has results."""
        there = {row.row.name for row in self.rows}
        trained = [row for row in self.rows if not row.row.reference]
        return tuple(row for row in trained if self._baseline(row.row) in there - {row.row.name})

    def _baseline(self, row: Row) -> str:
        return row.against or self.experiment.baseline.name

    @property
    def _to(self) -> str:
        """What differences are to."""
        several = any(row.against for row in self.experiment.rows)
        return "the baseline of the same data" if several else self.experiment.baseline.label

    def header(self, column: Column) -> str:
        """What stands above a column, with a per cent sign where the numbers are per cent."""
        return f"{column.header} %" if column.percent and "%" not in column.header else column.header

    @property
    def headers(self) -> list[str]:
        """The headers of all columns."""
        return [self.header(column) for column in self.experiment.columns]

    @property
    def difference_title(self) -> str:
        """Heading of the paired differences."""
        return f"Differences to {self._to}, paired by seed, with 95 % intervals (per cent columns in points)"

    @property
    def legend(self) -> str:
        """How to read the numbers."""
        return (
            "Mean over seeds, ± half of its 95 % interval. Marked: "
            f"the difference to {self._to}, paired by seed, has a 95 % interval without 0."
        )


def build_table(experiment: Experiment, records: Sequence[Record], notes: Sequence[str] = ()) -> Table:
    """The table of an experiment from its records; `notes` are further facts to print beside it.

    A column that nothing of the data has is left out, and so is a row that has nothing of the columns.
    """
    there = {name for record in records for name in record.metrics}
    experiment = replace(experiment, columns=tuple(c for c in experiment.columns if c.metric in there))
    rows = []
    for row in experiment.rows:
        seeds = tuple(sorted({r.seed for r in records if r.row == row.name}))
        cells = tuple(_cell(experiment, records, row, c) for c in experiment.columns)
        if seeds and any(cell.interval for cell in cells):
            rows.append(TableRow(row, seeds, cells))
    facts = (*notes, *_facts(experiment, records, rows))
    own = experiment.notes(experiment, records) if experiment.notes else ()
    return Table(experiment, tuple(rows), facts, tuple(own))


def _cell(experiment: Experiment, records: Sequence[Record], row: Row, column: Column) -> Cell:
    values = by_seed(records, row.name, column.metric)
    if not values:
        return Cell(column, None, None)
    found = over_worlds(values)
    if column.cost:
        return Cell(column, Interval(found.mean, None, None, found.count), None)
    baseline = row.against or experiment.baseline.name
    if row.reference or row.name == baseline:
        return Cell(column, found, None)
    return Cell(column, found, difference(records, column.metric, row.name, baseline, column.lift))


def _facts(experiment: Experiment, records: Sequence[Record], rows: Sequence[TableRow]) -> tuple[str, ...]:
    trained = [record for record in records if not experiment.row(record.row).reference]
    epochs = sorted({float(r.result["epochs"]) for r in trained if r.result.get("epochs") is not None})
    shown = dict.fromkeys(f"{value:.3g}" for value in epochs[:1] + epochs[-1:])
    seeds, worlds = sorted({record.seed for record in records}), len({record.world for record in records})
    over = f" in each of {worlds} worlds" if worlds > 1 else ""
    facts = [
        f"Paper: {experiment.paper}, {experiment.table}.",
        f"Served head: {_served(experiment, trained) or 'not recorded'}.",
        f"Epochs: {' to '.join(shown) or 'not recorded'}.",
        f"Seeds: {len(seeds)} ({', '.join(map(str, seeds))}){over}.",
    ]
    facts += _tuning(trained)
    fewer = [
        f"{row.row.label} {len(row.seeds)}" for row in rows if len(row.seeds) < len(seeds) and not row.row.reference
    ]
    absent = [row.label for row in experiment.rows if row.name not in {r.row for r in records} and not row.derived]
    facts += [f"Fewer seeds: {', '.join(fewer)}."] if fewer else []
    facts += [f"Not run: {', '.join(absent)}."] if absent else []
    facts += dict.fromkeys(str(told) for r in records if (told := r.result.get("data")))
    return (*facts, experiment.data.sentence)


def _tuning(trained: Sequence[Record]) -> list[str]:
    """The tuning budget, where rows were tuned."""
    tuned = {(len(t["trials"]), t.get("steps"), t["by"]) for r in trained if (t := r.result.get("tuning"))}
    return [
        f"Tuning: {count} trials a row, {steps} steps each, by {by}."
        if count
        else "Not tuned: every row has its defaults."
        for count, steps, by in sorted(tuned, key=str)
    ]


def _served(experiment: Experiment, trained: Iterable[Record]) -> str:
    settings = {name.rpartition(".")[2]: value for name, value in flatten(experiment.settings).items()}
    rows_of: dict[str, list[str]] = {}
    for record in trained:
        row = experiment.row(record.row)
        own = {name.rpartition(".")[2]: value for name, value in row.overrides.items()}
        head = record.result.get("served") or own.get("served") or settings.get("served")
        if head is not None and row.label not in (labels := rows_of.setdefault(str(head), [])):
            labels.append(row.label)
    if len(rows_of) == 1:
        return next(iter(rows_of))
    return "; ".join(f"{head} ({', '.join(labels)})" for head, labels in rows_of.items())


def number_text(column: Column, value: float, like: float | None = None, sign: str = "") -> str:
    """A number as its column prints it, with as many decimals as `like` would have."""
    decimals = 1 if column.percent or abs(value if like is None else like) >= 10 else 4
    decimals = decimals if column.decimals is None else column.decimals
    return f"{value * 100 if column.percent else value:{sign}z.{decimals}f}"


def to_markdown(table: Table) -> str:
    """table.md: title, facts, the means and the paired differences; bold where the paired interval excludes 0."""
    parts = [
        f"# {table.experiment.title}",
        _pipes(table.headers, [(row.row, [_marked(c, c.text()) for c in row.cells]) for row in table.rows]),
        " ".join(table.facts),
        table.legend.replace("Marked:", "Bold:") + " Rows in italics are references that are not trained.",
        *(["\n".join(f"* {note}" for note in table.notes)] if table.notes else []),
    ]
    if table.compared:
        headers = [table.header(column) for column in table.experiment.columns if not column.cost]
        rows = [
            (row.row, [_marked(c, c.difference_text()) for c in row.cells if not c.column.cost])
            for row in table.compared
        ]
        parts += [f"## {table.difference_title}", _pipes(headers, rows), table.experiment.data.sentence]
    return "\n\n".join(parts) + "\n"


def _marked(cell: Cell, text: str) -> str:
    return f"**{text}**" if cell.differs else text


def _pipes(headers: Sequence[str], rows: Sequence[tuple[Row, list[str]]]) -> str:
    lines = [["", *headers]]
    for row, texts in rows:
        label = row.label.replace("|", "\\|")
        lines.append([f"*{label}*" if row.reference else label, *texts])
    return pipes(lines)


def pipes(lines: Sequence[Sequence[str]], right: bool = True) -> str:
    """A Markdown table of a header and its lines; all but the first column to the right, if asked."""
    ruler = ["---", *["---:" if right else "---"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], ruler, *lines[1:]))


CSV_HEADER = ["row", "metric", "mean", "low", "high", "seeds", "difference", "difference_low", "difference_high"]


def to_csv(table: Table) -> str:
    """table.csv: one line a row and metric, unscaled numbers, empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for row in table.rows:
        for cell in row.cells:
            mean, paired = cell.interval, cell.difference
            numbers = [mean.mean, mean.low, mean.high, mean.count] if mean else [None, None, None, 0]
            differences = [paired.mean, paired.low, paired.high] if paired else [None] * 3
            writer.writerow([row.row.name, cell.column.metric, *numbers, *differences])
    return text.getvalue()


def to_terminal(table: Table, console: Console) -> None:
    """Print the means; a table wider than the console goes on below with the columns that are left."""
    console.print(Text(table.experiment.title, style="bold"))
    for columns in _that_fit(table, console.width):
        shown = RichTable("", box=box.SIMPLE, padding=(0, 1), pad_edge=False)
        for index in columns:
            shown.add_column(Text(table.headers[index]), justify="right", no_wrap=True)
        for row in table.rows:
            cells = [Text(_starred(row.cells[i]), style="bold" if row.cells[i].differs else "") for i in columns]
            shown.add_row(Text(row.row.label), *cells, style="dim" if row.row.reference else "")
        console.print(shown)
    console.print(Text(table.legend.replace("Marked:", "*:")))
    console.print(Text(" ".join(table.facts)))
    for note in table.notes:
        console.print(Text(f"* {note}"))


def _starred(cell: Cell) -> str:
    return cell.text() + ("*" if cell.differs else " ")


def _that_fit(table: Table, width: int) -> Iterator[list[int]]:
    label = max((len(row.row.label) for row in table.rows), default=0) + 2
    columns: list[int] = []
    used = label
    for index, header in enumerate(table.headers):
        wide = max(len(text) for text in [header, *(_starred(row.cells[index]) for row in table.rows)]) + 3
        if columns and used + wide > width:
            yield columns
            columns, used = [], label
        columns.append(index)
        used += wide
    yield columns
