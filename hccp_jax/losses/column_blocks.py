"""Blocks of the scores of rows against columns: made, used and thrown away. The machinery of `streaming`.

A block is [columns, rows], so that every product is of plain matrices and reductions run over whole vectors.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hccp_jax.losses.pairs import Pairs

MATERIALIZE_BYTES = 4 << 20
"""Scores of no more bytes than this are made at once: they stay in a cache, and nothing is made twice."""

BLOCK_SCORES = 1 << 18
"""Scores of a block: 1 MiB in float32, half of a second-level cache."""


def varying_alike(pairs: Pairs, *arrays: jax.Array | None) -> list[Any]:
    """The arrays, each varying over the devices of a mesh as any of them or the pairs does.

    Carries of a scan and the gradients of a `custom_vjp` must; by this addition columns that all devices share get
    the sum of the devices' gradients.
    """
    leaves = jax.tree.leaves((pairs, arrays))
    zero = sum((jnp.zeros_like(leaf, jnp.float32, shape=()) for leaf in leaves), jnp.float32(0.0))
    return [None if array is None else array + zero.astype(array.dtype) for array in arrays]


def block_size(rows: int, columns: int, block: int | None) -> int:
    """Columns of a block; 0 for all at once."""
    if block is not None:
        return min(block, columns)
    if 4 * rows * columns <= MATERIALIZE_BYTES:
        return 0
    most = max(128, min(1024, BLOCK_SCORES // max(rows, 1)))
    # A divisor of the columns spares the copy that a remainder costs.
    divisors = [size for size in range(most, most // 2, -1) if columns % size == 0]
    return min(divisors[0] if divisors else most, columns)


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Product a @ b, summed in float32 or wider."""
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.matmul(a, b, preferred_element_type=jnp.promote_types(dtype, b.dtype))


def with_ones(x: jax.Array, wanted: bool) -> jax.Array:
    """Vectors with a feature of ones: a product with slopes then sums the slopes as well."""
    return jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1) if wanted else x


def block_scores(cut: tuple[jax.Array, jax.Array | None], across: jax.Array, shift: jax.Array | None) -> jax.Array:
    """[columns, R] from rows [d, R]. Bias and shift are added in float32 or wider, whatever the vectors are."""
    columns, bias = cut
    scores = product(columns, across)
    scores = scores if bias is None else scores + bias[:, None]
    return scores if shift is None else scores - shift[None]


def sum_over_columns(x: jax.Array) -> jax.Array:
    """[columns, R] -> [R] by a product with ones: within a sum XLA on the CPU computes `x` one number at a time."""
    return product(jnp.ones_like(x, shape=(1, len(x))), x)[0]


def over_blocks(step: Callable, carry: Any, size: int, block: int, columns: Any) -> tuple[Any, Any]:
    """Scan of `step(carry, start, columns of the block) -> (carry, output)` over blocks, and once over the remainder.

    Outputs [block, ...] are joined to [N, ...].
    """
    whole = size // block

    def one(carry, index):
        start = index * block
        cut = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, block), columns)
        return step(carry, start, cut)

    carry, outputs = jax.lax.scan(one, carry, jnp.arange(whole))
    outputs = jax.tree.map(lambda x: x.reshape(whole * block, *x.shape[2:]), outputs)
    if size % block:
        carry, last = step(carry, whole * block, jax.tree.map(lambda x: x[whole * block :], columns))
        outputs = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), outputs, last)
    return carry, outputs


def zero_rows(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """[R] zeros that vary over the devices of a mesh as the scores do, as the carry of a scan must."""
    return jnp.zeros_like(product(rows, columns[:1].T)[:, 0])


def backward(slopes: Callable, block: int, rows, columns, bias, shift):
    """Gradients of rows, columns, biases and shifts from `slopes(start, scores)`, d loss / d scores of a block."""
    size, wide, across = rows.shape[1], with_ones(rows, bias is not None), rows.T

    def step(rows_slope, start, cut):
        slope = slopes(start, block_scores(cut, across, shift)).astype(rows.dtype)
        columns_slope = product(slope, wide)
        split = columns_slope[:, :size].astype(columns.dtype), None if bias is None else columns_slope[:, size]
        return rows_slope + product(with_ones(cut[0], shift is not None).T, slope), split

    zero = zero_rows(rows, columns)
    start = jnp.zeros((size + (shift is not None), len(rows)), zero.dtype) + zero[None]
    rows_slope, (columns_slope, bias_slope) = over_blocks(step, start, len(columns), block, (columns, bias))
    shift_slope = None if shift is None else -rows_slope[size]
    return rows_slope[:size].T.astype(rows.dtype), columns_slope, bias_slope, shift_slope
