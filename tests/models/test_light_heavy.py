"""The light and the heavy model against a float64 transcription, slot by slot, of MLPs over [u, i, u * i]."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_tower import float64
from test_three_tower import SPEC, H, K, U, draw_batch, draw_parameters, inputs

from hccp_jax import config
from hccp_jax.errors import UserError
from hccp_jax.models.light_heavy import HapConfig, LightHeavy, TowerConfig

CONFIG = HapConfig(
    light=TowerConfig(vector=4, hidden=5, width=6, layers=2),
    heavy=TowerConfig(vector=6, hidden=7, width=8, layers=3),
    id_width=4,
    category_width=3,
    cross=True,
)
APART = dataclasses.replace(CONFIG, tables="separate", cross=False)
FROZEN = dataclasses.replace(CONFIG, tables="frozen")


def dense(layer, x):
    return x @ layer["kernel"] + layer.get("bias", 0)


def relu(x):
    return np.maximum(x, 0)


def tables(p, kind, features, *index, dense_too=True):
    parts = [p[f"{kind}_id"][f"{kind}_rows"][features["id"][index]]]
    parts += [p[f"{kind}_category"]["embedding"][field] for field in features["categorical"][index]]
    return np.concatenate([*parts, features["dense"][index]] if dense_too else parts)


def vector(p, kind, x):
    return dense(p[f"{kind}_output"], relu(dense(p[f"{kind}_hidden"], x)))


def mlp(p, u, i, more=0.0):
    h = relu(np.concatenate([u, i, u * i]) @ p["first"] + p["first_bias"] + more)
    layer = 0
    while f"deeper_{layer}" in p:
        h = relu(dense(p[f"deeper_{layer}"], h))
        layer += 1
    return (h @ p["output"] + p["output_bias"])[0]


def attention(p, i, past):
    if not len(past):
        return 0.0
    scores = np.array([i @ dense(p["keys"], h) for h in past]) / np.sqrt(len(i))
    weights = np.exp(scores) / np.exp(scores).sum()
    return sum(w * dense(p["values"], h) for w, h in zip(weights, past, strict=True))


def by_hand(parameters, settings, batch):
    """[U, 2, K]."""
    p, batch = float64(parameters), {name: float64(leaf) for name, leaf in vars(batch).items()}
    user, history, items = batch["user"], batch["history"], batch["items"]
    logits = np.zeros((U, 2, K))
    for row in range(U):
        slots = np.flatnonzero(batch["history_mask"][row])
        for model, (name, layers) in enumerate((("light", p["light"]), ("heavy", p["heavy"]))):
            own = p["heavy_embeddings"] if name == "heavy" and settings.tables == "separate" else p["embeddings"]
            past = [tables(own, "item", history, row, slot, dense_too=False) for slot in slots]
            pooled = []
            for group in range(SPEC.history_groups):
                weights = history["groups"][row, slots, group]
                some = weights.sum() > 0
                width = settings.id_width + 2 * settings.category_width
                pooled.append(np.average(past, axis=0, weights=weights) if some else np.zeros(width))
            u = vector(layers, "user", np.concatenate([tables(own, "user", user, row), *pooled]))
            for slot in range(K):
                i = vector(layers, "item", tables(own, "item", items, row, slot))
                more = 0.0
                if name == "heavy":
                    more = attention(p, i, past)
                    more = more + dense(p["cross"], batch["cross"][row, slot]) if settings.cross else more
                logits[row, model, slot] = mlp(layers, u, i, more)
    return logits


@pytest.fixture(scope="module")
def run():
    """(config, parameters, inputs) -> logits; one compiled program a config and shape."""
    compiled = {}

    def forward(settings, parameters, arguments):
        if settings not in compiled:
            compiled[settings] = jax.jit(lambda p, a: LightHeavy(settings, SPEC).apply({"params": p}, *a))
        return compiled[settings](parameters, arguments)

    return forward


@pytest.fixture(scope="module")
def parameters():
    return {settings: draw_parameters(LightHeavy(settings, SPEC), draw_batch()) for settings in (CONFIG, APART, FROZEN)}


@pytest.mark.parametrize("settings", [CONFIG, APART], ids=["shared", "separate"])
def test_forward_pass_is_the_definition(run, parameters, settings):
    found = run(settings, parameters[settings], inputs(draw_batch()))
    assert found.shape == (U, 2, K)
    assert found.dtype == jnp.float32
    expected = by_hand(parameters[settings], settings, draw_batch())
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    assert np.ptp(expected[:, 0]) > 0.1
    assert np.ptp(expected[:, 1]) > 0.1


def test_the_light_model_reads_no_cross_features(run, parameters):
    batch = draw_batch()
    before = run(CONFIG, parameters[CONFIG], inputs(batch))
    after = run(CONFIG, parameters[CONFIG], inputs(batch.replace(cross=batch.cross + 1)))
    np.testing.assert_array_equal(before[:, 0], after[:, 0])
    assert np.abs(before[:, 1] - after[:, 1]).min() > 0
    assert "cross" not in parameters[APART]
    other = run(APART, parameters[APART], inputs(batch.replace(cross=batch.cross + 1)))
    np.testing.assert_array_equal(other, run(APART, parameters[APART], inputs(batch)))


def test_padding_does_not_change_a_real_score(run, parameters):
    batch, other = draw_batch(), draw_batch(seed=5)
    logits = run(CONFIG, parameters[CONFIG], inputs(batch))
    history = {
        name: np.where(batch.history_mask.reshape(U, H, *[1] * (leaf.ndim - 2)), leaf, other.history[name])
        for name, leaf in batch.history.items()
    }
    found = run(CONFIG, parameters[CONFIG], inputs(batch.replace(history=history)))
    np.testing.assert_array_equal(found, logits)
    items = {name: np.concatenate([leaf, other.items[name]], axis=1) for name, leaf in batch.items.items()}
    more = batch.replace(items=items, cross=np.concatenate([batch.cross, other.cross], axis=1))
    more = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf[::-1]]), inputs(more))
    found = run(CONFIG, parameters[CONFIG], more)
    np.testing.assert_allclose(found[:U, :, :K], logits, rtol=1e-5, atol=1e-6)


def test_item_sides_of_a_whole_catalogue_serve_every_request(run, parameters):
    rng = np.random.default_rng(3)
    catalogue = {
        "id": np.arange(SPEC.items, dtype=np.int32),
        "categorical": rng.integers(0, SPEC.item_categories, (SPEC.items, 2), np.int32),
        "dense": rng.normal(size=(SPEC.items, 3)).astype(np.float32),
    }
    batch = draw_batch()
    ids = batch.items["id"]
    batch = batch.replace(items={name: table[ids] for name, table in catalogue.items()}, cross=None)
    module, p = LightHeavy(CONFIG, SPEC), {"params": parameters[CONFIG]}

    @jax.jit
    def ahead(p):
        users = module.apply(p, *inputs(batch)[:3], method="user_side")
        sides = module.apply(p, catalogue, method="item_side")
        lists = jax.tree.map(lambda leaf: leaf[ids], sides)
        return [module.apply(p, users, items, None, method="pair_logits") for items in (lists, sides)]

    listed, shared = ahead(p)
    logits = run(CONFIG, parameters[CONFIG], inputs(batch))
    scale = np.abs(logits).max()
    np.testing.assert_allclose(listed, logits, atol=1e-6 * scale)
    taken = np.take_along_axis(np.asarray(shared), ids[:, None, :], axis=2)
    np.testing.assert_allclose(taken, logits, atol=1e-6 * scale)


def test_attention_looks_at_a_set_and_is_nothing_without_history(run, parameters):
    batch, p = draw_batch(), parameters[CONFIG]
    backwards = jax.tree.map(lambda leaf: leaf[:, ::-1], (batch.history, batch.history_mask))
    turned = batch.replace(history=backwards[0], history_mask=backwards[1])
    logits = run(CONFIG, p, inputs(batch))
    np.testing.assert_allclose(run(CONFIG, p, inputs(turned)), logits, rtol=1e-5, atol=1e-6)
    without = run(CONFIG, {**p, "values": jax.tree.map(jnp.zeros_like, p["values"])}, inputs(batch))
    assert not batch.history_mask[0].any()
    np.testing.assert_array_equal(without[0], logits[0])
    np.testing.assert_array_equal(without[:, 0], logits[:, 0])
    assert np.abs(without[1:, 1] - logits[1:, 1]).min() > 0


@pytest.mark.parametrize("settings", [CONFIG, APART, FROZEN], ids=["shared", "separate", "frozen"])
def test_the_models_touch_in_the_tables_alone(parameters, settings):
    batch = draw_batch()

    @jax.jit
    def slopes(p):
        def loss(p, model):
            return jnp.sum(jnp.square(LightHeavy(settings, SPEC).apply({"params": p}, *inputs(batch))[:, model]))

        return [jax.grad(loss)(p, model) for model in (0, 1)]

    light, heavy = (
        {name: max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree)) for name, tree in gradient.items()}
        for gradient in slopes(parameters[settings])
    )
    only_heavy = {"heavy", "keys", "values", *(["cross"] if settings.cross else [])}
    only_heavy |= {"heavy_embeddings"} if settings.tables == "separate" else set()
    assert light.keys() == heavy.keys() == {"light", "embeddings", *only_heavy}
    assert {name for name, largest in light.items() if largest > 0} == {"light", "embeddings"}
    learns_tables = {"embeddings"} if settings.tables == "shared" else set()
    assert {name for name, largest in heavy.items() if largest > 0} == only_heavy | learns_tables


def test_frozen_tables_change_no_score(run, parameters):
    found = run(FROZEN, parameters[CONFIG], inputs(draw_batch()))
    np.testing.assert_allclose(found, run(CONFIG, parameters[CONFIG], inputs(draw_batch())), rtol=1e-6)


@pytest.mark.slow
def test_bfloat16_computes_near_float32_and_returns_it(run, parameters):
    half = dataclasses.replace(CONFIG, dtype="bfloat16")
    full = run(CONFIG, parameters[CONFIG], inputs(draw_batch()))
    found = run(half, parameters[CONFIG], inputs(draw_batch()))
    assert found.dtype == jnp.float32
    assert 0 < np.abs(full - found).max() < 0.03 * np.abs(full).max()
    # the last sum is not rounded to bfloat16
    assert (found != found.astype(jnp.bfloat16).astype(jnp.float32)).any()
    created = jax.eval_shape(LightHeavy(half, SPEC).init, jax.random.key(0), *inputs(draw_batch()))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(created))


@pytest.mark.parametrize(
    ("name", "value"), [("light.layers", 0), ("heavy.vector", 0), ("tables", "both"), ("dtype", "float16")]
)
def test_impossible_sizes_are_refused(name, value):
    with pytest.raises(UserError, match=name):
        config.override(CONFIG, {name: value})
