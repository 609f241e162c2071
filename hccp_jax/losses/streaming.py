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

import jax
import jax.numpy as jnp

from hccp_jax.losses.column_blocks import (
    backward,
    block_scores,
    block_size,
    over_blocks,
    product,
    sum_over_columns,
    varying_alike,
    with_ones,
    zero_rows,
)
from hccp_jax.losses.pairs import Pairs, masked
from hccp_jax.losses.reduction import NEGATIVE, accumulated

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
    block = block_size(len(rows), len(columns), block)
    rows, columns, bias = varying_alike(pairs, rows, columns, bias)
    if not block:
        return _log_sum_exp_at_once(rate, rows, columns, bias, pairs)
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
    block = block_size(len(rows), len(columns), block)
    if not block:
        # Zero where a pair does not count: 0 times an infinite slope would reach the gradients.
        gap = masked(_scores_at_once(rows, columns, bias) - accumulated(shift)[:, None], 0.0, pairs, rate, 0, True)
        functions = [(phi, False) for phi in phis] + [(phi, True) for phi in constants]
        return tuple(
            jnp.sum(masked(phi(jax.lax.stop_gradient(gap) if fixed else gap)[0], 0.0, pairs, rate, 0, True), axis=-1)
            for phi, fixed in functions
        )
    rows, columns, shift, bias = varying_alike(pairs, rows, columns, accumulated(shift), bias)
    return _gap_sums_streamed(phis, constants, block, rate, rows, columns, shift, bias, pairs)


def _prepared(columns: jax.Array, bias: jax.Array | None, pairs: Pairs) -> tuple[jax.Array, jax.Array | None]:
    """Columns and biases, zero where a column does not count: 0 times NaN would reach the gradients."""
    if pairs.column_where is not None:
        columns = jnp.where(pairs.column_where[:, None], columns, 0)
        bias = None if bias is None else jnp.where(pairs.column_where, accumulated(bias), 0.0)
    return columns, bias


def _scores_at_once(rows: jax.Array, columns: jax.Array, bias: jax.Array | None) -> jax.Array:
    scores = product(rows, columns.T)
    return scores if bias is None else scores + bias[None, :]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _log_sum_exp_at_once(rate, rows, columns, bias, pairs):
    return _at_once_fwd(rate, rows, columns, bias, pairs)[0]


def _at_once_fwd(rate, rows, columns, bias, pairs):
    """All columns as one block, whose exponentials are kept."""
    scores = masked(block_scores((columns, bias), rows.T, None), NEGATIVE, pairs, rate)
    peak = jnp.max(scores, axis=0, initial=NEGATIVE)
    some = peak != NEGATIVE
    exponentials = jnp.exp(scores - peak[None])
    total = jnp.where(some, sum_over_columns(exponentials), 1.0)
    return jnp.where(some, peak + jnp.log(total), NEGATIVE), (rows, columns, bias, exponentials, total, some)


def _at_once_bwd(rate, residuals, cotangent):
    rows, columns, bias, exponentials, total, some = residuals
    factor = jnp.where(some, cotangent / total, 0.0)
    size = rows.shape[1]
    wide = with_ones(rows, bias is not None).astype(factor.dtype) * factor[:, None]
    columns_slope = product(exponentials, wide)
    rows_slope = product(columns.T, exponentials) * factor[None]
    bias_slope = None if bias is None else columns_slope[:, size].astype(bias.dtype)
    return rows_slope.T.astype(rows.dtype), columns_slope[:, :size].astype(columns.dtype), bias_slope, None


_log_sum_exp_at_once.defvjp(_at_once_fwd, _at_once_bwd)


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
        scores = block_scores(cut, across, None)
        scores = masked(scores, NEGATIVE, pairs, rate, start)
        higher = jnp.maximum(peak, jnp.max(scores, axis=0))
        # While nothing counts, masked scores add ones; the first that counts outweighs them by e^(1e30).
        added = sum_over_columns(jnp.exp(scores - higher[None]))
        total = total * jnp.exp(peak - higher) + added
        return (higher, total), None

    zero = zero_rows(rows, columns)
    (peak, total), _ = over_blocks(step, (zero + NEGATIVE, zero), len(columns), block, (columns, bias))
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

    return (*backward(slopes, block, rows, columns, bias, None)[:3], None)


_log_sum_exp_streamed.defvjp(_log_sum_exp_fwd, _log_sum_exp_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _gap_sums_streamed(phis, constants, block, rate, rows, columns, shift, bias, pairs):
    return _gap_sums_fwd(phis, constants, block, rate, rows, columns, shift, bias, pairs)[0]


def _gap_sums_fwd(phis, constants, block, rate, rows, columns, shift, bias, pairs):
    across = rows.T

    def step(totals, start, cut):
        gap = block_scores(cut, across, shift)
        added = [sum_over_columns(masked(phi(gap)[0], 0.0, pairs, rate, start)) for phi in (*phis, *constants)]
        return tuple(total + new for total, new in zip(totals, added, strict=True)), None

    zero = zero_rows(rows, columns)
    start = (zero,) * (len(phis) + len(constants))
    totals, _ = over_blocks(step, start, len(columns), block, (columns, bias))
    return totals, (rows, columns, shift, bias, pairs)


def _gap_sums_bwd(phis, constants, block, rate, residuals, cotangents):
    rows, columns, shift, bias, pairs = residuals

    def slopes(start, gap):
        slope = sum(cotangent[None] * phi(gap)[1] for phi, cotangent in zip(phis, cotangents, strict=False))
        return masked(slope, 0.0, pairs, rate, start)

    rows_slope, columns_slope, bias_slope, shift_slope = backward(slopes, block, rows, columns, bias, shift)
    return rows_slope, columns_slope, shift_slope, bias_slope, None


_gap_sums_streamed.defvjp(_gap_sums_fwd, _gap_sums_bwd)
