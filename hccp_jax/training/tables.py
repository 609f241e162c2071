"""Tables of which a step reads and writes the rows of its batch only, on one device or sharded by rows.

A step finds the distinct rows that the batch of all devices names, reads them into small tables, lets the method work
on those (its features' "row" then counts in the small tables), takes the gradient of the small tables, and writes the
updated rows back. No gradient of a table's size exists, and the tables are donated, so that they change in place.

Tables that are sharded over an axis of the mesh are read by masks and a sum over that axis; each shard writes its own
rows. Bytes moved a device and step: one all-gather of the row numbers over all devices, one sum of the small tables
over the model axis, and the sum of their gradients over all devices.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from hccp_jax.collectives import Axis, first_row, known_everywhere, psum
from hccp_jax.config import field
from hccp_jax.data.requests import RequestBatch
from hccp_jax.models.table import ITEMS, USERS, rows_of, vocabulary
from hccp_jax.training.rows import LazyAdam, RowAdagrad, RowOptimizer, rounded

Tables = dict[str, jax.Array]


@dataclass(frozen=True)
class TablesConfig:
    """How the tables of users and items are updated and kept."""

    update: str = field(
        "dense",
        "dense: Adam on whole tables; lazy: the same Adam on the rows of a batch; adagrad: row-wise, of these rows",
        choices=("dense", "lazy", "adagrad"),
    )
    dtype: str = field(
        "float32", "bfloat16: half the memory, rounded at random; not with dense", choices=("float32", "bfloat16")
    )
    adagrad_rate: float = field(10.0, "step size of row-wise Adagrad, in units of hyper.learning_rate", above=0)
    item_rows: int = field(0, "rows that items share by hashing; 0: each item has its own", at_least=0)
    user_rows: int = field(0, "the same for users", at_least=0)


DENSE = TablesConfig()


class Axes(NamedTuple):
    """Where a step runs.

    Attributes:
        batch: name(s) of the device axes that split the batch, or None.
        model: the one of them over which tables are sharded by rows, or None.
    """

    batch: Axis = None
    model: str | None = None


class Read(NamedTuple):
    """Rows [n, w] of one table as they are when the step begins, and where they lie in this device's shard.

    Attributes:
        place: [n] int32; beyond the table where the row is another shard's or none.
        rows: float32, caught up; of other shards' rows anything.
        state: of the optimizer, caught up.
    """

    place: jax.Array
    rows: jax.Array
    state: Any


def split(parameters: Any) -> tuple[Tables, Any]:
    """The tables by name, and the other parameters."""
    if not isinstance(parameters, Mapping):
        return {}, parameters
    flat = flatten_dict(parameters, sep="/")
    tables = {name: leaf for name, leaf in flat.items() if vocabulary(name)}
    return tables, unflatten_dict({name: leaf for name, leaf in flat.items() if name not in tables}, sep="/")


def join(tables: Tables, rest: Any) -> Any:
    """The inverse of `split`."""
    if not tables:
        return rest
    return unflatten_dict(flatten_dict(rest, sep="/") | tables, sep="/")


def row_optimizer(config: TablesConfig) -> RowOptimizer:
    """The optimizer of rows; there is none for dense tables."""
    return LazyAdam() if config.update == "lazy" else RowAdagrad()


def rate_of(config: TablesConfig, learning_rate: jax.Array) -> jax.Array:
    """Step size of the tables."""
    return learning_rate * (config.adagrad_rate if config.update == "adagrad" else 1.0)


def distinct_rows(batch: RequestBatch, axis: Axis) -> tuple[dict[str, jax.Array], RequestBatch]:
    """The distinct rows of tables that the batch of all devices names, and the batch with features' "row" among them.

    Args:
        batch: features attached.
        axis: of the devices that split the batch.

    Returns:
        {ITEMS: [n], USERS: [m]} int32, ascending and the same on all devices; n is the number of ids and the places
        beyond the distinct ones hold the largest int32. And the batch.
    """
    items, seen = _positions([rows_of(batch.items), rows_of(batch.history)], axis)
    batch = replace(batch, items=batch.items | {"row": seen[0]}, history=batch.history | {"row": seen[1]})
    if "id" not in batch.user:
        return {ITEMS: items}, batch
    users, (position,) = _positions([rows_of(batch.user)], axis)
    return {ITEMS: items, USERS: users}, replace(batch, user=batch.user | {"row": position})


def _positions(rows: list[jax.Array], axis: Axis) -> tuple[jax.Array, list[jax.Array]]:
    """Distinct values of all arrays on all devices, and the place of each value among them."""
    flat = jnp.concatenate([part.ravel() for part in rows])
    everywhere = known_everywhere(flat, axis)
    fill = jnp.iinfo(jnp.int32).max
    distinct, place = jnp.unique(everywhere, size=len(everywhere), fill_value=fill, return_inverse=True)
    place = jax.lax.dynamic_slice_in_dim(place.astype(jnp.int32), first_row(len(flat), axis), len(flat))
    parts, begin = [], 0
    for part in rows:
        parts.append(place[begin : begin + part.size].reshape(part.shape))
        begin += part.size
    return distinct, parts


def read(
    optimizer: RowOptimizer,
    tables: Tables,
    states: dict[str, Any],
    rows: dict[str, jax.Array],
    step: jax.Array,
    rate: jax.Array,
    model: str | None,
) -> tuple[dict[str, Read], Tables]:
    """The rows of a batch, caught up to the step before.

    Args:
        optimizer: of rows.
        tables: [V, w] each, or this device's shard of them.
        states: of the optimizer, by the tables' names.
        rows: of `distinct_rows`.
        step: int32, steps done.
        rate: step size of the tables.
        model: axis of the shards.

    Returns:
        What `write` needs, and the small tables [n, w] float32, complete on every device.
    """
    found, small = {}, {}
    for name, table in tables.items():
        wanted = rows[vocabulary(name)]
        place = wanted - first_row(len(table), model)
        mine = (place >= 0) & (place < len(table))
        place = jnp.where(mine, place, len(table))
        values, state = jax.tree.map(lambda leaf, p=place: leaf.at[p].get(mode="clip"), (table, states[name]))
        values, state = optimizer.catch_up(values.astype(jnp.float32), state, step, rate)
        found[name] = Read(place, values, state)
        small[name] = values if model is None else psum(jnp.where(mine[:, None], values, 0.0), model)
    return found, small


def write(
    optimizer: RowOptimizer,
    tables: Tables,
    states: dict[str, Any],
    found: dict[str, Read],
    gradients: Tables,
    step: jax.Array,
    rate: jax.Array,
    alive: jax.Array,
    key: jax.Array,
) -> tuple[Tables, dict[str, Any]]:
    """Tables and states after a step; unchanged where `alive` is False.

    Args:
        optimizer: of rows.
        tables: as `read` got them.
        states: likewise.
        found: of `read`.
        gradients: of the small tables, summed over the devices.
        step: the number of this update, from 1.
        rate: step size of the tables.
        alive: bool scalar.
        key: of the random rounding.
    """
    tables, states = dict(tables), dict(states)
    for number, name in enumerate(sorted(tables)):
        table = tables[name]
        place, rows, state = found[name]
        rows, state = optimizer.update(rows, state, gradients[name], step, rate)
        rows = rounded(rows, table.dtype, jax.random.fold_in(key, number))
        place = jnp.where(alive, place, len(table))
        tables[name], states[name] = jax.tree.map(
            lambda leaf, new, p=place: leaf.at[p].set(new, mode="drop"), (table, states[name]), (rows, state)
        )
    return tables, states


def settled(config: TablesConfig, parameters: Any, states: dict[str, Any], step: jax.Array, rate: jax.Array) -> Any:
    """The parameters with every row caught up to `step`: what dense Adam would have now; float32 tables."""
    tables, rest = split(parameters)
    optimizer = row_optimizer(config)
    return join(
        {
            name: optimizer.catch_up(table.astype(jnp.float32), states[name], step, rate)[0]
            for name, table in tables.items()
        },
        rest,
    )
