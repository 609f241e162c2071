"""The experiment croloss: its rows, what it refuses, and a run on a tiny store."""

import json

import numpy as np
import pytest
from processes import ROOT, launch
from test_launch import one_line

from experiments import croloss, croloss_rows, croloss_run
from experiments.figures import colour
from experiments.trials import Context, groups, make_trials
from hccp_jax import config
from hccp_jax.data.convert import convert
from hccp_jax.data.store import open_store
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError
from hccp_jax.training.program import Placement

EXPERIMENT = croloss.EXPERIMENT
TINY = {
    "train.steps": 40,
    "train.chunk": 20,
    "train.batch": 16,
    "train.validate_every": 20,
    "train.checkpoint_every": 40,
    "cutoffs": "5,20",
    "model.vector": 8,
    "kernels.negatives": 4,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """60 users whose next item is the one after the last, among 30 items, in ComiRec's layout."""
    folder = tmp_path_factory.mktemp("sequences")
    (folder / "in").mkdir()
    generator = np.random.default_rng(0)
    for word, users in (("train", range(40)), ("valid", range(40, 50)), ("test", range(50, 60))):
        first = {user: int(generator.integers(30)) for user in users}
        rows = [f"{user},{(first[user] + place) % 30 + 1},{place}\n" for user in users for place in range(12)]
        (folder / "in" / f"tiny_{word}.txt").write_text("".join(rows))
    convert("comirec", folder / "in", folder / "store", {"history": 3}, lambda line: None)
    return folder / "store"


def test_rows_are_the_tables_of_the_paper_each_once():
    settings = [config.override(EXPERIMENT.settings, row.overrides) for row in croloss_rows.ROWS]
    found = [(s.kernels.kernel, s.kernels.weight_kernel, s.hyper.alpha, s.kernels.hinge_margin) for s in settings]
    assert len(set(found)) == len(found)
    for kernel in ("hinge", "sigmoid", "exponential", "softplus"):
        assert {(kernel, "none", alpha, 5.0) for alpha in (0.6, 0.8, 1.0, 1.2, 1.4)} <= set(found)
    assert {("hinge", "none", 0.0, 5.0), ("hinge", "none", 0.0, 0.5), ("softplus", "none", 0.0, 5.0)} <= set(found)
    assert {weight for _, weight, *_ in found} == {"none", "sigmoid", "unit_step"}
    names = {row.name for row in EXPERIMENT.rows}
    assert len(names) == len(EXPERIMENT.rows)
    assert all({row for _, row, _ in claim.contrast} <= names for claim in EXPERIMENT.claims)
    assert set(EXPERIMENT.pictured) <= names
    shown = [row for row in EXPERIMENT.rows if row.name in EXPERIMENT.pictured and not row.reference]
    assert len({colour(EXPERIMENT, row) for row in shown}) == len(shown) <= 10
    assert EXPERIMENT.baseline.name == "cross_entropy"


def test_rows_that_differ_in_numbers_share_a_program(tmp_path):
    trials = make_trials(EXPERIMENT, EXPERIMENT.settings, croloss_rows.ROWS, 2, tmp_path)
    together = [{trial.row.name for trial in some} for some in groups(trials)]
    grid = ("06", "08", "1", "12", "14")
    assert {"bpr", *(f"softplus_{alpha}" for alpha in grid)} in together
    assert {"triplet", *(f"hinge_{alpha}" for alpha in grid)} in together
    assert {"cross_entropy", *(f"exponential_{alpha}" for alpha in grid if alpha != "1")} in together
    assert {"lambda_sigmoid_exponential", "lambda_sigmoid_exponential_14"} in together
    assert len(together) == 11


def run(store, out, rows, seeds=2, **changes):
    """Results by (row, seed) of a run in this process."""
    settings = config.override(EXPERIMENT.settings, TINY | {"store": str(store)} | changes)
    trials = make_trials(EXPERIMENT, settings, [EXPERIMENT.row(name) for name in rows], seeds, out)
    lines = []
    report = lambda label, steps: lambda step, means: None  # noqa: E731
    croloss_run.run(Context(EXPERIMENT, tuple(trials), Placement(), report, lines.append))
    return {(trial.row.name, trial.seed): trial.result for trial in trials}, lines


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory):
    return run(store, tmp_path_factory.mktemp("run"), ["softplus_06", "bpr", "popularity"])


def test_a_run_learns_what_comes_next(finished):
    results, lines = finished
    assert set(results) == {(row, seed) for row in ("softplus_06", "bpr") for seed in (0, 1)} | {("popularity", 0)}
    floor = results["popularity", 0]["metrics"]
    assert floor["users"] == 10
    assert floor["targets"] == 30
    for (row, _), result in results.items():
        assert result["data"] == "Data: Sequences in the layout of ComiRec and CROLoss, tiny: 60 users, 30 items."
        metrics = result["metrics"]
        assert metrics["recall@5"] == pytest.approx(metrics["micro_recall@5"])  # three targets each
        if row != "popularity":
            assert metrics["recall@5"] > 0.5 > floor["recall@5"] + 0.2
            assert result["epochs"] == pytest.approx(result["step"] * 16 / 40)
    assert results["bpr", 0]["metrics"] != results["bpr", 1]["metrics"]
    assert "tiny: 30 items" in lines[0]


def test_a_sweep_of_what_decides_the_data_has_data_of_its_own(store, tmp_path):
    """Trials of one command with other batches and histories."""
    trials = []
    for number, changes in enumerate(({"train.batch": 8}, {"train.batch": 16, "history": 1})):
        steps = {"train.steps": 2, "train.chunk": 2, "train.validate_every": 0}
        settings = config.override(EXPERIMENT.settings, TINY | {"store": str(store)} | steps | changes)
        trials += make_trials(EXPERIMENT, settings, [EXPERIMENT.row("bpr")], 1, tmp_path / str(number))
    report = lambda label, steps: lambda step, means: None  # noqa: E731
    croloss_run.run(Context(EXPERIMENT, tuple(trials), Placement(), report, lambda line: None))
    assert [trial.result["epochs"] for trial in trials] == [2 * 8 / 40, 2 * 16 / 40]


@pytest.mark.slow
def test_a_row_does_not_hang_on_the_others_and_lazy_tables_learn_too(store, finished, tmp_path):
    alone, _ = run(store, tmp_path / "alone", ["bpr"])
    assert alone["bpr", 1]["metrics"] == finished[0]["bpr", 1]["metrics"]
    lazy, _ = run(store, tmp_path / "lazy", ["bpr"], **{"train.tables.update": "lazy"})
    assert lazy["bpr", 1]["metrics"]["recall@5"] > 0.5
    hashed, _ = run(store, tmp_path / "hashed", ["bpr"], **{"train.tables.item_rows": 12})
    assert hashed["bpr", 1]["metrics"]["recall@5"] < lazy["bpr", 1]["metrics"]["recall@5"]


def test_a_bad_store_ends_the_command_with_one_line(tmp_path):
    done = launch("--experiment=croloss", f"--out={tmp_path / 'run'}", f"--store={tmp_path / 'absent'}")
    assert "absent: cannot be read" in one_line(done.returncode, done.stderr)


def test_a_bad_store_is_told(store, tmp_path):
    def refused(where, line):
        with pytest.raises(UserError, match=line):
            run(where, tmp_path / "run", ["popularity"])

    refused("", "store='': expected the folder of a store")
    with StoreWriter(tmp_path / "other", {}) as writer:
        writer.table("log", {"mask": np.ones((3, 2), bool)})
        writer.finish({})
    refused(tmp_path / "other", "no sequences of train; it has log")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in store.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    (damaged / "events_test-0000.arrow").write_bytes(b"garbage")
    refused(damaged, r"events_test-0000\.arrow cannot be read")
    one = {"user": np.ones(1, np.int32), "begin": np.zeros(1, np.int64), "length": np.full(1, 6, np.int32)}
    for name, items, events, line in (
        ("short", 9, 5, "sequences_train does not fit its 5 events"),
        ("beyond", 4, 6, r"events_train: items 1\.\.6, expected 1\.\.3"),
    ):
        with StoreWriter(tmp_path / name, {}) as writer:
            for part in ("train", "test"):
                writer.table(f"sequences_{part}", one)
                writer.table(f"events_{part}", {"item": np.arange(1, events + 1, dtype=np.int32)})
            writer.table("items", {"category": np.zeros(items, np.int32)})
            writer.finish({"title": "tiny", "more": {"name": "tiny", "items": items, "history": 3}})
        refused(tmp_path / name, line)


def test_an_excerpt_without_a_test_part_asks_every_second_validation_user(store, tmp_path):
    source = store.parent / "in"
    (tmp_path / "in").mkdir()
    for word in ("train", "valid"):
        (tmp_path / "in" / f"tiny_{word}.txt").write_text((source / f"tiny_{word}.txt").read_text())
    convert("comirec", tmp_path / "in", tmp_path / "store", {"history": 3}, lambda line: None)
    said = []
    validation, test, told = croloss_run.held_out(open_store(tmp_path / "store"), said.append)
    assert validation is not None
    assert sorted([*validation.user, *test.user]) == list(range(40, 50))
    assert len(test.user) == 5
    assert all(test.item[begin] != 0 for begin in test.begin)
    assert told == " No test part: every second user of the validation part is the test."
    assert len(said) == 1


@pytest.mark.slow
def test_the_command_leaves_a_table_that_says_what_the_data_is(store, tmp_path):
    out = tmp_path / "run"
    rows = "--rows=cross_entropy,softplus_06,lambda_sigmoid_softplus"
    cache = f"--cache_dir={ROOT / '.jax_cache'}"
    command = ("--experiment=croloss", "--smoke", "--seeds=2", rows, f"--store={store}", f"--out={out}", cache)
    done = launch(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    table = (out / "table.md").read_text()
    assert "tiny: 60 users, 30 items" in table
    assert "nothing is simulated" in table
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(records) == 7
    assert "7 of 7 trials are finished" in launch(*command).stdout
