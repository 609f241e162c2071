"""One step and a chunk of steps, on a toy method."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_hccp import assert_trees_close, assert_trees_equal
from toy import Hyper, Toy

from hccp_jax.training.state import initial_state, stack_numbers
from hccp_jax.training.step import train_chunk, train_step

TOTAL = jnp.float32(40)


@pytest.fixture(scope="module")
def toy():
    return Toy()


@pytest.fixture(scope="module")
def state(toy):
    return initial_state(toy.method, jax.random.key(3), jax.tree.map(lambda x: x[:1], toy.batch(0, 0)))


@pytest.fixture(scope="module")
def step(toy):
    return jax.jit(lambda state, batch: train_step(toy.method, state, Hyper(), batch, TOTAL, None))


def unkeyed(state):
    return jax.tree.map(np.asarray, state.replace(key=jax.random.key_data(state.key)))


def test_a_step_is_adam_on_the_loss_with_the_steps_own_key_and_progress(toy, state, step):
    adam = optax.adam(Hyper().learning_rate)
    parameters, moments = state.parameters, adam.init(state.parameters)
    for number in range(3):
        batch = toy.batch(0, number)
        key = jax.random.fold_in(state.key, number)
        (loss, terms), gradients = jax.value_and_grad(toy.loss, has_aux=True)(
            parameters, Hyper(), batch, key, number / 40, None
        )
        updates, moments = adam.update(gradients, moments)
        parameters = optax.apply_updates(parameters, updates)
        if number == 0:
            now = state
        now, metrics = step(now, batch)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
        np.testing.assert_allclose(metrics["fit"], terms["fit"], rtol=1e-5)
    assert_trees_close(now.parameters, parameters, 1e-5)
    assert_trees_close(now.moments, moments, 1e-5)
    assert now.step == 3
    assert now.alive
    np.testing.assert_array_equal(jax.random.key_data(now.key), jax.random.key_data(state.key))


def test_after_a_loss_that_is_not_finite_nothing_changes(toy, state, step):
    good, bad = toy.batch(0, 0), toy.batch(0, 1)
    before, _ = step(state, good)
    after, metrics = step(before, bad | {"y": np.full_like(bad["y"], np.nan)})
    assert np.isnan(metrics["loss"])
    assert np.isnan(metrics["fit"])
    assert np.isfinite(metrics["crowd"])
    assert not after.alive
    assert_trees_equal(unkeyed(after.replace(alive=before.alive)), unkeyed(before))
    later, metrics = step(after, good)
    assert np.isfinite(metrics["loss"])
    assert_trees_equal(unkeyed(later), unkeyed(after))


def test_a_chunk_is_its_steps_for_each_member_with_its_own_numbers_and_stream(toy, state):
    source = toy.source
    hypers = [Hyper(), Hyper(learning_rate=0.2), Hyper(noise=0.0)]
    streams = [1, 0, 1]
    batches = toy.chunk([4, 9], 0, 3)
    states = jax.tree.map(lambda *x: jnp.stack(x), *[state] * 3)
    stacked = stack_numbers(hypers)
    catalogue = {"scale": jnp.float32(2.0)}
    found, metrics = jax.jit(lambda *a: train_chunk(toy.method, source.featurise, *a, total_steps=TOTAL, axis=None))(
        states, stacked, jnp.array(streams), batches, catalogue
    )
    assert metrics["loss"].shape == (3, 3)
    for member, (hyper, stream) in enumerate(zip(hypers, streams, strict=True)):
        now = state
        for number in range(3):
            batch = source.featurise(toy.batch([4, 9][stream], number), catalogue)
            now, expected = train_step(toy.method, now, hyper, batch, TOTAL, None)
            np.testing.assert_allclose(metrics["loss"][member, number], expected["loss"], rtol=1e-5)
        own = jax.tree.map(lambda leaf, m=member: leaf[m], found)
        assert_trees_close(unkeyed(own), unkeyed(now), 1e-5)
