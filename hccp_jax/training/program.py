"""Where training runs, and its compiled parts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from hccp_jax.methods.base import Method
from hccp_jax.training.parallel import wrap
from hccp_jax.training.state import TrainState, initial_state
from hccp_jax.training.step import train_chunk


@dataclass(frozen=True)
class Placement:
    """Where a population runs: wrapper, devices of the data axis, devices of the population axis."""

    kind: str = "single"
    devices: int = 1
    population: int = 1


class Program:
    """The compiled parts of training one method: its first state and its chunk of steps.

    Several calls of `train` may share one; then each shape is compiled once.

    Args:
        method: what to train.
        featurise: of the source.
        placement: devices.
    """

    def __init__(self, method: Method, featurise: Callable[..., Any], placement: Placement) -> None:
        def start(keys: jax.Array, batch: Any, catalogue: Any) -> TrainState:
            # mapped: vmapped, the random draws compile for twice as long
            return jax.lax.map(lambda key: initial_state(method, key, featurise(batch, catalogue)), keys)

        self.start = jax.jit(start)
        chunk = partial(train_chunk, method, featurise)
        self.wrapped = wrap(chunk, placement.kind, placement.devices, placement.population)
