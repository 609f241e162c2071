"""A log on the device gives the batches of the log on the host."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_hccp import assert_trees_equal, tiny

from hccp_jax.data.resident import placed, resident


@pytest.fixture(scope="module")
def source(small_world):
    return tiny(small_world).source


def test_the_batches_are_the_same_and_only_row_numbers_travel(source):
    there = resident(source)
    rows = there.chunk([0, 3], 5, 2)
    assert jax.tree.map(np.shape, rows) == {"row": (2, 2, 16)}
    assert rows["row"].dtype == np.int32
    found = there.featurise(jax.tree.map(lambda leaf: leaf[1, 0], rows), there.catalogue)
    stored = jax.tree.map(lambda leaf: leaf[1, 0], source.chunk([0, 3], 5, 2))
    assert_trees_equal(found, source.featurise(stored, source.catalogue))
    part = there.chunk([0, 3], 5, 2, part=(1, 4))["row"]
    np.testing.assert_array_equal(part, rows["row"][:, :, 4:8])
    assert (there.epoch_steps, there.spec) == (source.epoch_steps, source.spec)


def test_where_a_log_goes_is_asked_for(source):
    assert placed(source, "never") is source
    assert placed(source, "auto") is source  # a CPU gains nothing
    assert placed(source, "always").chunk([0], 0, 1).keys() == {"row"}
    fresh = dataclasses.replace(source, log=None, rows=None)
    assert placed(fresh, "always") is fresh
    with pytest.raises(ValueError, match="only a stored log"):
        resident(fresh)
