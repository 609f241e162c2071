"""The wrappers that place a chunk of steps on devices; all give the same numbers.

`single` one device; `emulated` n devices imitated on one, for tests; `pmap`; `mesh`, the default on many devices: a
jitted shard_map whose axes split the population of runs, the rows of the batch, and the rows of the tables. Devices of
the table axis split the batch as well. The devices may be those of several processes; each process then has its own
rows of every batch, and all of them the same states on the host.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from hccp_jax.errors import UserError
from hccp_jax.models.table import vocabulary
from hccp_jax.training.hosts import is_alone

DATA = "data"
POPULATION = "population"
MODEL = "model"
KINDS = ("single", "emulated", "pmap", "mesh")
_BATCH_AXIS = 2  # leaves are [streams, steps, U, ...]


@dataclass(frozen=True)
class Wrapped:
    """A placed chunk.

    Attributes:
        run: (states, hypers, streams, batches, catalogue, total_steps) -> (states, metrics); the states may come from
            the host or from an earlier call, and are donated.
        population: what M must divide by.
        place: (hypers, streams, catalogue, total_steps) -> the same where `run` wants them, so that it does not move
            them at every call.
        fetch: states -> the same on the host, whole.
        put: batches from the host -> where `run` wants them, so that it moves nothing itself; None where it has to.
        lower: as `run`, from arrays or shapes -> the lowered program; on a mesh only.
    """

    run: Callable[..., Any]
    population: int
    place: Callable[..., tuple] = lambda *constants: constants
    fetch: Callable[[Any], Any] = lambda states: jax.tree.map(np.asarray, states)
    put: Callable[[Any], Any] | None = None
    lower: Callable[..., jax.stages.Lowered] | None = None


def _split_rows(batches: Any, devices: int) -> Any:
    """[G, S, U, ...] -> [devices, G, S, U / devices, ...]."""

    def split(leaf: Any) -> Any:
        shape = (*leaf.shape[:_BATCH_AXIS], devices, leaf.shape[_BATCH_AXIS] // devices, *leaf.shape[_BATCH_AXIS + 1 :])
        return leaf.reshape(shape).swapaxes(1, 2).swapaxes(0, 1)

    return jax.tree.map(split, batches)


def wrap(chunk: Callable[..., Any], kind: str, devices: int = 1, population: int = 1, model: int = 1) -> Wrapped:
    """Place `chunk(states, hypers, streams, batches, catalogue, total_steps, axis=, model=)` on devices.

    Args:
        chunk: the per-device function; its outputs must not differ between the devices that split the batch, but for
            shards of tables.
        kind: one of KINDS.
        devices: how many split the batch; must divide it.
        population: size of the population axis (mesh only).
        model: how many of `devices` share each table by rows (mesh only); must divide `devices`.

    Raises:
        UserError: if there are fewer devices than asked, or they cannot be laid out so.
    """
    needed = devices * population
    if kind in ("pmap", "mesh") and needed > len(jax.devices()):
        raise UserError(f"devices={needed}: only {len(jax.devices())} of {jax.default_backend()} are there")
    if model > 1 and (kind != "mesh" or devices % model):
        raise UserError(f"model_devices={model}: expected a divisor of the {devices} devices of a mesh")
    if kind == "single":
        compiled = jax.jit(partial(chunk, axis=None), donate_argnums=0)
        return Wrapped(compiled, 1, lambda *constants: jax.device_put(constants), put=jax.device_put)
    inner = partial(chunk, axis=DATA)
    rows = (None, None, None, 0, None, None)
    if kind == "emulated":
        mapped = jax.jit(jax.vmap(inner, in_axes=rows, out_axes=None, axis_name=DATA, axis_size=devices))
        return Wrapped(lambda s, h, g, b, *rest: mapped(s, h, g, _split_rows(b, devices), *rest), 1)
    if kind == "pmap":
        return _by_pmap(inner, devices)
    if kind == "mesh":
        return _on_mesh(chunk, devices, population, model)
    raise UserError(f"parallel={kind!r}: expected one of {', '.join(KINDS)}")


def _by_pmap(inner: Callable[..., Any], devices: int) -> Wrapped:
    used = jax.devices()[:devices]
    placed = jax.pmap(inner, axis_name=DATA, in_axes=(None, None, None, 0, None, None), out_axes=None, devices=used)
    here = sum(device.process_index == jax.process_index() for device in used)
    # where pmap leaves the states; from elsewhere the first call would be compiled apart
    everywhere = NamedSharding(jax.sharding.Mesh(used, (DATA,)), P())

    def put(tree: Any) -> Any:
        return jax.device_put(tree, everywhere) if is_alone() else tree

    def run(states: Any, hypers: Any, streams: Any, batches: Any, *rest: Any) -> Any:
        return placed(put(states), hypers, streams, _split_rows(batches, here), *rest)

    return Wrapped(run, 1, lambda *constants: put(constants))


def make_mesh(devices: int, population: int, model: int = 1) -> jax.sharding.Mesh:
    """A [population, data, model] mesh of the first devices; `devices` = data x model."""
    grid = np.asarray(jax.devices()[: devices * population]).reshape(population, devices // model, model)
    return jax.sharding.Mesh(grid, (POPULATION, DATA, MODEL), axis_types=(AxisType.Auto,) * 3)


def _on_mesh(chunk: Callable[..., Any], devices: int, population: int, model: int) -> Wrapped:
    mesh = make_mesh(devices, population, model)
    inner = partial(chunk, axis=(DATA, MODEL), model=MODEL if model > 1 else None)
    members, everywhere, batch = P(POPULATION), P(), P(None, None, (DATA, MODEL))
    heights: dict[str, int] = {}  # rows of the tables without what fills up the shards

    def in_shards(path: tuple, _: Any) -> P:
        return P(POPULATION, MODEL) if model > 1 and _of(path) else members

    def filled(path: tuple, leaf: Any) -> Any:
        """A table from the host with rows of zeros, so that the shards are alike; nobody reads them."""
        of = _of(path)
        if isinstance(leaf, jax.Array) or model == 1 or not of:
            return leaf
        heights[of] = leaf.shape[1]
        return np.pad(leaf, [(0, 0), (0, -leaf.shape[1] % model), *[(0, 0)] * (leaf.ndim - 2)])

    def put(leaf: Any, spec: P) -> jax.Array:
        where = NamedSharding(mesh, spec)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf  # an earlier call has placed it
        if is_alone():
            return jax.device_put(leaf, where)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf), spec))
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, where, lambda part: whole[part])

    def put_rows(leaf: Any) -> jax.Array:
        """The rows of the batch that belong to this process."""
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf
        if is_alone():
            return jax.device_put(leaf, NamedSharding(mesh, batch))
        return jax.make_array_from_process_local_data(NamedSharding(mesh, batch), np.asarray(leaf))

    compiled: dict[Any, Callable[..., Any]] = {}

    def program(states: Any) -> Any:
        shape = jax.tree.structure(states)
        if shape not in compiled:
            specs = jax.tree_util.tree_map_with_path(in_shards, states)
            arguments = (specs, members, members, batch, everywhere, everywhere)
            # check_vma stays on: it refuses a forgotten reduction when the step is traced
            sharded = jax.shard_map(inner, mesh=mesh, in_specs=arguments, out_specs=(specs, members), check_vma=True)
            compiled[shape] = jax.jit(sharded, donate_argnums=0)
        return compiled[shape]

    def place(hypers: Any, streams: Any, catalogue: Any, total_steps: Any) -> tuple:
        placed = ((hypers, members), (streams, members), (catalogue, everywhere), (total_steps, everywhere))
        return tuple(jax.tree.map(partial(put, spec=spec), tree) for tree, spec in placed)

    def run(states: Any, hypers: Any, streams: Any, batches: Any, catalogue: Any, total_steps: Any) -> Any:
        states = jax.tree_util.tree_map_with_path(filled, states)
        states = jax.tree_util.tree_map_with_path(lambda path, leaf: put(leaf, in_shards(path, leaf)), states)
        hypers, streams, *rest = place(hypers, streams, catalogue, total_steps)
        return program(states)(states, hypers, streams, jax.tree.map(put_rows, batches), *rest)

    def lower(states: Any, *others: Any) -> jax.stages.Lowered:
        return program(states).lower(states, *others)

    def fetch(states: Any) -> Any:
        """Shards are joined on the host; only those of other processes need a collective."""

        def whole(path: tuple, leaf: Any) -> np.ndarray:
            near = leaf.is_fully_addressable or leaf.is_fully_replicated
            found = np.asarray(leaf if near else multihost_utils.process_allgather(leaf, tiled=True))
            height = heights.get(_of(path))
            return found if height is None else found[:, :height]

        return jax.tree_util.tree_map_with_path(whole, states)

    return Wrapped(run, population, place, fetch, partial(jax.tree.map, put_rows), lower)


def _of(path: tuple) -> str:
    """Of whom the table is that a leaf of the state belongs to, as its rows or as what the optimizer keeps of them."""
    names = [vocabulary(str(part.key)) for part in path if isinstance(part, jax.tree_util.DictKey)]
    return next(filter(None, names), "")
