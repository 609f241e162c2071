"""Where training runs, and its compiled parts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from hccp_jax.errors import UserError
from hccp_jax.methods.base import Method
from hccp_jax.training.parallel import wrap
from hccp_jax.training.state import TrainState, initial_state
from hccp_jax.training.step import train_chunk
from hccp_jax.training.tables import DENSE, TablesConfig, rate_of, settled


@dataclass(frozen=True)
class Placement:
    """Where a population runs.

    Attributes:
        kind: wrapper.
        devices: how many split each batch.
        population: devices over which runs are spread; `devices` for each of them.
        model: how many of `devices` share each table by rows.
    """

    kind: str = "single"
    devices: int = 1
    population: int = 1
    model: int = 1


class Program:
    """The compiled parts of training one method: its first state and its chunk of steps.

    Where tables are updated by rows there is a third, `settle`: (states [M], rates [M]) -> parameters with all rows
    caught up; else it is None.

    Several calls of `train` may share one; then each shape is compiled once.

    Args:
        method: what to train.
        featurise: of the source.
        placement: devices.
        tables: how tables of users and items are updated.
        members: "map", "vmap", or "auto", which is vmap on an accelerator.

    Raises:
        UserError: where tables cannot be kept so.
    """

    def __init__(
        self,
        method: Method,
        featurise: Callable[..., Any],
        placement: Placement,
        tables: TablesConfig = DENSE,
        members: str = "auto",
    ) -> None:
        if tables.update == "dense" and (placement.model > 1 or tables.dtype != "float32"):
            asked = f"model_devices={placement.model}" if placement.model > 1 else f"train.tables.dtype={tables.dtype}"
            raise UserError(f"{asked}: expected train.tables.update=lazy or adagrad with it; dense tables stay whole")

        def start(keys: jax.Array, batch: Any, catalogue: Any) -> TrainState:
            # mapped: vmapped, the random draws compile for twice as long
            return jax.lax.map(lambda key: initial_state(method, key, featurise(batch, catalogue), tables), keys)

        self.start = jax.jit(start)
        together = members == "vmap" or (members == "auto" and jax.default_backend() != "cpu")
        chunk = partial(train_chunk, method, featurise, tables=tables, together=together)
        self.wrapped = wrap(chunk, placement.kind, placement.devices, placement.population, placement.model)

        def settle(states: TrainState, rates: jax.Array) -> Any:
            def one(inputs: tuple) -> Any:
                state, rate = inputs
                return settled(tables, state.parameters, state.moments.tables, state.step, rate_of(tables, rate))

            return jax.lax.map(one, (states, rates))

        self.settle = jax.jit(settle) if tables.update != "dense" else None
