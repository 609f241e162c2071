"""SDCL: the weights of Eq 8, the loss of Eq 7, where its gradient flows, and what it does at norm zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from hccp_jax.losses.contrastive import info_nce
from hccp_jax.losses.sdcl import adaptive_weighted_contrastive, adaptive_weights, weighted_info_nce

from .cases import contrast as oracles

B, P, N, D, TAU = 3, 4, 6, 5, 0.5
ALL = (0, 1, 2, 3)


def draw(seed=0, positives=P):
    """Logits of the positives and negatives, their vectors, and masks with padding in each list."""
    rng = np.random.default_rng(seed)
    shapes = [(B, positives), (B, N), (B, positives, D), (B, N, D)]
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    masks = {"positive_where": rng.random((B, positives)) < 0.7, "negative_where": rng.random((B, N)) < 0.7}
    masks["positive_where"][0], masks["negative_where"][1] = True, True
    return arrays, masks


def loss(*arrays, **rest):
    return adaptive_weighted_contrastive(*arrays, **({"temperature": TAU, "stop_weight_gradient": False} | rest))


literal = jax.jit(jax.value_and_grad(loss, ALL))
stopped = jax.jit(jax.value_and_grad(lambda *arrays, **rest: loss(*arrays, stop_weight_gradient=True, **rest), ALL))
weights_of = jax.jit(adaptive_weights)


def close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def test_weights_are_eq_8():
    (_, zn, xp, xn), masks = draw()
    found = weights_of(zn, xp, xn, **masks, similarity_temperature=0.4, delta=1.5)
    wide = [x.astype(np.float64) for x in (zn, xp, xn)]
    for u in range(B):
        p, n = masks["positive_where"][u], masks["negative_where"][u]
        exact = oracles.adaptive_weights_oracle(wide[0][u, n], wide[1][u, p], wide[2][u, n], 0.4, 1.5)
        np.testing.assert_allclose(found[u][np.ix_(p, n)], exact, rtol=2e-6)
        assert not found[u][~p].any()
        assert not found[u][:, ~n].any()
        np.testing.assert_allclose(exact.sum(-1), 1.5 * (1 + (1 / (1 + np.exp(-wide[0][u, n]))).sum()), rtol=1e-6)


def test_weights_grow_with_similarity_and_with_confidence():
    x, others = jnp.array([[1.0, 0.0]]), jnp.array([[5.0, 0.1], [1.0, 1.0], [-1.0, 0.0]])
    w = weights_of(jnp.zeros(3), x, others)[0]
    assert w[0] > w[1] > w[2] > 0.5
    np.testing.assert_allclose(weights_of(jnp.zeros(3), x, jnp.ones((3, 2))), 1 / 3 + 0.5, rtol=1e-6)
    flat = weights_of(jnp.array([-1e4, 0.0, 1e4]), x, others, similarity_temperature=1e6)
    np.testing.assert_allclose(flat[0], [1 / 3, 1 / 3 + 0.5, 1 / 3 + 1], rtol=1e-5)


def test_with_weight_one_it_is_info_nce():
    (zp, zn, *_), masks = draw(1)
    plain = jax.jit(jax.value_and_grad(lambda zp, zn: info_nce(zp, zn, **masks), (0, 1)))
    ones = jax.jit(jax.value_and_grad(lambda zp, zn: weighted_info_nce(zp, zn, jnp.ones((B, P, N)), **masks), (0, 1)))
    close(ones(zp, zn), plain(zp, zn))


def test_weight_zero_leaves_a_negative_out():
    (zp, zn, *_), _ = draw(2)
    weights = jnp.ones((B, P, N)).at[..., 2].set(0)
    find = jax.jit(jax.value_and_grad(weighted_info_nce, (0, 1, 2)))
    value, (_, slope, of_weights) = find(zp, zn, weights)
    np.testing.assert_allclose(value, jax.jit(info_nce)(zp, np.delete(zn, 2, axis=1)), rtol=1e-6)
    np.testing.assert_array_equal(slope[:, 2], 0)
    assert jnp.isfinite(of_weights).all()
    value, slopes = find(zp, zn, jnp.zeros((B, P, N)))
    assert value == 0
    close(slopes, jax.tree.map(jnp.zeros_like, slopes))
    assert jnp.isnan(find(zp, zn, weights.at[0, 0, 0].set(jnp.nan))[0])


def test_stopped_weights_are_constants():
    arrays, masks = draw(3)
    value, grads = stopped(*arrays, **masks)
    weights = weights_of(arrays[1], *arrays[2:], **masks)
    constant = jax.jit(
        jax.value_and_grad(lambda zp, zn: weighted_info_nce(zp / TAU, zn / TAU, weights, **masks), (0, 1))
    )
    close((value, grads[:2]), constant(*arrays[:2]))
    np.testing.assert_array_equal(grads[2], 0)
    np.testing.assert_array_equal(grads[3], 0)
    np.testing.assert_allclose(value, literal(*arrays, **masks)[0], rtol=1e-6)
    assert np.abs(literal(*arrays, **masks)[1][1] - grads[1]).max() > 1e-3


@pytest.mark.parametrize("positives", [P, 9])  # sums written out, and a product
def test_slope_of_every_input(positives):
    arrays, masks = draw(4, positives)
    with jax.enable_x64(True):
        wide = [x.astype(np.float64) for x in arrays]
        total = jax.jit(lambda *x: loss(*x, **masks, similarity_temperature=0.3, delta=0.8))
        check_grads(total, wide, order=1, modes=("rev",), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("positives", [P, 9])
def test_masked_vectors_may_hold_anything(positives):
    arrays, masks = draw(5, positives)
    real = [masks["positive_where"], masks["negative_where"]] * 2
    dirty = [np.where(w.reshape(w.shape + (1,) * (x.ndim - 2)), x, np.nan) for x, w in zip(arrays, real, strict=True)]
    clean = literal(*arrays, **masks)
    jax.tree.map(np.testing.assert_array_equal, literal(*dirty, **masks), clean)
    for grad, where in zip(clean[1], real, strict=True):
        np.testing.assert_array_equal(grad[~where], 0)
    everything = jax.tree.map(np.ones_like, masks)
    close(literal(*arrays, **everything), literal(*arrays))


def test_lists_without_negatives_or_positives():
    arrays, masks = draw(6)
    none = {name: np.zeros_like(where) for name, where in masks.items()}
    for rest in (none, masks | {"negative_where": none["negative_where"]}):
        value, grads = literal(*arrays, **rest)
        assert value == 0
        jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0), grads)


def test_zero_vectors_have_cosine_zero_and_no_gradient():
    arrays, _ = draw(7)
    arrays[2][0, 0], arrays[3][1], arrays[3][2, 3] = 0, 0, 0
    weights = weights_of(*arrays[1:])
    sigmoid = 1 / (1 + np.exp(-arrays[1]))
    np.testing.assert_allclose(weights[0, 0], 1 / N + sigmoid[0], rtol=1e-6)
    np.testing.assert_allclose(weights[1], np.broadcast_to(1 / N + sigmoid[1], (P, N)), rtol=1e-6)
    value, grads = literal(*arrays)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(grad).all() for grad in grads)
    for grad in (grads[2][0, 0], grads[3][1], grads[3][2, 3]):
        np.testing.assert_array_equal(grad, 0)
    assert grads[2][0, 1].any()


def test_only_the_direction_of_a_vector_counts():
    arrays, _ = draw(8)
    value, grads = literal(*arrays)
    longer = literal(*arrays[:2], arrays[2] * 7, arrays[3] * 0.2)
    close((value, grads[0], grads[1], grads[2] / 7, grads[3] * 5), (longer[0], *longer[1]))
    for x, grad in zip(arrays[2:], grads[2:], strict=True):
        np.testing.assert_allclose(np.sum(x * grad, -1), 0, atol=1e-6)


def test_delta_shifts_the_negatives():
    arrays, _ = draw(9)
    weights = weights_of(*arrays[1:])
    shifted = jax.jit(weighted_info_nce)(arrays[0] / TAU, arrays[1] / TAU + np.log(0.3), weights)
    np.testing.assert_allclose(literal(*arrays, delta=0.3)[0], shifted, rtol=1e-6)


def test_a_real_nan_stays_visible():
    arrays, masks = draw(10)
    for i, x in enumerate(arrays):
        spoiled = [*arrays]
        spoiled[i] = x.copy()
        spoiled[i][(0, 0) if i % 2 == 0 else (1, 0)] = np.nan
        assert jnp.isnan(stopped(*spoiled, **masks)[0]), i


def test_leading_axes_vmap_and_bfloat16():
    arrays, masks = draw(11)
    value, _ = literal(*arrays, **masks)
    lists = jax.jit(jax.vmap(lambda *x: loss(*x[:4], positive_where=x[4], negative_where=x[5])))
    valid = masks["positive_where"].any(-1)
    np.testing.assert_allclose(lists(*arrays, *masks.values())[valid].mean(), value, rtol=1e-6)
    half = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
    rounded = literal(*[x.astype(jnp.float32) for x in half], **masks)
    found = literal(*half, **masks)
    assert found[0].dtype == jnp.float32
    assert {g.dtype for g in found[1]} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(found[0], rounded[0], rtol=2e-3)
    close([g.astype(jnp.float32) for g in found[1]], list(rounded[1]), rtol=3e-2, atol=3e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("fully_optimized")
def test_no_copy_of_the_vectors_is_made():
    shapes = [(16, 5), (16, 60), (16, 5, 256), (16, 60, 256)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    memory = literal.lower(*arrays).compile().memory_analysis()
    assert memory.output_size_in_bytes > 16 * 60 * 256 * 4  # the gradient itself
    assert memory.temp_size_in_bytes < 16 * 60 * 256 * 4 / 2
