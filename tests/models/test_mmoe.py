import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_tower import float64, mixture

from hccp_jax.models.mmoe import MixtureOfExperts

EXPERTS, HIDDEN, TASKS, WIDTH = 3, 4, 2, 5


@pytest.fixture(scope="module")
def made():
    module = MixtureOfExperts(EXPERTS, HIDDEN, TASKS, jnp.dtype("float32"))
    x = np.random.default_rng(0).normal(size=(6, WIDTH)).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(1)
    parameters = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    return module, parameters, x


def apply(module, parameters, x):
    return np.asarray(module.apply({"params": parameters}, x))


def test_output_is_each_gates_mixture_of_the_shared_experts(made):
    module, parameters, x = made
    expected = [mixture(float64(parameters), row, EXPERTS, HIDDEN, TASKS) for row in x.astype(np.float64)]
    found = apply(module, parameters, x)
    assert found.shape == (6, TASKS, HIDDEN)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_closed_gate_leaves_one_expert(made):
    module, parameters, x = made
    chosen = 1  # the second expert, for all tasks
    bias = np.tile(np.where(np.arange(EXPERTS) == chosen, 200.0, 0.0), TASKS).astype(np.float32)
    parameters = {**parameters, "gates": {"kernel": parameters["gates"]["kernel"], "bias": bias}}
    shared = np.maximum(x @ parameters["experts"]["kernel"] + parameters["experts"]["bias"], 0)
    expert = shared[:, chosen * HIDDEN : (chosen + 1) * HIDDEN]
    found = apply(module, parameters, x)
    for task in range(TASKS):
        np.testing.assert_allclose(found[:, task], expert, rtol=1e-5, atol=1e-6)


def test_a_gate_moves_its_own_task_only(made):
    module, parameters, x = made
    kernel = np.array(parameters["gates"]["kernel"])
    kernel[:, :EXPERTS] *= -1  # the first task's gate
    moved = {**parameters, "gates": {**parameters["gates"], "kernel": kernel}}
    before, after = apply(module, parameters, x), apply(module, moved, x)
    np.testing.assert_array_equal(before[:, 1], after[:, 1])
    assert np.abs(before[:, 0] - after[:, 0]).max() > 0.1


def test_gates_share_all_of_one(made):
    """Experts that all say the same are the output, whatever the gates."""
    module, parameters, x = made
    same = {name: np.concatenate([leaf[..., :HIDDEN]] * EXPERTS, -1) for name, leaf in parameters["experts"].items()}
    expert = np.maximum(x @ same["kernel"][:, :HIDDEN] + same["bias"][:HIDDEN], 0)
    found = apply(module, {**parameters, "experts": same}, x)
    np.testing.assert_allclose(found, np.repeat(expert[:, None], TASKS, 1), rtol=1e-5, atol=1e-6)
