"""ARF: closed forms, the released code's divisors, which lists count, and the weight that may not cross zero."""

from functools import partial
from math import exp, log

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.losses import arf
from hccp_jax.losses.arf import uncertainty_weighted
from hccp_jax.losses.permutation import soft_sort

from .cases import permutation as oracles

LENGTHS = (6, 3, 0, 4)
K, EPSILON = 6, 1e-6
relaxed_recall = jax.jit(arf.relaxed_recall, static_argnames=("m", "k", "sort", "released"))
global_ranking = jax.jit(arf.global_ranking, static_argnames=("size", "sort", "released"))


def padded(seed=0):
    """Lists with their items first, as the released code stores them."""
    rng = np.random.default_rng(seed)
    mask = np.arange(K) < np.array(LENGTHS)[:, None]
    return rng.normal(size=(4, K)).astype(np.float32), rng.integers(0, 3, (4, K)), mask


def lists(scores, labels, mask):
    return [(oracles.neural_sort(s[w].astype(np.float64)), y[w]) for s, y, w in zip(scores, labels, mask, strict=True)]


def test_perfect_and_reversed_order():
    labels = jnp.array([[0, 3, 1, 2]])
    hard = partial(relaxed_recall, labels=labels, m=2, k=1, temperature=1e-3)
    np.testing.assert_allclose(hard(labels * 1.0), log(2) / 4, rtol=1e-4)  # the mean of two rows is 1/2
    np.testing.assert_allclose(hard(labels * -1.0), -log(EPSILON) / 4, rtol=1e-4)
    np.testing.assert_allclose(global_ranking(labels * 1.0, labels, temperature=1e-3), 0, atol=2e-6)
    np.testing.assert_allclose(
        global_ranking(labels * -1.0, labels, temperature=1e-3), -4 * log(EPSILON) / 16, rtol=1e-5
    )


def test_soft_sort_in_closed_form():
    """Scores 0 and 1 at temperature 1: each row is (1, e) / (1 + e) or its mirror image."""
    scores, labels = jnp.array([[0.0, 1.0]]), jnp.array([[1, 0]])
    low = 1 / (1 + exp(1))
    rest = {"temperature": 1.0, "sort": soft_sort}
    np.testing.assert_allclose(relaxed_recall(scores, labels, m=1, k=1, **rest), -log(low + EPSILON) / 2, rtol=1e-6)
    np.testing.assert_allclose(global_ranking(scores, labels, **rest), -2 * log(low + EPSILON) / 4, rtol=1e-6)


def test_only_lists_longer_than_m_count():
    scores, labels, mask = padded()
    loss = jax.jit(jax.value_and_grad(partial(relaxed_recall, labels=labels, m=4, k=2, temperature=6.0, where=mask)))
    value, grad = loss(scores)
    exact = [oracles.relaxed_recall_oracle(*pair, 4, 2) for pair in lists(scores, labels, mask)]
    assert [x is None for x in exact] == [False, True, True, True]
    np.testing.assert_allclose(value, exact[0], rtol=1e-5)
    assert grad[0].any()
    np.testing.assert_array_equal(grad[1:], 0)


def test_released_relaxed_recall_divides_by_the_padded_length_and_by_all_lists():
    scores, labels, mask = padded()
    exact = [oracles.relaxed_recall_oracle(*pair, 3, 2) for pair in lists(scores, labels, mask)]
    total = sum(value * n / K for value, n in zip(exact, LENGTHS, strict=True) if value is not None)
    found = relaxed_recall(scores, labels, m=3, k=2, temperature=6.0, where=mask, released=True)
    np.testing.assert_allclose(found, total / 3, rtol=1e-5)  # three lists have items, two of them more than 3


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("size", [None, 4])
def test_divisors_of_global_ranking(size, released):
    scores, labels, mask = padded()
    total, count = 0.0, 0
    for predicted, y in lists(scores, labels, mask):
        n = len(y)
        if n and (released or n >= (size or 1)):
            count += 1
        if n >= (size or 1):
            terms = -np.log(predicted + EPSILON) * oracles.sort_matrix(y)
            total += terms[:size].sum() / ((size or K) * K if released else (size or n) * n)
    found = global_ranking(scores, labels, temperature=6.0, where=mask, size=size, released=released)
    np.testing.assert_allclose(found, total / count, rtol=1e-5)


def test_descent_reaches_the_recall():
    rng = np.random.default_rng(1)
    labels = jnp.asarray(rng.permuted(np.broadcast_to(np.arange(12), (8, 12)), axis=-1))
    loss = partial(arf.relaxed_recall, labels=labels, m=4, k=2, temperature=12.0)
    step = jax.jit(lambda s: s - 20 * jax.grad(loss)(s))
    scores = jnp.asarray(rng.normal(size=(8, 12)).astype(np.float32))

    @jax.jit
    def recall(s):
        return jnp.mean(jnp.sum((jnp.argsort(jnp.argsort(-s)) < 4) & (labels >= 10), axis=-1) / 2)

    before = recall(scores)
    for _ in range(60):
        scores = step(scores)
    assert before < 0.6
    assert recall(scores) == 1


def test_uncertainty_weighting():
    relax, other = jnp.array(0.7), jnp.array(0.4)
    for w in (0.3, 1.0, 2.0):
        np.testing.assert_allclose(
            uncertainty_weighted(relax, other, jnp.log(w)), 0.7 + 0.4 / (2 * w**2) + log(w), rtol=1e-6
        )
    slope = jax.grad(uncertainty_weighted, argnums=(0, 1, 2))(relax, other, jnp.log(jnp.sqrt(other)))
    np.testing.assert_allclose(slope, [1, 1 / 0.8, 0], atol=1e-6)  # w^2 = L is the optimum
    stages, weights = jnp.array([[0.4, 1.0], [2.0, 3.0]]), jnp.array([0.5, 2.0])
    found = uncertainty_weighted(jnp.array([0.0, 10.0]), stages, jnp.log(weights))
    np.testing.assert_allclose(found, [0.8 + 0.25 + log(1.0), 10 + 2 + 3 / 8 + log(1.0)], rtol=1e-6)


def test_the_weight_cannot_cross_zero():
    """A step that takes the released parameter w below zero leaves a NaN there; log w stays finite."""
    other, rate = 0.01, 0.6
    slope = jax.grad(lambda w: other / (2 * w**2) + jnp.log(w))
    crossed = jnp.array(0.5) - rate * slope(jnp.array(0.5))
    assert jnp.isnan(other / (2 * crossed**2) + jnp.log(crossed))
    step = jax.jit(lambda x: x - rate * jax.grad(lambda x: uncertainty_weighted(0.0, other, x))(x))
    log_w = jnp.log(0.5)
    for _ in range(100):
        log_w = step(log_w)
    np.testing.assert_allclose(jnp.exp(2 * log_w), other, rtol=1e-4)


@pytest.mark.parametrize("nothing", [0.0, -1e-6])
def test_a_loss_with_nothing_to_learn_stays_finite(nothing):
    value, grad = jax.value_and_grad(uncertainty_weighted, argnums=(0, 1, 2))(1.0, nothing, -1000.0)
    assert value == -999
    assert np.isfinite(grad).all()
    assert jnp.isnan(uncertainty_weighted(1.0, jnp.nan, 0.0))
