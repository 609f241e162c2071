"""Distillation: closed forms, the teacher without gradient, and where the student comes to rest."""

from functools import partial
from math import log, nan

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.losses.distillation import mse_on_logits, pairwise_log_loss, softmax_distillation, weighted_log_loss
from hccp_jax.losses.reduction import no_reduction

from .test_values import LISTS, MASK, lse, sp

TEACHER = jnp.array([[0.2, 0.1, 0.5], [0.3, 0.3, nan]])
LOSSES = [softmax_distillation, partial(softmax_distillation, normalize=True), weighted_log_loss, pairwise_log_loss]
LOSSES += [mse_on_logits, partial(mse_on_logits, teacher_is_logits=True)]


def logit(p):
    return log(p / (1 - p))


@pytest.mark.parametrize(
    ("value", "formula"),
    [
        (
            lambda: softmax_distillation(LISTS, TEACHER, where=MASK),
            (0.8 * lse(0, 1, 3) - 0.1 - 1.5 + 0.6 * lse(2, -1) - 0.3 * (2 - 1)) / 2,
        ),
        (
            lambda: softmax_distillation(LISTS, TEACHER, where=MASK, normalize=True),
            (lse(0, 1, 3) - 1.6 / 0.8 + lse(2, -1) - (2 - 1) / 2) / 2,
        ),
        (lambda: weighted_log_loss(LISTS[0], TEACHER[0]), sp(0) + sp(1) - 0.1 + sp(3) - 1.5),
        (lambda: weighted_log_loss(jnp.array([1e4]), jnp.array([0.25])), 7500),
        (
            lambda: pairwise_log_loss(LISTS, TEACHER, where=MASK),
            sp(1 - 0) + sp(0 - 3) + sp(1 - 3),
        ),  # One list has ties.
        (
            lambda: mse_on_logits(LISTS, TEACHER, where=MASK),
            (logit(0.2) ** 2 + (1 - logit(0.1)) ** 2 + 9 + (2 - logit(0.3)) ** 2 + (1 + logit(0.3)) ** 2) / 2,
        ),
        (
            lambda: mse_on_logits(LISTS, TEACHER, where=MASK, teacher_is_logits=True),
            (0.04 + 0.81 + 6.25 + 2.89 + 1.69) / 2,
        ),
        (lambda: mse_on_logits(jnp.zeros(2), jnp.array([0.0, 1.0])), 2 * logit(1e-6) ** 2),
        (lambda: mse_on_logits(jnp.zeros(2), jnp.array([0.0, 1.0]), smallest=0.1), 2 * log(0.1) ** 2),
    ],
)
def test_closed_form(value, formula):
    np.testing.assert_allclose(jax.jit(value)(), formula, rtol=2e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_gradient_reaches_the_teacher(loss):
    def total(scores, teacher):
        return loss(scores, teacher, where=MASK)

    student, teacher = jax.jit(jax.grad(total, argnums=(0, 1)))(LISTS, TEACHER)
    np.testing.assert_array_equal(teacher, 0)
    assert (student[0] != 0).all()


@pytest.mark.parametrize("loss", [partial(softmax_distillation, normalize=True), weighted_log_loss, mse_on_logits])
def test_the_teacher_is_where_the_student_rests(loss):
    p = jnp.array([[0.2, 0.1, 0.7]])  # Sums to 1, so that log p and logit p are at rest alike.
    scores = jnp.log(p) if getattr(loss, "func", None) is softmax_distillation else jnp.log(p / (1 - p))
    slope = jax.jit(jax.grad(loss))
    np.testing.assert_allclose(slope(scores, p), 0, atol=1e-6)
    assert slope(scores + jnp.array([[0.5, 0.0, 0.0]]), p)[0, 0] > 0.02


def test_the_pairwise_form_sees_the_order_only():
    p = jnp.array([0.9, 0.2, 0.1])
    loss = jax.jit(partial(pairwise_log_loss, LISTS[0]))
    assert loss(p) == loss(jnp.log(p)) > loss(-p)


def test_a_list_counts_as_much_as_its_probabilities_sum_to():
    def literal(p):
        return softmax_distillation(LISTS[:1], p)

    np.testing.assert_allclose(literal(3 * TEACHER[:1]), 3 * literal(TEACHER[:1]), rtol=1e-6)
    shares = softmax_distillation(LISTS[:1], TEACHER[:1], normalize=True)
    np.testing.assert_allclose(literal(TEACHER[:1]), 0.8 * shares, rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_nan_of_the_teacher_shows(loss):
    values = jax.jit(partial(loss, LISTS, reduce_fn=no_reduction))(jnp.array([[0.2, nan, 0.5], [0.3, 0.2, 0.1]]))
    np.testing.assert_array_equal(jnp.isnan(values), [True, False])
