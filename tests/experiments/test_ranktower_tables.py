"""RankTower's four tables: their rows and claims, what they share, and a run of each."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
from processes import ROOT

from experiments.claims import Record
from experiments.ranktower_ground import named
from experiments.ranktower_rows import FULL, NDCG, RECALL, beside_the_paper
from experiments.trials import make_trials
from hccp_jax import config
from hccp_jax.evaluation.sampled_lists import list_metrics

TABLES = [importlib.import_module(f"experiments.ranktower_table{number}").EXPERIMENT for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_claims_and_printed_numbers_are_of_rows_and_metrics_that_exist(table):
    names = {row.name for row in table.rows}
    assert len(names) == len(table.rows)
    for claim in table.claims:
        for _, row, metric in claim.contrast:
            assert row in names
            assert metric in (RECALL, NDCG)
    assert len({claim.id for claim in table.claims}) == len(table.claims)
    for metric, numbers in table.printed.items():
        assert metric in {column.metric for column in table.columns}
        assert set(numbers) <= names
    for row in table.rows:
        config.override(table.settings, row.overrides)


def test_the_lists_give_the_metrics_of_the_claims():
    given = named(list_metrics(np.zeros((1, 1), int), np.ones((1, 1)), TABLES[0].settings.cutoffs))
    assert {RECALL, NDCG} <= set(given)


def test_what_is_printed_agrees_with_the_claims_of_the_paper():
    """Every claim about the paper's own rows holds of the paper's own numbers."""
    for table in TABLES:
        for claim in table.claims:
            if claim.paper == "ours":
                continue
            points = sum(weight * table.printed[metric][row] for weight, row, metric in claim.contrast)
            if claim.within:
                assert abs(points) <= 100 * claim.within, claim.id
            else:
                assert points > 0, claim.id


def test_the_tables_share_the_full_row_and_have_thirteen_distinct_ones(tmp_path):
    made = {}
    for table in TABLES:
        trained = [row for row in table.rows if not row.reference]
        trials = make_trials(table, table.settings, trained, 1, tmp_path)
        made[table.name] = {trial.row.name: trial.directory.name for trial in trials}
    assert len({trials[FULL.name] for trials in made.values()}) == 1
    assert len({name for table in TABLES[1:] for name in made[table.name].values()}) == 13


def test_the_picture_shows_our_differences_and_the_papers(tmp_path):
    table = TABLES[1]
    records = [
        Record(row.name, seed, {RECALL: 0.5 + 0.01 * place + 0.001 * seed, NDCG: 0.3 + 0.01 * place}, {}, tmp_path)
        for place, row in enumerate(table.rows)
        for seed in range(3)
    ]
    figure = beside_the_paper(table, records)
    recall, _ = figure.axes
    labels = [text.get_text() for text in recall.get_yticklabels()]
    assert labels == [row.label for row in reversed(table.rows[1:4])]
    ours = {line.get_ydata()[0]: line.get_xdata()[0] for line in recall.lines if line.get_marker() == "o"}
    assert ours == {place: pytest.approx(3.0 - place) for place in range(3)}
    papers = {line.get_ydata()[0]: line.get_xdata()[0] for line in recall.lines if line.get_marker() == "D"}
    assert papers[0] == pytest.approx(69.81 - 71.82)
    assert beside_the_paper(table, [r for r in records if r.row != FULL.name]) is None


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_smoke_run(table, kuairand_dir, tmp_path):
    out = tmp_path / table.name
    command = [sys.executable, "launch.py", f"--experiment={table.name}", f"--data_dir={kuairand_dir}", "--smoke"]
    done = subprocess.run([*command, f"--out={out}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (out / "table.md").exists()
    assert (out / "figures" / "beside_the_paper.png").exists()
    claims = json.loads((out / "claims.json").read_text())
    assert len(claims) == len(table.claims)
    run = set(table.smoke_rows) or {row.name for row in table.rows}
    asked = {claim.id for claim in table.claims if {row for _, row, _ in claim.contrast} <= run}
    assert asked
    assert not any("has no" in claim.get("reason", "") for claim in claims if claim["id"] in asked)
