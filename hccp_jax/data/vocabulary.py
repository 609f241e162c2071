"""Vocabularies of ids: exact by default, a row of a table for each id, or hashed into fewer rows that ids share."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from hccp_jax.data.catalogue import Catalogue, FeatureSpec
from hccp_jax.data.hashing import integers


def hashed(spec: FeatureSpec, catalogue: Catalogue, items: int = 0, users: int = 0) -> tuple[FeatureSpec, Catalogue]:
    """Sizes and features with tables of fewer rows; ids stay what they are, so masks and metrics do not change.

    Args:
        spec: of exact vocabularies.
        catalogue: likewise.
        items: rows that items share, the padding's included; 0 leaves them exact.
        users: the same for users.
    """
    of_items = {"row": hashed_rows("item row", spec.items, items)} if items else {}
    of_users = {"row": hashed_rows("user row", spec.users, users)} if users else {}
    catalogue = replace(catalogue, items=catalogue.items | of_items, users=catalogue.users | of_users)
    return replace(spec, hashed_items=items, hashed_users=users), catalogue


def hashed_rows(purpose: str, ids: int, rows: int) -> jax.Array:
    """[ids] int32: 0 for the padding id 0, a row in 1..rows - 1 for the others.

    >>> hashed_rows("item row", 6, 3).tolist()[0], int(hashed_rows("item row", 1000, 3).max())
    (0, 2)
    """
    number = jnp.arange(ids, dtype=jnp.int32)
    return jnp.where(number == 0, 0, 1 + integers(purpose, number, below=max(rows - 1, 1)))
