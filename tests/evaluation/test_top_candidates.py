"""The exact top of a user's products against a sort, with ties; the form of an accelerator against that of a CPU."""

import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.evaluation import top_candidates as module
from hccp_jax.evaluation.top_candidates import largest, top_candidates


def sorted_top(scores, count):
    """Largest first, equal ones by position."""
    rows = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:count]
    return rows, scores[rows]


@pytest.mark.parametrize("levels", [2, 7, 10**6])
@pytest.mark.parametrize("count", [1, 10, 99, 100])
def test_the_largest_are_those_of_a_sort(levels, count):
    scores = np.random.default_rng(levels).integers(0, levels, 100).astype(np.float32) - levels / 2
    rows, found = largest(scores, count)
    expected, values = sorted_top(scores, count)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(found, values)


def test_infinite_scores_are_scores():
    rows, _ = largest(np.array([0.0, -np.inf, np.inf, 1.0, np.inf]), 5)
    assert rows.tolist() == [2, 4, 3, 0, 1]


@pytest.mark.parametrize("array", [np.asarray, np.asfortranarray, jnp.asarray])
def test_every_kind_of_store_and_the_form_of_an_accelerator_agree(array):
    """Whole numbers, so that products are exact and ties are."""
    rng = np.random.default_rng(0)
    user, items = rng.integers(-3, 4, 8).astype(np.float32), rng.integers(-3, 4, (200, 8)).astype(np.float32)
    expected, values = sorted_top(items @ user, 50)
    assert len(set(values.tolist())) < 50, "there are to be ties"
    for rows, found in (top_candidates(user, array(items), 50), module._on_device(user, items, 50)):
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal(found, values)


def test_what_is_refused():
    user, items = np.ones(2), np.ones((3, 2))
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"count={count}: expected 1 to 3"):
            top_candidates(user, items, count)
    with pytest.raises(ValueError, match="NaN"):
        largest(np.array([1.0, np.nan, 2.0, 3.0]), 2)
