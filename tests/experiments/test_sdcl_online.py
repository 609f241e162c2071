"""SDCL's online test: a view of Table 3's runs with sessions."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from processes import launch as command

from experiments import sdcl_table3
from experiments.sdcl_online import CLAIMS, EXPERIMENT, METRICS, STEPS
from experiments.simulated_ground import online_tests
from experiments.systems_settings import SystemsSettings
from experiments.trials import make_trials
from hccp_jax import config
from hccp_jax.cascade.logs import SamplingConfig
from hccp_jax.evaluation.online import Online
from hccp_jax.evaluation.online_sessions import OnlineSessions


def test_claims_and_columns_are_those_of_sessions():
    rows = {row.name for row in EXPERIMENT.rows}
    assert len(CLAIMS) == sum(len(gains) for _, _, gains in STEPS) == 10
    for claim in CLAIMS:
        assert {claim.better, claim.worse} <= rows
        assert claim.metric in METRICS.values()
        assert claim.relative
    assert {column.metric.replace("realised_", "") for column in EXPERIMENT.columns} == set(METRICS.values())


def test_the_printed_gains_add_up_for_watch_time_only():
    steps = {name: [gains.get(name) for _, _, gains in STEPS] for name in METRICS}
    assert sum(steps["AWT"][:3]) == pytest.approx(steps["AWT"][3])
    for name, missing in (("ANR", -0.39), ("ANVR", -1.48)):
        assert steps[name][3] - sum(steps[name][1:3]) == pytest.approx(missing)
    assert EXPERIMENT.printed["online/watch_time"]["sdcl"] == steps["AWT"][3]


def test_a_view_of_table_3_which_serves_sessions():
    assert EXPERIMENT.settings.evaluate.sessions > 0
    own, other = (
        {t.directory.name for t in make_trials(experiment, experiment.settings, experiment.rows, 2, Path("x"), 2)}
        for experiment in (EXPERIMENT, sdcl_table3.EXPERIMENT)
    )
    assert own == other


def test_the_online_tests_that_are_asked_for(small_world):
    world, small, _ = small_world
    settings = dataclasses.replace(SystemsSettings(), world=small, sampling=SamplingConfig())
    counts = np.ones(small.items + 1, np.float32)
    assert list(online_tests(settings, world, counts)) == []
    both = config.override(settings, {"evaluate.online": 64, "evaluate.sessions": 64})
    found = list(online_tests(both, world, counts))
    assert [type(test) for test in found] == [Online, OnlineSessions]
    assert found[1].data.candidates.ids.shape[:2] == (8, 64)


def test_a_table_that_serves_no_sessions_says_so(tmp_path):
    done = command("--smoke", "--rows=base", "--evaluate.sessions=64", f"--out={tmp_path / 'out'}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: evaluate.sessions=64: expected 0")


@pytest.mark.slow
def test_smoke(tmp_path):
    out = tmp_path / "out"
    done = command("--experiment=sdcl_online", "--smoke", f"--out={out}")
    assert done.returncode == 0, done.stderr
    for name in ("table.md", "claims.json", "report.html"):
        assert (out / name).exists()
    entries = json.loads((out / "claims.json").read_text())
    assert len(entries) == len(CLAIMS)
    assert not [entry for entry in entries if " has no" in entry.get("reason", "")]
    results = [json.loads(line)["metrics"] for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(results) == 4 * 2 + 4
    for metrics in results:  # the references, too
        assert 1 < metrics["online/requests"] < 8
        assert metrics["online/watch_time"] > 0
