"""Logs on disk are the logs that were written, and are never half there."""

import itertools

import jax
import numpy as np
import pytest
from tiny_hccp import assert_trees_equal, tiny

from hccp_jax.data import store
from hccp_jax.data.requests import validate
from hccp_jax.data.source import log_chunk
from hccp_jax.errors import UserError


@pytest.fixture(scope="module")
def log(small_world):
    return tiny(small_world).log


def parts_of(log, *borders):
    ends = [0, *borders, len(log.mask)]
    return (jax.tree.map(lambda x, a=a, b=b: x[a:b], log) for a, b in itertools.pairwise(ends))


def test_what_is_read_is_what_was_written_and_its_batches_are_the_same(tmp_path, log):
    store.write(tmp_path / "log", 128, parts_of(log, 10, 70))
    back = store.open_store(tmp_path / "log")
    assert all(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(back))
    assert_trees_equal(back, log)
    assert jax.tree.structure(back) == jax.tree.structure(log)
    validate(back)
    assert_trees_equal(log_chunk(back, 16)([0, 3], 5, 2), log_chunk(log, 16)([0, 3], 5, 2))


def test_the_parts_of_a_batch_are_the_batch(log):
    chunk = log_chunk(log, 16)
    parts = [chunk([0, 1], 3, 2, part=(index, 4)) for index in range(4)]
    assert {leaf.shape[2] for part in parts for leaf in jax.tree.leaves(part)} == {4}
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=2), *parts)
    assert_trees_equal(joined, chunk([0, 1], 3, 2))
    with pytest.raises(ValueError, match="no 3 equal parts"):
        chunk([0], 0, 1, part=(0, 3))


def test_only_so_many_requests_are_written(tmp_path, log):
    store.write(tmp_path / "log", 30, parts_of(log, 20, 40))
    assert_trees_equal(store.open_store(tmp_path / "log"), jax.tree.map(lambda leaf: leaf[:30], log))


def test_a_write_that_fails_leaves_nothing(tmp_path, log):
    def broken():
        yield from parts_of(log, 50)
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"^store=.*log: cannot be written \(No space left on device\)$"):
        store.write(tmp_path / "log", 200, broken())
    with pytest.raises(ValueError, match="128 requests to write, expected 129"):
        store.write(tmp_path / "log", 129, parts_of(log))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["missing", "short", "index", "field"])
def test_a_damaged_store_is_refused(tmp_path, log, harm):
    directory = tmp_path / "log"
    store.write(directory, 128, parts_of(log))
    if harm == "missing":
        directory = tmp_path / "other"
    elif harm == "short":
        np.save(directory / "mask.npy", np.zeros((3, 2), bool))
    elif harm == "index":
        (directory / "index.json").write_text("{")
    else:
        (directory / "labels.click.npy").unlink()
    with pytest.raises(UserError, match=r"^store=.*(cannot be read|mask has 3 requests, expected 128)"):
        store.open_store(directory)


def test_a_store_that_is_there_stays(tmp_path, log):
    store.write(tmp_path / "log", 128, parts_of(log))
    store.write(tmp_path / "log", 10, parts_of(log))
    assert len(store.open_store(tmp_path / "log").mask) == 128
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
