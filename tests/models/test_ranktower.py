import dataclasses

import jax
import jax.numpy as jnp
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
    sigmoid,
    softmax,
)

from hccp_jax.models.ranktower import GatedHeads, RankTower, RankTowerConfig

CONFIG = RankTowerConfig(
    id_width=4, category_width=3, hidden=7, user_heads=3, item_heads=2, head_width=4, attention=5, temperature=0.2
)
MODEL = RankTower(CONFIG, SPEC)
MEAN = RankTower(dataclasses.replace(CONFIG, mean_over_heads=True), SPEC)


@pytest.fixture(scope="module")
def made():
    batch = draw_batch()
    return MODEL, draw_parameters(MODEL, batch), batch


def heads(p, side, x):
    """Eq 1, 2: MLP(X)^h * sigmoid(gMLP(X))^h, [H, k]."""
    p = p[f"{side}_heads"]
    value, gate = (layer(p[f"{name}_output"], relu(layer(p[f"{name}_hidden"], x))) for name in ("value", "gate"))
    return (value * sigmoid(gate)).reshape(-1, CONFIG.head_width)


def attended(p, asking_side, asked_side, asking, asked):
    """LN(E + GAU(Q = E, K = V = E')) of Eq 3-7, query by query."""
    kernel = {
        name: p[f"{side}_projections"][name]["kernel"]
        for side, names in ((asking_side, ("query", "gate")), (asked_side, ("key", "value")))
        for name in names
    }

    def silu(x):
        return x * sigmoid(x)

    keys, values = silu(asked @ kernel["key"]), silu(asked @ kernel["value"])
    rows = []
    for e in asking:
        query, gate = silu(e @ kernel["query"]), sigmoid(e @ kernel["gate"])
        weights = softmax(np.array([query @ key for key in keys]) / np.sqrt(CONFIG.attention))
        read = sum(w * value for w, value in zip(weights, values, strict=True))
        x = e + (gate * read) @ p[f"{asking_side}_attended"]["kernel"]
        norm = p[f"{asking_side}_norm"]
        rows.append((x - x.mean()) / np.sqrt(x.var() + 1e-6) * norm["scale"] + norm["bias"])
    return rows


def similarities(p, batch, row, slot):
    """[H_u] largest cosine of each user head, Eq 8."""
    user = heads(p, "user", np.concatenate([*fields(p, "user", batch.user, row), *pooled(p, batch, row)]))
    item = heads(p, "item", np.concatenate(fields(p, "item", batch.items, row, slot)))
    users, items = attended(p, "user", "item", user, item), attended(p, "item", "user", item, user)
    return [max(u @ i / np.linalg.norm(u) / np.linalg.norm(i) for i in items) for u in users]


def test_forward_pass_is_the_definition(made):
    model, parameters, batch = made
    expect(lambda p, *where: sum(similarities(p, *where)) / np.exp(p["log_temperature"]), model, parameters, batch)
    expect(lambda p, *where: np.mean(similarities(p, *where)) / np.exp(p["log_temperature"]), MEAN, parameters, batch)


def test_temperature_begins_at_its_setting_and_is_learned(made):
    model, parameters, batch = made
    start = jax.jit(lambda key: model.init(key, *inputs(batch))["params"]["log_temperature"])(jax.random.key(0))
    np.testing.assert_allclose(np.exp(start), 0.2, rtol=1e-6)
    warm = parameters | {"log_temperature": np.float32(np.log(0.1))}
    cold = parameters | {"log_temperature": np.float32(np.log(0.2))}
    found = apply(model, warm, *inputs(batch))
    np.testing.assert_allclose(found, 2 * apply(model, cold, *inputs(batch)), rtol=1e-5)
    assert np.abs(found).max() <= CONFIG.user_heads / 0.1 * 1.00001


def test_the_input_gets_no_gradient_from_the_gate(made):
    """The gradient of X is that of a gate held fixed; the gate's own layers learn."""
    _, parameters, _ = made
    p = parameters["item_heads"]
    module = GatedHeads(CONFIG.hidden, CONFIG.item_heads, CONFIG.head_width, jnp.float32)
    x = np.random.default_rng(2).normal(size=(4, p["gate_hidden"]["kernel"].shape[0])).astype(np.float32)
    gate = sigmoid(layer(p["gate_output"], relu(layer(p["gate_hidden"], x))))

    def found(x, p):
        return jnp.sum(jnp.sin(module.apply({"params": p}, x)))

    def fixed(x):
        value = layer(p["value_output"], jax.nn.relu(layer(p["value_hidden"], x)))
        return jnp.sum(jnp.sin(value * gate))

    of_input, of_layers = jax.jit(jax.grad(found, argnums=(0, 1)))(x, p)
    np.testing.assert_allclose(of_input, jax.jit(jax.grad(fixed))(x), rtol=1e-4, atol=1e-5)
    assert np.abs(of_input).max() > 0.01
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(of_layers))
    # with the value held fixed nothing reaches the input
    silent = p | {"value_hidden": jax.tree.map(np.zeros_like, p["value_hidden"])}
    of_input = jax.jit(jax.grad(found))(x, silent)
    np.testing.assert_array_equal(of_input, 0)
    assert np.abs(jax.jit(jax.grad(found, argnums=1))(x, silent)["gate_hidden"]["kernel"]).max() > 0


def test_both_directions_of_attention_count(made):
    model, parameters, batch = made
    logits = apply(model, parameters, *inputs(batch))
    for name in ("user_attended", "item_attended"):
        other = apply(model, parameters | {name: {"kernel": 0 * parameters[name]["kernel"]}}, *inputs(batch))
        assert np.abs(other - logits).max() > 1e-2, name


def test_padding_does_not_change_a_real_score(made):
    expect_padding_to_change_nothing(*made)


def test_precomputed_items_serve_every_request(made):
    expect_precomputed_items_to_serve(*made)


@pytest.mark.slow
def test_bfloat16_computes_near_float32_and_returns_it(made):
    expect_half_precision(*made)
