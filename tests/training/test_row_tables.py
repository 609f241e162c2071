"""Tables updated by rows: equal to dense Adam, to themselves on any mesh, and without anything of a table's size."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_hccp import MODEL, NEGATIVES, assert_trees_close, assert_trees_equal, tiny

from hccp_jax.errors import UserError
from hccp_jax.methods.hccp import HyperConfig, hccp
from hccp_jax.models.table import ITEMS, USERS
from hccp_jax.training.checkpoints import as_tree, to_host, to_state
from hccp_jax.training.program import Placement, Program
from hccp_jax.training.rows import B1, B2, EPSILON, LAST_STEP, LazyAdam, RowAdagrad, rounded
from hccp_jax.training.state import initial_state, stack_numbers
from hccp_jax.training.step import train_step
from hccp_jax.training.tables import TablesConfig, distinct_rows, join, split

LAZY, ADAGRAD = TablesConfig(update="lazy"), TablesConfig(update="adagrad")
HALF = TablesConfig(update="lazy", dtype="bfloat16")
RATE = 0.01


def rare_gradients(rng, rows, width, scale=1.0):
    """Which rows a step reads, and their gradients; the first rows often, the last ones hardly ever."""
    chance = 0.5 ** np.arange(rows)
    some = np.flatnonzero(rng.random(rows) < 0.8 * chance)
    return some, (scale * rng.normal(size=(len(some), width))).astype(np.float32)


def both_adams(steps, first=0, scale=1.0, rows=12, width=4):
    """A table after `steps` under lazy Adam, settled; the same under dense Adam in float64."""
    rng = np.random.default_rng(3)
    start = rng.normal(size=(rows, width))
    optimizer, table = LazyAdam(), jnp.asarray(start, jnp.float32)
    state = optimizer.start(table)._replace(last=jnp.full(rows, first, jnp.int32))
    p, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)

    @jax.jit
    def one(table, state, index, gradient, step):
        values, kept = jax.tree.map(lambda leaf: leaf[index], (table, state))
        values, kept = optimizer.catch_up(values, kept, step, RATE)
        values, kept = optimizer.update(values, kept, gradient, step + 1, RATE)
        return jax.tree.map(lambda leaf, new: leaf.at[index].set(new, mode="drop"), (table, state), (values, kept))

    for step in range(first, first + steps):
        some, gradient = rare_gradients(rng, rows, width, scale)
        dense = np.zeros_like(p)
        dense[some] = gradient
        m, v = B1 * m + (1 - B1) * dense, B2 * v + (1 - B2) * dense**2
        p -= RATE * m / (1 - B1 ** (step + 1)) / (np.sqrt(v / (1 - B2 ** (step + 1))) + EPSILON)
        index = np.r_[some, np.full(rows - len(some), rows)]  # one shape
        filled = np.zeros((rows, width), np.float32)
        filled[: len(some)] = gradient
        table, state = one(table, state, index, filled, jnp.int32(step))
    return np.asarray(optimizer.catch_up(table, state, jnp.int32(first + steps), RATE)[0]), p, np.asarray(table)


@pytest.mark.parametrize(("steps", "first"), [(1, 0), (200, 0), (60, 5000), (60, LAST_STEP - 30), (20, 10**6)])
def test_lazy_adam_is_dense_adam(steps, first):
    found, expected, before = both_adams(steps, first)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-6)
    if steps > 1:  # rows that were not read for a while had to move
        assert np.abs(before - expected).max() > 1e-3


@pytest.mark.parametrize("scale", [1e-6, 1e-8, 1e-10])
def test_gradients_as_small_as_epsilon_keep_to_thousandths_of_the_movement(scale):
    found, expected, _ = both_adams(100, scale=scale)
    start = np.random.default_rng(3).normal(size=(12, 4))
    most = np.abs(expected - start).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * most + 2e-6)


def test_a_row_that_nobody_reads_never_moves():
    optimizer, table = LazyAdam(), jnp.ones((3, 2))
    rows, state = optimizer.catch_up(table, optimizer.start(table), jnp.int32(50), 0.1)
    np.testing.assert_array_equal(rows, table)
    np.testing.assert_array_equal(state.last, 50)


def test_row_wise_adagrad_is_its_formula():
    rng = np.random.default_rng(0)
    optimizer, table = RowAdagrad(0.1), jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)
    state, expected, square = optimizer.start(table), np.asarray(table, np.float64), np.full(2, 0.1)
    for step in range(5):
        gradient = rng.normal(size=(2, 3)).astype(np.float32)
        table, state = optimizer.update(*optimizer.catch_up(table, state, step, 0.5), gradient, step + 1, 0.5)
        square = square + np.mean(gradient**2, axis=1)
        expected = expected - 0.5 * gradient / np.sqrt(square)[:, None]
    np.testing.assert_allclose(table, expected, rtol=1e-5)
    assert state.square.shape == (2,)


def test_rounding_to_bfloat16_is_right_on_average():
    values = jnp.asarray([1.0 + 1 / 512, -3.14159, 1e-20, 0.0, 2.5], jnp.float32)
    drawn = jax.vmap(lambda key: rounded(values, jnp.bfloat16, key))(jax.random.split(jax.random.key(0), 4096))
    assert drawn.dtype == jnp.bfloat16
    drawn = np.asarray(drawn, np.float64)
    np.testing.assert_allclose(drawn.mean(axis=0), values, rtol=3e-4)
    assert len(np.unique(drawn[:, 0])) == 2
    np.testing.assert_array_equal(drawn[:, 4], 2.5)  # what bfloat16 holds stays
    np.testing.assert_array_equal(
        rounded(jnp.asarray([jnp.inf, -jnp.inf]), jnp.bfloat16, jax.random.key(0)), [np.inf, -np.inf]
    )
    assert np.isnan(np.asarray(rounded(jnp.asarray([jnp.nan]), jnp.bfloat16, jax.random.key(0)), np.float32)).all()


@pytest.fixture(scope="module")
def case(small_world):
    """Tiny HCCP, hypers of two members, and batches of four steps."""
    made = tiny(small_world)
    hypers = stack_numbers([HyperConfig(temperature=0.5), HyperConfig(margin=0.2, learning_rate=1e-2, temperature=0.5)])
    rows = np.arange(64).reshape(4, 16)
    batches = jax.tree.map(lambda leaf: leaf[rows][None], made.log)
    one = made.source.featurise(jax.tree.map(lambda leaf: leaf[0, 0, :1], batches), made.source.catalogue)
    return made, hypers, batches, one


def trained(case, config, kind="single", devices=1, model=1, calls=2):
    """Settled parameters [2, ...], metrics [2, 4] and states after four steps, in so many calls."""
    made, hypers, batches, one = case
    program = Program(made.method, made.source.featurise, Placement(kind, devices, 1, model), config)
    first = initial_state(made.method, jax.random.key(0), one, config)
    states = to_state(to_host(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), first)))
    metrics, each = [], 4 // calls
    for call in range(calls):
        some = jax.tree.map(lambda leaf, c=call: leaf[:, c * each : (c + 1) * each], batches)
        streams, total = jnp.zeros(2, jnp.int32), jnp.float32(10)
        states, found = program.wrapped.run(states, hypers, streams, some, made.source.catalogue, total)
        metrics.append(jax.device_get(found))
    states = to_state(program.wrapped.fetch(as_tree(states)))
    metrics = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *metrics)
    if program.settle is None:
        return states.parameters, metrics, states
    return jax.device_get(program.settle(states, hypers.learning_rate)), metrics, states


@pytest.fixture(scope="module")
def alone(case):
    """What one device gives, each configuration once."""
    return cache(partial(trained, case))


def test_training_by_rows_is_dense_training(alone):
    """Losses of every step: the forward pass must see rows as dense Adam would have moved them."""
    dense, expected, _ = alone(TablesConfig())
    lazy, found, states = alone(LAZY)
    assert_trees_close(found, expected, 2e-6)
    of_rows, _ = split(dense)
    assert len(of_rows) == 2
    # a gradient next to nothing makes a step of Adam that hangs on its last bits
    assert_trees_close(split(lazy)[0], of_rows, 3e-5)
    late = np.asarray(states.moments.tables["embeddings/item_id/item_rows"].last)
    assert set(np.unique(late)) == {0, 1, 2, 3, 4}  # some rows have to catch up, some were never read


@pytest.mark.parametrize(
    ("config", "kind", "devices", "model"),
    [
        pytest.param(LAZY, "emulated", 4, 1, marks=pytest.mark.slow),
        pytest.param(LAZY, "pmap", 8, 1, marks=pytest.mark.slow),
        pytest.param(LAZY, "mesh", 8, 1, marks=pytest.mark.slow),
        (LAZY, "mesh", 8, 2),
        pytest.param(LAZY, "mesh", 8, 8, marks=pytest.mark.slow),
        pytest.param(ADAGRAD, "mesh", 8, 2, marks=pytest.mark.slow),
        pytest.param(HALF, "mesh", 8, 2, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_placement_is_one_device(case, alone, config, kind, devices, model):
    """Meshes 8x1, 4x2 and 1x8 of data and model axes; the shards do not divide the tables evenly."""
    expected, losses, states = alone(config)
    found, theirs, others = trained(case, config, kind, devices, model)
    assert_trees_close(theirs, losses, 2e-6)
    rows, same = split(found)[0], split(expected)[0]
    assert all(table.shape[1] % 8 for table in rows.values())
    if config == HALF:  # a last bit that differs may round the other way
        different = [np.mean(rows[name] != same[name]) for name in rows]
        assert max(different) < 0.1
    else:
        assert_trees_close(rows, same, 3e-5)
        assert_trees_close(others.moments.tables, states.moments.tables, 1e-5)


def test_a_loss_that_is_not_finite_leaves_tables_and_moments(case):
    made, hypers, batches, one = case
    config = LAZY
    program = Program(made.method, made.source.featurise, Placement(), config)
    first = initial_state(made.method, jax.random.key(0), one, config)
    states = to_state(to_host(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), first)))
    broken = replace(batches, labels={name: np.full_like(x, np.nan) for name, x in batches.labels.items()})
    after, metrics = program.wrapped.run(
        jax.tree.map(jnp.copy, states), hypers, jnp.zeros(2, jnp.int32), broken, made.source.catalogue, jnp.float32(10)
    )
    assert not np.isfinite(metrics["loss"]).any()
    assert not after.alive.any()
    assert_trees_equal((after.parameters, after.moments, after.step), (states.parameters, states.moments, states.step))


@pytest.mark.slow
def test_half_precision_tables_are_half_as_large_and_learn(alone):
    single, losses, _ = alone(LAZY)
    half, theirs, states = alone(HALF)
    tables = split(states.parameters)[0]
    assert {table.dtype for table in tables.values()} == {jnp.dtype("bfloat16")}
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(split(half)[0]))
    for name, table in split(half)[0].items():
        assert np.abs(table - split(single)[0][name]).mean() < 3e-4
    np.testing.assert_allclose(theirs["loss"], losses["loss"], rtol=1e-2)


def test_no_array_of_a_step_is_as_large_as_a_table(case):
    """Besides the tables and their moments, which change in place, a step sets aside what its batch needs."""
    made, hypers, batches, _ = case
    large = replace(made.spec, items=200_000, users=100_000)
    method = hccp(large, MODEL, NEGATIVES, made.layout)
    batch = made.source.featurise(jax.tree.map(lambda leaf: leaf[0, 0], batches), made.source.catalogue)
    state = jax.eval_shape(lambda: initial_state(method, jax.random.key(0), batch, LAZY))
    hyper = jax.tree.map(lambda leaf: leaf[0], hypers)

    def step(state, batch):
        return train_step(method, state, hyper, batch, jnp.float32(10), None, LAZY)

    memory = jax.jit(step, donate_argnums=0).lower(state, batch).compile().memory_analysis()
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state.parameters, state.moments)))
    assert memory.alias_size_in_bytes >= kept
    assert memory.temp_size_in_bytes < 200_000 * MODEL.id_width * 4 / 2


@pytest.mark.parametrize("axis", [None, "data"])
def test_distinct_rows_are_ascending_and_positions_point_at_them(case, axis):
    made, _, batches, _ = case
    batch = made.source.featurise(jax.tree.map(lambda leaf: leaf[0, 0], batches), made.source.catalogue)
    if axis is None:
        rows, seen = jax.jit(partial(distinct_rows, axis=None))(batch)
    else:
        parts = jax.tree.map(lambda leaf: leaf.reshape(4, 4, *leaf.shape[1:]), batch)
        rows, seen = jax.vmap(partial(distinct_rows, axis=axis), axis_name=axis, out_axes=(None, 0))(parts)
        seen = jax.tree.map(lambda leaf: leaf.reshape(16, *leaf.shape[2:]), seen)
    for name, parts in ((ITEMS, ("items", "history")), (USERS, ("user",))):
        known = np.unique(np.concatenate([np.asarray(getattr(batch, part)["id"]).ravel() for part in parts]))
        np.testing.assert_array_equal(rows[name][: len(known)], known)
        np.testing.assert_array_equal(rows[name][len(known) :], np.iinfo(np.int32).max)
        for part in parts:
            features = getattr(seen, part)
            np.testing.assert_array_equal(rows[name][features["row"]], features["id"])


def test_split_and_join_are_inverses(case):
    made, *_ = case
    tables, rest = split(made.parameters)
    assert set(tables) == {"embeddings/item_id/item_rows", "embeddings/user_id/user_rows"}
    assert "item_id" not in rest["embeddings"]
    assert_trees_equal(join(tables, rest), dict(made.parameters))


def test_what_only_tables_by_rows_can_do_is_refused_for_dense_ones(case):
    made, *_ = case
    with pytest.raises(UserError, match=r"^model_devices=2: expected train\.tables\.update=lazy or adagrad"):
        Program(made.method, made.source.featurise, Placement("mesh", 4, 1, 2))
    with pytest.raises(UserError, match=r"^train\.tables\.dtype=bfloat16: expected train\.tables\.update=lazy or"):
        Program(made.method, made.source.featurise, Placement(), TablesConfig(dtype="bfloat16"))
    for devices, model in ((4, 3), (2, 4)):
        with pytest.raises(UserError, match=f"^model_devices={model}: expected a divisor of the {devices} devices"):
            Program(made.method, made.source.featurise, Placement("mesh", devices, 1, model), LAZY)
