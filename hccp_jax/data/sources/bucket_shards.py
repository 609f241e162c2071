"""From a bucket of rows to one shard of each part of a store, and how many buckets a file needs."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hccp_jax.data import buckets
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

_UNZIPPED = 5  # size of a text over its gzipped size, about


class Made(NamedTuple):
    """What a bucket becomes: columns [n, ...] of each table, and counts that the buckets of a conversion add up."""

    parts: dict[str, dict[str, np.ndarray]]
    counts: dict[str, int]


def how_many(path: Path, row_bytes: int, weight: int = 1) -> int:
    """Buckets for the rows of a text.

    Args:
        path: the file, not read: the number of its rows is that of its bytes over `row_bytes`.
        row_bytes: of a row, rather too few than too many.
        weight: how much more memory a row takes on its way than those that `buckets` counts.
    """
    size = path.stat().st_size * (_UNZIPPED if path.suffix == ".gz" else 1)
    return buckets.how_many((size // row_bytes + 1) * weight)


def write(writer: StoreWriter, name: str, tables: Sequence[str], make: Callable[[], Made]) -> dict[str, int]:
    """Write a bucket as the shard `name` of some tables, made once at most; its counts.

    Args:
        writer: of the store.
        name: different for each bucket of a table.
        tables: of the keys of `parts`.
        make: a pure function.
    """
    made = functools.cache(make)
    counts = writer.step(f"{'-'.join(tables)} {name}", lambda: made().counts)
    for table in tables:
        writer.shard(table, name, lambda table=table: made().parts[table])  # type: ignore[misc]
    return counts


def refuse_empty(writer: StoreWriter, tables: Sequence[str], why: Callable[[str], str]) -> None:
    """Raise a `UserError` of what `why` says of the first table without rows."""
    for table in tables:
        if table not in writer.tables or not len(writer.opened(table)):
            raise UserError(why(table))
