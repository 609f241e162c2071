"""One training step of HCCP on a mesh, compiled from shapes alone: nothing is generated and nothing runs."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.benchmarks.cost_model import Counted, Line
from experiments.benchmarks.hlo import collectives
from experiments.settings import SimulatedSettings
from hccp_jax.cascade import logs
from hccp_jax.cascade.source import featurise
from hccp_jax.cascade.world import build_world
from hccp_jax.errors import UserError
from hccp_jax.methods.hccp import Layout, hccp
from hccp_jax.models.table import ITEMS, USERS, vocabulary
from hccp_jax.training.parallel import Wrapped, wrap
from hccp_jax.training.state import initial_state
from hccp_jax.training.step import train_chunk
from hccp_jax.training.tables import TablesConfig, split


class Step(NamedTuple):
    """A chunk of one step of one member as the package places it on a mesh, and the shapes of what it is given.

    Attributes:
        wrapped: `train_chunk` of a method, one population wide.
        states: leaves [1, ...].
        batch: of all devices, [U, ...].
        catalogue: feature tables.
    """

    wrapped: Wrapped
    states: Any
    batch: Any
    catalogue: Any


def described(settings: SimulatedSettings, tables: str, requests: int, devices: int, model: int) -> Step:
    """The package's own step of HCCP, and shapes.

    Args:
        settings: of world and model; tables have `world.items` + 1 and `world.users` + 1 rows, which `model` divides.
        tables: "dense", "lazy" or "adagrad".
        requests: a device and step.
        devices: that split the batch.
        model: how many of them share each table by rows.
    """
    layout = Layout(settings.world.exposed, settings.sampling.sequence)
    method = hccp(logs.feature_spec(settings.world), settings.model, settings.negatives, layout)
    config = TablesConfig(update=tables)
    wrapped = wrap(partial(train_chunk, method, featurise, tables=config), "mesh", devices, 1, model)

    world = jax.eval_shape(lambda: build_world(settings.world))
    catalogue = jax.eval_shape(lambda w: logs.catalogue(w, settings.world), world)
    known = jax.ShapeDtypeStruct((settings.world.items + 1,), jnp.float32)
    catalogue = replace(catalogue, items=catalogue.items | {"log_frequency": known})

    def drawn(world: Any) -> Any:
        return logs.training_batch(world, settings.world, settings.sampling, 0, jnp.int32(0), devices * requests)

    batch = jax.eval_shape(drawn, world)

    def start(key: jax.Array, batch: Any, catalogue: Any) -> Any:
        state = initial_state(method, key, featurise(batch, catalogue), config)
        return jax.tree.map(lambda leaf: leaf[None], state)

    states = jax.eval_shape(start, jax.eval_shape(lambda: jax.random.key(0)), batch, catalogue)
    return Step(wrapped, states, batch, catalogue)


def compiled(step: Step, settings: SimulatedSettings) -> jax.stages.Compiled:
    """The chunk, compiled for the devices."""
    assert step.wrapped.lower is not None
    hypers = jax.tree.map(lambda _: jax.ShapeDtypeStruct((1,), jnp.float32), settings.hyper)
    batches = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, 1, *x.shape), x.dtype), step.batch)
    stream, total = jax.ShapeDtypeStruct((1,), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32)
    return step.wrapped.lower(step.states, hypers, stream, batches, step.catalogue, total).compile()


def counted(program: jax.stages.Compiled, devices: int) -> Counted:
    """What a compiled step costs each device."""
    cost, memory, text = program.cost_analysis(), program.memory_analysis(), program.as_text()
    if cost is None or memory is None or text is None:
        raise UserError("this compiler does not tell what a program costs; expected that of a CPU")
    resident = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    flops, traffic = float(cost["flops"]), float(cost["bytes accessed"])
    return Counted(devices, flops, traffic, float(resident), tuple(collectives(text)))


def least(settings: SimulatedSettings, step: Step, devices: int, by_rows: bool) -> dict[str, Line]:
    """Payload of the collectives by kind, counted by hand, if everything were sent once; metrics are left out.

    Gathered: vector, id, frequency and mask of the impressions of each request. Scattered: the gradient of these
    vectors. Summed: the gradients, and with updates by rows the row numbers of the batch as well, where a table's
    gradient has as many rows as the batch of all devices has ids.
    """
    tables, rest = split(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], jnp.bool), step.states.parameters))
    shown = len(step.batch.mask) // devices * settings.world.exposed
    vector = 4 * settings.model.vector
    dense = 4.0 * sum(leaf.size for leaf in jax.tree.leaves(rest))
    whole = 4.0 * sum(leaf.size for leaf in tables.values())
    items = step.batch.mask.size + step.batch.history_mask.size
    ids = {ITEMS: items / devices, USERS: len(step.batch.mask) / devices}
    rows = 4.0 * sum(ids[vocabulary(name)] * (1 + leaf.shape[1]) for name, leaf in tables.items())
    return {
        "all-gather": Line(0.0, float(shown * (vector + 4 + 4 + 1))),
        "reduce-scatter": Line(0.0, float(shown * vector)),
        "all-reduce": Line(dense, rows) if by_rows else Line(dense + whole, 0.0),
    }
