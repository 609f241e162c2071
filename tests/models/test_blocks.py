"""Candidates of one user scored in blocks, as a CPU does it, against whole layers: equal scores, equal gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_batch import SPEC, apply, draw_batch, draw_parameters, from_catalogue, inputs

from hccp_jax.models.cold import Cold, ColdConfig
from hccp_jax.models.gated_attention import Output, Side, best_cosines
from hccp_jax.models.pair_model import BLOCK, FEW, in_blocks
from hccp_jax.models.ranktower import RankTower, RankTowerConfig

MODELS = {
    "COLD": Cold(ColdConfig(id_width=4, category_width=3, hidden=7, second=6), SPEC),
    "RankTower": RankTower(
        RankTowerConfig(id_width=4, category_width=3, hidden=7, user_heads=3, item_heads=2, head_width=4, attention=5),
        SPEC,
    ),
}
MANY = FEW + 3  # the last block begins early


def sides(model, count):
    """(parameters, user side of one request, item sides [1, count, ...], cross) from a catalogue of 30 items."""
    batch = draw_batch()
    parameters = draw_parameters(model, batch)
    users = jax.tree.map(lambda x: x[:1], apply(model, parameters, *inputs(batch)[:3], method="user_side"))
    items = apply(model, parameters, from_catalogue(batch)[0], method="item_side")
    rng = np.random.default_rng(0)
    ids = rng.integers(0, SPEC.items, (1, count))
    cross = rng.normal(size=(1, count, SPEC.cross)).astype(np.float32)
    return parameters, users, jax.tree.map(lambda x: x[ids], items), cross


def plainly(model, parameters, users, items, cross):
    given = (users, items, cross) if isinstance(model, Cold) else (users, items)
    return model.apply({"params": parameters}, *given, method="plain_pair_logits")


def loops(function, *arguments):
    return str(jax.make_jaxpr(function)(*arguments)).count("scan[")


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9])
def test_blocks_are_joined_in_order_whatever_their_number(count):
    candidates = {"a": np.arange(2.0 * count).reshape(count, 2), "b": np.arange(count)}
    found = in_blocks(lambda block: block["a"] * block["b"][:, None], candidates, block=4)
    np.testing.assert_array_equal(found, candidates["a"] * candidates["b"][:, None])


@pytest.mark.parametrize("name", MODELS)
def test_many_candidates_of_one_user_score_as_in_whole_layers(name):
    model = MODELS[name]
    parameters, users, items, cross = sides(model, MANY)

    def logits(parameters, users, items, cross):
        return model.apply({"params": parameters}, users, items, cross, method="pair_logits")

    shared = jax.tree.map(lambda x: x[0], items)
    assert loops(logits, parameters, users, items, cross) == 1
    for found, given in ((items, cross), (shared, None)):  # own candidates, and those that all users share
        expected = jax.jit(lambda *x: plainly(model, *x))(parameters, users, items, given)
        assert expected.shape == (1, 1, MANY)
        assert np.ptp(expected) > 0.1
        np.testing.assert_allclose(jax.jit(logits)(parameters, users, found, given), expected, rtol=1e-5, atol=1e-5)
    few = jax.tree.map(lambda x: x[:, :FEW], (items, cross))
    assert loops(logits, parameters, users, *few) == 0
    two = jax.tree.map(lambda x: np.concatenate([x, x]), (users, items, cross))
    assert loops(logits, parameters, *two) == 0


@pytest.mark.parametrize("name", MODELS)
def test_gradients_through_blocks_are_those_through_whole_layers(name):
    model = MODELS[name]
    arguments = sides(model, MANY)
    slopes = np.random.default_rng(1).normal(size=(1, 1, MANY)).astype(np.float32)

    def of(score):
        return jax.jit(jax.grad(lambda *x: jnp.mean(slopes * jnp.sin(score(*x))), argnums=(0, 1, 2)))(*arguments)

    found = of(lambda p, *x: model.apply({"params": p}, *x, method="pair_logits"))
    expected = of(lambda *x: plainly(model, *x))
    for (path, a), (_, b) in zip(*map(jax.tree_util.tree_leaves_with_path, (found, expected)), strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * scale + 1e-12, err_msg=jax.tree_util.keystr(path))
    # Side.key and others too, not the layers alone
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected[2]))


def test_a_population_is_scored_in_blocks_too():
    model = MODELS["COLD"]
    parameters, users, items, cross = sides(model, MANY)
    members = jax.tree.map(lambda x: np.stack([x, 0.5 * x]), parameters)

    def logits(p):
        return model.apply({"params": p}, users, items, cross, method="pair_logits")

    one = jax.jit(lambda p: plainly(model, p, users, items, cross))
    expected = np.stack([one(jax.tree.map(lambda x, m=m: x[m], members)) for m in (0, 1)])
    np.testing.assert_allclose(jax.jit(jax.vmap(logits))(members), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 7, BLOCK, BLOCK + 1])
def test_best_cosines_by_loops(count):
    """Float64, head by head and candidate by candidate; a vector of zeros has no direction and scores 0."""
    rng = np.random.default_rng(count)
    heads, width, attention = (2, 3), 4, 5

    def side(*lead):
        return Side(rng.normal(size=(*lead, width)), *(rng.normal(size=(*lead, attention)) for _ in range(4)))

    users, items = side(heads[0]), side(count, heads[1])
    outputs = [Output(rng.normal(size=(attention, width)), *rng.normal(size=(2, width))) for _ in range(2)]
    outputs[1] = outputs[1]._replace(bias=0.0 * outputs[1].bias)
    items.heads[0] = items.gate[0] = 0.0  # of the first candidate, the layer norm makes zeros

    def attended(asking, asked, output):
        weights = np.exp(asking.query @ asked.key.T / attention**0.5)
        x = asking.heads + asking.gate * (weights / weights.sum(-1, keepdims=True) @ asked.value) @ output.kernel
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * output.scale + output.bias
        norm = np.linalg.norm(x, axis=-1, keepdims=True)
        return np.where(norm > 1e-6, x / np.maximum(norm, 1e-6), 0.0)

    expected = []
    for index in range(count):
        item = Side(*(x[index] for x in items))
        asking, asked = attended(users, item, outputs[0]), attended(item, users, outputs[1])
        expected.append((asking @ asked.T).max(-1))
    single = jax.tree.map(lambda x: x.astype(np.float32), (users, items, *outputs))
    np.testing.assert_allclose(jax.jit(best_cosines)(*single), expected, rtol=1e-4, atol=2e-6)
    assert not np.any(expected[0])
