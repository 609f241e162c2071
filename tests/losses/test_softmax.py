"""Identities of the softmax losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.losses.listwise import list_net
from hccp_jax.losses.reduction import no_reduction
from hccp_jax.losses.softmax import multi_positive_softmax, softmax_cross_entropy

from .test_values import LABELS, LISTS, MASK, lse, sp


@pytest.mark.parametrize(
    ("value", "formula"),
    [
        (lambda: softmax_cross_entropy(LISTS, 2 * LABELS, where=MASK), 4 * lse(0, 1, 3) - 2 * (1 + 3)),
        (lambda: softmax_cross_entropy(jnp.array([1e4, 0.0]), jnp.array([1, 3])), 3e4),
        (lambda: multi_positive_softmax(LISTS, LABELS, where=MASK), sp(0 - 1) + sp(0 - 3)),
        (lambda: multi_positive_softmax(LISTS, LABELS), (sp(0 - 1) + sp(0 - 3) + sp(lse(2, -1) - 9)) / 2),
        (lambda: multi_positive_softmax(LISTS, jnp.ones((2, 3))), 0),
        (lambda: multi_positive_softmax(jnp.array([-1e4, 1e4]), jnp.array([1, 0])), 2e4),
    ],
)
def test_closed_form(value, formula):
    np.testing.assert_allclose(jax.jit(value)(), formula, rtol=2e-6)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (6, 12)).astype(np.float32), rng.integers(0, 3, (6, 12)), rng.random((6, 12)) < 0.8


def test_one_positive_is_the_softmax_cross_entropy(batch):
    scores, _, mask = batch
    labels = (np.arange(12) == np.argmax(mask, axis=-1)[:, None]).astype(np.float32)
    losses = (multi_positive_softmax, softmax_cross_entropy)
    a, b = (jax.jit(jax.value_and_grad(lambda s, f=f: f(s, labels, where=mask)))(scores) for f in losses)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6), a, b)


def test_positives_do_not_compete(batch):
    scores, labels, mask = batch
    moved = jax.jit(jax.grad(lambda s: multi_positive_softmax(s, labels, where=mask)))(scores)
    positive = mask & (labels > 0)
    assert (moved[positive] < 0).all()
    assert (moved[mask & ~positive] > 0).all()
    competing = jax.jit(jax.grad(lambda s: softmax_cross_entropy(s, labels, where=mask)))(scores)
    assert (competing[positive] > 0).any()


def test_list_net_is_the_normalized_form(batch):
    scores, labels, mask = batch
    totals = np.sum(labels * mask, axis=-1)
    values = softmax_cross_entropy(scores, labels, where=mask, reduce_fn=no_reduction)
    np.testing.assert_allclose(values, totals * list_net(scores, labels, where=mask, reduce_fn=no_reduction), rtol=2e-6)


@pytest.mark.filterwarnings("ignore")
def test_agrees_with_rax(batch):
    rax = pytest.importorskip("rax")
    scores, labels, mask = batch
    assert (labels * mask).any(-1).all()  # Rax counts lists without a positive.
    ours = jax.jit(jax.value_and_grad(lambda s: softmax_cross_entropy(s, labels, where=mask)))(scores)
    theirs = jax.jit(jax.value_and_grad(lambda s: rax.softmax_loss(s, labels.astype(float), where=mask)))(scores)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


@pytest.mark.parametrize("loss", [softmax_cross_entropy, multi_positive_softmax])
def test_a_nan_label_shows(loss):
    labels = jnp.array([[0.0, jnp.nan, 0.0], [1.0, 0.0, 0.0]])  # The list has no other positive.
    values = jax.jit(lambda y: loss(LISTS, y, reduce_fn=no_reduction))(labels)
    np.testing.assert_array_equal(jnp.isnan(values), [True, False])
