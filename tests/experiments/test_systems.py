"""The tables of systems: their rows, their search spaces, what they refuse, and a run of a few rows."""

import json
import subprocess
import sys

import jax
import pytest
from drawn_batch import draw_batch
from processes import ROOT, launch
from test_launch import one_line

from experiments import systems, systems_kuairand, systems_logs
from experiments.figures import colour
from experiments.hccp_ladder import LABELS
from experiments.systems_settings import MOST_TRIALS, OWN, search_space
from hccp_jax import config
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.methods.hccp import Layout
from hccp_jax.methods.registry import SYSTEMS, HyperConfigs, build, numbers
from launch import main as launch_main


@pytest.mark.parametrize("module", [systems, systems_kuairand, systems_logs])
def test_every_system_has_a_row_and_every_row_a_configuration(module):
    experiment = module.EXPERIMENT
    found = set()
    for row in experiment.rows:
        if not row.reference:
            found.add(config.override(experiment.settings, row.overrides).system)
    # where logs have stages, Base is HCCP's own program with its other terms off
    assert found == set(SYSTEMS) - (set() if module is systems_logs else {"three_tower"})
    assert len({row.name for row in experiment.rows}) == len(experiment.rows)
    names = {row.name for row in experiment.rows}
    assert set(experiment.pictured) <= names
    assert len(experiment.pictured) <= 10
    shown = [row for row in experiment.rows if row.name in experiment.pictured and not row.reference]
    assert len({colour(experiment, row) for row in shown}) == len(shown)
    assert all({claim.better, claim.worse} <= names for claim in experiment.claims)


# the sizes of the table
SPEC = FeatureSpec(20_001, 20_001, 10, 41, ("click", "purchase"), history_groups=1, cross=6)


def parameter_count(row):
    settings = config.override(systems.EXPERIMENT.settings, row.overrides)
    needs = frozenset({"cross", "history", "ranked", "preranked", "pool", "teacher"})
    method = build(settings.system, SPEC, settings.models, Layout(10, 35), needs)
    shapes = jax.eval_shape(method.init, jax.random.key(0), draw_batch(spec=SPEC))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_rows_that_compare_losses_have_equal_parameters():
    """Within 2 %: HCCP's rows and the losses on its three towers, SDCL's rows, CROLoss's rows, HAP's rows."""
    counts = {row.name: parameter_count(row) for row in systems.SYSTEM_ROWS}
    on_towers = {*LABELS, "copr", "rethink", "arf", "lcron", "fs_ltr", "multi_positive", "ranktower_loss"}
    others = [{name for name in counts if name.startswith(start)} for start in (("sdcl", "snr"), "croloss", "hap")]
    families = [on_towers, *others]
    assert [len(family) for family in families] == [15, 4, 5, 6]
    for family in families:
        found = [counts[name] for name in family]
        assert max(found) <= 1.02 * min(found), {name: counts[name] for name in family}


@pytest.mark.parametrize("system", SYSTEMS)
def test_all_systems_have_one_budget_and_valid_settings(system):
    space = search_space(system, HyperConfigs(), MOST_TRIALS)
    assert len(space) == MOST_TRIALS
    assert space[0] == {}
    assert sum("learning_rate" in changes for changes in space) == 2
    own = numbers(system, HyperConfigs())
    for changes in space:
        config.override(own, changes)
    assert OWN[system] != {name: getattr(own, name) for name in OWN[system]}


@pytest.mark.parametrize("module", [systems, systems_kuairand])
def test_tuning_makes_no_row_of_another(module):
    """No tuned number is one that any row of the same system sets."""
    rows = [row for row in module.EXPERIMENT.rows if not row.reference]
    for system in SYSTEMS:
        own = [row.overrides for row in rows if row.overrides.get("system") == system]
        field = SYSTEMS[system].hyper
        tuned = {f"hyper.{field}.{name}" for name in (*OWN[system], "learning_rate")}
        assert not tuned & {name for overrides in own for name in overrides}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--hyper.hap.routed=0"], "hyper.hap.routed=0.0: expected a value above 0"),
        (["--hyper.hap.routed=1.5"], "hyper.hap.routed=1.5: expected a value at most 1"),
        (["--hyper.sdcl.temperature=-1"], "hyper.sdcl.temperature=-1.0: expected a value above 0"),
        (["--models.croloss.kernel=gauss"], "models.croloss.kernel='gauss': expected one of"),
        (["--models.ranktower_loss.ranking=best"], "models.ranktower_loss.ranking='best': expected one of"),
        (["--rows=hcp"], "did you mean hccp?"),
        (["--tune.trials=9"], "tune.trials=9: expected a value at most 4"),
    ],
)
def test_bad_input_is_one_line(arguments, part, tmp_path, capsys):
    code = launch_main(["--experiment=systems", *arguments, f"--out={tmp_path / 'run'}"])
    assert part in one_line(code, capsys.readouterr().err)


@pytest.mark.slow
def test_a_few_rows_are_tuned_trained_and_priced_and_a_second_run_finds_them(tmp_path):
    command = ["--experiment=systems", "--smoke", "--seeds=2", "--rows=base,two_tower,hap,rethink"]
    done = launch(*command, f"--out={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["row"] in ("base", "two_tower", "hap", "rethink")]
    assert len(trained) == 8
    for line in trained:
        assert line["metrics"]["parameters"] > 1000
        assert line["metrics"]["kflops_per_candidate"] > 0
        assert line["metrics"]["p50_ms"] > 0
        result = json.loads((tmp_path / "run" / "trials" / line["config_hash"] / "result.json").read_text())
        assert len(result["tuning"]["trials"]) == 2
    again = launch(*command, f"--out={tmp_path / 'run'}")
    assert again.returncode == 0
    assert "12 of 12 trials are finished" in again.stdout


def test_the_list_names_the_tables():
    done = subprocess.run([sys.executable, "launch.py", "--list"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "systems_kuairand" in done.stdout
