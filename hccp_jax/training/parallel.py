"""The wrappers that place a chunk of steps on devices; all give the same numbers.

`single` one device; `emulated` n devices imitated on one, for tests; `pmap`; `mesh`, the default on many devices: a
jitted shard_map whose two axes split the population of runs and the rows of the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from hccp_jax.errors import UserError

DATA = "data"
POPULATION = "population"
KINDS = ("single", "emulated", "pmap", "mesh")
_BATCH_AXIS = 2  # leaves are [streams, steps, U, ...]


@dataclass(frozen=True)
class Wrapped:
    """A placed chunk: `run(states, hypers, streams, batches, catalogue, total_steps)`, and what M must divide by."""

    run: Callable[..., Any]
    population: int


def _split_rows(batches: Any, devices: int) -> Any:
    """[G, S, U, ...] -> [devices, G, S, U / devices, ...]."""

    def split(leaf: Any) -> Any:
        shape = (*leaf.shape[:_BATCH_AXIS], devices, leaf.shape[_BATCH_AXIS] // devices, *leaf.shape[_BATCH_AXIS + 1 :])
        return leaf.reshape(shape).swapaxes(1, 2).swapaxes(0, 1)

    return jax.tree.map(split, batches)


def wrap(chunk: Callable[..., Any], kind: str, devices: int = 1, population: int = 1) -> Wrapped:
    """Place `chunk(states, hypers, streams, batches, catalogue, total_steps, axis)` on devices.

    Args:
        chunk: the per-device function; its outputs must not differ between devices of the data axis.
        kind: one of KINDS.
        devices: size of the data axis; must divide the batch.
        population: size of the population axis (mesh only).

    Raises:
        UserError: if there are fewer devices than asked.
    """
    needed = devices * population
    if kind in ("pmap", "mesh") and needed > len(jax.devices()):
        raise UserError(f"devices={needed}: only {len(jax.devices())} of {jax.default_backend()} are there")
    if kind == "single":
        return Wrapped(jax.jit(partial(chunk, axis=None), donate_argnums=0), 1)
    inner = partial(chunk, axis=DATA)
    rows = (None, None, None, 0, None, None)
    if kind == "emulated":
        mapped = jax.jit(jax.vmap(inner, in_axes=rows, out_axes=None, axis_name=DATA, axis_size=devices))
        return Wrapped(lambda s, h, g, b, *rest: mapped(s, h, g, _split_rows(b, devices), *rest), 1)
    if kind == "pmap":
        placed = jax.pmap(inner, axis_name=DATA, in_axes=rows, out_axes=None, devices=jax.devices()[:devices])
        # where pmap leaves the states; from elsewhere the first call would be compiled apart
        everywhere = NamedSharding(jax.sharding.Mesh(jax.devices()[:devices], (DATA,)), P())

        def run(states: Any, hypers: Any, streams: Any, batches: Any, *rest: Any) -> Any:
            return placed(jax.device_put(states, everywhere), hypers, streams, _split_rows(batches, devices), *rest)

        return Wrapped(run, 1)
    if kind == "mesh":
        return _on_mesh(inner, devices, population)
    raise UserError(f"parallel={kind!r}: expected one of {', '.join(KINDS)}")


def make_mesh(devices: int, population: int) -> jax.sharding.Mesh:
    """A [population, data] mesh of the first devices."""
    grid = np.asarray(jax.devices()[: devices * population]).reshape(population, devices)
    return jax.sharding.Mesh(grid, (POPULATION, DATA), axis_types=(AxisType.Auto, AxisType.Auto))


def _on_mesh(inner: Callable[..., Any], devices: int, population: int) -> Wrapped:
    mesh = make_mesh(devices, population)
    members, rows, everywhere = P(POPULATION), P(None, None, DATA), P()
    specs = (members, members, members, rows, everywhere, everywhere)
    # check_vma stays on: it refuses a forgotten reduction when the step is traced
    sharded = jax.shard_map(inner, mesh=mesh, in_specs=specs, out_specs=members, check_vma=True)
    run = jax.jit(sharded, donate_argnums=0)
    places = [NamedSharding(mesh, spec) for spec in specs]

    def place(*arguments: Any) -> Any:
        return run(*(jax.device_put(x, where) for x, where in zip(arguments, places, strict=True)))

    return Wrapped(place, population)
