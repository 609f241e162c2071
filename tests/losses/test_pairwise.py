"""RankNet in both its forms, BPR, the triplet hinge, the COPR-style loss, ApproxNDCG, and the softplus under them."""

from functools import partial
from math import exp, expm1, log1p, log2, nan

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hccp_jax.losses.approx_ndcg import approx_ndcg, approx_ranks
from hccp_jax.losses.pairwise import (
    SHORT,
    bpr,
    delta_ndcg_logistic,
    pairwise_logistic,
    pairwise_logistic_materialized,
    triplet,
)
from hccp_jax.losses.reduction import no_reduction, sum_valid
from hccp_jax.numerics import softplus_and_sigmoid

from .cases.pairwise import pairwise_logistic_oracle
from .cases.pairwise import softplus as sp

LISTS = jnp.array([[0.0, 1.0, 3.0], [2.0, -1.0, 9.0]])  # The last slot of the second list is padding.
MASK = jnp.array([[True, True, True], [True, True, False]])
GRADES = jnp.array([[2.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
LONG = 41  # Streamed, and no multiple of a block.


def stake(i, j, ideal, gap=1):
    """Weight of a pair at ranks i and j."""
    return gap * abs(1 / log2(1 + i) - 1 / log2(1 + j)) / ideal


@pytest.mark.parametrize(
    ("value", "formula"),
    [
        (lambda: pairwise_logistic(LISTS, GRADES, where=MASK), (sp(1 - 0) + sp(3 - 0) + sp(1 - 3) + sp(2 + 1)) / 2),
        (
            lambda: pairwise_logistic(LISTS[:1], GRADES[:1], weights=jnp.array([[2.0, nan, 3.0]]).at[0, 1].set(5.0)),
            2 * sp(1 - 0) + 2 * sp(3 - 0) + 3 * sp(1 - 3),
        ),
        (lambda: pairwise_logistic(LISTS, jnp.ones((2, 3))), 0),
        (lambda: pairwise_logistic(LISTS[:, :0], GRADES[:, :0]), 0),
        (lambda: pairwise_logistic(jnp.array([-1e4, 1e4]), jnp.array([1, 0])), 2e4),
        (lambda: bpr(LISTS[:, :1], LISTS[:, 1:], negative_where=MASK[:, 1:]), (sp(1 - 0) + sp(3 - 0) + sp(-1 - 2)) / 2),
        (lambda: bpr(LISTS, LISTS[:, :0]), 0),
        (lambda: bpr(LISTS[:, :0], LISTS), 0),
        (lambda: bpr(jnp.array([-1e4]), jnp.array([1e4])), 2e4),
        (lambda: triplet(LISTS[:, 2:], LISTS[:, :2], margin=2.5), (0.5 + 0 + 0) / 2),
        (lambda: triplet(LISTS[:, :2], LISTS[:, 2:], margin=2.5, negative_where=MASK[:, 2:]), (5.5 + 4.5 + 0) / 2),
        (lambda: delta_ndcg_logistic(LISTS[1], GRADES[1], where=MASK[1]), stake(1, 2, ideal=1) * sp(3)),
        (
            lambda: delta_ndcg_logistic(
                LISTS[0], GRADES[0]
            ),  # In the student's order: slot 0 third, 1 second, 2 first.
            stake(3, 2, 2 + 1 / log2(3), gap=2) * sp(1)
            + stake(3, 1, 2 + 1 / log2(3)) * sp(3)
            + stake(1, 2, 2 + 1 / log2(3)) * sp(-2),
        ),
        (
            lambda: delta_ndcg_logistic(LISTS[0], GRADES[0], top=1, ratio=True),  # Slots 1 and 0 are beyond the top.
            (sp(-expm1(0 - 3)) + sp(-expm1(3 - 1))) / 2,
        ),
        (lambda: delta_ndcg_logistic(jnp.zeros(2), jnp.array([1.0, 0.0])), stake(1, 2, ideal=1) * sp(0)),
        (lambda: approx_ndcg(LISTS[1], GRADES[1], where=MASK[1], temperature=1.0), -1 / log2(2 + 1 / (1 + exp(-3)))),
        (
            lambda: approx_ndcg(LISTS, GRADES, where=MASK, temperature=1e-3),
            -((3 / 2 + 1) / (3 + 1 / log2(3)) + 1 / log2(3)) / 2,
        ),
        (lambda: approx_ndcg(LISTS[0], GRADES[0], discount=jnp.ones_like), -1),
        (
            lambda: approx_ndcg(LISTS[0], GRADES[0], temperature=1e-3, gain=lambda y: y),
            -(2 / 2 + 1) / (2 + 1 / log2(3)),
        ),
        (lambda: approx_ranks(jnp.array([5.0, nan, 5.0, 9.0]), temperature=2.0**-10, where=jnp.arange(4) != 1)[0], 2.5),
    ],
)
def test_closed_form(value, formula):
    np.testing.assert_allclose(jax.jit(value)(), formula, rtol=2e-6)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 3e-7), (np.float64, 1e-15)])
def test_softplus_and_sigmoid(dtype, rtol):
    x = np.concatenate([[1e4, -1e4, -30, 1e-6, -1e-6, 0, 88, -80], np.linspace(-20, 20, 4001)]).astype(dtype)
    wide = x.astype(np.longdouble)
    small = np.exp(-np.abs(wide))
    with jax.enable_x64(dtype == np.float64):
        softplus, sigmoid = jax.jit(softplus_and_sigmoid)(x)
        assert softplus.dtype == sigmoid.dtype == dtype
        np.testing.assert_allclose(
            softplus, np.maximum(wide, 0) + np.log1p(small), rtol=rtol, atol=np.finfo(dtype).tiny
        )
        np.testing.assert_allclose(
            sigmoid, np.where(wide < 0, small, 1) / (1 + small), rtol=rtol, atol=np.finfo(dtype).tiny
        )
        assert jnp.isnan(jnp.stack(softplus_and_sigmoid(jnp.array(nan)))).all()


def test_slopes_of_softplus_and_sigmoid():
    x = jnp.array([0.0, 1.5, -1e4])
    s = 1 / (1 + np.exp(-np.array([0.0, 1.5, -700.0])))
    softplus = jax.vmap(jax.grad(lambda x: softplus_and_sigmoid(x)[0]))
    np.testing.assert_allclose(softplus(x), s, rtol=1e-6, atol=1e-30)
    curvature = jax.vmap(jax.grad(jax.grad(lambda x: softplus_and_sigmoid(x)[0])))(x)
    np.testing.assert_allclose(curvature, s * (1 - s), rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(jax.vmap(jax.grad(lambda x: softplus_and_sigmoid(x)[1]))(x), curvature)


@partial(jax.jit, static_argnums=0)
def slopes(loss, scores, labels, weights, mask):
    """Value a list, and the gradients of their sum in scores and weights."""

    def total(scores, weights):
        values = loss(scores, labels, weights=weights, where=mask, reduce_fn=no_reduction)
        return jnp.sum(values), values

    (_, values), grads = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(scores, weights)
    return values, *grads


@pytest.fixture(scope="module")
def long():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, (5, LONG)).astype(np.float32)
    labels = rng.integers(0, 5, (5, LONG)).astype(np.float32)
    labels[2] = 3  # No pair.
    mask = rng.random((5, LONG)) < 0.8
    mask[3] = False
    return scores, labels, rng.uniform(0, 2, (5, LONG)).astype(np.float32), mask


def oracle(scores, labels, weights, mask):
    lists = zip(*(np.asarray(a, np.float64) for a in (scores, labels, weights)), mask, strict=True)
    return [pairwise_logistic_oracle(z[m], y[m], w[m]) or 0 for z, y, w, m in lists]


@pytest.mark.parametrize("scale", [1, 1e3])  # Within the range of one exponential an item, and beyond it.
def test_streamed_equals_materialized_and_the_oracle(long, scale):
    scores, labels, weights, mask = long
    scores = scores * np.float32(scale)
    streamed = slopes(pairwise_logistic, scores, labels, weights, mask)
    np.testing.assert_allclose(streamed[0], oracle(scores, labels, weights, mask), rtol=2e-6)
    for a, b in zip(streamed, slopes(pairwise_logistic_materialized, scores, *long[1:]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    dirty = [np.where(mask, a, np.float32(nan)) for a in (scores, labels, weights)]
    jax.tree.map(np.testing.assert_array_equal, slopes(pairwise_logistic, *dirty, mask), streamed)


@pytest.mark.parametrize("shift", [36, -36, 38.5])
def test_the_range_of_the_fast_form_leaves_no_seam(long, shift):
    scores, *rest = long
    scores = np.clip(scores, -3, 3)  # 38.5 takes some items beyond 40 and turns all to the general form.
    scores = np.round(scores * 1024) / 1024  # Exact after the shift.
    near, far = slopes(pairwise_logistic, scores, *rest), slopes(pairwise_logistic, scores + np.float32(shift), *rest)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6), near, far)


def test_small_losses_keep_their_digits(long):
    _, labels, weights, mask = long
    scores = 7 * labels + np.linspace(0, 1, LONG, dtype=np.float32)
    values = slopes(pairwise_logistic, scores, labels, weights, mask)[0]
    exact = np.asarray(oracle(scores, labels, weights, mask))
    assert 0 < exact[0] < 1
    np.testing.assert_allclose(values, exact, rtol=5e-6)
    steep = slopes(pairwise_logistic, 4 * scores, labels, weights, mask)[0]
    exact = np.asarray(oracle(4 * scores, labels, weights, mask))
    assert 0 < exact[0] < 1e-8
    np.testing.assert_allclose(steep, exact, rtol=5e-6)


@pytest.mark.parametrize("size", [5, LONG])
def test_a_nan_label_shows(size):
    scores, labels = np.zeros((5, size), np.float32), np.zeros((5, size), np.float32)
    labels[0, 1] = nan
    values = slopes(pairwise_logistic, scores, labels, scores + 1, np.ones_like(labels, bool))[0]
    np.testing.assert_array_equal(jnp.isnan(values), [True, False, False, False, False])
    masked = slopes(pairwise_logistic, scores, labels, scores + 1, np.isfinite(labels))[0]
    np.testing.assert_array_equal(masked, 0)
    values = jax.jit(partial(approx_ndcg, reduce_fn=no_reduction))(scores, labels)
    np.testing.assert_array_equal(jnp.isnan(values), [True, False, False, False, False])


def test_infinite_labels_are_the_best_and_the_worst(long):
    scores, labels, weights, _ = long
    everything = np.ones_like(labels, bool)
    infinite = np.select([labels == 4, labels == 0], [np.inf, -np.inf], labels).astype(np.float32)
    streamed = slopes(pairwise_logistic, scores, infinite, weights, everything)
    jax.tree.map(
        np.testing.assert_array_equal, streamed, slopes(pairwise_logistic, scores, labels, weights, everything)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("fully_optimized")
def test_memory_grows_with_the_list_and_not_with_its_square():
    def temporary(loss, size):
        step = jax.jit(jax.value_and_grad(lambda s, y: loss(s, y, reduce_fn=sum_valid)))
        arrays = [jax.ShapeDtypeStruct((64, size), jnp.float32)] * 2
        return step.lower(*arrays).compile().memory_analysis().temp_size_in_bytes

    for loss in (pairwise_logistic, approx_ndcg):
        assert temporary(loss, 500) <= 3 * 2**20
        assert temporary(loss, 2000) <= 4.5 * temporary(loss, 500)
    assert temporary(pairwise_logistic_materialized, 500) > 64 * 500 * 500 * 4  # So the measure sees K x K arrays.


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [SHORT, LONG])
def test_agrees_with_rax(size):
    rax = pytest.importorskip("rax")
    rng = np.random.default_rng(1)
    scores, mask = rng.normal(0, 3, (4, size)).astype(np.float32), rng.random((4, size)) < 0.7
    labels = rng.integers(0, 4, (4, size)).astype(np.float32)
    ours = jax.jit(jax.value_and_grad(lambda s: pairwise_logistic(s, labels, where=mask, reduce_fn=sum_valid)))(scores)
    theirs = jax.value_and_grad(lambda s: rax.pairwise_logistic_loss(s, labels, where=mask, reduce_fn=jnp.sum))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), ours, jax.jit(theirs)(scores))


def test_bpr_is_ranknet_with_two_labels():
    scores = np.random.default_rng(2).normal(0, 2, (3, 9)).astype(np.float32)
    labels = np.repeat([1.0, 0.0], [3, 6])[None] * np.ones((3, 1))
    ours = jax.jit(jax.value_and_grad(lambda s: bpr(s[:, :3], s[:, 3:])))(scores)
    ranknet = jax.jit(jax.value_and_grad(lambda s: pairwise_logistic(s, labels)))(scores)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), ours, ranknet)


def test_hinge_without_a_violation_has_no_slope():
    grad = jax.jit(jax.grad(lambda s: triplet(s[:1], s[1:], margin=1.0)))(
        jnp.array([2.0, 1.0, 1.5])
    )  # At the corner, and over.
    np.testing.assert_array_equal(grad, [-1, 0, 1])


def test_no_gradient_passes_through_the_stake():
    z = jnp.array([0.0, 1.0])
    grad, teacher = jax.jit(jax.grad(delta_ndcg_logistic, argnums=(0, 1)))(z, jnp.array([1.0, 0.0]))
    weight = 1 - 1 / log2(3)
    np.testing.assert_allclose(grad, weight / (1 + exp(-1)) * np.array([-1, 1]), rtol=1e-6)
    np.testing.assert_array_equal(teacher, 0)


def test_ratio_far_apart():
    z, g, weight = jnp.array([500.0, 0.0]), jnp.array([1.0, 0.0]), 1 - 1 / log2(3)
    loss = jax.jit(jax.value_and_grad(partial(delta_ndcg_logistic, ratio=True)))
    right, wrong = loss(z, g), loss(-z, g)
    assert right[0] == 0
    np.testing.assert_allclose(wrong[0], weight * log1p(exp(1)), rtol=1e-6)
    np.testing.assert_array_equal([right[1], wrong[1]], 0)


def test_gradient_of_the_temperature():
    @jax.jit
    def ndcg(temperature):
        return approx_ndcg(LISTS[0], GRADES[0], temperature=temperature)

    step = 1e-2
    slope = (ndcg(2.0 + step) - ndcg(2.0 - step)) / (2 * step)
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(jax.grad(ndcg)(2.0), slope, rtol=2e-3)


def test_weights_may_be_one_number_of_all_devices(long):
    """Inside shard_map scores vary over the devices and such weights do not."""
    mesh = jax.make_mesh((2,), ("devices",))
    batch = [jax.device_put(a[:4], NamedSharding(mesh, P("devices"))) for a in long[:2]]

    def loss(weight, scores, labels, reduce_fn=sum_valid):
        weights = weight * jnp.ones(scores.shape)
        return pairwise_logistic(scores, labels, weights=weights, reduce_fn=reduce_fn)

    def everywhere(values, valid):
        return jax.lax.psum(jnp.sum(no_reduction(values, valid)), "devices")

    def step(*shard):
        return jax.value_and_grad(loss)(2.0, *shard, reduce_fn=everywhere)

    mapped = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=P("devices"), out_specs=P(), check_vma=True))
    alone = jax.jit(jax.value_and_grad(loss))(2.0, *(a[:4] for a in long[:2]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), mapped(*batch), alone)
