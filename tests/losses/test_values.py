"""Reductions, closed forms written as formulas, and ListMLE's accuracy."""

from itertools import permutations
from math import exp, inf, log, log1p, nan

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.losses.contrastive import anneal_beta, anneal_scale, info_nce, margin_info_nce
from hccp_jax.losses.listwise import list_mle, list_net
from hccp_jax.losses.pointwise import binary_cross_entropy
from hccp_jax.losses.reduction import NEGATIVE, log_sum_exp, mean_valid, no_reduction, sum_valid

from . import oracles

LISTS = jnp.array([[0.0, 1.0, 3.0], [2.0, -1.0, 9.0]])  # The last slot of the second list is padding.
MASK = jnp.array([[True, True, True], [True, True, False]])
LABELS = jnp.array([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])


def sp(x):
    """Softplus."""
    return log(1 + exp(x))


def lse(*xs):
    return log(sum(map(exp, xs)))


def margin_loss(**kw):
    kinds = dict(zip(("positive", "hard", "easy"), jnp.eye(3, dtype=bool)[:, None], strict=True))
    return margin_info_nce(LISTS[:1], jnp.array([[2.0, 3.0, 5.0]]), **kinds, margin=0.5, temperature=2.0, **kw)


@pytest.mark.parametrize(
    ("value", "formula"),
    [
        (lambda: binary_cross_entropy(LISTS, LABELS, where=MASK), (sp(0) + sp(-1) + sp(-3) + sp(2) + sp(-1)) / 2),
        (lambda: binary_cross_entropy(LISTS, LABELS, weights=LABELS), (sp(-1) + sp(-3) + sp(-9)) / 2),
        (lambda: binary_cross_entropy(jnp.array([20.0]), jnp.ones(1)), log1p(exp(-20))),
        (lambda: list_mle(LISTS, where=MASK), (lse(0, 1, 3) - 0 + lse(1, 3) - 1 + lse(2, -1) - 2) / 2),
        (lambda: list_mle(LISTS[0], jnp.array([7, 7, -1])), lse(3, 0, 1) - 3 + lse(0, 1) - 0),
        (lambda: list_mle(LISTS[0], jnp.array([0.7, 0.7, -inf])), lse(3, 0, 1) - 3 + lse(0, 1) - 0),
        (lambda: list_net(LISTS, LABELS, where=MASK), lse(0, 1, 3) - (1 + 3) / 2),
        (lambda: list_net(LISTS, LABELS), (lse(0, 1, 3) - (1 + 3) / 2 + lse(2, -1, 9) - 9) / 2),
        (lambda: info_nce(LISTS[:, :2], LISTS[:, 2:]), (sp(3 - 0) + sp(3 - 1) + sp(9 - 2) + sp(9 + 1)) / 2),
        (lambda: info_nce(LISTS, LISTS[:, :0]), 0),
        (lambda: info_nce(LISTS[:, :0], LISTS), 0),
        (lambda: info_nce(LISTS[:, :1], LISTS[:, 2:], negative_where=MASK[:, 2:]), sp(3 - 0) / 2),
        (lambda: margin_loss(), sp(lse((1 - 1.5) / 2, 3 / 2) - (0 - 1) / 2)),
        (lambda: margin_loss(easy_log_sum_exp=jnp.array([lse(2, 3)])), sp(lse(-0.25, 1.5, 2, 3) + 0.5)),
        (lambda: list_mle(LISTS[:, :0]), 0),
        (lambda: log_sum_exp(LISTS, MASK)[1], lse(2, -1)),
        (lambda: log_sum_exp(LISTS, jnp.zeros(3, bool)[None])[0], NEGATIVE),
        (lambda: log_sum_exp(LISTS, MASK, axis=0)[1], lse(1, -1)),
        (lambda: anneal_beta(0, 0.3), 9999),
        (lambda: anneal_beta(7, 0.9, 100.0), 100 * 0.9**7),
        (lambda: anneal_beta(10**6, 0.99), 0),
        (lambda: anneal_scale(400), 9999 ** (-1 / 400)),
        (lambda: anneal_beta(1000, anneal_scale(1000)), 1),
    ],
)
def test_closed_form(value, formula):
    np.testing.assert_allclose(jax.jit(value)(), formula, rtol=2e-6 if formula != 1 else 1e-4)


def test_reductions():
    values, valid = jnp.array([1.0, nan, 3.0]), jnp.array([True, False, True])
    assert mean_valid(values, valid) == 2
    assert sum_valid(values, valid) == 4
    assert no_reduction(values, valid).tolist() == [1, 0, 3]
    assert jnp.isnan(mean_valid(values, ~valid))
    value, grad = jax.value_and_grad(mean_valid)(values, jnp.zeros(3, bool))
    assert value == 0
    assert grad.tolist() == [0, 0, 0]


def test_log_sum_exp_of_nothing_has_no_gradient():
    grad = jax.jit(jax.grad(lambda x: log_sum_exp(x, MASK.at[0].set(False)).sum()))(LISTS.at[0, 0].set(nan))
    assert grad[0].tolist() == [0, 0, 0]
    np.testing.assert_allclose(grad[1], [1 / (1 + exp(-3)), 1 / (1 + exp(3)), 0], rtol=1e-6)
    sums = log_sum_exp(jnp.zeros((1, 1000), jnp.bfloat16), jnp.ones((1, 1000), bool))
    np.testing.assert_allclose(sums, log(1000), rtol=1e-6)  # bfloat16 cannot count beyond 256.


@pytest.mark.parametrize("spread", [1, 100, 400])
def test_list_mle_is_accurate_at_any_range(spread):
    scores = np.random.default_rng(0).uniform(0, spread, (8, 35)).astype(np.float32)
    value, grad = jax.jit(jax.value_and_grad(lambda s: list_mle(s, reduce_fn=sum_valid)))(scores)
    exact = np.asarray(scores, np.float64)
    np.testing.assert_allclose(value, sum(map(oracles.list_mle, exact)), rtol=1e-6)
    slopes = np.stack([oracles.list_mle_gradient(row) for row in exact])
    np.testing.assert_allclose(grad, slopes, rtol=0, atol=1e-5 * np.abs(slopes).max())
    np.testing.assert_allclose(grad, slopes, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_list_mle_and_list_net_agree_with_rax():
    rax = pytest.importorskip("rax")
    rng = np.random.default_rng(0)
    scores, mask = rng.normal(0, 3, (6, 12)).astype(np.float32), rng.random((6, 12)) < 0.7
    rank = rng.permuted(np.broadcast_to(np.arange(12), (6, 12)), axis=-1)
    # Both reduce by the mean over the lists with an item; Rax sorts by descending label.
    ours = jax.jit(jax.value_and_grad(lambda s: list_mle(s, rank, where=mask)))(scores)
    theirs = jax.jit(jax.value_and_grad(lambda s: rax.listmle_loss(s, -rank.astype(np.float32), where=mask)))(scores)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)
    labels = (rank < 4) & mask  # Rax leaves the labels as they are and counts lists without a positive.
    shares = labels / np.maximum(labels.sum(-1, keepdims=True), 1)
    assert labels.any(-1).all()
    ours, theirs = list_net(scores, labels, where=mask), rax.softmax_loss(scores, shares, where=mask)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_list_mle_breaks_ties_by_its_key():
    """Equal ranks: each order of the tied items as likely, given ranks as they are, another key another order."""
    scores, rank = jnp.array([[0.0, 1.0, 3.0, -2.0]]), jnp.array([[5, 2, 5, 5]])
    found = jax.jit(jax.vmap(lambda key: list_mle(scores, rank, tie_key=key)))(jax.random.split(jax.random.key(0), 600))
    tied = [0.0, 3.0, -2.0]
    orders = [[1.0, *(tied[i] for i in order)] for order in permutations(range(3))]
    values = np.array([oracles.list_mle(np.array(order)) for order in orders])
    nearest = np.abs(np.asarray(found)[:, None] - values).argmin(-1)
    np.testing.assert_allclose(found, values[nearest], rtol=1e-5)
    assert (np.bincount(nearest, minlength=6) > 60).all()
    np.testing.assert_allclose(list_mle(scores, rank), oracles.list_mle(np.array([1.0, *tied])), rtol=1e-6)
    with pytest.raises(ValueError, match="tie_key"):
        list_mle(scores, tie_key=jax.random.key(0))


def test_list_mle_weighs_positions():
    rng = np.random.default_rng(0)
    scores, rank = rng.normal(0, 2, 9).astype(np.float32), rng.permutation(9)
    where, weights = np.arange(9) % 3 != 1, rng.uniform(0.5, 2, 9).astype(np.float32)

    def loss(s, weights):
        return list_mle(s, jnp.asarray(rank), where=jnp.asarray(where), position_weights=jnp.asarray(weights))

    kept = np.flatnonzero(where)
    order = kept[np.argsort(rank[where])]

    def expected(s, weights):
        terms = [w * (np.logaddexp.reduce(s[order[j:]]) - s[order[j]]) for j, w in enumerate(weights[: len(order)])]
        return sum(terms)

    for some in (weights, np.r_[np.ones(2), np.zeros(7)].astype(np.float32)):
        value, slope = jax.value_and_grad(loss)(jnp.asarray(scores), some)
        exact = scores.astype(np.float64)
        np.testing.assert_allclose(value, expected(exact, some), rtol=1e-6)
        moved = [(expected(exact + h, some) - expected(exact - h, some)) / 2e-6 for h in 1e-6 * np.eye(9)]
        np.testing.assert_allclose(slope, moved, atol=2e-6)
    np.testing.assert_allclose(loss(jnp.asarray(scores), np.ones(9, np.float32)), list_mle(scores, rank, where=where))


def test_binary_cross_entropy_pulls_at_a_logit_of_exactly_zero():
    labels = jnp.array([0.0, 1.0, 0.25])
    gradient = jax.grad(lambda z: binary_cross_entropy(z, labels))(jnp.zeros(3))
    np.testing.assert_allclose(gradient, 0.5 - labels, rtol=1e-6)
