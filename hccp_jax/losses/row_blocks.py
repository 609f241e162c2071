"""Sums over the rows of a square of pairs, a block of rows at a time: no K x K array outlives its block."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

BLOCK_BYTES = 1 << 20
"""Aim for one [lists, rows, K] array of a block, so that it stays in a cache of the second level."""

Term = Callable[[Any, Any, Any], jax.Array]


def sum_over_row_blocks(term: Term, rows: Any, whole: Any, constants: Any, *, block: int | None = None) -> jax.Array:
    """Sum of `term` over all rows, with a gradient that is computed in the same pass.

    The sum of a list is linear in what comes after it, so that its gradient is known up to one factor a list before
    the backward pass begins: each block is differentiated at once and thrown away. Time O(K^2), memory
    O(block K + K) a list. Differentiable in reverse mode only.

    Args:
        term: (rows of a block, whole, (constants of the rows, constants of the whole)) -> [B]; adds over the rows.
        rows: pytree of [B, K, ...] floats cut along axis 1, differentiable.
        whole: pytree of [B, ...] floats seen by every block, differentiable. Inside shard_map they must vary over the
            same axes as the rows.
        constants: (pytree cut like `rows`, pytree like `whole`), not differentiable.
        block: rows of a block; None takes as many as fit into `BLOCK_BYTES`.

    Returns:
        [B] sums.

    >>> def products(rows, whole, constants):  # of each row with each element
    ...     return jnp.sum(rows[:, :, None] * whole[:, None, :], axis=(1, 2))
    >>> x = jnp.array([[1.0, 2.0, 3.0]])
    >>> print(sum_over_row_blocks(products, x, x, ((), ()), block=2))  # (1 + 2 + 3)^2
    [36.]

    """
    leaf = jax.tree.leaves(rows)[0]
    lists, size = leaf.shape[:2]
    if block is None:
        block = max(1, BLOCK_BYTES // max(1, 4 * lists * size))
    if block >= size:
        return term(rows, whole, constants)
    blocks = -(-size // block)
    block = -(-size // blocks)
    # Rows beyond the last are masked by the term, since every cut constant is padded with zeros (False).
    return _streamed(term, block, rows, whole, *constants)


def _cut(tree: Any, block: int) -> Any:
    """[B, K, ...] to [blocks, B, block, ...], zeros after the last row."""

    def cut(x):
        count = -(-x.shape[1] // block)
        x = jnp.pad(x, [(0, 0), (0, count * block - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], count, block, *x.shape[2:]), 1, 0)

    return jax.tree.map(cut, tree)


def _joined(tree: Any, like: Any) -> Any:
    def join(x, old):
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, : old.shape[1]]

    return jax.tree.map(join, tree, like)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _streamed(term: Term, block: int, rows: Any, whole: Any, row_constants: Any, constants: Any) -> jax.Array:
    def one(total, cut):
        return total + term(cut[0], whole, (cut[1], constants)), None

    return jax.lax.scan(one, _varying_zero(rows), _cut((rows, row_constants), block))[0]


def _varying_zero(rows: Any) -> jax.Array:
    """[B] zeros that vary over the devices of a mesh as the rows do, as the carry of a scan must."""
    leaf = jax.tree.leaves(rows)[0]
    return jnp.zeros_like(leaf[:, 0])


def _streamed_fwd(term, block, rows, whole, row_constants, constants):
    def one(carry, cut):
        total, whole_slope = carry

        def summed(rows, whole):
            values = term(rows, whole, (cut[1], constants))
            return jnp.sum(values), values

        slopes, values = jax.grad(summed, argnums=(0, 1), has_aux=True)(cut[0], whole)
        return (total + values, jax.tree.map(jnp.add, whole_slope, slopes[1])), slopes[0]

    start = _varying_zero(rows), jax.tree.map(jnp.zeros_like, whole)
    (total, whole_slope), row_slopes = jax.lax.scan(one, start, _cut((rows, row_constants), block))
    return total, (_joined(row_slopes, rows), whole_slope)


def _streamed_bwd(term, block, slopes, cotangent):
    def scaled(slope):
        return slope * jnp.expand_dims(cotangent, range(1, slope.ndim))

    return (*jax.tree.map(scaled, slopes), None, None)


_streamed.defvjp(_streamed_fwd, _streamed_bwd)
