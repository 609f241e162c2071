import dataclasses

import jax
import numpy as np
import pytest
from drawn_batch import (
    SPEC,
    apply,
    draw_batch,
    draw_parameters,
    expect,
    expect_half_precision,
    expect_padding_to_change_nothing,
    expect_precomputed_items_to_serve,
    fields,
    inputs,
    layer,
    pooled,
    relu,
    unit,
)

from hccp_jax.models.two_tower import TwoTower, TwoTowerConfig

CONFIG = TwoTowerConfig(id_width=4, category_width=3, vector=6, hidden=7)
MODEL = TwoTower(CONFIG, SPEC)
FREE = TwoTower(dataclasses.replace(CONFIG, normalize=False), SPEC)


@pytest.fixture(scope="module")
def made():
    batch = draw_batch()
    return MODEL, draw_parameters(MODEL, batch), batch


def towers(p, batch, row, slot):
    """Both vectors before normalisation."""
    user = np.concatenate([*fields(p, "user", batch.user, row), *pooled(p, batch, row)])
    item = np.concatenate(fields(p, "item", batch.items, row, slot))
    return tuple(
        layer(p[f"{side}_output"], relu(layer(p[f"{side}_hidden"], x))) for side, x in (("user", user), ("item", item))
    )


def definition(p, batch, row, slot):
    user, item = towers(p, batch, row, slot)
    return p["scale"] * (user @ item) / np.linalg.norm(user) / np.linalg.norm(item) + p["bias"]


def free_definition(p, batch, row, slot):
    user, item = towers(p, batch, row, slot)
    return p["scale"] * (user @ item) + p["bias"]


def test_forward_pass_is_the_definition(made):
    expect(definition, *made)
    expect(free_definition, FREE, *made[1:])


def test_padding_does_not_change_a_real_score(made):
    expect_padding_to_change_nothing(*made)


def test_precomputed_items_serve_every_request(made):
    expect_precomputed_items_to_serve(*made)


@pytest.mark.slow
def test_bfloat16_computes_near_float32_and_returns_it(made):
    expect_half_precision(*made)


@pytest.mark.parametrize("model", [MODEL, FREE])
def test_vectors_are_those_of_the_score(made, model):
    _, parameters, batch = made
    users, items = apply(model, parameters, *inputs(batch)[:4], method="vectors")
    p = parameters
    expected = [[towers(p, batch, row, slot)[1] for slot in range(5)] for row in range(3)]
    if model is MODEL:
        expected = unit(np.array(expected))
    np.testing.assert_allclose(items, expected, rtol=1e-5, atol=1e-5)
    logits = np.einsum("ud,ukd->uk", users, items) * p["scale"] + p["bias"]
    np.testing.assert_allclose(logits, apply(model, p, *inputs(batch))[:, 0], rtol=1e-5, atol=1e-5)


def test_cross_features_are_not_used(made):
    model, parameters, batch = made
    logits = apply(model, parameters, *inputs(batch))
    np.testing.assert_array_equal(apply(model, parameters, *inputs(batch.replace(cross=10 * batch.cross))), logits)


def test_a_cosine_begins_with_room_for_click_rates(made):
    """Scale 5 and bias 0: logits in [-5, 5]; free dot products begin as they are."""
    _, parameters, batch = made

    def begin(model):
        return jax.jit(lambda key: [model.init(key, *inputs(batch))["params"][name] for name in ("scale", "bias")])

    assert begin(MODEL)(jax.random.key(0)) == [5.0, 0.0]
    assert begin(FREE)(jax.random.key(0)) == [1.0, 0.0]
    logits = apply(MODEL, parameters | {"scale": np.float32(5), "bias": np.float32(0)}, *inputs(batch))
    assert 1.0 < np.abs(logits).max() <= 5.00001
