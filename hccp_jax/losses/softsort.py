"""RankTower's sorting loss: cross entropy between SoftSort permutation matrices."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.losses.recurrence import linear_recurrence
from hccp_jax.losses.reduction import NEGATIVE, ReduceFn, accumulated, list_mask, mean_valid
from hccp_jax.losses.row_blocks import sum_over_row_blocks
from hccp_jax.losses.sort import argsort, sort_descending

MODES = ("literal", "block", "teacher")
SMALL = 32
"""Below this length the pairs cost less than a sort and its recurrences."""


def soft_sort_cross_entropy(
    scores: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    teacher: jax.Array | None = None,
    mode: str = "literal",
    levels: int | None = None,
    temperature: ArrayLike = 1.0,
    label_temperature: ArrayLike = 0.05,
    power: int = 1,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""Sorting loss of RankTower (2024), Eq 10 and 11, on the SoftSort operator of Prillo and Eisenschlos (2020).

    .. math::
        \ell(z, y) = -\sum_r \sum_j P_y[r, j] \log P_z[r, j], \quad
        P_z[r, j] = \mathrm{softmax}_j \big( -|z_{[r]} - z_j|^p / \tau \big)

    with z_[r] the r-th largest score. The paper writes p and both temperatures as one; here the power is 1 unless
    asked otherwise and labels have a temperature of their own, since their scale is not that of the logits.

    Modes, for labels with ties (the paper's are small integers):

    * `literal`: Eq 11 as printed. All rows of a tie block have one target, so that the loss also pulls the scores of a
      block together; its minimum over scores is the sum over items of the log of the block's size.
    * `block`: each row is asked only to fall anywhere into its block, -log of the mass P_z[r, .] puts there. No force
      within a block. Labels are compared exactly and `label_temperature` is not used.
    * `teacher`: ties are broken by `teacher`, and the target is that permutation: -log P_z[r, pi(r)].

    Args:
        scores: [..., K] floats; computed in float32 or wider.
        labels: [..., K], larger is better. Constants: no gradient flows to them. One that is not a finite number makes
            the loss NaN, as does such a score or teacher.
        where: [..., K] bool, the items that count.
        teacher: [..., K] tie-breaking scores, larger is better; mode `teacher` only.
        mode: `literal`, `block` or `teacher`, static.
        levels: number L of label levels if labels are integers 0 .. L - 1, static: with power 1 this is the fast form
            of mode `literal`. A label that is none of them makes the loss NaN. None: any labels.
        temperature: tau, a scalar, possibly traced; gradients flow to it.
        label_temperature: a scalar, a constant; for integer levels 0.05 makes all but the tie block vanish.
        power: p, 1 or 2, static. The label temperature then divides the squared gap.
        reduce_fn: reduction of the per-list sums over rows; a list is valid if it has an item that counts.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list has an item. Equal scores have no force
        between them (the derivative of |x| at 0 is taken as 0). Differentiable in reverse mode only.

    Raises:
        ValueError: for an unknown mode or power, or a teacher without its mode.

    Cost: literal with levels, and teacher, for power 1: time O(K log K + K L), memory O(K L) a list, exact. Otherwise
    time O(K^2) and memory O(K), streamed over blocks of rows.

    >>> loss = soft_sort_cross_entropy(jnp.array([2.0, 0.0]), jnp.array([1, 0]), levels=2)
    >>> print(f"{loss:.4f}")  # 2 log(1 + e^-2)
    0.2539

    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: expected one of {', '.join(MODES)}")
    if power not in (1, 2):
        raise ValueError(f"power={power!r}: expected 1 or 2")
    if (mode == "teacher") != (teacher is not None):
        raise ValueError(f"teacher is {'missing' if teacher is None else 'given'} with mode={mode!r}")
    size = scores.shape[-1]
    mask = list_mask(scores, where)
    shape = mask.shape[:-1]
    if not size:
        return reduce_fn(jnp.sum(accumulated(scores), axis=-1), jnp.any(mask, axis=-1))
    flat = mask.reshape(-1, size)
    x = jnp.where(flat, accumulated(scores).reshape(-1, size), 0.0)
    # Distances over tau: for either power a matter of the scale of the scores.
    x = x / (temperature if power == 1 else jnp.sqrt(accumulated(temperature)))
    y = jax.lax.stop_gradient(jnp.where(flat, accumulated(labels).reshape(-1, size), 0.0))
    bad = jnp.sum(0.0 * x + 0.0 * y, axis=-1)  # What is not a finite number is to be seen in the loss.
    x = jnp.where(jnp.isfinite(x), x, 0.0)
    if mode == "literal" and power == 1 and levels is not None and size > SMALL:
        weights, counts = _level_weights(y, flat, levels, label_temperature)
        s, level = sort_descending(x, jnp.clip(jnp.nan_to_num(y), 0, levels - 1), flat, levels)
        real = _leading(flat)
        values = _labelled_distances(s, real, level, weights, counts) + _log_masses(s, real)
    else:
        s, slot = sort_descending(x, jnp.broadcast_to(jnp.arange(size)[None], x.shape), flat, size)
        real, by_score = _leading(flat), slot.T
        if mode == "teacher":
            assert teacher is not None
            hint = jnp.where(flat, accumulated(teacher).reshape(-1, size), 0.0)
            gaps = _distance(s - jnp.take_along_axis(x, _best_first(y, hint, flat), axis=-1).T, power)
            values = jnp.sum(jnp.where(real, gaps, 0.0), axis=0) + jnp.sum(0.0 * hint, axis=-1)
            fast = power == 1 and size > SMALL
            values += _log_masses(s, real) if fast else _pairs(None, power, s.T, y, real.T)
        else:
            scale = 1.0 if mode == "block" else jax.lax.stop_gradient(accumulated(label_temperature))
            values = _pairs(mode, power, s.T, jnp.take_along_axis(y, by_score, axis=-1), real.T, scale)
        if levels is not None:
            values += jnp.sum(0.0 * _level_weights(y, flat, levels, 1.0)[0], axis=(1, 2))
    values += bad
    return reduce_fn(values.reshape(shape), jnp.any(mask, axis=-1))


def _distance(gap: jax.Array, power: int) -> jax.Array:
    # Not jnp.abs, whose derivative at 0 is 1 in JAX.
    return gap * jnp.sign(gap) if power == 1 else jnp.square(gap)


def _pairs(mode: str | None, power: int, s: jax.Array, y: jax.Array, real: jax.Array, label_scale=1.0) -> jax.Array:
    """[B] sums over rows, pair by pair: the log masses, plus the first term of `literal` or `block`.

    Args:
        mode: what is added to the log masses; None for nothing.
        power: p.
        s: [B, K] scores in descending order, real ones first.
        y: [B, K] labels in the same order.
        real: [B, K] bool.
        label_scale: the labels' temperature.
    """
    # The label of row r is the r-th largest; masked ones are last.
    row_labels = jnp.where(real, -jnp.sort(jnp.where(real, -y, jnp.inf), axis=-1), 0.0)

    def term(s_row, s_all, constants):
        (y_row, row_real), (y_all, all_real, scale) = constants
        column = all_real[:, None, :]
        distance = _distance(s_row[:, :, None] - s_all[:, None, :], power)
        values = _log_sum(-distance, column)
        if mode == "literal":
            target = jnp.where(column, -_distance(y_row[:, :, None] - y_all[:, None, :], power) / scale, NEGATIVE)
            # Whatever a wholly masked list makes here is dropped with its rows.
            target = jnp.where(column, jax.nn.softmax(target, axis=-1), 0.0)
            values += jnp.sum(target * distance, axis=-1)
        elif mode == "block":
            values -= _log_sum(-distance, column & (y_row[:, :, None] == y_all[:, None, :]))
        return jnp.sum(jnp.where(row_real, values, 0.0), axis=-1)

    scale = jnp.broadcast_to(jnp.asarray(label_scale, s.dtype), (1, 1, 1))
    return sum_over_row_blocks(term, s, s, ((row_labels, real), (y, real, scale)))


def _log_sum(x: jax.Array, where: jax.Array) -> jax.Array:
    """Log-sum-exp of the last axis; finite where nothing counts. `x` must be finite where masked."""
    x = jnp.where(where, x, NEGATIVE)
    peak = jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))
    return jnp.squeeze(peak, -1) + jnp.log(jnp.sum(jnp.exp(x - peak), axis=-1))


def _leading(mask: jax.Array) -> jax.Array:
    """[K, B]: as many leading positions as a list of [B, K] has items."""
    position = jax.lax.broadcasted_iota(jnp.int32, mask.shape[::-1], 0)
    return position < jnp.sum(mask, axis=-1, dtype=jnp.int32)[None]


def _best_first(y: jax.Array, hint: jax.Array, mask: jax.Array) -> jax.Array:
    """[B, K] slots by falling label, then by falling hint, then in slot order; masked ones last."""
    by_hint = argsort(jnp.where(mask, -hint, jnp.inf))
    labels = jnp.take_along_axis(jnp.where(mask, -y, jnp.inf), by_hint, axis=-1)
    return jnp.take_along_axis(by_hint, argsort(labels), axis=-1)


def _steps(s: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gaps to the position before, [K, B], and where a block of equal scores begins.

    The first position begins one; padding continues the last one.
    """
    gap = jnp.where(real[1:], s[:-1] - s[1:], 0.0)
    gap = jnp.concatenate([jnp.zeros_like(gap, shape=(1, gap.shape[1])), gap])
    first = jax.lax.broadcasted_iota(jnp.int32, gap.shape, 0) == 0
    return gap, first | (gap != 0)


def _later(x: jax.Array, last: float) -> jax.Array:
    """Element k + 1 at k."""
    return jnp.concatenate([x[1:], jnp.full_like(x[:1], last)])


def _earlier(x: jax.Array) -> jax.Array:
    """Element k - 1 at k, 0 at the first."""
    return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])


def _at_block_start(x: jax.Array, begins: jax.Array) -> jax.Array:
    """The value of `x` [K, B, ...] where the block of equal scores begins, at each position of the block."""
    begins = jnp.broadcast_to(jnp.expand_dims(begins, range(2, x.ndim)), x.shape).astype(x.dtype)
    return linear_recurrence(1.0 - begins, begins * x)


def _at_block_end(x: jax.Array, begins: jax.Array) -> jax.Array:
    ends = _later(begins, True)
    ends = jnp.broadcast_to(jnp.expand_dims(ends, range(2, x.ndim)), x.shape).astype(x.dtype)
    return linear_recurrence(1.0 - ends, ends * x, reverse=True)


def _strict(above: Any, below: Any, begins: jax.Array, real: jax.Array) -> tuple[Any, Any]:
    """Sums over the positions above and below each, with those of equal score taken out.

    What lies strictly above a position is what lies above the first of its block; likewise below. Ties are rare, and
    without any nothing is computed.

    Args:
        above: pytree of [K, B, ...] sums over the positions before each.
        below: the same of those after each.
        begins: [K, B] bool, where a block of equal scores begins.
        real: [K, B] bool; padding is no tie, and what it gets has no meaning.
    """

    def held(above, below):
        return (
            jax.tree.map(lambda x: _at_block_start(x, begins), above),
            jax.tree.map(lambda x: _at_block_end(x, begins), below),
        )

    return jax.lax.cond(jnp.all(begins | ~real), lambda *sums: sums, held, above, below)


@jax.custom_vjp
def _log_masses(s: jax.Array, real: jax.Array) -> jax.Array:
    """[B]: the sum over positions r of log q_r, q_r = sum_j exp(-|s_r - s_j|), for descending s [K, B].

    q_r = F_r + G_r - 1 with F_r = 1 + F_(r-1) exp(s_r - s_(r-1)) and G the same from below: all factors are at most 1
    and q_r is at least 1, so that nothing can overflow and no maximum is needed.
    """
    return _log_masses_fwd(s, real)[0]


def _log_masses_fwd(s, real):
    gap, begins = _steps(s, real)
    decay, one = jnp.exp(-gap), real.astype(s.dtype)
    down = linear_recurrence(decay, one)
    up = linear_recurrence(_later(decay, 0.0), one, reverse=True)
    masses = jnp.where(real, down + up - one, 1.0)
    return jnp.sum(jnp.log(masses), axis=0), (decay, begins, real, down, up, masses)


def _log_masses_bwd(residuals, cotangent):
    """For a pair i above k, E = exp(s_k - s_i) is in q_i and in q_k: each weighs 1/q of its row."""
    decay, begins, real, down, up, masses = residuals
    inverse = jnp.where(real, 1.0 / masses, 0.0)
    later = _later(decay, 0.0)
    weighted_down = linear_recurrence(decay, inverse)
    weighted_up = linear_recurrence(later, inverse, reverse=True)
    above = decay * _earlier(down), decay * _earlier(weighted_down)
    below = later * _later(up, 0.0), later * _later(weighted_up, 0.0)
    above, below = _strict(above, below, begins, real)
    slope = (above[0] - below[0]) * inverse + (above[1] - below[1])
    return jnp.where(real, slope, 0.0) * cotangent[None], None


_log_masses.defvjp(_log_masses_fwd, _log_masses_bwd)


def _level_weights(
    y: jax.Array, mask: jax.Array, levels: int, label_temperature: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """What the targets come to for labels 0 .. L - 1.

    Returns:
        [B, L, L], P_y of a row of one level at an item of another, NaN for a list with any other label; and the number
        of items of each level [B, L].
    """
    values = jnp.arange(levels, dtype=y.dtype)
    counts = jnp.sum(mask[..., None] & (y[..., None] == values[None, None]), axis=1, dtype=y.dtype)
    affinity = jnp.exp(-jnp.abs(values[:, None] - values[None, :]) / label_temperature)
    total = jnp.sum(counts[:, None, :] * affinity[None], axis=-1)
    present = counts > 0
    weights = jnp.where(present[..., None], affinity[None] / jnp.where(present, total, 1.0)[..., None], 0.0)
    known = jnp.sum(counts, axis=-1) == jnp.sum(mask, axis=-1)
    return jax.lax.stop_gradient(jnp.where(known[:, None, None], weights, jnp.nan)), counts


@jax.custom_vjp
def _labelled_distances(s, real, labels, weights, counts):
    """[B]: the sum over rows r and items k of weights[level of r, level of k] |s_r - s_k|, for descending s [K, B].

    Linear in s between ties, with slopes that are counts: c_i = what lies below minus what lies above i. As the slopes
    add up to 0, the value is the sum over gaps of gap times the slopes above it, all of one sign.

    Args:
        s: [K, B].
        real: [K, B] bool, true ones first.
        labels: [K, B] int32, the level of each item in the order of s.
        weights: [B, L, L].
        counts: [B, L], items of each level; rows go through the levels from the largest down.
    """
    return _labelled_distances_fwd(s, real, labels, weights, counts)[0]


def _labelled_distances_fwd(s, real, labels, weights, counts):
    gap, begins = _steps(s, real)
    levels = range(counts.shape[-1])
    # Plus zeros of the gaps: inside shard_map it then varies as they do.
    position = jax.lax.broadcasted_iota(s.dtype, gap.shape, 0) + jnp.zeros_like(gap)
    counts, weights = counts[None], weights[None]
    # Rows of a level begin after those of all higher levels.
    starts = jnp.cumsum(counts[..., ::-1], axis=-1)[..., ::-1] - counts

    def rows_before(position, level):
        return jnp.clip(position - starts[..., level], 0.0, counts[..., level])

    # [K, L, B]: the weight of the item at a position in the rows of each level. Selected, not gathered: L is small.
    weight = jnp.stack(
        [sum(jnp.where(real & (labels == item), weights[..., row, item], 0.0) for item in levels) for row in levels], 1
    )
    until = linear_recurrence(jnp.ones_like(weight), weight)
    total = until[-1:]
    above = [until[:, level] - weight[:, level] for level in levels]
    below = [total[:, level] - until[:, level] for level in levels]
    (above, first), (below, last) = _strict((above, position), (below, position + 1.0), begins, real)
    slope = jnp.zeros_like(gap)
    for level in levels:
        as_row = below[level] - above[level]
        ahead, behind = rows_before(first, level), counts[..., level] - rows_before(last, level)
        is_row = rows_before(position + 1.0, level) - rows_before(position, level)
        slope += is_row * as_row + weight[:, level] * (behind - ahead)
    one = jnp.ones_like(slope)
    # Summed from the nearer end: a running sum would carry the rounding of the whole list to the last gap.
    from_above, from_below = _earlier(linear_recurrence(one, slope)), -linear_recurrence(one, slope, reverse=True)
    value = jnp.sum(gap * jnp.where(position < len(gap) // 2, from_above, from_below), axis=0)
    return value, slope


def _labelled_distances_bwd(slope, cotangent):
    return slope * cotangent[None], None, None, None, None


_labelled_distances.defvjp(_labelled_distances_fwd, _labelled_distances_bwd)
