"""Batches of a stored log: the rows that `rows_at` names, however they are asked for."""

import jax
import numpy as np
import pytest

from hccp_jax.data.catalogue import Catalogue, FeatureSpec
from hccp_jax.data.order import rows_at
from hccp_jax.data.requests import RequestBatch
from hccp_jax.data.source import Source, log_chunk

TOTAL, SIZE = 10, 4


@pytest.fixture(scope="module")
def log():
    number = np.arange(TOTAL, dtype=np.int32)
    return RequestBatch(
        user={"id": number},
        history={"id": np.tile(number[:, None], (1, 2))},
        history_mask=np.ones((TOTAL, 2), bool),
        items={"id": number[:, None] * 3 + np.arange(3, dtype=np.int32)},
        cross=None,
        stage=np.ones((TOTAL, 3), np.int8),
        rank=np.zeros((TOTAL, 3), np.int32),
        labels={"click": number[:, None] * np.ones((1, 3), np.float32)},
        teacher={},
        mask=np.ones((TOTAL, 3), bool),
    )


def test_a_chunk_is_the_gather_of_its_rows(log):
    got = log_chunk(log, SIZE)([7, 2], 3, 5)
    assert got.mask.shape == (2, 5, SIZE, 3)
    for s, seed in enumerate((7, 2)):
        for step in range(5):
            rows = rows_at(seed, 3 + step, SIZE, TOTAL)
            for leaf, stored in zip(jax.tree.leaves(got), jax.tree.leaves(log), strict=True):
                np.testing.assert_array_equal(leaf[s, step], stored[rows])


def test_any_chunking_gives_the_same_batches(log):
    chunk = log_chunk(log, SIZE)
    whole = chunk([0, 5], 0, 6)
    parts = [chunk([0, 5], 0, 1), chunk([0, 5], 1, 3), chunk([0, 5], 4, 2)]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *parts)
    jax.tree.map(np.testing.assert_array_equal, joined, whole)
    alone = chunk([5], 2, 4)
    jax.tree.map(lambda one, both: np.testing.assert_array_equal(one[0], both[1, 2:]), alone, whole)


def test_seeds_differ_and_each_sees_every_request_once_an_epoch(log):
    users = log_chunk(log, SIZE)([0, 1], 0, 5).user["id"].reshape(2, 2, TOTAL)
    np.testing.assert_array_equal(np.sort(users, axis=-1), np.broadcast_to(np.arange(TOTAL), (2, 2, TOTAL)))
    assert len(np.unique(users.reshape(4, TOTAL), axis=0)) == 4


@pytest.mark.parametrize(("epoch_steps", "steps", "epochs"), [(None, 500, 1.0), (2.5, 5, 2.0), (10.0, 4, 0.4)])
def test_epochs_are_passes_over_the_log(log, epoch_steps, steps, epochs):
    spec = FeatureSpec(1, 1, 1, 1, ("click",), 1, 0)
    source = Source(spec, Catalogue({}, {}), attach_nothing, log_chunk(log, SIZE), epoch_steps, np.zeros(1, np.float32))
    assert source.epochs(steps) == pytest.approx(epochs)


def attach_nothing(batch, catalogue):
    return batch
