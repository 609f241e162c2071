"""Samples a request: a loss whose slots are known by hand."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.data.requests import RequestBatch
from hccp_jax.evaluation.trained_slots import trained_slots


def batch():
    """Two requests of four slots, the last of the second one padding."""
    mask = np.array([[True] * 4, [True, True, True, False]])
    dense = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    nothing = {"id": np.zeros((2, 4), np.int32)}
    return RequestBatch({}, {}, mask, nothing | {"dense": dense}, None, None, None, {}, {}, mask)


def of_slots(parameters, hyper, batch, key, progress, axis):
    """Squares of the first two slots, and, with a weight, of all slots."""
    squares = jnp.square(batch.items["dense"] @ parameters)
    return jnp.sum(squares[:, :2]) + jnp.where(hyper > 0, hyper * jnp.sum(squares), 0.0), {}


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 2.0), (0.1, 3.5)])
def test_slots_with_a_gradient_are_counted_once_and_padding_never(weight, expected):
    method = SimpleNamespace(loss=of_slots)
    assert trained_slots(method, jnp.ones(3), jnp.float32(weight), batch(), jax.random.key(0)) == expected
