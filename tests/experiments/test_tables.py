"""The table: numbers worked out by hand, and its three forms."""

import csv
import io
import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from experiments.claims import Record
from experiments.experiment import Column, Data, Experiment, Kind, Row
from experiments.tables import CSV_HEADER, build_table, to_csv, to_markdown, to_terminal

T2 = 4.302652729911275  # Student's t, 97.5 %, 2 degrees of freedom
DATA = Data(Kind.SIMULATED, "Simulated: every request is drawn from the simulated world.")


@dataclass(frozen=True)
class Hyper:
    served: str = "click"


@dataclass(frozen=True)
class Settings:
    hyper: Hyper = field(default_factory=Hyper)


ROWS = (
    Row("base", "Base"),
    Row("good", "Good|er"),
    Row("fused", "Fused", {"hyper.served": "fused"}),
    Row("truth", "Truth", reference=True),
    Row("random", "Random", reference=True),
)
COLUMNS = (Column("ISH@100", "ISH@100"), Column("AUC", "AUC", percent=False))
VALUES = {
    "base": ([0.30, 0.40, 0.50], [0.70, 0.70, 0.70]),
    "good": ([0.50, 0.61, 0.72], [0.71, 0.69, 0.70]),
    "fused": ([0.30, 0.42, 0.49], [0.70, 0.71, 0.72]),
    "truth": ([0.97, 0.97, 0.97], [None, None, None]),
    "random": ([0.07, 0.08, 0.06], [math.nan] * 3),
}


def experiment(columns=COLUMNS):
    return Experiment("demo", "Demo", "A. Author", "Table 1", 1, DATA, Settings(), {}, ROWS, columns, (), 3, print)


def records(seeds=3, rows=tuple(VALUES)):
    return [
        Record(
            row, seed, {"ISH@100": VALUES[row][0][seed], "AUC": VALUES[row][1][seed]}, {"epochs": 0.64}, Path("none")
        )
        for row in rows
        for seed in range(seeds)
    ]


def cells(table, row):
    return next(found.cells for found in table.rows if found.row.name == row)


def test_mean_interval_and_paired_difference():
    ish, _ = cells(build_table(experiment(), records()), "good")
    half, paired_half = T2 * 0.11 / math.sqrt(3), T2 * 0.01 / math.sqrt(3)
    assert (ish.interval.mean, ish.interval.low) == pytest.approx((0.61, 0.61 - half))
    assert (ish.difference.mean, ish.difference.low) == pytest.approx((0.21, 0.21 - paired_half))
    assert ish.text() == f"61.0 ±{100 * half:.1f}"
    assert ish.difference_text() == "+21.0 [+18.5, +23.5]"


def test_marked_where_the_paired_interval_excludes_zero():
    table = build_table(experiment(), records())
    assert [cell.differs for cell in cells(table, "good")] == [True, False]
    assert [cell.differs for cell in cells(table, "fused")] == [False, False]


def test_baseline_and_references_have_no_difference():
    table = build_table(experiment(), records())
    for row in ("base", "truth", "random"):
        assert all(cell.difference is None for cell in cells(table, row))
    assert [row.row.name for row in table.compared] == ["good", "fused"]


def test_missing_null_and_nan_print_a_dash():
    table = build_table(experiment((*COLUMNS, Column("never", "Never"))), records())
    assert [cell.text() for cell in cells(table, "truth")] == ["97.0 ±0.0", "–"]  # what nobody has is no column
    assert cells(table, "random")[1].text() == "–"


def test_one_seed_has_no_interval():
    table = build_table(experiment(), records(seeds=1))
    ish, auc = cells(table, "good")
    assert (ish.text(), ish.difference_text()) == ("50.0", "+20.0")
    assert (auc.text(), auc.difference_text()) == ("0.7100", "+0.0100")
    assert not ish.differs
    assert "±" not in to_markdown(table).partition("Mean over seeds")[0]


def test_a_cost_is_a_mean_alone():
    table = build_table(experiment((*COLUMNS, Column("AUC", "cost", percent=False, cost=True))), records())
    cost = cells(table, "fused")[2]
    assert (cost.text(), cost.differs, cost.difference) == ("0.7100", False, None)
    means, _, differences = to_markdown(table).partition("## Differences")
    assert "| cost |" in means
    assert "cost" not in differences


def test_facts_name_paper_head_epochs_seeds_and_data():
    facts = build_table(experiment(), records()).facts
    assert facts == (
        "Paper: A. Author, Table 1.",
        "Served head: click (Base, Good|er); fused (Fused).",
        "Epochs: 0.64.",
        "Seeds: 3 (0, 1, 2).",
        DATA.sentence,
    )


def test_the_result_names_the_head_before_the_settings():
    made = [Record("base", 0, {}, {"served": "cons"}, Path("none")), Record("truth", 0, {}, {}, Path("none"))]
    assert "Served head: cons." in build_table(experiment(), made).facts


def test_a_partial_run_says_what_is_missing():
    made = [r for r in records(rows=("base", "good")) if (r.row, r.seed) != ("good", 2)]
    table = build_table(experiment(), made)
    assert "Fewer seeds: Good|er 2." in table.facts
    assert "Not run: Fused, Truth, Random." in table.facts
    without_baseline = build_table(experiment(), records(rows=("good", "truth")))
    assert without_baseline.compared == ()
    assert "## Differences" not in to_markdown(without_baseline)


def test_markdown():
    text = to_markdown(build_table(experiment(), records()))
    lines = text.splitlines()
    assert lines[0] == "# Demo"
    assert "|  | ISH@100 % | AUC |" in lines
    assert "| Good\\|er | **61.0 ±27.3** | 0.7000 ±0.0248 |" in lines
    assert "| *Truth* | 97.0 ±0.0 | – |" in lines
    assert "| Fused | +0.3 [-3.5, +4.1] | +0.0100 [-0.0148, +0.0348] |" in lines
    assert text.count(DATA.sentence) == 2  # under each of the two tables


def test_csv_is_long_and_unscaled():
    lines = list(csv.DictReader(io.StringIO(to_csv(build_table(experiment(), records())))))
    assert list(lines[0]) == CSV_HEADER
    assert len(lines) == len(ROWS) * len(COLUMNS)
    good = next(line for line in lines if line["row"] == "good" and line["metric"] == "ISH@100")
    assert float(good["mean"]) == pytest.approx(0.61)
    assert float(good["difference"]) == pytest.approx(0.21)
    assert good["seeds"] == "3"
    truth = next(line for line in lines if line["row"] == "truth" and line["metric"] == "AUC")
    assert (truth["mean"], truth["low"], truth["seeds"], truth["difference"]) == ("", "", "0", "")


def printed(table, width=100):
    text = io.StringIO()
    to_terminal(table, Console(file=text, width=width))
    return text.getvalue()


def test_terminal():
    text = printed(build_table(experiment(), records()))
    assert "61.0 ±27.3*" in text
    assert "Served head: click" in text
    assert DATA.sentence in text.replace("\n", " ")


def test_a_table_wider_than_the_console_goes_on_below():
    columns = tuple(Column("ISH@100", f"Column {index}") for index in range(12))
    lines = printed(build_table(experiment(columns), records()), width=100).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum("Good|er" in line and "61.0 ±27.3*" in line for line in lines) == 2
    assert all(any(f"Column {index} %" in line for line in lines) for index in range(12))
