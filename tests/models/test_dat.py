import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_batch import (
    SPEC,
    K,
    U,
    apply,
    draw_batch,
    draw_parameters,
    expect,
    expect_half_precision,
    expect_padding_to_change_nothing,
    expect_precomputed_items_to_serve,
    fields,
    gradients,
    inputs,
    layer,
    pooled,
    relu,
)

from hccp_jax.models.dat import DatConfig, DualAugmentedTower

CONFIG = DatConfig(id_width=4, category_width=3, vector=6, hidden=7)
MODEL = DualAugmentedTower(CONFIG, SPEC)
PLAIN = DualAugmentedTower(dataclasses.replace(CONFIG, scaled=False), SPEC)


@pytest.fixture(scope="module")
def made():
    batch = draw_batch()
    parameters = draw_parameters(MODEL, batch)
    # no output is cut off for all requests by the last ReLU
    for side in ("user", "item"):
        parameters[f"{side}_output"]["bias"] = np.abs(parameters[f"{side}_output"]["bias"]) + 0.5
    return MODEL, parameters, batch


def towers(p, batch, row, slot):
    """(p_u, a_u, p_v, a_v) of one pair."""
    found = []
    sides = (
        ("user", batch.user, (row,), [*fields(p, "user", batch.user, row), *pooled(p, batch, row)]),
        ("item", batch.items, (row, slot), fields(p, "item", batch.items, row, slot)),
    )
    for side, features, index, x in sides:
        augmented = p[f"{side}_augmented"][f"{side}_rows"][features["id"][index]]
        x = relu(layer(p[f"{side}_hidden"], np.concatenate([*x, augmented])))
        x = layer(p[f"{side}_output"], x)
        found += [x / np.sqrt(np.sum(x * x)), augmented]
    return found


def definition(p, batch, row, slot):
    user, _, item, _ = towers(p, batch, row, slot)
    return p["scale"] * (user @ item) + p["bias"]


def plain_definition(p, batch, row, slot):
    user, _, item, _ = towers(p, batch, row, slot)
    return user @ item


def test_forward_pass_is_the_definition(made):
    _, parameters, batch = made
    expect(definition, *made)
    expect(plain_definition, PLAIN, {name: x for name, x in parameters.items() if name not in ("scale", "bias")}, batch)


def test_padding_does_not_change_a_real_score(made):
    expect_padding_to_change_nothing(*made)


def test_precomputed_items_serve_every_request(made):
    expect_precomputed_items_to_serve(*made)


@pytest.mark.slow
def test_bfloat16_computes_near_float32_and_returns_it(made):
    expect_half_precision(*made)


def test_everything_is_what_the_losses_need(made):
    model, parameters, batch = made
    users, own, items, theirs, logits = apply(model, parameters, *inputs(batch), method="everything")
    assert users.shape == own.shape == (U, CONFIG.vector)
    assert items.shape == theirs.shape == (U, K, CONFIG.vector)
    np.testing.assert_allclose(logits, apply(model, parameters, *inputs(batch)), rtol=1e-6, atol=1e-6)
    for row in range(U):
        for slot in range(K):
            expected = towers(parameters, batch, row, slot)
            found = users[row], own[row], items[row, slot], theirs[row, slot]
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(users, axis=-1), 1, rtol=1e-5)
    assert users.min() < 0  # the last layer is linear


def test_augmented_vectors_are_parameters_of_their_ids_and_not_drawn(made):
    """The same in two forward passes and in two batches; different for different ids."""
    model, parameters, batch = made
    passes = [apply(model, parameters, *inputs(batch), method="everything") for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, *passes)
    turned = batch.replace(user={name: leaf[::-1] for name, leaf in batch.user.items()})
    own, theirs = apply(model, parameters, turned.user, turned.items, method="augmented")
    np.testing.assert_array_equal(own[::-1], passes[0][1])
    np.testing.assert_array_equal(theirs, passes[0][3])
    assert len(np.unique(own, axis=0)) == len(np.unique(batch.user["id"])) == U
    rows = np.asarray(theirs).reshape(-1, CONFIG.vector)
    assert len(np.unique(rows, axis=0)) == len(np.unique(batch.items["id"]))
    # they are inputs of the towers, and learn through them
    for name, ids in (("user_augmented", batch.user["id"]), ("item_augmented", batch.items["id"])):
        gradient = gradients(model, parameters, batch)[name][f"{name.split('_')[0]}_rows"]
        assert np.abs(gradient[np.unique(ids)]).max() > 0
        np.testing.assert_array_equal(gradient[0], 0)


def test_a_zero_output_is_a_zero_vector_with_finite_gradients(made):
    _, parameters, batch = made
    dead = jax.tree.map(lambda leaf: leaf, parameters)
    dead["user_output"] = jax.tree.map(np.zeros_like, dead["user_output"])
    logits = apply(MODEL, dead, *inputs(batch))
    np.testing.assert_allclose(logits, jnp.broadcast_to(dead["bias"], logits.shape))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients(MODEL, dead, batch)))
