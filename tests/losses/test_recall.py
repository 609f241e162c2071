"""CROLoss: each kernel against loops, alpha near 1, the losses it contains, its Lambda method, its extremes."""

from functools import partial
from math import log

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hccp_jax.losses.contrastive import info_nce
from hccp_jax.losses.pairwise import bpr, triplet
from hccp_jax.losses.recall import KERNELS, croloss, croloss_in_batch, kernel_function
from hccp_jax.losses.reduction import no_reduction, sum_valid

from .cases.recall import (
    ITEMS,
    LAMBDAS,
    METHODS,
    PHI,
    SLOPE,
    croloss_oracle,
    named,
    rank_oracle,
    weight_oracle,
)
from .streamed import close

ALPHAS = [0.0, 0.8, 1.0, 1.0001, 1.4]
LISTS, POSITIVES, NEGATIVES = 2, 3, 7

STATIC = ("kernel", "weight_kernel", "rank", "scale")
values_of = jax.jit(partial(croloss, reduce_fn=no_reduction), static_argnames=STATIC)
slopes = jax.jit(jax.value_and_grad(croloss, argnums=(0, 1)), static_argnames=(*STATIC, "reduce_fn"))
in_batch = jax.jit(jax.value_and_grad(croloss_in_batch, argnums=(0, 1, 2)), static_argnames=(*STATIC, "block"))


@pytest.fixture(autouse=True)
def _strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def draw(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 2, (LISTS, size)).astype(np.float32) for size in (POSITIVES, NEGATIVES)]


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_and_their_derivatives(kernel):
    gaps = np.array([-30, -5.5, -1, -0.2, 0.2, 1, 7.5, 30])
    value, slope = jax.jit(kernel_function(kernel, 2.0))(jnp.asarray(gaps, jnp.float32))
    np.testing.assert_allclose(value, [PHI[kernel](gap, 2.0) for gap in gaps], rtol=3e-6)
    np.testing.assert_allclose(slope, [SLOPE[kernel](gap, 2.0) for gap in gaps], rtol=3e-6, atol=1e-7)
    # 0.5 <= phi(0) <= 1 is asked of a kernel; the default margin of the hinge breaks it.
    at_zero = {"hinge": 5.0, "sigmoid": 0.5, "exponential": 1.0, "softplus": log(2), "unit_step": 1.0}[kernel]
    np.testing.assert_allclose(jax.jit(kernel_function(kernel))(0.0)[0], at_zero, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS, ids=str)
@settings(deadline=None, max_examples=8, derandomize=True)
@given(
    alpha=st.sampled_from(ALPHAS),
    rank=st.sampled_from(["scaled", "unbiased"]),
    scale=st.sampled_from(["log", "none"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_loops(method, alpha, rank, scale, seed):
    lists, rest = draw(seed), {"rank": rank, "scale": scale, **named(method)}
    found = values_of(*lists, items=ITEMS, alpha=alpha, hinge_margin=0.5, **rest)
    wide = zip(*(logits.astype(np.float64) for logits in lists), strict=True)
    exact = [croloss_oracle(p, n, ITEMS, alpha, hinge_margin=0.5, **rest) for p, n in wide]
    np.testing.assert_allclose(found, exact, rtol=5e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_first_costs_nothing_and_last_costs_one(alpha):
    first = jnp.array([[0.0]]), jnp.array([[-1.0, -2.0, -3.0]])
    for kernel, rank, scale, whole in [
        ("unit_step", "unbiased", "none", 1.0),
        ("unit_step", "unbiased", "log", log(ITEMS + 1)),
        ("hinge", "unbiased", "none", 1.0),  # gaps and a margin that make its values 0 and 1
    ]:
        rest = {"items": ITEMS, "alpha": alpha, "kernel": kernel, "rank": rank, "scale": scale, "hinge_margin": 0.0}
        assert slopes(*first, **rest)[0] == 0
        np.testing.assert_allclose(slopes(first[0], jnp.ones((1, 3)), **rest)[0], whole, rtol=1e-6)
        # Nothing was ranked before it.
        for estimate in ("scaled", "unbiased"):
            nobody = jnp.zeros((1, 3), bool)
            value, grads = slopes(*first, negative_where=nobody, **(rest | {"rank": estimate, "kernel": "softplus"}))
            assert value == 0
            jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), grads)


def test_both_estimates_of_the_rank():
    """W_0 is (R - 1) / |I|: two of the four negatives that count are above, and one that does not."""
    logits = jnp.array([[0.0]]), jnp.array([[1.0, -1.0, 2.0, -3.0, 9.0]])
    rest = {"items": ITEMS, "alpha": 0.0, "kernel": "unit_step", "scale": "none"}
    for estimate, rank in [("scaled", ITEMS / 4 * (1 + 2)), ("unbiased", 1 + ITEMS / 4 * 2)]:
        value, _ = slopes(*logits, negative_where=jnp.array([[True] * 4 + [False]]), rank=estimate, **rest)
        np.testing.assert_allclose(value, (rank - 1) / ITEMS, rtol=1e-6)


@pytest.mark.parametrize("method", [(None, "softplus"), (None, "exponential"), ("sigmoid", "softplus")], ids=str)
@pytest.mark.parametrize("scale", ["log", "none"])
def test_alpha_one_is_no_special_place(method, scale):
    lists, rest = draw(1), {"items": ITEMS, "scale": scale, **named(method)}
    middle = slopes(*lists, alpha=1.0, **rest)
    wide = [[row.astype(np.float64) for row in logits] for logits in lists]
    for step in (2e-3, 1e-3, 1e-5, 1e-7):
        for alpha in (1 - step, 1 + step):
            value, grads = slopes(*lists, alpha=alpha, **rest)
            exact = [
                croloss_oracle(p, n, ITEMS, alpha, scale=scale, **named(method)) for p, n in zip(*wide, strict=True)
            ]
            np.testing.assert_allclose(value, np.mean(exact), rtol=3e-6)
            # log W changes by at most log(|I| + 1) a unit of alpha near 1.
            close(grads, middle[1], rtol=2 * log(ITEMS + 1) * step + 2e-6)
    with jax.enable_x64(True):
        wide = [jnp.asarray(logits, jnp.float64) for logits in lists]

        def loss(alpha):
            value, grads = jax.value_and_grad(croloss, argnums=(0, 1))(*wide, alpha=alpha, **rest)
            return jnp.concatenate([value[None], *(grad.ravel() for grad in grads)])

        derivative = jax.jit(jax.jacfwd(loss))(1.0)
        assert jnp.all(jnp.abs(derivative) > 1e-6)
        difference = (jax.jit(loss)(1 + 1e-4) - jax.jit(loss)(1 - 1e-4)) / 2e-4
        np.testing.assert_allclose(derivative, difference, rtol=1e-6, atol=1e-8)


def test_alpha_one_with_the_exponential_is_softmax_cross_entropy():
    lists = draw(2)
    softmax = jax.jit(jax.value_and_grad(info_nce, (0, 1)))(*lists)
    close(slopes(*lists, items=NEGATIVES, kernel="exponential"), softmax)
    value, grads = slopes(*lists, items=ITEMS, kernel="exponential")
    close((value - POSITIVES * log(ITEMS / NEGATIVES), grads), softmax)
    value, grads = slopes(*lists, items=ITEMS, kernel="exponential", scale="none")
    close(grads, jax.tree.map(lambda x: x / log(ITEMS + 1), softmax[1]))


@pytest.mark.parametrize(
    ("kernel", "loss"), [("hinge", partial(triplet, margin=0.7)), ("softplus", bpr)], ids=["triplet", "bpr"]
)
def test_alpha_zero_is_a_loss_of_pairs(kernel, loss):
    lists = draw(3)
    pairs = jax.tree.map(lambda x: x / NEGATIVES, jax.jit(jax.value_and_grad(loss, (0, 1)))(*lists))
    rest = {"items": ITEMS, "alpha": 0.0, "kernel": kernel, "hinge_margin": 0.7}
    close(slopes(*lists, rank="unbiased", scale="none", **rest), pairs)
    value, grads = slopes(*lists, scale="none", **rest)
    close((value - POSITIVES * (1 / NEGATIVES - 1 / ITEMS), grads), pairs)
    close(slopes(*lists, **rest)[1], jax.tree.map(lambda x: x * log(ITEMS + 1), pairs[1]))


@pytest.mark.parametrize("method", LAMBDAS, ids=str)
@pytest.mark.parametrize("rank", ["scaled", "unbiased"])
def test_lambda_is_a_constant_weight_of_the_rank(method, rank):
    lists, alpha, chosen = draw(4), 1.4, named(method)
    rest = {"items": ITEMS, "rank": rank, "reduce_fn": sum_valid}
    weights = np.zeros((LISTS, POSITIVES))
    for (i, j), p in np.ndenumerate(lists[0].astype(np.float64)):
        weighed = rank_oracle(p, lists[1][i].astype(np.float64), ITEMS, method[0], rank=rank)
        weights[i, j] = weight_oracle(weighed, ITEMS, alpha)[1]

    def weighted_ranks(positives, negatives):
        each = {"positive_where": jnp.eye(POSITIVES, dtype=bool)[:, None, :], "reduce_fn": no_reduction}
        lists = [jnp.broadcast_to(x, (POSITIVES, *x.shape)) for x in (positives, negatives)]
        each["positive_where"] = jnp.broadcast_to(each["positive_where"], lists[0].shape)
        # 1 + |I| W_0 is the rank.
        w = croloss(*lists, items=ITEMS, alpha=0.0, scale="none", kernel=method[1], rank=rank, **each)
        return jnp.sum(weights.T * (1 + ITEMS * w))

    close(slopes(*lists, alpha=alpha, **chosen, **rest), jax.jit(jax.value_and_grad(weighted_ranks, (0, 1)))(*lists))


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel != "unit_step"])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_lambda_with_one_kernel_has_the_gradient_of_the_loss(kernel, alpha):
    lists, rest = draw(5), {"items": ITEMS, "alpha": alpha, "kernel": kernel}
    close(slopes(*lists, weight_kernel=kernel, **rest)[1], slopes(*lists, **rest)[1], rtol=2e-5)


def test_no_gradient_passes_through_the_weight():
    for weight_kernel in ("sigmoid", "exponential"):
        rest = {"items": ITEMS, "kernel": "unit_step", "weight_kernel": weight_kernel}
        jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), slopes(*draw(6), **rest)[1])
        vectors = jnp.ones((2, 4)), jnp.ones((2, 4)), jnp.ones((3, 4))
        for block in (0, 2):
            jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), in_batch(*vectors, block=block, **rest)[1])


@pytest.mark.parametrize("gap", [1e3, 1e4])
def test_large_gaps(gap):
    """log(1 + exp(gap)) as written overflows from 89 on, and so does the exponential."""
    lists, share = (jnp.zeros((1, 1)), jnp.full((1, 2), gap)), ITEMS / 2
    vectors = jnp.full((1, 1), gap), jnp.zeros((1, 1)), jnp.ones((2, 1))
    for kernel, alpha, value, slope in [
        ("softplus", 1.0, log(share * (1 + 2 * gap)), 1 / (1 + 2 * gap)),
        ("softplus", 0.0, log(ITEMS + 1) * (share * (1 + 2 * gap) - 1) / ITEMS, log(ITEMS + 1) / 2),
        ("exponential", 1.0, log(share) + gap + log(2), 0.5),
        ("exponential", 1.4, log(ITEMS + 1) / (1 - (ITEMS + 1) ** -0.4), 0),
    ]:
        rest = {"items": ITEMS, "alpha": alpha, "kernel": kernel}
        found, grads = slopes(*lists, **rest)
        np.testing.assert_allclose(found, value, rtol=2e-6)
        close(grads, (np.full((1, 1), -2 * slope), np.full((1, 2), slope)))
        for block in (0, 1):
            streamed, grads = in_batch(*vectors, block=block, **rest)
            np.testing.assert_allclose(streamed, value, rtol=2e-6)
            close(grads, (np.full((1, 1), 2 * slope), np.full((1, 1), -2 * slope * gap), np.full((2, 1), slope * gap)))
    # The weight of Lambda, 1 / rank, keeps the exponential in range.
    rest = {"items": ITEMS, "kernel": "exponential", "weight_kernel": "exponential"}
    found, grads = slopes(*lists, **rest)
    np.testing.assert_allclose(found, 1, rtol=1e-6)
    close(grads, (np.full((1, 1), -1.0), np.full((1, 2), 0.5)))


def test_masked_slots_are_not_there():
    """Neither as items, nor by a W that overflows."""
    positives, negatives = jnp.array([[490.0, 495.0, 0.0]]), jnp.array([[500.0, 499.0, 0.0]])
    where = jnp.array([[True, True, False]])
    rest = {"items": ITEMS, "alpha": 0.8, "kernel": "exponential"}
    value, grads = slopes(positives, negatives, positive_where=where, negative_where=where, **rest)
    short = slopes(positives[:, :2], negatives[:, :2], **rest)
    close((value, [x[:, :2] for x in grads]), (short[0], [*short[1]]))
    assert all(x[0, 2] == 0 for x in grads)


@pytest.mark.parametrize(
    ("chosen", "accepted"),
    [
        ({"kernel": "relu"}, "one of hinge, sigmoid, exponential, softplus, unit_step"),
        ({"weight_kernel": "Sigmoid"}, "one of hinge, sigmoid, exponential, softplus, unit_step"),
        ({"rank": "biased"}, "scaled or unbiased"),
        ({"scale": "None"}, "log or none"),
    ],
)
def test_unknown_choices(chosen, accepted):
    ((name, value),) = chosen.items()
    message = f"{name.removeprefix('weight_')}={value!r}: expected {accepted}"
    for loss, arrays in [(croloss, draw()), (croloss_in_batch, [jnp.ones((size, 4)) for size in (1, 1, 2)])]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(partial(loss, items=ITEMS, **chosen), *arrays)
