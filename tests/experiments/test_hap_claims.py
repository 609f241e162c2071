"""HAP's claims, the cost frontier and HCCP Table 4: rows, claims, shared trials, and a run of each."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from processes import launch

from experiments import cost_frontier, hap_claims, hccp_table1, hccp_table4, systems
from experiments.claims import Record
from experiments.cost_frontier import FAMILIES, ROUTED, Point, frontier
from experiments.figures import colour
from experiments.hap_run import by_group
from experiments.trials import collect, groups, make_trials, save_result
from hccp_jax import config
from hccp_jax.methods.hap import GROUPS, HyperConfig, in_training
from hccp_jax.methods.registry import numbers

HAP = hap_claims.EXPERIMENT
EXPERIMENTS = [HAP, cost_frontier.EXPERIMENT, hccp_table4.EXPERIMENT]


def hypers(names):
    settings = [config.override(HAP.settings, HAP.row(name).overrides) for name in names]
    return [numbers("hap", one.hyper) for one in settings]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_claims_and_pictures_name_rows(experiment):
    names = [row.name for row in experiment.rows]
    assert len(set(names)) == len(names)
    assert {row for claim in experiment.claims for _, row, _ in claim.contrast} <= set(names)
    assert len({claim.id for claim in experiment.claims}) == len(experiment.claims)
    assert set(experiment.pictured) <= set(names)
    shown = [row for row in experiment.rows if row.name in experiment.pictured and not row.reference]
    assert len({colour(experiment, row) for row in shown}) == len(shown) <= 10


def test_shares_are_one_training_and_light_rows_another():
    pair = hypers([hap_claims.series(share) for share in (0, *hap_claims.SHARES)])
    assert len(set(map(in_training, pair))) == 1
    assert len(set(pair)) == 5
    (heavy,) = hypers(["heavy"])
    assert in_training(heavy) != in_training(pair[-1])
    assert in_training(replace(HyperConfig(), on_policy=1.0, routed=0.5)).routed == 0.5
    light = [row.name for row in hap_claims.TRAINED[:7]]
    assert {(hyper.heavy, hyper.light_only) for hyper in hypers(light)} == {(0.0, 1.0)}


def test_rows_of_one_size_share_a_program(tmp_path):
    trials = make_trials(HAP, HAP.settings, hap_claims.TRAINED, 1, tmp_path)
    together = [{trial.row.name for trial in some} for some in groups(trials)]
    assert {"mixed", "cross_entropy", "grouped"} in together
    assert {"heavy", *(hap_claims.series(share) for share in (0, *hap_claims.SHARES))} in together
    assert len(together) == 6


def hashes(experiment, base, tmp_path):
    rows = [row for row in base.rows if row.name in {own.name for own in experiment.rows}]
    return [
        {trial.directory.name for trial in make_trials(one, one.settings, rows, 2, tmp_path / one.name, 1)}
        for one in (experiment, base)
    ]


@pytest.mark.parametrize(
    ("view", "of"),
    [(cost_frontier.EXPERIMENT, systems.EXPERIMENT), (hccp_table4.EXPERIMENT, hccp_table1.EXPERIMENT)],
    ids=["cost_frontier", "hccp_table4"],
)
def test_views_share_trials(view, of, tmp_path):
    own, others = hashes(view, of, tmp_path)
    assert own == others
    assert len(view.rows) == len(of.rows)


def test_metrics_by_group_are_what_claims_and_columns_name():
    rng = np.random.default_rng(0)
    stages = rng.integers(0, 5, (8, 12))
    looked = {
        "norms": 1 + rng.random((2, 4)),
        "cosines": rng.random((2, 4, 4)),
        "logits": {"light": rng.normal(size=(8, 12)), "heavy": rng.normal(size=(8, 12))},
        "positive": stages == 0,
        "groups": np.stack([stages == place for place in range(1, 5)]),
    }
    found = by_group(looked, "heavy")
    assert found["gradient/bce/ranked"] == np.log10(looked["norms"][1, 1])
    assert found["cosine/infonce/exposed-pool"] == looked["cosines"][0, 0, 3]
    assert found["logit/pool"] == pytest.approx(looked["logits"]["light"][stages == 4].mean())
    assert found["AUC/pool"] != by_group(looked, "light")["AUC/pool"]
    starts = ("gradient/", "cosine/", "logit/", "AUC/")
    named = {metric for claim in HAP.claims for _, _, metric in claim.contrast}
    named |= {column.metric for column in HAP.columns}
    assert {metric for metric in named if metric.startswith(starts)} <= set(found)
    assert {f"AUC/{group}" for group in GROUPS} <= named


def test_the_frontier_is_what_nothing_beats_in_both():
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = [Point(str(i), *map(float, rng.integers(0, 6, 2)), 0.0) for i in range(12)]
        kept = frontier(drawn)
        beaten = {
            a.row
            for a in drawn
            for b in drawn
            if b.cost <= a.cost and b.quality >= a.quality and (b.cost, b.quality) != (a.cost, a.quality)
        }
        assert {(p.cost, p.quality) for p in kept} == {(p.cost, p.quality) for p in drawn if p.row not in beaten}


def test_every_system_has_a_family():
    members = [system for family in FAMILIES.values() for system in family]
    trained = {row.overrides["system"] for row in systems.EXPERIMENT.rows if not row.reference}
    assert set(members) == trained
    assert len(set(members)) == len(members)
    assert set(ROUTED) <= {row.name for row in systems.EXPERIMENT.rows}


def test_pictures_are_drawn_from_what_there_is():
    rows = [row.name for row in HAP.rows if not row.reference]
    metrics = {column.metric: 0.5 for column in HAP.columns}
    made = [
        Record(
            name, seed, metrics | {"kflops_per_candidate": 1.0 + place, "ISH@100": 0.5 + 0.01 * seed}, {}, Path("no")
        )
        for place, name in enumerate(rows)
        for seed in range(2)
    ]
    for _, _, make in HAP.figures:
        assert make(HAP, made).axes
    experiment = cost_frontier.EXPERIMENT
    some = [replace(record, row=row, metrics=record.metrics | {"p50_ms": 1.0}) for record in made[:2] for row in ROUTED]
    assert len(cost_frontier.cost_frontier(experiment, some).axes) == 3
    assert cost_frontier.cost_frontier(experiment, []) is None


def test_derived_metrics_stand_beside_the_measured_ones(tmp_path):
    experiment = replace(
        hccp_table4.EXPERIMENT, configured=lambda settings: {"samples": 10.0 + settings.hyper.hccp.local}
    )
    rows = [experiment.row("base"), experiment.row("truth")]
    trials = make_trials(experiment, experiment.settings, rows, 1, tmp_path)
    for trial in trials:
        save_result(experiment, trial, {"ISH@100": 0.5})
    collect(experiment, trials, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["metrics"] for line in lines] == [{"ISH@100": 0.5, "samples": 10.0}, {"ISH@100": 0.5}]
    assert "samples" not in trials[0].result["metrics"]


@pytest.mark.slow
def test_samples_are_the_slots_that_rows_say_they_train_on():
    """Ten impressions, 35 of the ranking sequence, 15 cut by the pre-ranker, 10 of the pool."""
    found = {
        row.name: hccp_table4.samples(config.override(hccp_table4.EXPERIMENT.settings, row.overrides))
        for row in hccp_table4.EXPERIMENT.rows
        if not row.reference
    }
    assert found["base"] == found["base_listnet"] == found["base_listmle"] == 10
    assert found["without_up"] == 35
    assert found["without_neg"] == 50
    assert found["without_prc"] == 45
    assert found["without_margin"] == found["hccp"] == 60
    assert 10 < found["copr"] <= 17
    assert 10 < found["rethink"] <= 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pictures", "rows"),
    [
        ("hap_claims", {"negative_groups", "routing"}, ""),
        ("cost_frontier", {"cost_frontier"}, "base,two_tower,hap_light,hap,hap_heavy"),
        ("hccp_table4", set(), ""),
    ],
)
def test_a_smoke_run_has_everything(name, pictures, rows, tmp_path):
    out = tmp_path / "run"
    done = launch(f"--experiment={name}", "--smoke", f"--out={out}", *([f"--rows={rows}"] if rows else []))
    assert done.returncode == 0, done.stderr
    assert (out / "table.md").exists()
    assert pictures <= {path.stem for path in (out / "figures").glob("*.png")}
    claims = json.loads((out / "claims.json").read_text())
    assert not [claim["id"] for claim in claims if " has no " in claim.get("reason", "")]
