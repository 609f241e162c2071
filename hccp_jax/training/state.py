"""The state of one training run: everything a checkpoint holds, and nothing else."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from hccp_jax.data.requests import RequestBatch
from hccp_jax.methods.base import Method
from hccp_jax.training.tables import DENSE, TablesConfig, join, row_optimizer, split


@struct.dataclass
class TrainState:
    """Parameters and what the next step needs.

    Attributes:
        step: int32 scalar, steps done.
        parameters: of the method.
        moments: optimizer state; `Moments` where tables are updated by rows.
        key: typed PRNG key; the key of a step is `fold_in(key, step)`, so nothing else is carried.
        alive: bool scalar; False after a non-finite loss, from when on the state does not change.
    """

    step: jax.Array
    parameters: Any
    moments: Any
    key: jax.Array
    alive: jax.Array


class Moments(NamedTuple):
    """Optimizer states of a method whose tables are updated by rows: of the tables by name, and of the rest."""

    tables: dict[str, Any]
    rest: Any


def stack_numbers(hypers: Sequence[Any]) -> Any:
    """Numbers of the members of a population as one tree, leaves [M] float32."""
    return jax.tree.map(lambda *values: jnp.array(values, jnp.float32), *hypers)


def optimizer(learning_rate: jax.Array | float) -> optax.GradientTransformation:
    """Adam; built inside the traced function, so the step size may be a tracer."""
    return optax.adam(learning_rate)


def initial_state(method: Method, key: jax.Array, batch: RequestBatch, tables: TablesConfig = DENSE) -> TrainState:
    """The state before the first step."""
    for_parameters, for_steps = jax.random.split(key)
    parameters = method.init(for_parameters, batch)
    if tables.update == "dense":
        moments = optimizer(0.0).init(parameters)
    else:
        by_row, rest = split(parameters)
        by_row = {name: table.astype(tables.dtype) for name, table in by_row.items()}
        start = row_optimizer(tables).start
        moments = Moments({name: start(table) for name, table in by_row.items()}, optimizer(0.0).init(rest))
        parameters = join(by_row, rest)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        parameters=parameters,
        moments=moments,
        key=for_steps,
        alive=jnp.ones((), bool),
    )
