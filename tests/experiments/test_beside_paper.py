"""Our numbers beside the paper's: signs, order, and that what experiments declare can be compared."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr
from written_run import experiment, write_run

from experiments.beside_paper import OPEN, OPPOSITE, SAME, beside_paper, to_markdown, what_is_printed
from experiments.claims import read_records
from experiments.experiment import Column
from experiments.tables import build_table
from hccp_jax.evaluation.statistics import rank_correlation
from launch import EXPERIMENTS, _load

COLUMNS = (Column("ISH@100", "ISH@100"), Column("ASH@100", "ASH@100", percent=False))
ABSOLUTE = {"ISH@100": {"base": 30.5, "good": 20.0, "poor": 31.0, "level": 30.5}}


def table(tmp_path, **changes):
    of = experiment(**changes)
    write_run(tmp_path / "run", of, worlds=2)
    return build_table(of, read_records(tmp_path / "run", of))


def test_differences_are_compared_by_sign_where_ours_is_decided(tmp_path):
    found, second = beside_paper(table(tmp_path))
    assert [(pair.label, pair.paper, pair.agrees) for pair in found.pairs] == [
        ("Good & <b>bold</b>", "+20.00", SAME),
        ("Poor_%", "+5.00", OPPOSITE),
        ("Level", "+1.25", OPEN),
    ]
    assert [found.count(agrees) for agrees in (SAME, OPPOSITE, OPEN)] == [1, 1, 1]
    assert found.pairs[0].ours.startswith("+30.")
    assert [pair.label for pair in second.pairs] == ["Good & <b>bold</b>"]
    assert second.correlation is None  # two rows have no order to speak of
    assert second.order == "–"


def test_the_order_is_over_the_rows_and_the_baseline(tmp_path):
    made = table(tmp_path)
    found = beside_paper(made)[0]
    means = {row.row.name: row.cells[0].interval.mean for row in made.rows}
    names = ["base", "good", "poor", "level"]
    expected = spearmanr([means[name] for name in names], [0.0, 20.0, 5.0, 1.25]).statistic
    assert found.ordered == 4
    assert found.correlation == pytest.approx(expected)


def test_absolute_values_stand_beside_means_and_are_compared_by_their_differences(tmp_path):
    found = beside_paper(table(tmp_path, printed=ABSOLUTE, printed_absolute=True))[0]
    assert [(pair.paper, pair.agrees) for pair in found.pairs] == [
        ("30.5", ""),
        ("20.0", OPPOSITE),
        ("31.0", OPPOSITE),
        ("30.5", OPEN),
    ]
    assert "±" in found.pairs[0].ours
    without = {"ISH@100": {name: value for name, value in ABSOLUTE["ISH@100"].items() if name != "base"}}
    found = beside_paper(table(tmp_path / "other", printed=without, printed_absolute=True))[0]
    assert {pair.agrees for pair in found.pairs} == {""}
    assert found.ordered == 3


def test_units_are_those_of_the_table(tmp_path):
    printed = {"ASH@100": {"good": 0.125, "poor": -0.05}}
    found = beside_paper(table(tmp_path, columns=COLUMNS, printed=printed))[0]
    assert [pair.paper for pair in found.pairs] == ["+0.125", "-0.050"]
    assert found.pairs[0].ours.startswith("+0.15")


def test_nothing_is_compared_without_the_papers_numbers_or_ours(tmp_path):
    made = table(tmp_path)
    assert beside_paper(replace(made, experiment=replace(made.experiment, printed={}))) == []
    assert beside_paper(replace(made, rows=())) == []
    assert to_markdown(made, []) == ""


def test_the_section_of_the_table(tmp_path):
    made = table(tmp_path)
    text = to_markdown(made, beside_paper(made))
    assert "The paper prints differences to Base (points over Base)." in text
    assert "| ISH@100 % | 1 | 1 | 1 | " in text
    assert "; +20.00 |" in text
    assert "| Poor_% |" in text
    assert "The paper prints values" in what_is_printed(experiment(printed_absolute=True))


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_with_ties(seed):
    a, b = np.random.default_rng(seed).integers(0, 5, (2, 12)).astype(float)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert rank_correlation(a, a) == pytest.approx(1.0)
    assert rank_correlation(a, -a) == pytest.approx(-1.0)
    assert rank_correlation(np.exp(a), b) == pytest.approx(rank_correlation(a, b))


def test_rank_correlation_of_constants_is_unknown():
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_printed_numbers_of_every_experiment_can_be_compared(name):
    of = _load(name)
    metrics = {column.metric for column in of.columns}
    assert set(of.printed) <= metrics
    rows = set(itertools.chain.from_iterable(of.printed.values()))
    assert rows <= {row.name for row in of.rows}
    if of.printed:
        assert of.printed_note
        assert of.printed_absolute or of.baseline.name not in rows  # its difference to itself is not printed
