import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.evaluation.metrics import merge, value
from hccp_jax.evaluation.ranking import ranks_of
from hccp_jax.evaluation.retrieval import recall_at

CUTOFFS = (1, 2, 5, 100)
RANKS = np.array([[0, 4, 1], [2, 0, 0], [0, 0, 0], [7, 1, 9], [0, 0, 0]], np.int32)
WHERE = np.array([[True, True, True], [True, False, False], [False] * 3, [True, True, False], [True] * 3])
REAL = np.array([True, True, True, True, False])


def test_macro_is_the_mean_of_shares_and_micro_the_share_of_pairs():
    """Users with 3, 1, 0 and 2 positives, and one that pads the batch."""
    found = recall_at(RANKS, WHERE, CUTOFFS, REAL)
    shares = np.array([[1 / 3, 2 / 3, 1, 1], [0, 0, 1, 1], [0, 1 / 2, 1 / 2, 1]])
    np.testing.assert_allclose(value(found.macro), shares.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(value(found.micro), [1 / 6, 3 / 6, 5 / 6, 1], rtol=1e-6)
    assert (found.macro.count, found.macro.left_out, found.micro.count) == (3, 1, 6)
    everyone = recall_at(RANKS, WHERE, CUTOFFS)
    assert (everyone.macro.count, everyone.macro.left_out, everyone.micro.count) == (4, 1, 9)


def test_they_are_equal_with_as_many_positives_for_each_user():
    ranks = np.random.default_rng(0).integers(0, 50, (20, 4))
    found = recall_at(ranks, np.ones((20, 4), bool), (3, 10, 30))
    np.testing.assert_allclose(value(found.macro), value(found.micro), rtol=1e-6)
    np.testing.assert_allclose(value(found.micro), [(ranks < n).mean() for n in (3, 10, 30)], rtol=1e-6)


def test_a_random_ranking_finds_the_share_of_items_that_it_shows():
    """Item j of 40 is the positive of user j, whose ranking is the items' order turned by j: rank 0 .. 39 once each."""
    scores = np.stack([np.roll(-np.arange(40.0), 3 * j) for j in range(40)])
    slots = np.zeros((40, 1), np.int32)
    everywhere = np.ones((40, 40), bool)
    ranks = ranks_of(jnp.asarray(scores), everywhere, None, slots, np.ones((40, 1), bool))
    found = jax.jit(lambda r: recall_at(r, jnp.ones((40, 1), bool), (1, 10, 40)))(ranks)
    np.testing.assert_allclose(value(found.macro), [1 / 40, 10 / 40, 1], rtol=1e-6)
    np.testing.assert_allclose(value(found.micro), [1 / 40, 10 / 40, 1], rtol=1e-6)


def test_parts_add_up_to_the_whole():
    first, second = (recall_at(RANKS[part], WHERE[part], CUTOFFS) for part in (slice(0, 2), slice(2, 5)))
    whole, merged = recall_at(RANKS, WHERE, CUTOFFS), merge(first, second)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), merged, whole)


def test_nobody_with_a_positive_has_no_recall():
    found = recall_at(RANKS, np.zeros_like(WHERE), CUTOFFS)
    assert np.isnan(value(found.macro)).all()
    assert np.isnan(value(found.micro)).all()
    assert found.macro.left_out == 5


@pytest.mark.parametrize("cutoffs", [(), (5, 0)])
def test_cutoffs_are_positive(cutoffs):
    with pytest.raises(ValueError, match="expected at least one and all positive"):
        recall_at(RANKS, WHERE, cutoffs)
