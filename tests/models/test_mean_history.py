import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_three_tower import SPEC, H, K, U, draw_batch, draw_parameters, inputs

from hccp_jax.models.mean_history import MeanHistory, MeanHistoryConfig

CONFIG = MeanHistoryConfig(vector=6)


@pytest.fixture(scope="module")
def parameters():
    return draw_parameters(MeanHistory(CONFIG, SPEC), draw_batch())


@jax.jit
def run(parameters, arguments):
    return MeanHistory(CONFIG, SPEC).apply({"params": parameters}, *arguments)


def by_hand(parameters, batch):
    """[U, 1, K] cosines, request by request and item by item."""
    table = np.asarray(parameters["item_id"]["item_rows"], np.float64)
    layer = {name: np.asarray(leaf, np.float64) for name, leaf in parameters["user_output"].items()}
    cosines = np.zeros((U, 1, K))
    for row in range(U):
        past = [table[batch.history["id"][row, slot]] for slot in range(H) if batch.history_mask[row, slot]]
        mean = sum(past) / len(past) if past else np.zeros(CONFIG.vector)
        user = mean @ layer["kernel"] + layer["bias"]
        for slot in range(K):
            item = table[batch.items["id"][row, slot]]
            cosines[row, 0, slot] = user @ item / np.linalg.norm(user) / np.linalg.norm(item)
    return cosines


def test_forward_pass_is_the_definition(parameters):
    found = run(parameters, inputs(draw_batch()))
    assert found.shape == (U, 1, K)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, by_hand(parameters, draw_batch()), rtol=1e-5, atol=1e-6)


def test_only_ids_of_the_history_and_of_items_count(parameters):
    batch, other = draw_batch(), draw_batch(seed=5)
    changed = batch.replace(
        user=other.user,
        history=other.history | {"id": np.where(batch.history_mask, batch.history["id"], other.history["id"])},
        items=other.items | {"id": batch.items["id"]},
        cross=other.cross,
    )
    np.testing.assert_array_equal(run(parameters, inputs(changed)), run(parameters, inputs(batch)))
    moved = batch.replace(history=other.history)
    assert np.abs(run(parameters, inputs(moved)) - run(parameters, inputs(batch)))[1:].max() > 1e-3


def test_item_vectors_of_a_whole_catalogue_serve_every_request(parameters):
    batch, module = draw_batch(), MeanHistory(CONFIG, SPEC)
    ids = batch.items["id"]

    @jax.jit
    def ahead(p):
        p = {"params": p}
        users = module.apply(p, *inputs(batch)[:3], method="user_side")
        vectors = module.apply(p, {"id": np.arange(SPEC.items)}, method="item_side")
        return vectors, [module.apply(p, users, items, None, method="pair_logits") for items in (vectors[ids], vectors)]

    vectors, (listed, shared) = ahead(parameters)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=1e-6)
    logits = run(parameters, inputs(batch))
    np.testing.assert_allclose(listed, logits, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(np.asarray(shared), ids[:, None], axis=2), logits, atol=1e-6)


def test_the_table_learns_from_both_sides_and_padding_from_neither(parameters):
    """Without a real past item the history moves no row, and a user at the zero vector has a zero gradient."""
    batch = draw_batch()
    past = set(batch.history["id"][batch.history_mask])
    shown, absent = sorted(set(range(1, SPEC.items)) - past)[:2]
    ids = np.where(batch.history_mask, batch.history["id"], absent).astype(np.int32)
    batch = batch.replace(history=batch.history | {"id": ids}, items={"id": np.full((U, K), shown, np.int32)})

    @jax.jit
    def slope(p):
        return jax.grad(lambda p: jnp.sum(MeanHistory(CONFIG, SPEC).apply({"params": p}, *inputs(batch))))(p)

    gradient = slope(parameters)
    moved = set(np.flatnonzero(np.abs(gradient["item_id"]["item_rows"]).max(axis=1)))
    assert moved == {shown, *past}
    bare = {**parameters, "user_output": jax.tree.map(jnp.zeros_like, parameters["user_output"])}
    assert np.abs(run(bare, inputs(batch))).max() == 0
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(slope(bare)))


@pytest.mark.slow
def test_bfloat16_computes_near_float32_and_returns_it(parameters):
    half = dataclasses.replace(CONFIG, dtype="bfloat16")
    found = jax.jit(lambda p: MeanHistory(half, SPEC).apply({"params": p}, *inputs(draw_batch())))(parameters)
    full = run(parameters, inputs(draw_batch()))
    assert found.dtype == jnp.float32
    assert 0 < np.abs(full - found).max() < 0.02
