"""Rank correlations of offline metrics with what systems earn, by hand."""

from pathlib import Path

import pytest

from experiments import offline_online
from experiments.claims import Record, decide
from experiments.tables import build_table, to_markdown

ROWS = ("base", "hccp", "sdcl", "cold", "dat")


def record(row, world, seed, **metrics):
    return Record(row, seed, metrics, {}, Path("none"), world)


def records(metric, values, earned, world=0, seed=0):
    return [
        record(row, world, seed, **{metric: value, "online/clicks": clicks, "online/purchases": -clicks})
        for row, value, clicks in zip(ROWS, values, earned, strict=False)
    ]


def by(found, row):
    return {(r.world, r.seed): r.metrics for r in found if r.row == row}


def test_each_world_and_seed_has_an_order_of_its_own():
    made = records("ISH@100", [1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    made += records("ISH@100", [1, 2, 3, 4, 5], [5, 4, 3, 2, 1], world=1)
    found = by(offline_online.correlations(made, ROWS), "by/ISH@100")
    assert found[0, 0] == pytest.approx({"spearman/clicks": 1.0, "spearman/purchases": -1.0})
    assert found[1, 0] == pytest.approx({"spearman/clicks": -1.0, "spearman/purchases": 1.0})


def test_a_rate_of_errors_counts_the_other_way_round():
    made = records("reverse@100", [5, 4, 3, 2, 1], [1, 2, 3, 4, 5])
    found = by(offline_online.correlations(made, ROWS), "by/reverse@100")
    assert found[0, 0]["spearman/clicks"] == pytest.approx(1.0)


def test_too_few_systems_have_no_order_and_other_rows_do_not_count():
    made = records("ISH@100", [1, 2, 3], [1, 2, 3])
    assert by(offline_online.correlations(made, ROWS), "by/ISH@100")[0, 0] == {}
    other = record("truth", 0, 0, **{"ISH@100": -9.0, "online/clicks": 9.0})
    four = [*records("ISH@100", [1, 2, 3, 4], [1, 2, 3, 4]), other]
    assert by(offline_online.correlations(four, ROWS), "by/ISH@100")[0, 0]["spearman/clicks"] == pytest.approx(1.0)


def test_the_table_shows_the_metrics_and_claims_are_decided():
    made = [
        r
        for seed in range(5)
        for r in records("T@100", [1, 2, 3, 4, 5], [1, 2, 3, 4, 5], seed=seed)
        + records("ISH@100", [1, 2, 3, 4, 5], [3, 1, 2, 5 + seed, 4], seed=seed)
    ]
    merged: dict = {}
    for r in made:  # one record a row and seed
        merged.setdefault((r.row, r.seed), {}).update(r.metrics)
    made = [record(row, 0, seed, **metrics) for (row, seed), metrics in merged.items()]
    experiment = offline_online.EXPERIMENT
    everything = made + offline_online.derive(made)
    table = build_table(experiment, everything)
    assert [row.row.name for row in table.rows] == ["by/T@100", "by/ISH@100"]
    assert "Not run: by/" not in to_markdown(table)
    verdicts = {v.claim.id: v for v in decide(experiment.claims, everything)}
    assert verdicts["OFFLINE-4.ISH@100"].interval is not None
    assert verdicts["OFFLINE-1.NDCG"].verdict == "inconclusive"
    assert offline_online.figure(experiment, everything) is not None
    assert offline_online.figure(experiment, made) is None
