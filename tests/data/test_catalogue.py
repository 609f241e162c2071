"""Feature tables joined to stored batches by id."""

import numpy as np
import pytest

from hccp_jax.data.catalogue import Catalogue, attach, with_frequency
from hccp_jax.data.requests import RequestBatch

USERS, ITEMS, DAYS = 4, 7, 3


def table(*shape, dtype=np.float32, start=0):
    return (np.arange(np.prod(shape)).reshape(shape) + start).astype(dtype)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, ITEMS, (2, 5)).astype(np.int32)
    return RequestBatch(
        user={"id": np.array([3, 1], np.int32), "day": np.array([2, 0], np.int32)},
        history={"id": rng.integers(0, ITEMS, (2, 6)).astype(np.int32)},
        history_mask=np.ones((2, 6), bool),
        items={"id": ids},
        cross=None,
        stage=np.ones((2, 5), np.int8),
        rank=np.zeros((2, 5), np.int32),
        labels={},
        teacher={},
        mask=np.ones((2, 5), bool),
    )


@pytest.fixture
def catalogue():
    return Catalogue(
        users={"categorical": table(USERS, 2, dtype=np.int32), "dense": table(USERS, 3, start=100)},
        items={"categorical": table(ITEMS, 4, dtype=np.int32), "dense": table(ITEMS, 2, start=500)},
        daily=table(DAYS, ITEMS, 3, start=1000),
    )


def test_every_feature_is_the_row_of_its_id(batch, catalogue):
    got = attach(batch, catalogue)
    shapes = {"categorical": (2, 5, 4), "dense": (2, 5, 5)}
    assert {name: got.items[name].shape for name in shapes} == shapes
    assert got.history["categorical"].shape == (2, 6, 4)
    for u in range(2):
        user, day = batch.user["id"][u], batch.user["day"][u]
        np.testing.assert_array_equal(got.user["categorical"][u], catalogue.users["categorical"][user])
        np.testing.assert_array_equal(got.user["dense"][u], catalogue.users["dense"][user])
        for k, item in enumerate(batch.items["id"][u]):
            np.testing.assert_array_equal(got.items["categorical"][u, k], catalogue.items["categorical"][item])
            want = np.concatenate([catalogue.items["dense"][item], catalogue.daily[day, item]])
            np.testing.assert_array_equal(got.items["dense"][u, k], want)
        for h, item in enumerate(batch.history["id"][u]):
            np.testing.assert_array_equal(got.history["categorical"][u, h], catalogue.items["categorical"][item])


def test_the_rest_of_the_batch_is_kept(batch, catalogue):
    got = attach(batch, catalogue)
    assert got.items["id"] is batch.items["id"]
    assert got.user["day"] is batch.user["day"]
    assert got.stage is batch.stage
    assert set(batch.items) == {"id"}  # the stored batch itself is not changed
    assert set(batch.user) == {"id", "day"}


def test_dense_user_features_of_the_batch_come_first(batch, catalogue):
    own = np.array([[7.0, 8.0], [9.0, 10.0]], np.float32)
    got = attach(batch.replace(user=batch.user | {"dense": own}), catalogue)
    np.testing.assert_array_equal(got.user["dense"], np.concatenate([own, catalogue.users["dense"][[3, 1]]], axis=1))


def test_daily_statistics_alone_are_dense_features(batch, catalogue):
    got = attach(batch, Catalogue(users={}, items={}, daily=catalogue.daily))
    np.testing.assert_array_equal(got.items["dense"][0], catalogue.daily[2][batch.items["id"][0]])
    np.testing.assert_array_equal(got.items["dense"][1], catalogue.daily[0][batch.items["id"][1]])
    assert "categorical" not in got.history


def test_without_daily_tables_no_day_is_needed(batch, catalogue):
    got = attach(batch.replace(user={"id": batch.user["id"]}), catalogue.replace(daily=None))
    assert got.items["dense"].shape == (2, 5, 2)


def test_frequency_is_the_log_share_over_a_uniform_share(batch, catalogue):
    counts = np.array([0, 5, 0, 1, 2, 0, 12], np.float32)
    got = np.asarray(with_frequency(catalogue, counts).items["log_frequency"])
    assert got.dtype == np.float32
    assert got[0] == 0
    shares = (counts[1:] + 1) / np.sum(counts[1:] + 1)
    np.testing.assert_allclose(got[1:], np.log(shares * 6), rtol=1e-6)
    assert "log_frequency" not in catalogue.items
