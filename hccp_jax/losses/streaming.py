"""Reductions over the scores of rows against columns that are never stored: what in-batch negatives need.

Scores are S[r, c] = scale * <row r, column c> - bias_c. Two reductions are offered, a log-sum-exp and sums of phi of
the gap S[r, c] - shift_r for several functions phi at once. Either is the whole cost of a contrastive or recall loss
with in-batch negatives; the rest is arithmetic on one number a row.

Above `MATERIALIZE_BYTES` the columns go by in blocks: a block of scores is made, reduced and thrown away, and made
again in the backward pass. Time O(R N d), memory O(R block + N d) instead of O(R N). Below, all scores are one block,
which XLA keeps for the backward pass. On the CPU the blocks win by not allocating: filling fresh memory costs more
than the products.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hccp_jax.data import hashing
from hccp_jax.losses.reduction import NEGATIVE, accumulated

MATERIALIZE_BYTES = 6 << 20
"""Scores of no more bytes than this are made at once: they stay in a cache, and nothing is made twice."""

BLOCK_SCORES = 1 << 18
"""Scores of a block: 1 MiB in float32, half of a second-level cache."""


class Pairs(NamedTuple):
    """Which columns count for which rows. A field that is None excludes nothing.

    Attributes:
        column_where: [N] bool, columns that count at all; the vectors of others may hold anything.
        row_owner: [R] int32, the request a row belongs to.
        column_owner: [N] int32, likewise; a column does not count for the rows of its own request.
        row_ids: [R, E] int32, item ids that do not count for a row, such as its positives; -1 for none.
        column_ids: [N] int32, the item of each column; not negative.
        sample_bits: uint32 scalar; with it a pair counts with chance `rate`, by a hash of its row and column number.
        row_number: [R] int32, the row's name for the sample; `row_owner` if None.
    """

    column_where: jax.Array | None = None
    row_owner: jax.Array | None = None
    column_owner: jax.Array | None = None
    row_ids: jax.Array | None = None
    column_ids: jax.Array | None = None
    sample_bits: jax.Array | None = None
    row_number: jax.Array | None = None


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
    columns, bias = _prepared(columns, bias, pairs)
    block = _block(len(rows), len(columns), block)
    if not block:
        gap = _scores_at_once(rows, columns, bias) - accumulated(shift)[:, None]
        counts = _counts(pairs, rate, len(rows), 0, len(columns), True)
        functions = [(phi, False) for phi in phis] + [(phi, True) for phi in constants]
        return tuple(
            jnp.sum(_where(counts, phi(jax.lax.stop_gradient(gap) if fixed else gap)[0], 0.0), axis=-1)
            for phi, fixed in functions
        )
    return _gap_sums_streamed(phis, constants, block, rate, rows, columns, accumulated(shift), bias, pairs)


def row_counts(rows: int, columns: int, pairs: Pairs, rate: float = 1.0) -> jax.Array:
    """[R] int32: how many columns count for each row."""
    if all(field is None for field in pairs):
        return jnp.full(rows, columns, jnp.int32)
    block = _block(rows, columns, None) or columns

    def step(total, start, cut):
        counts = _counts(pairs, rate, rows, start, len(cut), False)
        return total + jnp.sum(jnp.broadcast_to(counts, (len(cut), rows)), axis=0, dtype=jnp.int32), None

    some = next(field for field in pairs if field is not None)
    zero = jnp.zeros(rows, jnp.int32) + jnp.zeros_like(some.ravel()[:1], dtype=jnp.int32)
    return _over_blocks(step, zero, columns, block, jnp.arange(columns))[0]


def _prepared(columns: jax.Array, bias: jax.Array | None, pairs: Pairs) -> tuple[jax.Array, jax.Array | None]:
    """Columns and biases, zero where a column does not count: 0 times NaN would reach the gradients."""
    if pairs.column_where is not None:
        columns = jnp.where(pairs.column_where[:, None], columns, 0)
        bias = None if bias is None else jnp.where(pairs.column_where, accumulated(bias), 0.0)
    return columns, bias


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


def _where(counts: jax.Array | None, x: jax.Array, other: float) -> jax.Array:
    return x if counts is None else jnp.where(counts, x, other)


def _counts(pairs: Pairs, rate: float, rows: int, start: Any, size: int, rows_first: bool) -> jax.Array | None:
    """Which of the columns start .. start + size count for which rows: [size, R], or [R, size] if `rows_first`."""

    def of_rows(x):
        return jnp.expand_dims(x, 1 if rows_first else 0)

    def of_columns(x):
        x = jax.lax.dynamic_slice_in_dim(x, start, size)
        return jnp.expand_dims(x, 0 if rows_first else 1)

    tests = []
    if pairs.column_where is not None:
        tests.append(jnp.broadcast_to(of_columns(pairs.column_where), (rows, size) if rows_first else (size, rows)))
    if pairs.column_owner is not None:
        tests.append(of_columns(pairs.column_owner) != of_rows(pairs.row_owner))
    if pairs.column_ids is not None:
        ids = of_columns(pairs.column_ids)
        tests += [ids != of_rows(pairs.row_ids[:, i]) for i in range(pairs.row_ids.shape[1])]
    if pairs.sample_bits is not None:
        number = pairs.row_owner if pairs.row_number is None else pairs.row_number
        column = start + jnp.arange(size)
        column = column[None, :] if rows_first else column[:, None]
        tests.append(hashing.uniform("pair", pairs.sample_bits, of_rows(number), column) < rate)
    return None if not tests else jax.tree.reduce(jnp.logical_and, tests)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Product a @ b summed in float32 or wider; both in the narrower type, as accelerators multiply."""
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.matmul(a, b, preferred_element_type=jnp.promote_types(dtype, b.dtype))


def _scores_at_once(rows: jax.Array, columns: jax.Array, bias: jax.Array | None) -> jax.Array:
    scores = _product(rows, columns.T)
    return scores if bias is None else scores + bias[None, :]


def _widened(columns: jax.Array, bias: jax.Array | None, shifted: bool) -> jax.Array:
    """Columns with a feature for the bias and one for the shift: the products then add, and differentiate, both."""
    extra = ([] if bias is None else [bias]) + ([jnp.ones_like(columns[:, 0])] if shifted else [])
    return jnp.concatenate([columns, *(x[:, None].astype(columns.dtype) for x in extra)], axis=1) if extra else columns


def _widened_rows(rows: jax.Array, bias: jax.Array | None, shift: jax.Array | None) -> jax.Array:
    extra = ([] if bias is None else [jnp.ones_like(rows[:, 0])]) + ([] if shift is None else [-shift])
    return jnp.concatenate([rows, *(x[:, None].astype(rows.dtype) for x in extra)], axis=1) if extra else rows


def _log_sum_exp_at_once(rows, columns, bias, pairs, rate):
    counts = _counts(pairs, rate, len(rows), 0, len(columns), True)
    scores = _where(counts, _scores_at_once(rows, columns, bias), NEGATIVE)
    peak = jax.lax.stop_gradient(jnp.max(scores, axis=-1))
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
    across = _widened_rows(rows, bias, None).T

    def step(carry, start, cut):
        peak, total = carry
        scores = _product(_widened(*cut, False), across)
        scores = _where(_counts(pairs, rate, len(rows), start, len(scores), False), scores, NEGATIVE)
        higher = jnp.maximum(peak, jnp.max(scores, axis=0))
        # While nothing counts, masked scores add ones; the first that counts outweighs them by e^(1e30).
        total = total * jnp.exp(peak - higher) + jnp.sum(jnp.exp(scores - higher[None]), axis=0)
        return (higher, total), None

    zero = _zero_rows(rows, columns)
    (peak, total), _ = _over_blocks(step, (zero + NEGATIVE, zero), len(columns), block, (columns, bias))
    some = peak != NEGATIVE
    value = jnp.where(some, peak + jnp.log(jnp.where(some, total, 1.0)), NEGATIVE)
    return value, (rows, columns, bias, pairs, jnp.where(some, value, -NEGATIVE))


def _log_sum_exp_bwd(block, rate, residuals, cotangent):
    rows, columns, bias, pairs, value = residuals

    def slopes(start, scores):
        # Where no column counts the value is +1e30 here, and exp gives 0.
        scores = _where(_counts(pairs, rate, len(rows), start, len(scores), False), scores, NEGATIVE)
        return jnp.exp(scores - value[None]) * cotangent[None]

    return (*_backward(slopes, block, rows, columns, bias, None)[:3], None)


_log_sum_exp_streamed.defvjp(_log_sum_exp_fwd, _log_sum_exp_bwd)


def _backward(slopes: Callable, block: int, rows, columns, bias, shift):
    """Gradients of rows, columns, biases and shifts from `slopes(start, scores)`, d loss / d scores of a block."""
    wide = _widened_rows(rows, bias, shift)
    size, across = rows.shape[1], wide.T

    def step(rows_slope, start, cut):
        vectors = _widened(*cut, shift is not None)
        slope = slopes(start, _product(vectors, across)).astype(rows.dtype)
        columns_slope = _product(slope, wide if bias is not None else rows)
        split = columns_slope[:, :size].astype(columns.dtype), None if bias is None else columns_slope[:, size]
        return rows_slope + _product(vectors.T, slope), split

    zero = _zero_rows(rows, columns)
    start = jnp.zeros_like(across, dtype=zero.dtype) + zero[None]
    rows_slope, (columns_slope, bias_slope) = _over_blocks(step, start, len(columns), block, (columns, bias))
    shift_slope = None if shift is None else -rows_slope[-1]
    return rows_slope[:size].T.astype(rows.dtype), columns_slope, bias_slope, shift_slope


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _gap_sums_streamed(phis, constants, block, rate, rows, columns, shift, bias, pairs):
    return _gap_sums_fwd(phis, constants, block, rate, rows, columns, shift, bias, pairs)[0]


def _gap_sums_fwd(phis, constants, block, rate, rows, columns, shift, bias, pairs):
    across = _widened_rows(rows, bias, shift).T

    def step(totals, start, cut):
        gap = _product(_widened(*cut, True), across)
        counts = _counts(pairs, rate, len(rows), start, len(gap), False)
        # A product with ones and not a sum: within a reduction XLA on the CPU computes phi one number at a time.
        ones = jnp.ones_like(gap[:1, :1]) + jnp.zeros_like(gap[:, :1].T)
        added = [_product(ones, _where(counts, phi(gap)[0], 0.0))[0] for phi in (*phis, *constants)]
        return tuple(total + new for total, new in zip(totals, added, strict=True)), None

    zero = _zero_rows(rows, columns)
    start = (zero,) * (len(phis) + len(constants))
    totals, _ = _over_blocks(step, start, len(columns), block, (columns, bias))
    return totals, (rows, columns, shift, bias, pairs)


def _gap_sums_bwd(phis, constants, block, rate, residuals, cotangents):
    rows, columns, shift, bias, pairs = residuals

    def slopes(start, gap):
        slope = sum(cotangent[None] * phi(gap)[1] for phi, cotangent in zip(phis, cotangents, strict=False))
        return _where(_counts(pairs, rate, len(rows), start, len(gap), False), slope, 0.0)

    rows_slope, columns_slope, bias_slope, shift_slope = _backward(slopes, block, rows, columns, bias, shift)
    return rows_slope, columns_slope, shift_slope, bias_slope, None


_gap_sums_streamed.defvjp(_gap_sums_fwd, _gap_sums_bwd)
