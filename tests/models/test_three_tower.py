import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpy_tower
import pytest
from drawn_batch import SPEC, H, K, U, draw_batch, draw_parameters, from_catalogue, inputs

from hccp_jax.models.three_tower import ModelConfig, ThreeTower

CONFIG = ModelConfig(
    id_width=4, category_width=3, vector=8, hidden=6, experts=2, expert_width=5, cross_hidden=4, normalize=False
)
HEADS = ("click", "purchase", "consistency")


def apply(tower, parameters, *args, method=ThreeTower.everything):
    return tower.apply({"params": parameters}, *args, method=method)


@pytest.fixture(scope="module")
def made():
    tower, batch = ThreeTower(CONFIG, SPEC, HEADS), draw_batch()
    return tower, draw_parameters(tower, batch), batch


@pytest.mark.parametrize("normalize", [False, True])
def test_forward_pass_is_the_definition(made, normalize):
    _, parameters, batch = made
    config = dataclasses.replace(CONFIG, normalize=normalize)
    found = apply(ThreeTower(config, SPEC, HEADS), parameters, *inputs(batch))
    expected = numpy_tower.forward(parameters, config, len(HEADS), batch)
    for name, a, b in zip(("users", "items", "dots", "logits"), found, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)


def test_without_cross_features_the_score_is_the_weighted_dot_product(made):
    spec = dataclasses.replace(SPEC, cross=0)
    tower, batch = ThreeTower(CONFIG, spec, HEADS), draw_batch(spec=spec)
    parameters = draw_parameters(tower, batch)
    assert not any("cross_hidden" in name or "cross_output" in name for name in parameters)
    *_, dots, logits = apply(tower, parameters, *inputs(batch))
    offsets = apply(tower, parameters, *inputs(batch)[:3], method=ThreeTower.user_side).offsets
    expected = dots * parameters["dot_weight"][:, None] + offsets[..., None]
    np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(logits, numpy_tower.forward(parameters, CONFIG, 3, batch)[3], rtol=1e-5, atol=1e-5)


def test_a_tower_with_cross_features_takes_none_for_pairs_without_them(made):
    """None gives no cross score; zeros give that of a zero vector. The dot products are the same."""
    tower, parameters, batch = made
    _, items, dots, _ = apply(tower, parameters, *inputs(batch))
    users = apply(tower, parameters, *inputs(batch)[:3], method=ThreeTower.user_side)
    method = ThreeTower.pair_scores
    same, bare = apply(tower, parameters, users, items, None, method=method)
    np.testing.assert_array_equal(same, dots)
    expected = dots * parameters["dot_weight"][:, None] + users.offsets[..., None]
    np.testing.assert_allclose(bare, expected, rtol=1e-6, atol=1e-6)
    zeros = apply(tower, parameters, users, items, np.zeros((U, K, 3), np.float32), method=method)[1]
    hidden = np.maximum(parameters["cross_hidden"]["bias"], 0)
    constant = hidden @ parameters["cross_output"]["kernel"] + parameters["cross_output"]["bias"]
    shift = (parameters["cross_weight"] * constant)[:, None]
    np.testing.assert_allclose(zeros, bare + shift, rtol=1e-5, atol=1e-5)


def test_the_users_offset_ranks_nothing(made):
    """It moves all candidates of a request alike, and is there for calibration."""
    tower, parameters, batch = made
    logits = apply(tower, parameters, *inputs(batch))[3]
    without = apply(tower, {**parameters, "user_offset": 0 * parameters["user_offset"]}, *inputs(batch))[3]
    moved = np.asarray(logits - without)
    np.testing.assert_allclose(moved, np.broadcast_to(moved[..., :1], moved.shape), atol=1e-6)
    assert np.ptp(moved[:, 0, 0]) > 1e-3


def test_empty_history_gives_zero_pooled_vectors(made):
    tower, parameters, batch = made
    pooled = apply(
        tower, parameters, batch.history, batch.history_mask, method=lambda m, h, k: m.embeddings.history(h, k)
    )
    width = CONFIG.id_width + 2 * CONFIG.category_width
    np.testing.assert_array_equal(pooled[0], 0)  # no history at all
    np.testing.assert_array_equal(pooled[1, width:], 0)  # none in the second group
    assert np.abs(pooled[1, :width]).max() > 0


def test_padding_does_not_change_a_real_score(made):
    tower, parameters, batch = made
    logits = apply(tower, parameters, *inputs(batch))[3]
    other = draw_batch(seed=5)
    history = {
        name: np.where(batch.history_mask.reshape(U, H, *[1] * (leaf.ndim - 2)), leaf, other.history[name])
        for name, leaf in batch.history.items()
    }
    np.testing.assert_array_equal(logits, apply(tower, parameters, *inputs(batch.replace(history=history)))[3])

    def padded(leaf, filler):
        return np.concatenate([leaf, filler], axis=1)

    items = {name: padded(leaf, other.items[name]) for name, leaf in batch.items.items()}
    more = batch.replace(items=items, cross=padded(batch.cross, other.cross))
    found = apply(tower, parameters, *inputs(more))[3]
    np.testing.assert_allclose(found[..., :K], logits, rtol=1e-6, atol=1e-6)

    rows = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf[::-1]]), inputs(batch))
    np.testing.assert_allclose(apply(tower, parameters, *rows)[3][:U], logits, rtol=1e-6, atol=1e-6)


def test_item_vectors_of_a_whole_catalogue_serve_every_request(made):
    tower, parameters, batch = made
    catalogue, batch = from_catalogue(batch)
    ids = batch.items["id"]
    *_, dots, logits = apply(tower, parameters, *inputs(batch))
    users = apply(tower, parameters, *inputs(batch)[:3], method=ThreeTower.user_side)
    vectors = apply(tower, parameters, catalogue, method=ThreeTower.item_side)
    found = apply(tower, parameters, users, vectors[ids], batch.cross, method=ThreeTower.pair_scores)
    np.testing.assert_allclose(found[0], dots, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[1], logits, rtol=1e-6, atol=1e-6)
    shared = apply(tower, parameters, users, vectors, None, method=ThreeTower.pair_scores)[0]
    taken = np.take_along_axis(np.asarray(shared), ids[:, None, :], axis=2)  # [K, d] shared by all users
    np.testing.assert_allclose(taken, dots, rtol=1e-6, atol=1e-6)


def test_normalized_vectors_give_cosines(made):
    tower, parameters, batch = made
    users, items, _, _ = apply(tower, parameters, *inputs(batch))
    config = dataclasses.replace(CONFIG, normalize=True)
    unit_users, unit_items, cosines, _ = apply(ThreeTower(config, SPEC, HEADS), parameters, *inputs(batch))
    for vectors in (unit_users, unit_items):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=1e-6)
    products = np.linalg.norm(users, axis=-1)[:, :, None] * np.linalg.norm(items, axis=-1)[:, None, :]
    np.testing.assert_allclose(cosines, np.einsum("utd,ukd->utk", users, items) / products, rtol=1e-5, atol=1e-6)


def test_bfloat16_computes_near_float32_and_returns_it(made):
    tower, parameters, batch = made
    half = ThreeTower(dataclasses.replace(CONFIG, dtype="bfloat16"), SPEC, HEADS)

    def compiled(module):  # op by op, a CPU has no bfloat16 products with float32 sums
        return jax.jit(lambda p: apply(module, p, *inputs(batch)))(parameters)

    full, found = compiled(tower), compiled(half)
    for name, a, b in zip(("users", "items", "dots", "logits"), full, found, strict=True):
        assert b.dtype == jnp.float32, name
        assert np.abs(a - b).max() < 0.03 * np.abs(a).max(), name
        assert np.abs(a - b).max() > 0, name
    made_by_half = jax.eval_shape(half.init, jax.random.key(0), *inputs(batch))["params"]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(made_by_half))

    def loss(parameters):
        return jnp.mean(jnp.square(apply(half, parameters, *inputs(batch))[3]))

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(parameters)):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0
