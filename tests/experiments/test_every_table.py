"""What every table and figure must be: claims about rows that exist, views that share trials, and a smoke run."""

import importlib
import json

import pytest
from processes import launch

import launch as command
from experiments import flags, online_map, plan
from experiments.simulated import check_world
from experiments.trials import make_trials
from hccp_jax import config

NAMES = tuple(command.EXPERIMENTS)
MADE = {name: importlib.import_module(f"experiments.{name}").EXPERIMENT for name in NAMES}
VIEWS = {name: made for name, made in MADE.items() if made.shares and made.shares != name}
NEED_LOGS = {name for name, made in MADE.items() if not hasattr(made.settings, "world")}
COMPUTED = {"hccp_figure8", "sdcl_table2", "croloss_figure2"}
SIMULATED = [name for name in NAMES if name not in NEED_LOGS]


@pytest.mark.parametrize("name", NAMES)
def test_a_table_says_what_it_is(name):
    made = MADE[name]
    module = importlib.import_module(f"experiments.{name}")
    assert made.name == name
    assert f"--experiment={name}" in (module.__doc__ or "") or name == "quickstart"
    assert made.data
    assert len({row.name for row in made.rows}) == len(made.rows)
    assert len({claim.id for claim in made.claims}) == len(made.claims)
    assert len({column.metric for column in made.columns}) == len(made.columns)


@pytest.mark.parametrize("name", NAMES)
def test_claims_and_baselines_are_of_rows_that_exist(name):
    made = MADE[name]
    rows = {row.name for row in made.rows}
    for claim in made.claims:
        assert {row for _, row, _ in claim.contrast} <= rows, claim.id
        assert all(metric for _, _, metric in claim.contrast), claim.id
        assert claim.statement.endswith("."), claim.id
    assert {row.against for row in made.rows} - {""} <= rows
    assert {row for numbers in made.printed.values() for row in numbers} <= rows
    assert set(made.pictured) | set(made.smoke_rows) <= rows


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_views_have_trials_in_common_with_their_owner(name, tmp_path):
    own = MADE[name]
    sharing = [made for made in MADE.values() if own.shares in (made.shares, made.name) and made.name != name]
    assert sharing, f"nobody else shares {own.shares}"
    owner = MADE.get(own.shares, sharing[0])

    def hashes(made):
        rows = [row for row in made.rows if not row.derived]
        return {trial.directory.name for trial in make_trials(made, made.settings, rows, 1, tmp_path)}

    assert hashes(own) & hashes(owner)


def test_simulated_tables_of_papers_have_five_seeds_and_three_worlds():
    older = {"quickstart", "hccp_ladder", "systems", "cost_frontier"}
    for name in set(SIMULATED) - older - COMPUTED:
        assert (MADE[name].seeds, MADE[name].worlds) == (5, 3), name


@pytest.mark.parametrize("name", SIMULATED)
@pytest.mark.parametrize("size", ["full", "smoke"])
def test_every_row_has_a_world_that_can_be(name, size):
    made = MADE[name]
    settings = config.override(made.settings, made.smoke if size == "smoke" else {})
    for row in made.rows:
        own = config.override(settings, row.overrides)
        if hasattr(own, "sampling") and hasattr(own, "train"):
            check_world(own.world, own.sampling, own.train)


@pytest.mark.parametrize(
    ("words", "funnels"),
    [
        (["--smoke"], {"default", "trained", "items_5000", "explored"}),
        (["--smoke", "--rows=perfect/base"], {"default", "trained", "items_5000", "explored", "perfect"}),
        ([], set(online_map.FUNNELS)),
    ],
)
def test_a_smoke_run_of_many_worlds_is_of_some(words, funnels):
    made = MADE["online_map"]
    values = flags.launcher_flags()
    flags.settings_flags(values, made)
    flags.parse(values, words)
    rows = plan.make(made, values).rows
    assert {row.name.partition("/")[0] for row in rows} == funnels
    if len(words) == 2:
        assert {row.name for row in rows if not row.reference} == {"perfect/base"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIMULATED)
def test_smoke(name, tmp_path_factory):
    """Side by side, so that views find the trials of their owner."""
    out = tmp_path_factory.getbasetemp() / "smoke" / name
    done = launch(f"--experiment={name}", "--smoke", f"--out={out}")
    assert done.returncode == 0, done.stderr[-3000:]
    for file in ("table.md", "table.tex", "claims.json", "report.html"):
        assert (out / file).stat().st_size > 0
    run = set(MADE[name].smoke_rows) or {row.name for row in MADE[name].rows}
    asked = {claim.id for claim in MADE[name].claims if {row for _, row, _ in claim.contrast} <= run}
    verdicts = json.loads((out / "claims.json").read_text(encoding="utf-8"))
    assert asked or not MADE[name].claims
    for verdict in verdicts:
        assert verdict["id"] not in asked or "has no results" not in verdict.get("reason", ""), verdict
    assert list((out / "figures").glob("*.png"))
