"""KuaiRand through its store: the same data as from the files, the random log, and what is refused."""

import dataclasses

import jax
import kuairand_synthetic as synthetic
import numpy as np
import pytest
from tiny_hccp import assert_trees_equal

from hccp_jax.config import to_json
from hccp_jax.data import kuairand as kr
from hccp_jax.data import kuairand_cascade as kc
from hccp_jax.data.convert import convert
from hccp_jax.data.kuairand_dataset import load
from hccp_jax.data.requests import Stage
from hccp_jax.data.sources.kuairand import stored
from hccp_jax.data.store import open_store
from hccp_jax.errors import UserError

PROTOCOL = to_json(synthetic.small_config())


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(kc, "CHUNK", 64)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of the files, with a random log, and the store."""
    where = tmp_path_factory.mktemp("kuairand")
    folder = synthetic.write_all(where / "files")
    rows = [
        synthetic.log_row(u, v, day, 60 * u, click=(u + v) % 2) for day in (2, 5, 6) for u in range(3) for v in (7, 9)
    ]
    synthetic.write(folder, synthetic.LOG_HEADER, rows, kr.RANDOM_LOG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kc, "CHUNK", 64)
        return folder, convert("kuairand", folder, where / "store", PROTOCOL, lambda line: None)


def test_a_store_holds_what_the_files_give(made):
    folder, store = made
    config = synthetic.small_config()
    found, expected = stored(open_store(store.directory, "full"), config), load(folder, config)
    for name in ("train", "validation", "test", "random"):
        batch = jax.tree.map(lambda leaf: np.asarray(leaf[:]), getattr(found, name))
        assert_trees_equal(batch, getattr(expected, name))
    assert_trees_equal(found.views, expected.views)
    assert_trees_equal(found.catalogue, expected.catalogue)
    np.testing.assert_array_equal(found.item_exposures, expected.item_exposures)
    assert found.spec == expected.spec


def test_videos_shown_at_random_are_a_test_of_the_test_days_alone(made):
    _, store = made
    config = synthetic.small_config()
    data = stored(store, config)
    assert data.random is not None
    exposed = np.asarray(data.random.stage == Stage.EXPOSED)
    assert exposed.sum() == 2 * 3 * 2  # two of the three days are test days
    assert set(np.unique(data.random.items["id"])) == {0, 8, 10}
    assert set(data.random.user["day"]) == {5}
    # statistics are those that the test list of the standard log has
    rows = [np.flatnonzero(np.asarray(batch.user["id"]) == 2)[0] for batch in (data.random, data.test)]
    np.testing.assert_array_equal(data.random.history["id"][rows[0]], data.test.history["id"][rows[1]])


def test_histories_are_before_their_requests(made):
    _, store = made
    for part in ("train", "validation", "test"):
        table = store[part]
        then, now = np.asarray(table["history_time"][:]), np.asarray(table["request_time"][:])
        assert (then < now[:, None]).all()
        assert (then[np.asarray(table["history_mask"][:])] >= 0).all()
    assert (np.asarray(store["test"]["history_time"][:]) > 0).any()


def test_the_description_counts_and_says_what_is_simulated(made):
    _, store = made
    assert store.facts["simulated"].startswith("what a training request retrieved")
    assert any(line.startswith("test: ") and "impressions" in line for line in store.facts["lines"])
    assert any("UTC+08:00" in line for line in store.facts["lines"])


def test_another_protocol_or_source_is_refused(made):
    _, store = made
    with pytest.raises(UserError, match=r"^exposed=8: the store was made with exposed=3; say the same$"):
        stored(store, dataclasses.replace(synthetic.small_config(), exposed=8))
    other = dataclasses.replace(store, manifest={**store.manifest, "facts": {"source": "comirec"}})
    with pytest.raises(UserError, match="holds comirec, expected kuairand"):
        stored(other, synthetic.small_config())


def test_bad_files_leave_nothing(tmp_path):
    folder = synthetic.write_all(tmp_path / "files")
    (folder / kr.LOG).write_text((folder / kr.LOG).read_text().replace(",1\n", ",x\n", 1))
    with pytest.raises(UserError, match=r"pure.csv: row \d+: tab='x', expected an integer in"):
        convert("kuairand", folder, tmp_path / "store", PROTOCOL, lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["files"]
