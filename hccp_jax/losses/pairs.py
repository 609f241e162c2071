"""Which in-batch columns count as negatives of which rows, tested block by block and never stored whole."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.data import sampling


class Pairs(NamedTuple):
    """Which columns count for which rows. A field that is None excludes nothing.

    Attributes:
        column_where: [N] bool, columns that count at all; the vectors of others may hold anything.
        own_rows: [N, T] int32, rows that a column does not count for, those of its own request; any number that is no
            row, such as -1 or R, for none. A list and not a mask: it costs N T writes where a mask costs R N tests.
        row_ids: [R, E] int32, item ids that do not count for a row, such as its positives; -1 for none.
        column_ids: [N] int32, the item of each column; not negative.
        sample_bits: uint32 scalar; with it a pair counts with chance `rate`, by a hash of its row and column number.
        row_number: [R] int32, the row's name for the sample; 0 .. R - 1 if None.
    """

    column_where: jax.Array | None = None
    own_rows: jax.Array | None = None
    row_ids: jax.Array | None = None
    column_ids: jax.Array | None = None
    sample_bits: jax.Array | None = None
    row_number: jax.Array | None = None


def row_counts(rows: int, columns: int, pairs: Pairs, rate: float = 1.0) -> jax.Array:
    """[R] int32: how many columns count for each row.

    >>> print(row_counts(2, 3, Pairs(column_where=jnp.array([True, False, True]))))
    [2 2]

    """
    if not columns or all(field is None for field in pairs):
        return jnp.full(rows, columns, jnp.int32)
    size = next(size for size in range(min(columns, 256), 0, -1) if columns % size == 0)

    def count(total, start):
        counted = masked(jnp.ones((size, rows), jnp.int32), 0, pairs, rate, start)
        return total + jnp.sum(counted, axis=0, dtype=jnp.int32), None

    # Zeros of the pairs: inside shard_map the carry varies over the devices as they do.
    zero = sum(jnp.zeros_like(leaf, jnp.int32, shape=()) for leaf in jax.tree.leaves(pairs))
    return jax.lax.scan(count, jnp.zeros(rows, jnp.int32) + zero, size * jnp.arange(columns // size))[0]


def masked(
    x: jax.Array, other: float, pairs: Pairs, rate: float, start: ArrayLike = 0, rows_first: bool = False
) -> jax.Array:
    """`x` where a pair counts, and `other` where it does not.

    Args:
        x: [C, R], or [R, C] if `rows_first`, for the columns start .. start + C.
        other: a constant.
        pairs: of all columns.
        rate: chance of a sampled pair, static.
        start: first column, possibly traced.
        rows_first: the layout, static.

    >>> print(masked(jnp.ones((2, 2)), 0.0, Pairs(own_rows=jnp.array([[0], [1]])), 1.0))
    [[0. 1.]
     [1. 0.]]

    """
    size, rows = x.shape[::-1] if rows_first else x.shape
    counts = _counts(pairs, rate, rows, start, size, rows_first)
    x = x if counts is None else jnp.where(counts, x, other)
    if pairs.own_rows is None or rows_first:
        return x
    own = jax.lax.dynamic_slice_in_dim(pairs.own_rows, start, size)
    own = jnp.where(own < 0, rows, own)  # a negative index would count from the end
    column = jnp.arange(size)[:, None]
    return x.at[column, own].set(other, mode="drop")


def _counts(pairs: Pairs, rate: float, rows: int, start: ArrayLike, size: int, rows_first: bool) -> jax.Array | None:
    """Which of the columns from `start` on count for which rows, [R, size] or [size, R]; the latter own rows aside."""

    def of_rows(x):
        return jnp.expand_dims(x, 1 if rows_first else 0)

    def of_columns(x):
        x = jax.lax.dynamic_slice_in_dim(x, start, size)
        return jnp.expand_dims(x, 0 if rows_first else 1)

    tests = []
    if pairs.column_where is not None:
        tests.append(jnp.broadcast_to(of_columns(pairs.column_where), (rows, size) if rows_first else (size, rows)))
    if pairs.own_rows is not None and rows_first:
        # All scores at once are differentiated by autodiff, which keeps a mask more cheaply than writes.
        tests += [of_columns(pairs.own_rows[:, i]) != of_rows(jnp.arange(rows)) for i in range(pairs.own_rows.shape[1])]
    if pairs.column_ids is not None and pairs.row_ids is not None:
        ids = of_columns(pairs.column_ids)
        tests += [ids != of_rows(pairs.row_ids[:, i]) for i in range(pairs.row_ids.shape[1])]
    if pairs.sample_bits is not None:
        number = jnp.arange(rows) if pairs.row_number is None else pairs.row_number
        column = jnp.expand_dims(start + jnp.arange(size), 0 if rows_first else 1)
        tests.append(sampling.independent_columns(of_rows(number), column, rate, pairs.sample_bits))
    return None if not tests else jax.tree.reduce(jnp.logical_and, tests)
