"""Full-stage logs: exposures are kept, stages are what models of the past find, and every system can be fed."""

import json

import jax
import kuairand_synthetic as synthetic
import numpy as np
import pytest
from processes import launch
from test_launch import TINY, one_line

from experiments import hccp_table2
from experiments.full_stage_logs import FullStageConfig, main, staged
from experiments.past_cascade import PastCascadeConfig
from hccp_jax.config import to_json
from hccp_jax.data import kuairand_cascade
from hccp_jax.data.convert import convert
from hccp_jax.data.requests import Stage
from hccp_jax.data.store import open_store
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

SMALL = FullStageConfig(
    0.5, PastCascadeConfig(retrieved=45, to_ranking=35, ranked=4, preranked=3, pool=2, steps=4, batch=8)
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    where = tmp_path_factory.mktemp("staged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kuairand_cascade, "CHUNK", 64)
        folder = synthetic.write_all(where / "files", rows=synthetic.log_rows(count=2500))
        return convert("kuairand", folder, where / "store", to_json(synthetic.small_config()), lambda line: None)


@pytest.mark.slow
def test_stages_are_found_by_models_of_the_past(store, tmp_path):
    said = []
    made = staged(store, tmp_path / "staged", SMALL, said.append)
    assert [line.split(":")[0] for line in said[1:]] == ["retrieval", "pre-ranker", "ranker"]
    before, after = store["train"], made["train"]
    times, kept = np.asarray(before["request_time"][:]), np.asarray(after["request_time"][:])
    border = times.min() + round(0.5 * (times.max() - times.min()))
    np.testing.assert_array_equal(kept, times[times >= border])
    batch = jax.tree.map(lambda leaf: np.asarray(leaf[:]), after.requests())
    old = jax.tree.map(lambda leaf: np.asarray(leaf[:])[times >= border], before.requests())
    exposed = batch.stage == Stage.EXPOSED
    np.testing.assert_array_equal(batch.items["id"][:, :3], np.where(old.stage == 1, old.items["id"], 0)[:, :3])
    for task in ("click", "long_view"):
        np.testing.assert_array_equal(batch.labels[task][exposed], old.labels[task][old.stage == Stage.EXPOSED])
    for row in np.where(batch.mask, batch.items["id"], 0):
        found = [item for item in row[3:] if item]
        assert len(set(found)) == len(found)
        assert not set(found) & set(row[:3])
    ranked = batch.stage == Stage.RANKED
    assert (batch.rank[ranked] >= exposed.sum(axis=1).repeat(ranked.sum(axis=1))).all()
    for past, row in zip(batch.history["id"], batch.items["id"], strict=True):
        assert not set(row[3:]) & (set(past) - {0})
    teacher = batch.teacher["click"]
    assert ((teacher > 0) == (exposed | ranked)).all()
    assert "by models of" in made.facts["simulated"]
    assert made.facts["full_stage"]["past"] == 0.5
    again = staged(store, tmp_path / "again", SMALL, said.append)
    for name in after.columns:
        np.testing.assert_array_equal(np.asarray(again["train"][name][:]), np.asarray(after[name][:]))


@pytest.mark.slow
def test_systems_run_on_a_store_and_say_what_it_cannot_feed(store, tmp_path):
    rows = "--rows=three_tower,base,din,hccp,lcron,copr"
    done = launch(
        *("--experiment=systems_logs", f"--store={store.directory}", "--smoke", "--seeds=1", rows),
        *(f"--out={tmp_path / 'run'}", TINY[-1]),
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "results.jsonl").read_text().splitlines()
    found = {one["row"]: one["metrics"] for one in map(json.loads, lines)}
    assert set(found) == {"three_tower", "base", "din", "hccp", "lcron", "copr"}
    assert all(0 < found[row]["click/AUC"] < 1 for row in ("three_tower", "base", "din", "hccp", "copr"))


@pytest.mark.slow
def test_smoke_run_of_table_2(store, tmp_path):
    out = tmp_path / "run"
    done = launch("--experiment=hccp_table2", f"--store={store.directory}", "--smoke", f"--out={out}", TINY[-1])
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {one["row"] for one in found} == {row.name for row in hccp_table2.EXPERIMENT.rows}
    assert all(0 < one["metrics"][metric] <= 1 for one in found for metric in hccp_table2.METRICS)
    verdicts = json.loads((out / "claims.json").read_text())
    assert [verdict["id"] for verdict in verdicts] == [claim.id for claim in hccp_table2.EXPERIMENT.claims]
    assert not any("has no results" in verdict.get("reason", "") for verdict in verdicts)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (FullStageConfig(0.01), r"past=0.01: \d+ requests to learn from, expected at least 128"),
        (FullStageConfig(0.5, PastCascadeConfig(retrieved=500, batch=8)), "cascade.retrieved=500: expected more than"),
    ],
)
def test_too_little_data_is_told_and_leaves_nothing(store, tmp_path, settings, line):
    with pytest.raises(UserError, match=line):
        staged(store, tmp_path / "staged", settings, lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_bad_commands_are_one_line(tmp_path, capsys):
    with StoreWriter(tmp_path / "other", {}) as writer:
        writer.table("x", {"y": np.zeros(3)})
        writer.finish({"spec": None, "source": "comirec"})
    assert open_store(tmp_path / "other").facts["source"] == "comirec"
    cases = {
        ("--store=nowhere", "--output=x"): "store=nowhere: cannot be read",
        (f"--store={tmp_path / 'other'}", f"--output={tmp_path / 'x'}"): "holds comirec, which has no lists",
        ("--output=x",): "store='': expected --store=STORE --output=STAGED",
        ("--store=x", "--output=x", "--pst=1"): "unknown field 'pst'; did you mean past?",
    }
    for arguments, line in cases.items():
        assert line in one_line(main(arguments), capsys.readouterr().err)
