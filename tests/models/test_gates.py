"""The gate unit of PEPNet and SDCL Eq 6; the stochastic gates are tested with their penalties in tests/losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.models.gates import GateUnit

D, H, ROWS = 5, 7, 6
INPUT = np.random.default_rng(0).normal(size=(ROWS, D)).astype(np.float32)


def drawn(unit, x=INPUT, scale=1.0, seed=1):
    shapes = jax.eval_shape(unit.init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (scale * rng.normal(size=leaf.shape)).astype(np.float32), shapes)


def by_hand(p, x, scale):
    first, second = p["first_0"], p["second"]
    gates = []
    for row in x.astype(np.float64):
        hidden = np.maximum(row @ first["kernel"] + first["bias"], 0)
        gates.append(scale / (1 + np.exp(-(hidden @ second["kernel"] + second["bias"]))))
    return np.stack(gates)


@pytest.mark.parametrize("scale", [2.0, 0.7])
def test_the_gate_is_eq_6(scale):
    unit = GateUnit(H, scale)
    p = drawn(unit)
    gates = unit.apply({"params": p}, INPUT)
    np.testing.assert_allclose(gates, by_hand(p, INPUT, scale), rtol=1e-5)
    assert gates.dtype == jnp.float32
    wide = unit.apply({"params": drawn(unit, scale=9.0)}, INPUT)  # from closed to open, never beyond
    assert wide.min() < 0.01 * scale
    assert 0.99 * scale < wide.max() <= scale


def test_parts_of_the_input_give_the_gate_of_the_whole():
    """The shares of the first layer broadcast: one user against several items."""
    whole, split = GateUnit(H), GateUnit(H, parts=2)
    p = drawn(whole)
    kernel = p["first_0"]["kernel"]
    parts = {"first_0": {"kernel": kernel[:2], "bias": p["first_0"]["bias"]}, "first_1": {"kernel": kernel[2:]}}
    variables = {"params": {**parts, "second": p["second"]}}
    user = split.apply(variables, 0, INPUT[:1, :2], method="share")
    items = split.apply(variables, 1, INPUT[:, 2:], method="share")
    assert user.shape == (1, H)
    gates = split.apply(variables, user + items, D, method="gate")
    joined = np.concatenate([np.repeat(INPUT[:1, :2], ROWS, 0), INPUT[:, 2:]], axis=-1)
    np.testing.assert_allclose(gates, whole.apply({"params": p}, joined), rtol=1e-5)


def test_parts_begin_with_the_variance_of_one_input():
    """A large input of unit variance gives hidden units of variance 1, in one part and in three."""
    x = np.random.default_rng(2).normal(size=(64, 300)).astype(np.float32)
    for parts in (1, 3):
        unit = GateUnit(400, parts=parts)

        def shares(module, x, parts=parts):
            return sum(module.share(part, x[:, part::parts]) for part in range(parts))

        hidden, _ = unit.init_with_output(jax.random.key(0), x, method=shares)
        assert np.var(hidden) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("stop", [False, True])
def test_the_gradient_to_the_input_through_the_gate_can_be_stopped(stop):
    unit = GateUnit(H, stop_gate_grad=stop)
    p = drawn(unit)

    def gated(p, x):
        return jnp.sum(x * unit.apply({"params": p}, x))

    of_parameters, of_input = jax.grad(gated, (0, 1))(p, INPUT)
    gates = unit.apply({"params": p}, INPUT)
    assert np.allclose(of_input, gates, rtol=1e-6) == stop  # x alone moves, the gate is a constant
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(of_parameters))


@pytest.mark.slow
def test_bfloat16_is_close_and_returns_float32():
    p = drawn(GateUnit(H))
    half = GateUnit(H, dtype=jnp.bfloat16).apply({"params": p}, INPUT)
    full = GateUnit(H).apply({"params": p}, INPUT)
    assert half.dtype == jnp.float32
    assert 0 < np.abs(half - full).max() < 0.03
