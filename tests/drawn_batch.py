"""A small batch with features of every kind, drawn parameters, and what every architecture must hold."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from numpy_tower import float64

from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.requests import RequestBatch

SPEC = FeatureSpec(7, 30, 5, 9, ("click", "purchase"), history_groups=2, cross=3)
U, K, H = 3, 5, 4


def draw_batch(seed=0, spec=SPEC) -> RequestBatch:
    """The first request has no history, the second none in its second group; users are different."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    groups = rng.integers(0, 2, (U, H, 2)).astype(np.float32)
    groups[:, 0, 0] = groups[2, 1, 1] = 1
    groups[1, :, 1] = 0
    return RequestBatch(
        user={
            "id": 1 + rng.permutation(spec.users - 1)[:U].astype(np.int32),
            "categorical": rng.integers(0, spec.user_categories, (U, 2), np.int32),
            "dense": normal(U, 2),
        },
        history={
            "id": rng.integers(1, spec.items, (U, H), np.int32),
            "categorical": rng.integers(1, spec.item_categories, (U, H, 2), np.int32),
            "groups": groups,
        },
        history_mask=np.array([[False] * H, [True] * H, [True, True, False, False]]),
        items={
            "id": rng.integers(1, spec.items, (U, K), np.int32),
            "categorical": rng.integers(1, spec.item_categories, (U, K, 2), np.int32),
            "dense": normal(U, K, 3),
        },
        cross=normal(U, K, spec.cross) if spec.cross else None,
        stage=None,
        rank=None,
        labels={},
        teacher={},
        mask=np.ones((U, K), bool),
    )


def inputs(batch):
    return batch.user, batch.history, batch.history_mask, batch.items, batch.cross


def draw_parameters(model, batch, seed=1):
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs(batch))["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (0.5 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)


def apply(model, parameters, *args, method=None):
    return _compiled(model, method)(parameters, *args)


@cache
def _compiled(model, method):
    """Op by op, a CPU has no products of bfloat16 with float32 sums."""
    return jax.jit(lambda p, *args: model.apply({"params": p}, *args, method=method))


def fields(p, kind, features, *index):
    """Vectors of the fields of one user ("user") or item ("item"): the id, each category, the dense features."""
    tables = p["embeddings"]
    found = [tables[f"{kind}_id"][f"{kind}_rows"][features["id"][index]]]
    found += [tables[f"{kind}_category"]["embedding"][value] for value in features["categorical"][index]]
    return [*found, features["dense"][index].astype(np.float64)] if "dense" in features else found


def pooled(p, batch, row):
    """Mean of one request's past items for each group; zero for an empty one."""
    groups = []
    for group in range(batch.history["groups"].shape[-1]):
        total, count = 0.0, 0.0
        for slot in np.flatnonzero(batch.history_mask[row]):
            weight = batch.history["groups"][row, slot, group]
            total = total + weight * np.concatenate(fields(p, "item", batch.history, row, slot))
            count += weight
        groups.append(total / count if count else np.zeros(sum(map(len, fields(p, "item", batch.history, 0, 0)))))
    return groups


def layer(p, x):
    return x @ p["kernel"] + p.get("bias", 0.0)


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def expect(definition, model, parameters, batch, heads=1):
    """The logits are `definition(float64 parameters, batch, row, slot)`, a number or one a head."""
    found = apply(model, parameters, *inputs(batch))
    assert found.shape == (U, heads, K)
    assert found.dtype == jnp.float32
    p = float64(parameters)
    expected = [[np.reshape(definition(p, batch, row, slot), heads) for slot in range(K)] for row in range(U)]
    expected = np.moveaxis(np.array(expected), -1, 1)
    assert np.ptp(expected, axis=-1).min() > 1e-2, "candidates must differ for the comparison to say anything"
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def expect_padding_to_change_nothing(model, parameters, batch):
    """Neither what stands in padded history, nor more candidates, nor more requests."""
    logits = apply(model, parameters, *inputs(batch))
    other = draw_batch(seed=5)
    history = {
        name: np.where(batch.history_mask.reshape(U, H, *[1] * (leaf.ndim - 2)), leaf, other.history[name])
        for name, leaf in batch.history.items()
    }
    more = batch.replace(
        history=history,
        items={name: np.concatenate([leaf, other.items[name]], axis=1) for name, leaf in batch.items.items()},
        cross=np.concatenate([batch.cross, other.cross], axis=1),
    )
    assert any((history[name] != leaf).any() for name, leaf in batch.history.items())
    rows = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf[::-1]]), inputs(more))
    found = apply(model, parameters, *rows)
    np.testing.assert_allclose(found[:U, :, :K], logits, rtol=1e-6, atol=2e-6)


def from_catalogue(batch):
    """A drawn catalogue of all items, and the batch with the features that its items have there."""
    rng = np.random.default_rng(3)
    catalogue = {
        "id": np.arange(SPEC.items, dtype=np.int32),
        "categorical": rng.integers(0, SPEC.item_categories, (SPEC.items, 2), np.int32),
        "dense": rng.normal(size=(SPEC.items, 3)).astype(np.float32),
    }
    return catalogue, batch.replace(items={name: table[batch.items["id"]] for name, table in catalogue.items()})


def expect_precomputed_items_to_serve(model, parameters, batch):
    """Item sides of a whole catalogue give the scores of the forward pass, gathered or shared by all users."""
    catalogue, batch = from_catalogue(batch)
    ids = batch.items["id"]
    users = apply(model, parameters, *inputs(batch)[:3], method="user_side")
    sides = apply(model, parameters, catalogue, method="item_side")
    gathered = jax.tree.map(lambda leaf: leaf[ids], sides)
    for cross in (batch.cross, None):
        full = apply(model, parameters, *inputs(batch.replace(cross=cross)))
        found = apply(model, parameters, users, gathered, cross, method="pair_logits")
        np.testing.assert_allclose(found, full, rtol=1e-6, atol=2e-6)
    shared = apply(model, parameters, users, sides, None, method="pair_logits")
    assert shared.shape == (*full.shape[:2], SPEC.items)
    taken = np.take_along_axis(np.asarray(shared), ids[:, None, :], axis=2)
    np.testing.assert_allclose(taken, full, rtol=1e-6, atol=2e-6)


def gradients(model, parameters, batch):
    """Of the mean square of the logits, which every head and candidate has a part in."""
    return differentiated(model)(parameters, *inputs(batch))[0]


@cache
def differentiated(model):
    """Compiled: parameters and inputs -> (gradients, logits)."""

    def loss(p, *args):
        logits = model.apply({"params": p}, *args)
        return jnp.mean(jnp.square(logits)), logits

    return jax.jit(jax.grad(loss, has_aux=True))


def expect_half_precision(model, parameters, batch, relative=0.03, without_gradient=()):
    """bfloat16 is near float32, not equal to it, and gives float32 logits, parameters and gradients."""
    half = type(model)(dataclasses.replace(model.config, dtype="bfloat16"), model.spec)
    full, (gradient, found) = apply(model, parameters, *inputs(batch)), differentiated(half)(parameters, *inputs(batch))
    assert found.dtype == jnp.float32
    assert 0 < np.abs(full - found).max() < relative * np.abs(full).max()
    made = jax.eval_shape(half.init, jax.random.key(0), *inputs(batch))["params"]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(made))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
        assert (np.abs(leaf).max() > 0) == (path[0].key not in without_gradient), jax.tree_util.keystr(path)
