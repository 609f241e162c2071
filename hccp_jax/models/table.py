"""Embedding tables with a row for each item or user: the large parameters, which training may treat apart.

Their parameters are called `item_rows` and `user_rows` in the parameter tree, wherever they are; so training finds
them, reads and writes the rows of a batch only, and shards them by rows. Tables of a few categories are ordinary
parameters (`flax.linen.Embed`).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

ITEMS, USERS = "item_rows", "user_rows"


class Table(nn.Module):
    """Rows [rows, width] looked up by the "row" of items or users, or by their "id" where there is no "row".

    Under `apply` the parameter may have other rows than it was made with: those of a batch, or some of padding. Whoever
    passes such a table passes features whose "row" counts in it.

    Attributes:
        of: ITEMS or USERS.
        rows: how many.
        width: of a row.
        start: initializer (key, shape) -> array.
    """

    of: str
    rows: int
    width: int
    start: Callable[..., Any]

    @nn.compact
    def __call__(self, features: dict[str, jax.Array]) -> jax.Array:
        """[..., width] float32 rows of features with "id" [...] int32."""
        if self.is_initializing():
            table = self.param(self.of, self.start, (self.rows, self.width))
        else:
            table = self.get_variable("params", self.of)
        return jnp.take(table, rows_of(features), axis=0).astype(jnp.float32)


def vocabulary(name: str) -> str:
    """Of whom the table is that a parameter's name (parts joined by "/") ends in: ITEMS, USERS, or "" if of nobody.

    >>> vocabulary("user_side/item_rows"), vocabulary("user_side/kernel")
    ('item_rows', '')

    """
    last = name.rsplit("/", 1)[-1]
    return last if last in (ITEMS, USERS) else ""


def rows_of(features: dict[str, jax.Array]) -> jax.Array:
    """Which row of a table each item or user has: its "row", or its "id" where every id has a row of its own."""
    return features.get("row", features["id"])


def identity(features: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The part of the features that says which item or user it is: "id", and "row" if there is one."""
    return {name: features[name] for name in ("id", "row") if name in features}
