import dataclasses

import jax
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
    inputs,
    layer,
    pooled,
    relu,
    softmax,
)
from numpy_tower import float64

from hccp_jax.errors import UserError
from hccp_jax.models.inttower import IntTower, IntTowerConfig, LightSE

CONFIG = IntTowerConfig(id_width=4, category_width=3, layers=(7, 6, 5), user_heads=3, item_heads=2, head_width=4)
MODEL = IntTower(CONFIG, SPEC)


@pytest.fixture(scope="module")
def made():
    batch = draw_batch()
    return MODEL, draw_parameters(MODEL, batch), batch


def light_se(kernel, parts):
    """E + A E with A = softmax(W Z), Z_f the mean of field f."""
    weights = softmax(np.array([part.mean() for part in parts]) @ kernel)
    return np.concatenate([part + weight * part for part, weight in zip(parts, weights, strict=True)])


def towers(p, batch, row, slot):
    """Inputs of the user's layers and its last output; the item's last output."""
    user = [*fields(p, "user", batch.user, row), *pooled(p, batch, row)]
    states = [light_se(p["user_excitation"]["excitation"]["kernel"], user)]
    item = light_se(p["item_excitation"]["excitation"]["kernel"], fields(p, "item", batch.items, row, slot))
    for index in range(len(CONFIG.layers)):
        states.append(relu(layer(p[f"user_layers_{index}"], states[-1])))
        item = relu(layer(p[f"item_layers_{index}"], item))
    return states[:-1], states[-1], item


def definition(p, batch, row, slot, layers=(0, 1, 2)):
    """Mean over layers and user heads of the largest inner product over sqrt(w), head by head, plus the bias."""
    states, _, item = towers(p, batch, row, slot)
    theirs = layer(p["item_part"], item).reshape(CONFIG.item_heads, CONFIG.head_width)
    largest = []
    for index in layers:
        own = layer(p[f"user_parts_{index}"], states[index]).reshape(CONFIG.user_heads, CONFIG.head_width)
        for u in own:
            largest.append(max(u @ v for v in theirs))
    return np.mean(largest) / CONFIG.head_width**0.5 + float(p["bias"])


def test_forward_pass_is_the_definition(made):
    expect(definition, *made)


@pytest.mark.parametrize("only", [0, 2])
def test_one_layer_serves_the_same_parameters(made, only):
    _, parameters, batch = made
    model = IntTower(dataclasses.replace(CONFIG, only_layer=only), SPEC)
    expect(lambda *args: definition(*args, layers=(only,)), model, parameters, batch)
    made_by_it = jax.eval_shape(model.init, jax.random.key(0), *inputs(batch))["params"]
    assert jax.tree.map(np.shape, made_by_it) == jax.tree.map(np.shape, parameters)


def test_light_se_takes_fields_of_any_widths():
    """Weights of the fields sum to F + 1, and the excited sum of equal fields is that of E + E / F."""
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(2, width)).astype(np.float32) for width in (1, 5, 3)]
    module, kernel = LightSE(np.float32), rng.normal(size=(3, 3)).astype(np.float32)
    found = module.apply({"params": {"excitation": {"kernel": kernel}}}, parts)
    for row in range(2):
        expected = light_se(kernel.astype(np.float64), [part[row].astype(np.float64) for part in parts])
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-6)
    ratios = [found[:, start] / part[:, 0] for start, part in zip((0, 1, 6), parts, strict=True)]
    np.testing.assert_allclose(sum(ratios), 4, rtol=1e-5)
    even = module.apply({"params": {"excitation": {"kernel": 0 * kernel}}}, parts)
    np.testing.assert_allclose(even, np.concatenate(parts, axis=-1) * 4 / 3, rtol=1e-6)


def test_everything_gives_the_last_outputs_of_both_towers(made):
    model, parameters, batch = made
    users, items, logits = apply(model, parameters, *inputs(batch), method="everything")
    assert users.shape == (U, CONFIG.layers[-1])
    assert items.shape == (U, K, CONFIG.layers[-1])
    p = float64(parameters)
    for row in range(U):
        for slot in range(K):
            _, user, item = towers(p, batch, row, slot)
            np.testing.assert_allclose(users[row], user, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(items[row, slot], item, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logits, apply(model, parameters, *inputs(batch)), rtol=1e-6, atol=2e-6)


def test_user_sub_vectors_come_from_inputs_and_item_ones_from_the_last_output(made):
    """So the user's last layer has no part in a score, and the item's first layer has one."""
    model, parameters, batch = made
    logits = apply(model, parameters, *inputs(batch))

    def without(name):
        return apply(model, parameters | {name: jax.tree.map(np.zeros_like, parameters[name])}, *inputs(batch))

    np.testing.assert_array_equal(without("user_layers_2"), logits)
    for name in ("user_layers_0", "user_layers_1", "item_layers_0", "item_layers_2"):
        assert np.abs(without(name) - logits).max() > 1e-3, name


def test_an_item_stores_its_sub_vectors_only(made):
    model, parameters, batch = made
    side = apply(model, parameters, batch.items, method="item_side")
    assert side.shape == (U, K, CONFIG.item_heads, CONFIG.head_width)


@pytest.mark.parametrize(("change", "message"), [({"only_layer": 3}, "only_layer=3"), ({"layers": ()}, "layers")])
def test_layers_are_checked(made, change, message):
    model = IntTower(dataclasses.replace(CONFIG, **change), SPEC)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), *inputs(made[2]))


def test_padding_does_not_change_a_real_score(made):
    expect_padding_to_change_nothing(*made)


def test_precomputed_items_serve_every_request(made):
    expect_precomputed_items_to_serve(*made)


@pytest.mark.slow
def test_bfloat16_computes_near_float32_and_returns_it(made):
    """The user's last layer is trained by the contrastive regulariser alone, so it has no gradient here."""
    model, parameters, batch = made
    expect_half_precision(model, parameters, batch, without_gradient=("user_layers_2",))
