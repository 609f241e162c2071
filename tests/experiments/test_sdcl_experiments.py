"""SDCL's tables and figure: rows, claims, shared trials, what the run adds to the systems' metrics, and smoke runs."""

import itertools
import json
import re

import numpy as np
import pytest
from processes import launch

from experiments import (
    sdcl_figure3,
    sdcl_run,
    sdcl_table2,
    sdcl_table3,
    sdcl_table4,
    sdcl_table5,
    sdcl_table6,
    sdcl_table7,
)
from experiments.figures import colour
from experiments.trials import make_trials
from hccp_jax import config
from hccp_jax.cascade.logs import SamplingConfig

MODULES = (sdcl_table2, sdcl_table3, sdcl_table4, sdcl_table5, sdcl_table6, sdcl_table7, sdcl_figure3)
VIEWS = (sdcl_table4, sdcl_table7, sdcl_figure3)
METRICS = re.compile(
    r"reverse|(ISH|precision)@100|(reverse|ISH@100|precision@100)/group_[0-4]"
    r"|(own|common)/(click|purchase)/AUC(/(ranked|preranked|pool|impressions))?"
    r"|weight_(ranked|preranked|pool)(_group_[0-4])?/(click|purchase)|weight_(ranked|preranked|pool)/(click|purchase)/(first|middle)"
)


@pytest.mark.parametrize("module", MODULES)
def test_claims_name_rows_and_metrics_that_there_are(module):
    experiment = module.EXPERIMENT
    rows = {row.name for row in experiment.rows}
    assert len(rows) == len(experiment.rows)
    assert len({claim.id for claim in experiment.claims}) == len(experiment.claims)
    for claim in experiment.claims:
        for _, row, metric in claim.contrast:
            assert row in rows
            assert METRICS.fullmatch(metric), metric
        assert claim.id.startswith("SDCL-")
    assert all(set(numbers) <= rows for numbers in experiment.printed.values())
    assert set(experiment.printed) <= {column.metric for column in experiment.columns}
    for row in experiment.rows:
        config.override(experiment.settings, row.overrides)


@pytest.mark.parametrize("view", VIEWS)
def test_views_share_the_trials_of_table_3(view, tmp_path):
    def names(experiment):
        trials = make_trials(experiment, experiment.settings, experiment.rows, 2, tmp_path, 2)
        return {trial.directory.name for trial in trials}

    assert names(view.EXPERIMENT) <= names(sdcl_table3.EXPERIMENT)


def test_the_lists_hold_as_many_negatives_as_the_rows_say():
    for row in sdcl_table5.ROWS:
        sampling = config.override(sdcl_table5.EXPERIMENT.settings, row.overrides).sampling
        negatives = sampling.sequence - 10 + sampling.preranked + sampling.pool
        assert row.name == f"negatives_{negatives}"
        assert sampling.chunks(150).total == sampling.sequence  # never fewer than the sequence holds
    sampling = sdcl_table6.EXPERIMENT.settings.sampling
    assert sampling.sequence - 10 == sampling.preranked == sampling.pool
    assert SamplingConfig() != sampling
    for row in sdcl_table6.ROWS:
        kept = {kind for kind in sdcl_table6.KINDS if row.overrides.get(f"hyper.sdcl.{kind}", 1.0) > 0}
        assert row.name == f"{kept.pop()}_only"
        assert not kept


def test_the_toy_is_the_papers():
    fused = sdcl_table2.compared("fused", np.arange(3))
    printed = {metric: numbers["fused"] for metric, numbers in sdcl_table2.EXPERIMENT.printed.items()}
    assert {metric: fused[metric] for metric in printed} == printed
    np.testing.assert_allclose(sdcl_table2.PRERANKING.sum(1), [6.61, 6.32, 6.13], atol=1e-9)
    np.testing.assert_allclose(sdcl_table2.RANKING.sum(1), [7.91, 8.02, 8.13], atol=1e-9)
    for name in ("fused", *sdcl_table2.TASKS):
        found = [sdcl_table2.compared(name, np.array(order)) for order in itertools.permutations(range(3))]
        assert all(one == found[0] for one in found)
        assert found[0]["reverse"] == (1.0 if name == "fused" else 0.0)


def test_user_groups_are_fifths_by_activity():
    rng = np.random.default_rng(0)
    users = rng.integers(1, 51, (7, 30))
    groups = sdcl_run.activity_groups(users, 50)
    count = np.bincount(users.ravel(), minlength=51)[1:]
    assert np.bincount(groups[1:]).tolist() == [10] * 5
    for low, high in itertools.pairwise(range(5)):
        assert count[groups[1:] == low].max() <= count[groups[1:] == high].min()


def test_means_by_group_leave_out_requests_without_a_value():
    found = sdcl_run.by_group({"reverse": np.array([0.1, 0.3, np.nan, 0.5], np.float32)}, np.array([0, 0, 1, 4]))
    assert found["reverse/group_0"] == pytest.approx(0.2)
    assert found["reverse/group_4"] == pytest.approx(0.5)
    assert np.isnan([found["reverse/group_1"], found["reverse/group_2"], found["ISH@100/group_0"]]).all()


def test_learned_weights_are_means_over_thirds(tmp_path):
    lines = [
        {"step": s, "loss": 1.0, "weight_pool/click": float(s), "weight_pool_group_1/click": 2.0 * s} for s in range(9)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert sdcl_run.learned_weights(tmp_path / "metrics.jsonl") == {
        "weight_pool/click/first": 1.0,
        "weight_pool/click/middle": 4.0,
        "weight_pool/click": 7.0,
        "weight_pool_group_1/click": 14.0,
    }


def test_kinds_of_negatives_have_colours_of_their_own():
    kinds = sdcl_table7.by_kind(sdcl_table7.EXPERIMENT)
    assert len({colour(kinds, row) for row in kinds.rows}) == 3


def smoked(name, out):
    """A smoke run and its verdicts."""
    done = launch(f"--experiment={name}", "--smoke", f"--out={out / name}")
    assert done.returncode == 0, done.stderr
    assert (out / name / "table.md").exists()
    claims = json.loads((out / name / "claims.json").read_text())
    assert claims
    assert not [claim for claim in claims if " has no " in claim.get("reason", "")]
    return done


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdcl_table2", "sdcl_table5", "sdcl_table6"])
def test_a_smoke_run(name, tmp_path):
    smoked(name, tmp_path)


@pytest.mark.slow
def test_views_find_the_trials_of_table_3_and_draw_their_pictures(tmp_path):
    smoked("sdcl_table3", tmp_path)
    pictures = {"sdcl_table4": "user_groups", "sdcl_table7": "learned_weights", "sdcl_figure3": "figure3"}
    for name, picture in pictures.items():
        assert "trials are finished" in smoked(name, tmp_path).stdout
        assert (tmp_path / name / "figures" / f"{picture}.png").exists()
