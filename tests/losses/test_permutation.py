"""Relaxed permutation matrices: against their formulas, at ties and limits, with padding, and their slopes."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from hccp_jax.losses.permutation import neural_sort, soft_sort, sort_matrix, tied_positions, top_share

from .cases import permutation as oracles

K = 6
OPERATORS = {
    "neural_sort": (neural_sort, oracles.neural_sort),
    "soft_sort": (soft_sort, oracles.soft_sort_oracle),
    "soft_sort_2": (partial(soft_sort, power=2), partial(oracles.soft_sort_oracle, power=2)),
    "soft_sort_1.5": (partial(soft_sort, power=1.5), partial(oracles.soft_sort_oracle, power=1.5)),
}
every = pytest.mark.parametrize("name", OPERATORS)
compiled = {name: jax.jit(lambda s, t, w, f=f: f(s, temperature=t, where=w)) for name, (f, _) in OPERATORS.items()}


@pytest.fixture(autouse=True)
def _strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def draw(seed, ties=False):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, (4, K)) if ties else rng.normal(0, 2, (4, K))
    mask = rng.random((4, K)) < 0.7
    mask[0], mask[1] = True, False
    return scores.astype(np.float32), mask


def spread_out(matrix, mask):
    """The matrix of the real items, put where padding leaves it: first rows, real columns."""
    whole = np.zeros((K, K))
    whole[: mask.sum(), mask] = matrix
    return whole


@every
@settings(deadline=None, max_examples=20, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), temperature=st.sampled_from([0.5, 3.0]), ties=st.booleans())
def test_equals_its_formula(name, seed, temperature, ties):
    scores, mask = draw(seed, ties)
    found = compiled[name](scores, temperature, mask)
    for row, where, matrix in zip(scores.astype(np.float64), mask, found, strict=True):
        exact = OPERATORS[name][1](row[where], temperature) if where.any() else np.zeros((0, 0))
        np.testing.assert_allclose(matrix, spread_out(exact, where), rtol=1e-4, atol=2e-6)


@every
def test_rows_are_distributions_and_padding_is_zero(name):
    scores, mask = draw(3)
    matrix = compiled[name](scores, 0.8, mask)
    rows = np.arange(K) < mask.sum(-1, keepdims=True)
    np.testing.assert_allclose(matrix.sum(-1), rows, rtol=1e-6)
    assert not matrix[~(rows[:, :, None] & mask[:, None])].any()


@every
def test_tends_to_the_permutation_of_the_order(name):
    scores, mask = draw(4, ties=True)
    matrix = compiled[name](scores, 1e-4, mask)
    np.testing.assert_allclose(matrix, sort_matrix(scores, where=mask), atol=1e-6)
    ranked = np.einsum("urj,uj->ur", matrix, np.where(mask, scores, 0))
    for row, where, found in zip(scores, mask, ranked, strict=True):
        np.testing.assert_allclose(found[: where.sum()], -np.sort(-row[where]), rtol=1e-6)


@every
@pytest.mark.parametrize("temperature", [1e-3, 1.0])
def test_ties_share_evenly(name, temperature):
    matrix = compiled[name](jnp.array([[2.0, 5.0, 2.0, 2.0, 5.0, -1.0]]), temperature, jnp.ones((1, K), bool))[0]
    for block in ([1, 4], [0, 2, 3]):
        columns = matrix[:, np.array(block)]
        np.testing.assert_allclose(columns, np.repeat(columns[:, :1], len(block), axis=1), rtol=1e-6)
    if temperature < 1:
        np.testing.assert_allclose(matrix[:2, 1], 0.5, rtol=1e-6)
        np.testing.assert_allclose(matrix[2:5, 0], 1 / 3, rtol=1e-6)


def test_rows_of_neural_sort_peak_in_the_order_at_any_temperature():
    scores = np.random.default_rng(5).normal(size=(1, K)).astype(np.float32)
    for temperature in [0.1, 10.0, 1000.0]:
        peaks = compiled["neural_sort"](scores, temperature, np.ones((1, K), bool)).argmax(-1)
        np.testing.assert_array_equal(peaks, np.argsort(-scores))


@every
def test_slope(name):
    scores, mask = draw(6)
    with jax.enable_x64(True):
        target = np.random.default_rng(0).normal(size=(4, K, K))

        def total(s):
            return jnp.sum(OPERATORS[name][0](s, temperature=1.3, where=mask) * target)

        check_grads(jax.jit(total), (scores.astype(np.float64),), order=1, modes=("fwd", "rev"), atol=1e-7, rtol=1e-7)
        grad = jax.jit(jax.grad(total))(np.where(mask, scores, np.nan))
    np.testing.assert_array_equal(grad[~mask], 0)
    assert np.isfinite(grad).all()
    assert grad[0].any()


@every
def test_a_real_nan_and_huge_scores(name):
    scores, mask = draw(7)
    assert np.isnan(compiled[name](np.where(np.arange(K) == 2, np.nan, scores), 1.0, mask)[0, 0]).any()
    huge = jax.jit(jax.grad(lambda s: jnp.sum(OPERATORS[name][0](s, temperature=1.0, where=mask)[..., 0, :2])))
    assert np.isfinite(huge(scores * 1e4)).all()


@every
def test_types(name):
    operator = partial(OPERATORS[name][0], temperature=1.0)
    assert jax.eval_shape(operator, jnp.zeros(3, jnp.bfloat16)).dtype == jnp.float32
    assert operator(jnp.zeros((2, 0))).shape == (2, 0, 0)
    with jax.enable_x64(True):
        assert jax.eval_shape(operator, jnp.zeros(3)).dtype == jnp.float64


exact = jax.jit(lambda labels, k, mask: (sort_matrix(labels, where=mask), top_share(labels, k, where=mask)))


@settings(deadline=None, max_examples=40, derandomize=True)
@given(labels=st.lists(st.integers(-1, 2), min_size=1, max_size=5), k=st.integers(0, 6))
def test_sort_matrix_is_the_mean_over_all_ways_to_break_ties(labels, k):
    """Of all orders of the items, those that agree with the labels are equally likely."""
    labels, n = np.array(labels), len(labels)
    orders = [o for o in itertools.permutations(range(n)) if (np.diff(labels[list(o)]) <= 0).all()]
    mean = np.mean([np.eye(n)[list(o)] for o in orders], axis=0)
    matrix, share = exact(np.resize(labels, 5), k, np.arange(5) < n)
    np.testing.assert_allclose(matrix[:n, :n], mean, rtol=1e-6)
    np.testing.assert_allclose(share[:n], mean[:k].sum(0), rtol=1e-6)
    assert not matrix[n:].any()
    assert not share[n:].any()


def test_labels_behind_a_mask_and_labels_that_are_nan():
    labels, mask = jnp.array([[1, 2**30, 1, 0]]), jnp.array([[True, False, True, True]])
    np.testing.assert_allclose(top_share(labels, 1, where=mask), [[0.5, 0, 0.5, 0]])
    np.testing.assert_allclose(sort_matrix(labels, where=mask)[0, 2], [0, 0, 0, 1])
    assert not sort_matrix(labels, where=mask)[0, 3].any()
    np.testing.assert_allclose(tied_positions(labels, where=mask)[1], [[2, 0, 2, 1]])
    hidden = jnp.array([1.0, jnp.nan, 1.0, 0.0])
    np.testing.assert_allclose(top_share(hidden, 1, where=mask[0]), [0.5, 0, 0.5, 0])
    assert jnp.isnan(top_share(hidden, 1)[1])
    assert jnp.isnan(sort_matrix(hidden)[:, 1]).all()
