"""What Margin InfoNCE is: HCCP's Eq 5 and Algorithm 1, its limits, its gradient, and what it does at norm zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hccp_jax.losses.contrastive import (
    anneal_beta,
    effective_margin,
    info_nce,
    margin_info_nce,
)
from hccp_jax.losses.reduction import log_sum_exp, sum_valid
from hccp_jax.numerics import normalize, safe_norm

from . import oracles

U, K, D, TAU = 3, 10, 4, 0.5


def towers(seed=0):
    """User and item vectors, and the slots that are positive, hard and easy; slot kinds 0 count nowhere."""
    rng = np.random.default_rng(seed)
    users, items = rng.normal(size=(U, D)).astype(np.float32), rng.normal(size=(U, K, D)).astype(np.float32)
    kind = rng.permuted(np.broadcast_to(np.arange(K) % 4, (U, K)), axis=-1)
    return users, items, {"positive": kind == 1, "hard": kind == 2, "easy": kind == 3}


def scores(users, items):
    return jnp.sum(users[:, None] * items, -1), safe_norm(users)[:, None] * safe_norm(items)


def loss(users, items, kinds, margin, reduce_fn=sum_valid):
    logits, products = scores(users, items)
    return margin_info_nce(logits, products, **kinds, margin=margin, temperature=TAU, reduce_fn=reduce_fn)


both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    margin=st.floats(0, 1, width=32),
    beta=st.sampled_from([0.0, 0.5, 9.0, 9999.0]),
)
def test_equals_algorithm_1(seed, margin, beta):
    users, items, kinds = towers(seed)
    u, i = users.astype(np.float64), items.astype(np.float64)
    flat = [
        np.einsum("ud,ukd->uk", u, i).ravel(),
        np.repeat(np.linalg.norm(u, axis=-1), K),
        np.linalg.norm(i, axis=-1).ravel(),
        *(kinds[name].ravel() for name in ("positive", "hard", "easy")),
    ]
    printed = oracles.algorithm_1(*flat, margin, beta, TAU, (U, K))
    np.testing.assert_allclose(both(users, items, kinds, effective_margin(margin, beta))[0], printed, rtol=1e-5)


def test_without_margin_it_is_info_nce():
    users, items, kinds = towers()

    def plain(users, items):
        logits = scores(users, items)[0] / TAU
        negative = {"negative_where": kinds["hard"] | kinds["easy"]}
        return info_nce(logits, logits, positive_where=kinds["positive"], **negative, reduce_fn=sum_valid)

    expected = jax.jit(jax.value_and_grad(plain, argnums=(0, 1)))(users, items)
    close(both(users, items, kinds, 0.0), expected)
    close(both(users, items, kinds, effective_margin(0.9, jnp.inf)), expected)


def test_weighted_combination_is_a_smaller_margin():
    users, items, _ = towers()
    logits, products = map(np.float64, scores(users, items))
    for beta in [0.0, 1.0, 37.0, 9999.0]:
        combined = ((logits - 0.9 * products) + beta * logits) / (1 + beta)
        np.testing.assert_allclose(logits - effective_margin(0.9, beta) * products, combined, rtol=1e-6, atol=1e-6)


def test_annealing_can_be_traced():
    users, items, kinds = towers()
    annealed = jax.jit(lambda step: loss(users, items, kinds, effective_margin(0.9, anneal_beta(step, 0.9))))
    close(annealed(10**4), both(users, items, kinds, 0.9)[0])
    close(annealed(0), both(users, items, kinds, 0.9 / 10000)[0])


def test_margin_cancels_between_equal_norms_but_not_against_easy_negatives():
    users, items, kinds = towers()
    users, items = normalize(users), normalize(items)
    hard_only = kinds | {"easy": np.zeros((U, K), bool)}
    close(both(users, items, hard_only, 0.9)[0], both(users, items, hard_only, 0.0)[0])
    easy_only = kinds | {"hard": np.zeros((U, K), bool)}
    assert both(users, items, easy_only, 0.9)[0] > both(users, items, easy_only, 0.0)[0] + 1
    # Moving the easy logits up by the margin instead is the same thing.
    logits = scores(users, items)[0]
    moved = logits + 0.9 * kinds["easy"]
    np.testing.assert_allclose(
        margin_info_nce(moved, jnp.ones((U, K)), **kinds, margin=0.0, temperature=TAU, reduce_fn=sum_valid),
        both(users, items, kinds, 0.9)[0],
        rtol=1e-5,
    )


def test_extra_easy_negatives_count_as_easy_ones():
    users, items, kinds = towers()
    logits, products = scores(users, items)
    rest = {"margin": 0.9, "temperature": TAU}
    outside = log_sum_exp(logits / TAU, kinds["easy"])
    split = {"easy": np.zeros((U, K), bool), "easy_log_sum_exp": outside}
    close(
        margin_info_nce(logits, products, **(kinds | split), **rest), margin_info_nce(logits, products, **kinds, **rest)
    )


def test_gradient_of_a_hard_negative_is_the_corrected_appendix():
    """HCCP Eq 10 has the sign of m (v_i - v_n) and the easy terms wrong; see the formulas."""
    rng = np.random.default_rng(3)
    y, v = rng.normal(size=8), rng.uniform(0.5, 2, 8)
    kind = np.array([1, 2, 2, 2, 3, 3, 3, 3])
    m, tau, j, n = 0.9, 0.7, 0, 1
    hard_and_j, easy = np.flatnonzero(kind <= 2), np.flatnonzero(kind == 3)

    def total(sign_hard, easy_margin):
        hard = np.exp((y[hard_and_j] - y[n] + sign_hard * m * (v[hard_and_j] - v[n])) / tau).sum()
        return hard + np.exp((y[easy] - y[n] + m * easy_margin) / tau).sum()

    corrected = 1 / tau / total(-1, v[n])
    # As printed, on its second line; n itself, which the paper counts twice on the first, counts once here.
    printed = 1 / tau / total(+1, v[j] - v[n])
    kinds = {name: jnp.asarray(kind == k) for name, k in [("positive", 1), ("hard", 2), ("easy", 3)]}
    slope = jax.jit(jax.grad(lambda y: margin_info_nce(y, jnp.asarray(v), **kinds, margin=m, temperature=tau)))
    found = slope(jnp.asarray(y))[n]
    np.testing.assert_allclose(found, corrected, rtol=1e-5)
    assert abs(printed - corrected) > 0.05 * corrected


def test_zero_vectors_have_finite_gradients():
    users, items, kinds = towers()
    users[0], items[1, :3], items[2] = 0, 0, 0
    for leaf in jax.tree.leaves(both(users, items, kinds, 0.9)):
        assert jnp.isfinite(leaf).all()
    cosines = jax.grad(lambda u, i: loss(normalize(u), normalize(i), kinds, 0.9), argnums=(0, 1))
    slopes = jax.jit(cosines)(users, items)
    assert all(jnp.isfinite(leaf).all() for leaf in slopes)
    assert not slopes[0][0].any()
    assert not slopes[1][2].any()


def test_norms():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(safe_norm(x), [5, 1e-6], rtol=1e-6)
    np.testing.assert_allclose(safe_norm(x, axis=0), [3, 4], rtol=1e-6)
    np.testing.assert_allclose(normalize(x), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert jax.grad(lambda x: safe_norm(x).sum())(x)[1].tolist() == [0, 0]
    assert jax.grad(lambda x: normalize(x).sum())(x)[1].tolist() == [0, 0]
    assert safe_norm(x.astype(jnp.bfloat16)).dtype == jnp.float32
    assert jnp.isnan(normalize(x.at[1, 0].set(jnp.nan))[1]).all()


@pytest.mark.parametrize("margin", [0.0, 0.9])
def test_loss_falls_when_the_positive_rises(margin):
    users, items, kinds = towers()
    logits, products = scores(users, items)
    up = logits + 0.1 * kinds["positive"]
    rest = {"margin": margin, "temperature": TAU}
    assert margin_info_nce(up, products, **kinds, **rest) < margin_info_nce(logits, products, **kinds, **rest)
