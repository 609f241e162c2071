"""The state of one training run: everything a checkpoint holds, and nothing else."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from hccp_jax.data.requests import RequestBatch
from hccp_jax.methods.base import Method


@struct.dataclass
class TrainState:
    """Parameters and what the next step needs.

    Attributes:
        step: int32 scalar, steps done.
        parameters: of the method.
        moments: optimizer state.
        key: typed PRNG key; the key of a step is `fold_in(key, step)`, so nothing else is carried.
        alive: bool scalar; False after a non-finite loss, from when on the state does not change.
    """

    step: jax.Array
    parameters: Any
    moments: Any
    key: jax.Array
    alive: jax.Array


def stack_numbers(hypers: Sequence[Any]) -> Any:
    """Numbers of the members of a population as one tree, leaves [M] float32."""
    return jax.tree.map(lambda *values: jnp.array(values, jnp.float32), *hypers)


def optimizer(learning_rate: jax.Array | float) -> optax.GradientTransformation:
    """Adam; built inside the traced function, so the step size may be a tracer."""
    return optax.adam(learning_rate)


def initial_state(method: Method, key: jax.Array, batch: RequestBatch) -> TrainState:
    """The state before the first step."""
    for_parameters, for_steps = jax.random.split(key)
    parameters = method.init(for_parameters, batch)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        parameters=parameters,
        moments=optimizer(0.0).init(parameters),
        key=for_steps,
        alive=jnp.ones((), bool),
    )
