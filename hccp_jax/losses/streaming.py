"""Reductions over the scores of rows against columns that are never stored: what in-batch negatives need.

Scores are S[r, c] = <row r, column c> + bias_c. Two reductions are offered, a log-sum-exp and sums of phi of
the gap S[r, c] - shift_r for several functions phi at once. Either is the whole cost of a contrastive or recall loss
with in-batch negatives; the rest is arithmetic on one number a row.

Above `MATERIALIZE_BYTES` the columns go by in blocks: a block of scores is made, reduced and thrown away, and made
again in the backward pass. Time O(R N d), memory O(R block + N d) instead of O(R N). Below, all scores are one block,
which XLA keeps for the backward pass. On the CPU the blocks win by not allocating: filling fresh memory costs more
than the products.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hccp_jax.losses.pairs import Pairs, masked
from hccp_jax.losses.reduction import NEGATIVE, accumulated

MATERIALIZE_BYTES = 2 << 20
"""Scores of no more bytes than this are made at once: they stay in a cache, and nothing is made twice."""

BLOCK_SCORES = 1 << 18
"""Scores of a block: 1 MiB in float32, half of a second-level cache."""


Phi = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
"""A function of a gap and its derivative, elementwise: `gap -> (phi, phi')`."""


def row_log_sum_exp(
    rows: jax.Array,
    columns: jax.Array,
    *,
    bias: jax.Array | None = None,
    pairs: Pairs = Pairs(),
    rate: float = 1.0,
    block: int | None = None,
) -> jax.Array:
    r"""Log of the sum over columns of exp(<row, column> + bias), for each row: all that InfoNCE needs of its negatives.

    Args:
        rows: [R, d] floats, such as user vectors over the temperature.
        columns: [N, d] floats, such as the items of all requests of the batch.
        bias: [N] floats added to the scores of a column, such as -log q.
        pairs: which columns count for which rows.
        rate: chance that a pair is sampled, static; used with `pairs.sample_bits`.
        block: columns at a time; 0 for all at once; None decides by size.

    Returns:
        [R] float32 or wider; `NEGATIVE` (-1e30) with zero gradient for a row with no column. Differentiable in
        reverse mode only.

    Cost: time O(R N d); memory O(R block + N d) in blocks, O(R N) at once.

    >>> rows, columns = jnp.log(jnp.array([[2.0], [3.0]])), jnp.ones((2, 1))
    >>> print(jnp.exp(row_log_sum_exp(rows, columns)))  # 2 + 2, 3 + 3
    [4. 6.]

    """
    columns, bias = _prepared(columns, bias, pairs)
    block = _block(len(rows), len(columns), block)
    if not block:
        return _log_sum_exp_at_once(rows, columns, bias, pairs, rate)
    rows, columns, bias = _varying_alike(pairs, rows, columns, bias)
    return _log_sum_exp_streamed(block, rate, rows, columns, bias, pairs)


def row_gap_sums(
    phis: tuple[Phi, ...],
    rows: jax.Array,
    columns: jax.Array,
    shift: jax.Array,
    *,
    constants: tuple[Phi, ...] = (),
    bias: jax.Array | None = None,
    pairs: Pairs = Pairs(),
    rate: float = 1.0,
    block: int | None = None,
) -> tuple[jax.Array, ...]:
    r"""Sums over columns of phi(<row, column> + bias - shift), for each row and each of several functions phi.

    Args:
        phis: functions whose sums are differentiable.
        rows: [R, d] floats.
        columns: [N, d] floats.
        shift: [R] floats, such as the score of the row's positive.
        constants: functions whose sums are constants: no gradient flows through them, and none is computed.
        bias: [N] floats added to the scores of a column.
        pairs: which columns count for which rows.
        rate: chance that a pair is sampled, static; used with `pairs.sample_bits`.
        block: columns at a time; 0 for all at once; None decides by size.

    Returns:
        [R] for each of `phis`, then for each of `constants`; 0 for a row with no column. Differentiable in reverse
        mode only.

    Cost: time O(R N d); memory O(R block + N d) in blocks, O(R N) at once.

    >>> def hinge(gap):
    ...     return jax.nn.relu(gap), (gap > 0).astype(gap.dtype)
    >>> rows, columns = jnp.array([[1.0], [2.0]]), jnp.array([[1.0], [3.0]])
    >>> print(row_gap_sums((hinge,), rows, columns, jnp.array([1.0, 3.0]))[0])  # 0 + 2, 0 + 3
    [2. 3.]

    """
    if not phis:
        rows, columns, shift, bias = jax.lax.stop_gradient((rows, columns, shift, bias))
    columns, bias = _prepared(columns, bias, pairs)
    block = _block(len(rows), len(columns), block)
    if not block:
        # Zero where a pair does not count: 0 times an infinite slope would reach the gradients.
        gap = masked(_scores_at_once(rows, columns, bias) - accumulated(shift)[:, None], 0.0, pairs, rate, 0, True)
        functions = [(phi, False) for phi in phis] + [(phi, True) for phi in constants]
        return tuple(
            jnp.sum(masked(phi(jax.lax.stop_gradient(gap) if fixed else gap)[0], 0.0, pairs, rate, 0, True), axis=-1)
            for phi, fixed in functions
        )
    rows, columns, shift, bias = _varying_alike(pairs, rows, columns, accumulated(shift), bias)
    return _gap_sums_streamed(phis, constants, block, rate, rows, columns, shift, bias, pairs)


def _prepared(columns: jax.Array, bias: jax.Array | None, pairs: Pairs) -> tuple[jax.Array, jax.Array | None]:
    """Columns and biases, zero where a column does not count: 0 times NaN would reach the gradients."""
    if pairs.column_where is not None:
        columns = jnp.where(pairs.column_where[:, None], columns, 0)
        bias = None if bias is None else jnp.where(pairs.column_where, accumulated(bias), 0.0)
    return columns, bias


def _varying_alike(pairs: Pairs, *arrays: jax.Array | None) -> list[Any]:
    """The arrays, each varying over the devices of a mesh as any of them or the pairs does.

    Carries of a scan and the gradients of a `custom_vjp` must; by this addition columns that all devices share get
    the sum of the devices' gradients.
    """
    leaves = jax.tree.leaves((pairs, arrays))
    zero = sum((jnp.zeros_like(leaf, jnp.float32, shape=()) for leaf in leaves), jnp.float32(0.0))
    return [None if array is None else array + zero.astype(array.dtype) for array in arrays]


def _block(rows: int, columns: int, block: int | None) -> int:
    """Columns of a block; 0 for all at once."""
    if block is not None:
        return min(block, columns)
    if 4 * rows * columns <= MATERIALIZE_BYTES:
        return 0
    most = max(128, min(1024, BLOCK_SCORES // max(rows, 1)))
    # A divisor of the columns spares the copy that a remainder costs.
    divisors = [size for size in range(most, most // 2, -1) if columns % size == 0]
    return min(divisors[0] if divisors else most, columns)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Product a @ b, summed in float32 or wider."""
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.matmul(a, b, preferred_element_type=jnp.promote_types(dtype, b.dtype))


def _scores_at_once(rows: jax.Array, columns: jax.Array, bias: jax.Array | None) -> jax.Array:
    scores = _product(rows, columns.T)
    return scores if bias is None else scores + bias[None, :]


def _with_ones(x: jax.Array, wanted: bool) -> jax.Array:
    """Vectors with a feature of ones: a product with slopes then sums the slopes as well."""
    return jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1) if wanted else x


def _scores(cut: tuple[jax.Array, jax.Array | None], across: jax.Array, shift: jax.Array | None) -> jax.Array:
    """[columns, R] from rows [d, R]. Bias and shift are added in float32 or wider, whatever the vectors are."""
    columns, bias = cut
    scores = _product(columns, across)
    scores = scores if bias is None else scores + bias[:, None]
    return scores if shift is None else scores - shift[None]


def _log_sum_exp_at_once(rows, columns, bias, pairs, rate):
    scores = masked(_scores_at_once(rows, columns, bias), NEGATIVE, pairs, rate, 0, True)
    peak = jax.lax.stop_gradient(jnp.max(scores, axis=-1, initial=NEGATIVE))
    some = peak != NEGATIVE
    total = jnp.sum(jnp.exp(scores - peak[:, None]), axis=-1)
    return jnp.where(some, peak + jnp.log(jnp.where(some, total, 1.0)), NEGATIVE)


def _over_blocks(step: Callable, carry: Any, size: int, block: int, columns: Any) -> tuple[Any, Any]:
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


def _zero_rows(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """[R] zeros that vary over the devices of a mesh as the scores do, as the carry of a scan must."""
    return jnp.zeros_like(_product(rows, columns[:1].T)[:, 0])


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _log_sum_exp_streamed(block, rate, rows, columns, bias, pairs):
    return _log_sum_exp_fwd(block, rate, rows, columns, bias, pairs)[0]


def _log_sum_exp_fwd(block, rate, rows, columns, bias, pairs):
    """Online: the peak so far, and the sum of exp(score - peak).

    Blocks are [columns, rows], so that every product is of plain matrices and reductions run over whole vectors.
    """
    across = rows.T  # once, and not in each block

    def step(carry, start, cut):
        peak, total = carry
        scores = _scores(cut, across, None)
        scores = masked(scores, NEGATIVE, pairs, rate, start)
        higher = jnp.maximum(peak, jnp.max(scores, axis=0))
        # While nothing counts, masked scores add ones; the first that counts outweighs them by e^(1e30).
        total = total * jnp.exp(peak - higher) + jnp.sum(jnp.exp(scores - higher[None]), axis=0)
        return (higher, total), None

    zero = _zero_rows(rows, columns)
    (peak, total), _ = _over_blocks(step, (zero + NEGATIVE, zero), len(columns), block, (columns, bias))
    some = peak != NEGATIVE
    total = jnp.where(some, total, 1.0)
    value = jnp.where(some, peak + jnp.log(total), NEGATIVE)
    # Kept apart: next to a large peak the logarithm has lost its digits.
    return value, (rows, columns, bias, pairs, jnp.where(some, peak, -NEGATIVE), total)


def _log_sum_exp_bwd(block, rate, residuals, cotangent):
    rows, columns, bias, pairs, peak, total = residuals
    factor = cotangent / total

    def slopes(start, scores):
        # Where no column counts the peak is +1e30 here, and exp gives 0.
        scores = masked(scores, NEGATIVE, pairs, rate, start)
        return jnp.exp(scores - peak[None]) * factor[None]

    return (*_backward(slopes, block, rows, columns, bias, None)[:3], None)


_log_sum_exp_streamed.defvjp(_log_sum_exp_fwd, _log_sum_exp_bwd)


def _backward(slopes: Callable, block: int, rows, columns, bias, shift):
    """Gradients of rows, columns, biases and shifts from `slopes(start, scores)`, d loss / d scores of a block."""
    size, wide, across = rows.shape[1], _with_ones(rows, bias is not None), rows.T

    def step(rows_slope, start, cut):
        slope = slopes(start, _scores(cut, across, shift)).astype(rows.dtype)
        columns_slope = _product(slope, wide)
        split = columns_slope[:, :size].astype(columns.dtype), None if bias is None else columns_slope[:, size]
        return rows_slope + _product(_with_ones(cut[0], shift is not None).T, slope), split

    zero = _zero_rows(rows, columns)
    start = jnp.zeros((size + (shift is not None), len(rows)), zero.dtype) + zero[None]
    rows_slope, (columns_slope, bias_slope) = _over_blocks(step, start, len(columns), block, (columns, bias))
    shift_slope = None if shift is None else -rows_slope[size]
    return rows_slope[:size].T.astype(rows.dtype), columns_slope, bias_slope, shift_slope


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _gap_sums_streamed(phis, constants, block, rate, rows, columns, shift, bias, pairs):
    return _gap_sums_fwd(phis, constants, block, rate, rows, columns, shift, bias, pairs)[0]


def _gap_sums_fwd(phis, constants, block, rate, rows, columns, shift, bias, pairs):
    across = rows.T

    def step(totals, start, cut):
        gap = _scores(cut, across, shift)
        # A product with ones and not a sum: within a reduction XLA on the CPU computes phi one number at a time.
        ones = jnp.ones_like(gap[:1, :1]) + jnp.zeros_like(gap[:, :1].T)
        added = [_product(ones, masked(phi(gap)[0], 0.0, pairs, rate, start))[0] for phi in (*phis, *constants)]
        return tuple(total + new for total, new in zip(totals, added, strict=True)), None

    zero = _zero_rows(rows, columns)
    start = (zero,) * (len(phis) + len(constants))
    totals, _ = _over_blocks(step, start, len(columns), block, (columns, bias))
    return totals, (rows, columns, shift, bias, pairs)


def _gap_sums_bwd(phis, constants, block, rate, residuals, cotangents):
    rows, columns, shift, bias, pairs = residuals

    def slopes(start, gap):
        slope = sum(cotangent[None] * phi(gap)[1] for phi, cotangent in zip(phis, cotangents, strict=False))
        return masked(slope, 0.0, pairs, rate, start)

    rows_slope, columns_slope, bias_slope, shift_slope = _backward(slopes, block, rows, columns, bias, shift)
    return rows_slope, columns_slope, shift_slope, bias_slope, None


_gap_sums_streamed.defvjp(_gap_sums_fwd, _gap_sums_bwd)
