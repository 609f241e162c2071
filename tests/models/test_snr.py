"""SNR: the forward pass in NumPy, gates that route, and what differs between training and serving."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.errors import UserError
from hccp_jax.models.gates import BETA, GAMMA, ZETA
from hccp_jax.models.snr import Connections, SubNetworkRouting

D, BLOCKS, WIDTH, TASKS = 5, 3, 4, 2
SNR = partial(SubNetworkRouting, TASKS, blocks=BLOCKS, width=WIDTH)
INPUT = np.random.default_rng(0).normal(size=(6, D)).astype(np.float32)
KEY = jax.random.key(4)


def drawn(module, x=INPUT, seed=1):
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@partial(jax.jit, static_argnums=0)
def served(module, p):
    return module.apply({"params": p}, INPUT)


@partial(jax.jit, static_argnums=0)
def trained(module, p, key):
    return module.apply({"params": p}, INPUT, rngs={"gates": key})


def closing(p, where=lambda name: True):
    """The same parameters with every gate of some connections shut."""
    return {
        name: {**leaf, "log_alpha": np.full_like(leaf["log_alpha"], -60)}
        if "log_alpha" in leaf and where(name)
        else leaf
        for name, leaf in p.items()
    }


def gate(log_alpha):
    """Of test time."""
    return min(1.0, max(0.0, 1.2 / (1 + np.exp(-log_alpha)) - 0.1))


def by_hand(p, x, kind, layers):
    """[T, width] for one input, connection by connection."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), p)
    h = np.maximum(x @ p["first"]["kernel"] + p["first"]["bias"], 0).reshape(BLOCKS, WIDTH)

    def joined(connections, outputs):
        inputs = []
        for j in range(outputs):
            total = np.zeros(WIDTH)
            for i in range(len(h)):
                matrix = connections["kernel"][i, :, j] if kind == "trans" else np.eye(WIDTH)
                total += gate(connections["log_alpha"][i, j]) * (h[i] @ matrix)
            inputs.append(total)
        return inputs

    for layer in range(1, layers):
        inputs = joined(p[f"connections_{layer}"], BLOCKS)
        for j in range(BLOCKS):
            if kind == "aver":
                inputs[j] = inputs[j] @ p[f"blocks_{layer}"]["kernel"][j] + p[f"blocks_{layer}"]["bias"][j]
            else:
                inputs[j] = inputs[j] + p[f"bias_{layer}"][j]
        h = np.maximum(np.stack(inputs), 0)
    return np.stack(joined(p["connections_tasks"], TASKS))


@pytest.mark.parametrize(("kind", "layers"), [("trans", 1), ("trans", 3), ("aver", 2)])
def test_forward_pass_is_the_definition(kind, layers):
    module = SNR(kind=kind, layers=layers)
    p = drawn(module)
    towers, log_alpha = served(module, p)
    assert towers.shape == (len(INPUT), TASKS, WIDTH)
    assert log_alpha.shape == ((layers - 1) * BLOCKS**2 + BLOCKS * TASKS,)
    np.testing.assert_allclose(towers, [by_hand(p, x, kind, layers) for x in INPUT], rtol=1e-4, atol=1e-5)


def test_the_leading_axes_do_not_matter():
    p = drawn(SNR())
    flat, _ = served(SNR(), p)
    apart, _ = SNR().apply({"params": p}, INPUT.reshape(2, 3, D))
    np.testing.assert_allclose(apart.reshape(flat.shape), flat, rtol=1e-5, atol=1e-6)


def test_new_connections_are_neither_all_open_nor_all_closed():
    """Exact zeros and exact ones occur, each for about a sixth of the connections, and values between."""
    size = 40
    connections = Connections(size, size, "aver", BETA, GAMMA, ZETA, jnp.float32)
    blocks = np.broadcast_to(np.eye(size, dtype=np.float32), (2, size, size))  # input_j is then z_:j
    variables = connections.init(jax.random.key(0), blocks)
    gates = np.asarray(connections.apply(variables, blocks, rngs={"gates": KEY})[0])
    np.testing.assert_array_equal(gates[0], gates[1])  # one draw for the whole batch
    assert gates.min() == 0
    assert gates.max() == 1
    # P(z = 0) = P(z = 1) = 1 - 1 / (1 + 11^(-2/3)) = 0.168; 1600 draws
    assert np.mean(gates[0] == 0) == pytest.approx(0.168, abs=0.03)
    assert np.mean(gates[0] == 1) == pytest.approx(0.168, abs=0.03)
    assert len(np.unique(gates[0])) > 1000
    expected = np.asarray(connections.apply(variables, blocks)[0])
    assert np.ptp(expected) < 0.05
    assert expected.mean() == pytest.approx(0.5, abs=0.01)


def test_training_draws_from_its_key_and_serving_draws_nothing():
    module = SNR()
    p = drawn(module)
    first, again, other = (trained(module, p, key)[0] for key in (KEY, KEY, jax.random.key(5)))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    np.testing.assert_array_equal(served(module, p)[0], served(module, p)[0])
    assert np.abs(served(module, p)[0] - first).max() > 0.01
    other_stream = module.apply({"params": p}, INPUT, rngs={"dropout": KEY})[0]
    np.testing.assert_allclose(other_stream, served(module, p)[0], rtol=1e-5)  # one of them is compiled as a whole


def test_layers_draw_apart():
    """With the same log alpha of 0, the connections of two layers have other gates."""
    module = SubNetworkRouting(BLOCKS, blocks=BLOCKS, width=BLOCKS, kind="aver")
    eye, free = np.eye(BLOCKS, dtype=np.float32), {"log_alpha": np.zeros((BLOCKS, BLOCKS), np.float32)}
    straight = {"log_alpha": 120 * eye - 60}  # block j to block j only
    p = {
        "first": {"kernel": np.zeros((D, BLOCKS**2), np.float32), "bias": eye.ravel()},
        "blocks_1": {"kernel": np.stack([eye] * BLOCKS), "bias": 0 * eye},
    }
    first = trained(module, {**p, "connections_1": free, "connections_tasks": straight}, KEY)[0][0]
    second = trained(module, {**p, "connections_1": straight, "connections_tasks": free}, KEY)[0][0]
    for gates in (first, second):
        assert np.ptp(gates) > 0.5
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("kind", ["trans", "aver"])
def test_log_alpha_and_all_matrices_learn(kind):
    module = SNR(kind=kind)
    p = drawn(module)

    def loss(p):
        return jnp.mean(jnp.square(trained(module, p, KEY)[0]))

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(p)):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 1e-5, path


def test_a_closed_connection_carries_nothing():
    module = SNR()
    p = drawn(module)
    for towers in (served(module, closing(p))[0], trained(module, closing(p), KEY)[0]):
        np.testing.assert_array_equal(towers, 0)
    towers = served(module, closing(p, lambda name: name == "connections_1"))[0]  # the second layer sees its bias only
    np.testing.assert_array_equal(towers, np.broadcast_to(towers[:1], towers.shape))
    assert np.abs(towers).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trans", "aver"])
def test_bfloat16_is_close_and_returns_float32(kind):
    module, half = SNR(kind=kind), SNR(kind=kind, dtype=jnp.bfloat16)
    p = drawn(module)
    full, found = (served(m, p)[0] for m in (module, half))
    assert found.dtype == jnp.float32
    assert 0 < np.abs(found - full).max() < 0.03 * np.abs(full).max()
    gradients = jax.grad(lambda p: jnp.mean(jnp.square(trained(half, p, KEY)[0])))(p)
    for leaf in jax.tree.leaves(gradients):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()


def test_ends_that_open_every_gate_are_refused():
    """The published configuration with gamma = 1.1 and zeta = 2 has no routing at all."""
    with pytest.raises(UserError, match=r"gamma=1\.1: expected a value below 0"):
        served(SNR(gamma=1.1, zeta=2.0), drawn(SNR()))
