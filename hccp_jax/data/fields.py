"""Categorical fields of a table as ids of one vocabulary, side by side."""

from typing import Any

import numpy as np
import polars as pl

from hccp_jax.data.identities import dense


def codes(column: pl.Series, *, keep: int = 64, at_least: int = 1) -> tuple[np.ndarray, int]:
    """Codes [n] int32 of a text column and their number: 0 missing, 1 rare, then values by falling frequency."""
    text = column.cast(pl.String)
    text = text.set(text.str.strip_chars() == "", None)
    counts = text.drop_nulls().value_counts(name="count").sort(["count", column.name], descending=[True, False])
    kept = counts.filter(pl.col("count") >= at_least).head(keep)[column.name]
    found = text.replace_strict(kept, np.arange(2, 2 + len(kept)), default=1, return_dtype=pl.Int32)
    return found.set(text.is_null(), 0).to_numpy(), 2 + len(kept)


def several(lists: pl.Series) -> tuple[np.ndarray, int]:
    """Lists of texts as codes [n, G] int32 from 1, 0 where a row has no more, and how many texts there are."""
    names = lists.explode().drop_nulls().unique().sort()
    longest: Any = lists.list.len().max()
    places = [lists.list.get(place, null_on_oob=True) for place in range(longest or 1)]
    return np.stack([dense(names, values) for values in places], axis=1), len(names)


def side_by_side(columns: list[tuple[np.ndarray, int]], first: int) -> tuple[np.ndarray, int]:
    """Fields side by side in one vocabulary that begins at `first`: [1 + n, C] int32 (row 0 padding) and its end."""
    parts = []
    for part, size in columns:
        parts.append(np.pad(part + first, (1, 0)))
        first += size
    return np.stack(parts, axis=1).astype(np.int32), first
