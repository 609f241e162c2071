"""Hard concrete and FSCD gates: samples, probabilities over a grid of draws, penalties, and refused constants."""

from math import exp, log

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from hccp_jax.errors import UserError
from hccp_jax.losses.gates import fscd_complexity, fscd_penalty, hard_concrete_l0
from hccp_jax.losses.reduction import no_reduction
from hccp_jax.models.gates import fscd_keep_gate, hard_concrete_expected_gate, hard_concrete_gate

GRID = (np.arange(100_000) + 0.5) / 100_000  # a draw from every part of (0, 1)


@pytest.fixture(autouse=True)
def _strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


sampled, expected_gate, opened = map(jax.jit, (hard_concrete_gate, hard_concrete_expected_gate, hard_concrete_l0))


@pytest.mark.parametrize("log_alpha", [-3.0, 0.0, 0.7, 4.0])
def test_samples_and_their_probabilities(log_alpha):
    gates = sampled(jnp.full(GRID.shape, log_alpha), jnp.asarray(GRID))
    s = sigmoid((np.log(GRID) - np.log(1 - GRID) + log_alpha) * 3 / 2)
    np.testing.assert_allclose(gates, np.minimum(1, np.maximum(0, 1.2 * s - 0.1)), atol=2e-6)
    np.testing.assert_allclose(np.mean(gates > 0), opened(jnp.full(1, log_alpha)), atol=2e-5)
    # 1 is as far inside the stretched interval as 0, so that P(z < 1) is the L0 term of the opposite gate
    np.testing.assert_allclose(np.mean(gates < 1), opened(jnp.full(1, -log_alpha)), atol=2e-5)
    np.testing.assert_allclose(
        expected_gate(jnp.array(log_alpha)), np.clip(1.2 * sigmoid(log_alpha) - 0.1, 0, 1), atol=1e-6
    )


def test_other_constants():
    kw = {"beta": 0.9, "gamma": -0.3, "zeta": 1.05}
    gates = hard_concrete_gate(jnp.full(GRID.shape, 0.4), jnp.asarray(GRID), **kw)
    s = sigmoid((np.log(GRID) - np.log(1 - GRID) + 0.4) / 0.9)
    np.testing.assert_allclose(gates, np.clip(1.35 * s - 0.3, 0, 1), atol=2e-6)
    np.testing.assert_allclose(np.mean(gates > 0), hard_concrete_l0(jnp.full(1, 0.4), **kw), atol=2e-5)
    middle = hard_concrete_expected_gate(jnp.array(0.0), gamma=-0.3, zeta=1.05)
    np.testing.assert_allclose(middle, 1.35 / 2 - 0.3, atol=1e-6)


def test_gradients():
    with jax.enable_x64(True):
        logits, uniform = jnp.array([-0.5, 0.1, 0.6]), jnp.array([0.6, 0.5, 0.3])
        for gate in (hard_concrete_gate, lambda x, u: fscd_keep_gate(x, u, temperature=0.4)):
            check_grads(lambda x, gate=gate: gate(x, uniform), (logits,), order=1, modes=("rev",), atol=1e-7, rtol=1e-7)
        for smooth in (hard_concrete_expected_gate, hard_concrete_l0):
            check_grads(smooth, (logits,), order=1, modes=("rev",), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("gate", [hard_concrete_gate, fscd_keep_gate])
def test_extreme_draws_and_parameters_close_or_open_a_gate_with_zero_gradient(gate):
    logits, uniform = jnp.array([0.0, -1e4, 1e4]), jnp.array([0.0, 0.5, 0.5])
    values, slopes = jax.vmap(jax.value_and_grad(gate))(logits, uniform)
    np.testing.assert_array_equal(values, [0, 0, 1])
    np.testing.assert_array_equal(slopes, 0)


@pytest.mark.parametrize("gate", [hard_concrete_gate, fscd_keep_gate])
def test_a_key_draws_once_for_every_gate(gate):
    key, logits = jax.random.key(0), jnp.zeros((8, 4))
    values = jax.jit(gate)(logits, key)
    np.testing.assert_allclose(values, gate(logits, jax.random.uniform(key, logits.shape)), atol=1e-6)
    assert len(np.unique(values)) > 16
    assert not np.array_equal(values, gate(logits, jax.random.key(1)))
    with pytest.raises(TypeError, match="expected a key"):
        gate(logits, jax.random.PRNGKey(0))


@pytest.mark.parametrize("gate", [hard_concrete_gate, fscd_keep_gate, lambda x, u: hard_concrete_expected_gate(x)])
def test_types_and_nan(gate):
    assert gate(jnp.zeros(3, jnp.bfloat16), jnp.array(0.3, jnp.bfloat16)).dtype == jnp.float32
    assert jnp.isnan(gate(jnp.array([jnp.nan]), jnp.array([0.5]))).all()


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"gamma": 1.1, "zeta": 2.0}, "gamma=1.1: expected a value below 0"),  # one published configuration
        ({"gamma": 0.0}, "gamma=0.0: expected a value below 0"),
        ({"gamma": float("nan")}, "gamma=nan: expected a value below 0"),
        ({"zeta": 1.0}, "zeta=1.0: expected a value above 1"),
        ({"beta": 0.0}, "beta=0.0: expected a value above 0"),
    ],
)
def test_constants_that_switch_the_routing_off_are_refused(constants, message):
    with pytest.raises(UserError, match=message):
        hard_concrete_gate(jnp.zeros(1), jnp.array(0.5), **constants)
    with pytest.raises(UserError, match=message):
        hard_concrete_l0(jnp.zeros(1), **constants)
    if "beta" not in constants:
        with pytest.raises(UserError, match=message):
            hard_concrete_expected_gate(jnp.zeros(1), **constants)


def test_field_gate_is_a_bernoulli_of_the_keep_probability_that_sharpens_as_it_cools():
    for logit in (-1.5, 0.0, 2.0):
        gates = fscd_keep_gate(jnp.full(GRID.shape, logit), jnp.asarray(GRID))
        delta = sigmoid(logit)
        printed = sigmoid((log(delta) - log(1 - delta) + np.log(GRID) - np.log(1 - GRID)) / 0.1)
        np.testing.assert_allclose(gates, printed, atol=5e-5)
        np.testing.assert_allclose(np.mean(gates > 0.5), delta, atol=2e-5)
        cold = fscd_keep_gate(jnp.full(GRID.shape, logit), jnp.asarray(GRID), temperature=1e-4)
        assert np.mean((cold > 0.001) & (cold < 0.999)) < 0.001


def test_complexity_is_the_price_that_its_prior_gives():
    complexity = fscd_complexity(jnp.array([0.4, 1.5, 3.0]), jnp.array([8, 16, 32]), gamma1=2.0, gamma2=0.1)
    np.testing.assert_allclose(complexity, [2 * 0.4 + 0.8, 2 * 1.5 + 1.6, 2 * 3 + 3.2], rtol=1e-6)
    gates = np.array([[0.2, 0.9, 0.5], [1.0, 0.0, 0.3]], np.float32)
    prior = [1 - 1 / (1 + exp(-c)) for c in complexity]
    printed = np.mean([sum(log((1 - p) / p) * z for p, z in zip(prior, row, strict=True)) for row in gates])
    np.testing.assert_allclose(fscd_penalty(jnp.asarray(gates), complexity), printed, rtol=1e-4)


@pytest.mark.parametrize(
    "penalty", [hard_concrete_l0, lambda x, **kw: fscd_penalty(x, jnp.array([1.0, 2.0, 3.0]), **kw)]
)
def test_masks_of_the_penalties(penalty):
    x = jnp.array([[0.3, -0.2, 0.7], [0.1, 0.4, 0.9]])
    where = jnp.array([[True, True, False], [False, False, False]])
    value_and_grad = jax.jit(jax.value_and_grad(lambda x, where: penalty(x, where=where)))
    dirty = value_and_grad(jnp.where(where, x, jnp.nan), where)
    jax.tree.map(np.testing.assert_array_equal, value_and_grad(x, where), dirty)
    np.testing.assert_array_equal(dirty[1][~where], 0)
    assert (dirty[1][where] > 0).all()
    full = penalty(x, reduce_fn=no_reduction)
    np.testing.assert_allclose(
        dirty[0] + penalty(x, where=~where.at[1].set(True), reduce_fn=no_reduction)[0], full[0], rtol=1e-6
    )
    nothing = value_and_grad(x, jnp.zeros_like(where))
    assert nothing[0] == 0
    np.testing.assert_array_equal(nothing[1], 0)
    assert jnp.isnan(value_and_grad(x.at[0, 1].set(jnp.nan), where)[0])


def test_a_closed_network_has_no_expected_open_gates():
    assert hard_concrete_l0(jnp.full((3, 4), -100.0)) < 1e-30
    np.testing.assert_allclose(hard_concrete_l0(jnp.full((3, 4), 100.0)), 12, rtol=1e-6)
