"""What holds for every system: finite global losses, the same on any devices, and scores that serving can split."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_hccp import drawn, featurised, tiny

from hccp_jax import config
from hccp_jax.data.requests import Stage
from hccp_jax.errors import UserError
from hccp_jax.evaluation.exposures import auc
from hccp_jax.methods.registry import SYSTEMS, HyperConfigs, SystemConfig, build, numbers
from hccp_jax.training.state import initial_state
from hccp_jax.training.step import train_step

EVERYTHING = frozenset({"cross", "history", "ranked", "preranked", "pool", "teacher"})
ROWS = 32
VARIANTS = {
    "ranktower_softmax_without_teacher": (
        "ranktower_loss",
        {"ranktower_loss.ranking": "softmax", "ranktower_loss.distillation": "none"},
    ),
    "croloss_plain": ("croloss", {"croloss.kernel": "exponential", "croloss.weight_kernel": "none"}),
    "hap_pcgrad": ("hap", {"hap_gradients.combine": "pcgrad"}),
    "hap_cagrad": ("hap", {"hap_gradients.combine": "cagrad"}),
    "arf_v2": ("arf", {"arf.version": "v2"}),
}
CASES = {name: (name, {}) for name in SYSTEMS} | VARIANTS


@pytest.fixture(scope="module")
def world(small_world):
    made = tiny(small_world)
    batch = featurised(made.source, made.log, range(ROWS))
    rng = np.random.default_rng(0)
    teacher = {task: jnp.asarray(rng.uniform(0.05, 0.95, batch.mask.shape), jnp.float32) for task in made.spec.tasks}
    return made, batch.replace(teacher=teacher)


def assert_gradients_close(found, expected) -> None:
    """To 2e-4 of each leaf's largest value; leaves without a slope, such as a shift of a softmax, hold rounding."""
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-4 * max(np.abs(b).max(), 5e-3 * largest))

    jax.tree.map(close, found, expected)


def method_of(made, name: str):
    system, changes = CASES[name]
    static = config.override(SystemConfig(), changes)
    return build(system, made.spec, static, made.layout, EVERYTHING), numbers(system, HyperConfigs())


def halved(batch):
    return jax.tree.map(lambda leaf: leaf.reshape(2, ROWS // 2, *leaf.shape[1:]), batch)


OWN_TESTS = ("hccp", "hap", "sdcl")  # on two devices, with their gradients


QUICK = ("croloss", "ranktower", "lcron", "arf")  # each joins its devices in another way


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in SYSTEMS
        if name not in ("copr", *OWN_TESTS)
    ],
)
def test_two_devices_have_the_loss_of_one(world, name):
    """Not COPR-style, which draws from the chunks of each device's own requests."""
    made, batch = world
    method, hyper = method_of(made, name)
    parameters = drawn(method, batch)

    def loss(batch, axis):
        return method.loss(parameters, hyper, batch, jax.random.key(3), jnp.float32(0.5), axis)[0]

    alone = jax.jit(lambda b: loss(b, None))(batch)
    assert jnp.isfinite(alone)
    shared = jax.jit(jax.vmap(lambda b: loss(b, "devices"), axis_name="devices"))(halved(batch))
    np.testing.assert_allclose(shared, jnp.broadcast_to(alone, 2), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name != "copr"])
def test_two_devices_have_the_gradient_of_one(world, name):
    made, batch = world
    method, hyper = method_of(made, name)
    parameters = drawn(method, batch)

    def slope(batch, axis):
        def loss(parameters):
            return method.loss(parameters, hyper, batch, jax.random.key(3), jnp.float32(0.5), axis)

        terms, found = jax.grad(loss, has_aux=True)(parameters)[::-1]
        return terms, found if axis is None else jax.lax.pmean(found, axis)

    terms, alone = jax.jit(lambda b: slope(b, None))(batch)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((terms, alone)))
    _, shared = jax.jit(jax.vmap(lambda b: slope(b, "devices"), axis_name="devices"))(halved(batch))
    for half in range(2):
        assert_gradients_close(jax.tree.map(lambda leaf, h=half: leaf[h], shared), alone)


@pytest.mark.parametrize("name", SYSTEMS)
def test_sides_computed_ahead_serve_the_same_scores_and_padding_changes_none(world, name):
    made, batch = world
    method, hyper = method_of(made, name)
    parameters = drawn(method, batch)

    @jax.jit
    def scores(batch):
        heads = method.heads(parameters, batch)
        everything = made.source.catalogue.items
        ids = jnp.arange(len(next(iter(everything.values()))), dtype=jnp.int32)
        ahead = method.item_side(parameters, everything | {"id": ids})
        own = jax.tree.map(lambda leaf: leaf[batch.items["id"]], ahead)
        split = method.pair_scores(parameters, method.user_side(parameters, batch), own, batch.cross)
        return heads, split, method.served(method.route(split, hyper, batch.mask), hyper)

    heads, split, served = scores(batch)
    assert set(made.spec.tasks) <= set(heads)
    for task, score in heads.items():
        scale = np.abs(score).max()
        np.testing.assert_allclose(score, split[task], atol=3e-6 * max(scale, 1.0), err_msg=task)
    assert served.shape == batch.mask.shape
    assert jnp.isfinite(jnp.where(batch.mask, served, 0.0)).all()
    # one list more of padding: the last ten slots of every request hold other items
    hidden = jnp.arange(batch.mask.shape[1]) >= batch.mask.shape[1] - 10
    other = batch.replace(
        items=jax.tree.map(
            lambda leaf: jnp.where(hidden.reshape(-1, *[1] * (leaf.ndim - 2)), leaf[::-1], leaf), batch.items
        ),
        mask=batch.mask & ~hidden,
        stage=jnp.where(hidden, jnp.int8(Stage.PADDING), batch.stage),
    )
    for task, score in scores(other)[0].items():
        np.testing.assert_allclose(score[:, ~hidden], heads[task][:, ~hidden], rtol=1e-5, atol=1e-6, err_msg=task)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_few_requests_can_be_learned_by_heart(world, name):
    """Clicked items come to lead, by their AUC against all items of the lists, further than before training."""
    made, batch = world
    method, hyper = method_of(made, name)
    hyper = dataclasses.replace(hyper, learning_rate=0.01)
    state = initial_state(method, jax.random.key(0), batch)

    @jax.jit
    def trained(state):
        def one(state, _):
            return train_step(method, state, hyper, batch, jnp.float32(100.0), None)

        return jax.lax.scan(one, state, length=100)

    @jax.jit
    def ranking(parameters):
        return method.served(method.route(method.heads(parameters, batch), hyper, batch.mask), hyper)

    after, metrics = trained(state)
    assert after.alive
    first, last = metrics["loss"][0], metrics["loss"][-1]
    assert last < first
    clicked = (batch.labels["click"] > 0) & batch.exposed
    # pointwise systems see impressions only
    where = batch.exposed if "preranked" not in method.needs else batch.mask
    found = [
        auc(np.asarray(ranking(parameters)), np.asarray(clicked), np.asarray(where))
        for parameters in (state.parameters, after.parameters)
    ]
    assert found[1] > max(0.75, found[0]), found
    assert optax.tree.norm(after.parameters) < 1e4


def test_data_that_lacks_what_a_system_needs_is_refused(world):
    made, _ = world
    with pytest.raises(UserError, match="system='rethink': needs teacher, which the data has not"):
        build("rethink", made.spec, SystemConfig(), made.layout, EVERYTHING - {"teacher"})
    with pytest.raises(UserError, match="system='hccp': needs pool, preranked, ranked"):
        build("hccp", made.spec, SystemConfig(), made.layout, frozenset())
