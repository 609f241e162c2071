"""Lifts and own baselines in tables, trials taken from beside --out, and the gradients of HCCP's Figure 8."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import hccp_figure8, hccp_online, online_map
from experiments.claims import Record
from experiments.experiment import Row
from experiments.provenance import provenance_of
from experiments.tables import build_table
from experiments.trials import collect, make_trials, save_result


def record(row, seed, value, world=0):
    return Record(row, seed, {"online/clicks": value}, {}, Path("none"), world)


def test_a_lift_is_a_share_of_the_baseline():
    made = [record(row, seed, value) for row, value in (("base", 2.0), ("hccp", 2.5)) for seed in range(2)]
    table = build_table(hccp_online.EXPERIMENT, made)
    (row,) = table.compared
    assert row.cells[0].text() == "2.5000 ±0.0000"
    assert row.cells[0].difference_text() == "+25.0% [+25.0, +25.0]"


def test_each_funnel_has_its_own_baseline():
    values = {"default/base": 1.0, "default/hccp": 1.1, "perfect/base": 2.0, "perfect/hccp": 1.0}
    made = [record(row, seed, value) for row, value in values.items() for seed in range(2)]
    table = build_table(online_map.EXPERIMENT, made)
    assert {row.row.name: row.cells[0].difference_text().split("%")[0] for row in table.compared} == {
        "default/hccp": "+10.0",
        "perfect/hccp": "-50.0",
    }
    assert "the baseline of the same data" in table.difference_title
    without = [r for r in made if r.row != "perfect/base"]
    assert [row.row.name for row in build_table(online_map.EXPERIMENT, without).compared] == ["default/hccp"]


def test_a_view_takes_trials_that_are_finished_beside_it(tmp_path):
    owner, view = (replace(online_map.EXPERIMENT, name=name, shares="online_map") for name in ("online_map", "view"))
    (first,) = make_trials(owner, owner.settings, owner.rows[:1], 1, tmp_path / "online_map")
    (before,) = make_trials(view, view.settings, view.rows[:1], 1, tmp_path / "view")
    assert before.directory == tmp_path / "view" / "trials" / first.directory.name
    first.directory.mkdir(parents=True)
    (first.directory / "result.json").write_text(json.dumps({}), encoding="utf-8")
    (after,) = make_trials(view, view.settings, view.rows[:1], 1, tmp_path / "view")
    assert after.directory == first.directory
    (alone,) = make_trials(replace(view, shares=""), view.settings, view.rows[:1], 1, tmp_path / "view")
    assert alone.directory.parent.parent == tmp_path / "view"


def test_a_view_tells_the_commit_of_the_trials_that_it_shows(tmp_path):
    owner, view = (replace(online_map.EXPERIMENT, name=name, shares="online_map") for name in ("online_map", "view"))
    (trial,) = make_trials(owner, owner.settings, owner.rows[:1], 1, tmp_path / "online_map")
    save_result(owner, trial, {"online/clicks": 1.0})
    (tmp_path / "online_map" / "environment.json").write_text(json.dumps({"commit": "abc"}), encoding="utf-8")
    (tmp_path / "view").mkdir()
    collect(view, make_trials(view, view.settings, view.rows[:1], 1, tmp_path / "view"), tmp_path / "view")
    assert provenance_of(tmp_path / "view", view).commit == "abc"


def test_worlds_differ_in_their_seed_alone(tmp_path):
    row = Row("base", "Base")
    trials = make_trials(online_map.EXPERIMENT, online_map.EXPERIMENT.settings, [row], 2, tmp_path, worlds=3)
    assert [(t.world, t.seed, t.settings.world.seed) for t in trials] == [(w, s, w) for w in range(3) for s in range(2)]
    assert len({t.directory for t in trials}) == 6
    assert {replace(t.settings, world=replace(t.settings.world, seed=0)) for t in trials} == {trials[0].settings}


def literal(y, logits, products, margin, tau):
    """The corrected Eq 10: the derivative of one hard negative's logit, from Eq 5 in float64."""
    hard, easy = slice(1, 51), slice(51, 71)
    moved = logits.copy()
    moved[1] = y
    shifted = moved - margin * products
    top = np.exp(shifted[0] / tau)
    below = top + np.exp(shifted[hard] / tau).sum() + np.exp(moved[easy] / tau).sum()
    return np.exp(shifted[1] / tau) / below / tau


@pytest.mark.parametrize("margin", [0.0, 0.9])
def test_gradients_are_those_of_the_corrected_equation(margin):
    settings = hccp_figure8.GradientSettings(
        loss="info_nce", margin=margin, drawn=replace(hccp_figure8.DrawnConfig(), lists=3)
    )
    found = hccp_figure8.gradients(settings, seed=0)
    scores, norms = jax.random.split(jax.random.key(0))
    mean = np.array([2.0] + [0.0] * 50 + [-2.0] * 20)
    logits = mean + np.asarray(jax.random.normal(scores, (3, 71)), np.float64)
    products = np.exp(0.3 * np.asarray(jax.random.normal(norms, (3, 71)), np.float64))
    for place in (0, 24, 40):
        y = hccp_figure8.MOVED[place]
        expected = np.mean([literal(y, logits[i], products[i], margin, 0.5) for i in range(3)])
        assert found[place] == pytest.approx(expected, rel=2e-4)


def test_the_gradient_of_bce_is_the_sigmoid():
    found = hccp_figure8.gradients(hccp_figure8.GradientSettings(drawn=replace(hccp_figure8.DrawnConfig(), lists=2)), 0)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-hccp_figure8.MOVED)), rtol=1e-5)
