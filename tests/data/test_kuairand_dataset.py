"""KuaiRand end to end: simulated stages, batches, whole-catalogue views; and the real excerpt where it is there."""

import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import kuairand_synthetic as synthetic
import numpy as np
import pytest

from hccp_jax.data import kuairand_cascade as kc
from hccp_jax.data import kuairand_dataset as kd
from hccp_jax.data import sampling
from hccp_jax.data.catalogue import attach
from hccp_jax.data.catalogue_view import with_items
from hccp_jax.data.kuairand import KuaiRandConfig
from hccp_jax.data.kuairand_features import cross_features
from hccp_jax.data.requests import Stage
from hccp_jax.data.simulated_stages import chunks_for
from hccp_jax.errors import UserError

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "kuairand_pure"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(kc, "CHUNK", 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic.write_all(tmp_path_factory.mktemp("kuairand"))


@pytest.fixture(scope="module")
def data(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kc, "CHUNK", 64)
        return kd.load(folder, synthetic.small_config())


def test_shapes_and_sizes(data):
    assert data.spec.tasks == ("click", "long_view")
    assert (data.spec.users, data.spec.items, data.spec.history_groups) == (13, 61, 2)
    assert data.train.mask.shape[1] == 3 + 4 + 3 + 3
    assert data.validation.mask.shape[1] == data.test.mask.shape[1] == 3
    assert data.catalogue.daily.shape == (6, 61, 4)
    assert data.train.user["dense"].shape[1] == 6
    shown = (data.train.stage == Stage.EXPOSED).sum()
    assert data.item_exposures.sum() == shown
    parts = (data.train, data.validation, data.test)
    assert sum((part.stage == Stage.EXPOSED).sum() for part in parts) == 400
    assert set(data.validation.user["day"]) == {4}
    assert set(data.test.user["day"]) == {5}
    text = data.describe()
    assert "SIMULATED" in text
    assert "test 2022-04-30..2022-05-01" in text


def test_lists_are_in_the_arranged_order(data):
    for batch in (data.train, data.validation, data.test):
        exposed = batch.stage == Stage.EXPOSED
        n = exposed.sum(axis=1)
        for row in range(len(n)):
            click, rank = batch.labels["click"][row, : n[row]], batch.rank[row]
            assert (np.diff(click) <= 0).all()
            assert sorted(rank[: n[row]]) == list(range(n[row]))
            assert (np.diff(rank[: n[row]][click > 0]) > 0).all()
            ranked = rank[batch.stage[row] == Stage.RANKED]
            assert (np.diff(ranked) > 0).all()
            assert (ranked >= n[row]).all()


def test_simulated_stages_hold_no_item_that_the_user_has_seen_or_sees_that_day(data, folder):
    tables = kd.read(folder)
    seen = dict.fromkeys(zip(tables.earlier.user, tables.earlier.item, strict=True), -1)
    first_day = tables.log.day.min()
    for u, v, day in zip(tables.log.user, tables.log.item, tables.log.day - first_day, strict=True):
        seen.setdefault((u, v), day)
    batch = data.train
    lower = batch.stage > Stage.EXPOSED
    assert {stage: (batch.stage == stage).any() for stage in Stage} == dict.fromkeys(Stage, True)
    for row, slot in np.argwhere(lower):
        pair = (batch.user["id"][row], batch.items["id"][row, slot])
        assert seen.get(pair, 99) > batch.user["day"][row]
    for row in range(len(lower)):
        ids = batch.items["id"][row, lower[row]]
        assert len(set(ids)) == len(ids)


def test_stages_are_a_function_of_the_seed_and_of_the_past(data, folder, tmp_path):
    again = kd.load(folder, synthetic.small_config())
    jax.tree.map(np.testing.assert_array_equal, data.train, again.train)
    other = kd.load(folder, synthetic.small_config(seed=1))
    np.testing.assert_array_equal(data.train.items["id"][:, :3], other.train.items["id"][:, :3])
    assert not np.array_equal(data.train.items["id"], other.train.items["id"])
    # other rows of later days, and of other users that day, leave the requests of user 2 until day 2 as they are
    rows = synthetic.log_rows()
    moved = [row for row in rows if int(row.split(",")[4]) < 1650988800000 or row.startswith("1,")]
    moved += [synthetic.log_row(5, 7, day, 80_000 + day, click=1, long_view=1) for day in range(2, 7)]
    changed = kd.load(synthetic.write_all(tmp_path, rows=moved), synthetic.small_config())

    def requests(batch):
        wanted = (batch.user["id"] == 2) & (batch.user["day"] <= 2)
        assert wanted.sum() > 3
        return jax.tree.map(lambda leaf: leaf[wanted], batch)

    jax.tree.map(np.testing.assert_array_equal, requests(data.train), requests(changed.train))


def test_labels_of_the_test_period_change_no_feature(data, tmp_path):
    rows = []
    for row in synthetic.log_rows():
        cells = row.split(",")
        if int(cells[4]) >= 1651248000000:  # 30 April in Asia/Shanghai
            cells[5], cells[11] = str(1 - int(cells[5])), str(1 - int(cells[11]))
        rows.append(",".join(cells))
    other = kd.load(synthetic.write_all(tmp_path, rows=rows), synthetic.small_config())
    assert not np.array_equal(data.test.labels["click"], other.test.labels["click"])
    jax.tree.map(np.testing.assert_array_equal, data.catalogue, other.catalogue)
    jax.tree.map(np.testing.assert_array_equal, data.train, other.train)
    for name in ("user", "history", "history_mask"):
        jax.tree.map(np.testing.assert_array_equal, getattr(data.test, name), getattr(other.test, name))
    views = (view.views["test"] for view in (data, other))
    jax.tree.map(np.testing.assert_array_equal, *(replace(view, positives={}) for view in views))


def test_views_hold_new_positives_and_mark_the_past_as_seen(data, folder):
    log, earlier = (getattr(kd.read(folder), name) for name in ("log", "earlier"))
    day = log.day - log.day.min()
    for part, begin, end in (("validation", 4, 5), ("test", 5, 7)):
        view = data.views[part]
        inside, before = (day >= begin) & (day < end), day < begin
        np.testing.assert_array_equal(view.requests.user["id"], np.unique(log.user[inside]))
        for row, user in enumerate(view.requests.user["id"]):
            past = set(log.item[before & (log.user == user)]) | set(earlier.item[earlier.user == user])
            assert set(np.flatnonzero(view.seen[row])) == past | {0}
            for task in data.spec.tasks:
                rows = inside & (log.user == user) & (getattr(log, task) > 0)
                ids = view.positives[task][row]
                assert set(ids[ids > 0]) == set(log.item[rows]) - past
                assert (ids > 0).sum() == len(set(ids) - {0})
        week = np.bincount(log.item[before], minlength=61)  # the log is shorter than a week
        np.testing.assert_array_equal(view.popularity["popularity_7d"], week)
        everything = week + np.bincount(earlier.item, minlength=61)
        np.testing.assert_allclose(view.popularity["popularity"], everything, atol=1e-3)
        views = np.bincount(log.item[before], weights=log.long_view[before], minlength=61)
        np.testing.assert_array_equal(view.popularity["long_view_7d"], views)


def test_a_view_takes_blocks_of_the_catalogue_through_attach(data):
    view = jax.tree.map(jnp.asarray, data.views["test"])
    catalogue = jax.tree.map(jnp.asarray, data.catalogue)

    @jax.jit
    def block(requests, ids):
        batch = attach(with_items(requests, ids), catalogue)
        return batch, cross_features(batch)

    batch, cross = block(view.requests, jnp.arange(61))
    users = len(view.seen)
    assert batch.items["dense"].shape == (users, 61, 2 + 4)
    assert batch.user["categorical"].shape == (users, 2 + 25)
    assert batch.history["categorical"].shape == (users, 6, 6)
    assert cross.shape == (users, 61, 2)
    np.testing.assert_array_equal(batch.mask.sum(axis=1), 60)
    assert not np.asarray(cross)[:, 0].any()


def test_more_ranked_items_than_chunks_can_give_are_refused():
    with pytest.raises(UserError, match=r"kuairand\.to_ranking=35: expected at least 42 for ranked=36"):
        chunks_for(36, 35, "kuairand")
    assert chunks_for(10, 120, "kuairand").counts == (2, 2, 2, 1, 1, 1, 1)
    assert chunks_for(3, 120, "kuairand") == sampling.Chunks((1, 3, 120), (1, 1, 1))


def test_tickets_are_in_proportion_to_weights():
    ids, weight = np.array([3, 5, 9]), np.array([1.0, 2.0, 5.0])
    np.testing.assert_array_equal(np.bincount(kc._tickets(ids, weight, 8))[ids], weight)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the KuaiRand excerpt is not at {REAL}")
def test_the_real_excerpt(monkeypatch):
    monkeypatch.setattr(kc, "CHUNK", 2048)
    began = time.monotonic()
    data = kd.load(REAL, KuaiRandConfig())
    assert time.monotonic() - began < 120
    assert data.spec.items == 7584
    assert "removed 4931 exact duplicates, merged 381 conflicting rows; 817187 earlier exposures" in data.describe()
    assert [len(part.mask) for part in (data.train, data.validation, data.test)] == [91112, 10176, 16867]
    for stage in (Stage.RANKED, Stage.PRERANKED, Stage.POOL):
        assert (data.train.stage == stage).sum(axis=1).mean() > 9.9
    # a simulated ranked item is about as popular as an exposed one, a pool item is not
    log_count = np.log1p(data.item_exposures)
    means = {stage: log_count[data.train.items["id"][data.train.stage == stage]].mean() for stage in Stage}
    assert abs(means[Stage.RANKED] - means[Stage.EXPOSED]) < 0.3
    assert means[Stage.POOL] < means[Stage.PRERANKED] < means[Stage.RANKED]
