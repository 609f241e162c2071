"""RankTower's sorting loss: cross entropy between SoftSort permutation matrices."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.losses.recurrence import linear_recurrence
from hccp_jax.losses.reduction import NEGATIVE, ReduceFn, accumulated, list_mask, mean_valid
from hccp_jax.losses.row_blocks import sum_over_row_blocks
from hccp_jax.losses.sort import argsort

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
        labels: [..., K], larger is better. Constants: no gradient flows to them.
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
    # Masked slots last; NaN first, so that it stays in the list and is seen.
    by_score = argsort(jnp.where(flat, jnp.where(jnp.isnan(x), -jnp.inf, -x), jnp.inf))
    s = jnp.take_along_axis(x, by_score, axis=-1)
    real = jnp.arange(size)[None] < jnp.sum(flat, axis=-1, keepdims=True)
    fast = power == 1 and size > SMALL
    if mode == "teacher":
        assert teacher is not None
        hint = jnp.where(flat, accumulated(teacher).reshape(-1, size), 0.0)
        by_hint = argsort(jnp.where(flat, -hint, jnp.inf))
        target = jnp.take_along_axis(
            by_hint, argsort(jnp.take_along_axis(jnp.where(flat, -y, jnp.inf), by_hint, -1)), -1
        )
        gaps = _distance(s - jnp.take_along_axis(x, target, axis=-1), power)
        near = jnp.sum(jnp.where(real, gaps, 0.0), axis=-1)
        values = near + (_log_masses(s, real) if fast else _pairs(None, power, s, y, real))
    elif mode == "literal" and levels is not None and fast:
        values = _labelled_distances(s, real, *_level_targets(y, flat, by_score, levels, label_temperature))
        values = values + _log_masses(s, real)
    else:
        scale = 1.0 if mode == "block" else jax.lax.stop_gradient(accumulated(label_temperature))
        values = _pairs(mode, power, s, jnp.take_along_axis(y, by_score, axis=-1), real, scale)
    return reduce_fn(values.reshape(shape), jnp.any(mask, axis=-1))


def _distance(gap: jax.Array, power: int) -> jax.Array:
    return jnp.abs(gap) if power == 1 else jnp.square(gap)


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


def _steps(s: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Positions first: gaps to the position before [K, B], and where gap and position are real, and where it is not 0.

    The first position begins a block of equal scores; padding continues the last one.
    """
    s, real = jnp.moveaxis(s, -1, 0), jnp.moveaxis(real, -1, 0)
    gap = jnp.where(real[1:], s[:-1] - s[1:], 0.0)
    gap = jnp.concatenate([jnp.zeros_like(gap, shape=(1, gap.shape[1])), gap])
    first = jax.lax.broadcasted_iota(jnp.int32, gap.shape, 0) == 0
    return gap, real, first | (gap != 0)


def _later(x: jax.Array, last: float) -> jax.Array:
    """Element k + 1 at k."""
    return jnp.concatenate([x[1:], jnp.full_like(x[:1], last)])


def _strictly(value: jax.Array, decay: jax.Array, begins: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Decayed sums of `value` over the positions strictly above and strictly below each, equal scores left out.

    Args:
        value: [K, B, C].
        decay: [K, B, C], the factor from the position before.
        begins: [K, B] bool, where a block of equal scores begins.
    """
    begins = begins[..., None].astype(value.dtype)

    def held(value, decay, begins, reverse):
        inclusive = linear_recurrence(decay, value, reverse=reverse)
        zero = jnp.zeros_like(inclusive[:1])
        before = [inclusive[1:], zero] if reverse else [zero, inclusive[:-1]]
        entering = begins * decay * jnp.concatenate(before)
        begins = jnp.broadcast_to(begins, value.shape)
        return linear_recurrence(1.0 - begins, entering, reverse=reverse)

    above = held(value, decay, begins, False)
    return above, held(value, _later(decay, 1.0), _later(begins, 1.0), True)


@jax.custom_vjp
def _log_masses(s: jax.Array, real: jax.Array) -> jax.Array:
    """[B]: the sum over positions r of log q_r, q_r = sum_j exp(-|s_r - s_j|), for descending s [B, K].

    q_r = F_r + G_r - 1 with F_r = 1 + F_(r-1) exp(s_r - s_(r-1)) and G the same from below: all factors are at most 1
    and q_r is at least 1, so that nothing can overflow and no maximum is needed.
    """
    return _log_masses_fwd(s, real)[0]


def _log_masses_fwd(s, real):
    gap, real_first, begins = _steps(s, real)
    decay, one = jnp.exp(-gap), real_first.astype(s.dtype)
    masses = linear_recurrence(decay, one) + linear_recurrence(_later(decay, 0.0), one, reverse=True) - one
    masses = jnp.where(real_first, masses, 1.0)
    return jnp.sum(jnp.log(masses), axis=0), (decay, begins, real_first, masses)


def _log_masses_bwd(residuals, cotangent):
    """For a pair i above k, E = exp(s_k - s_i) is in q_i and in q_k: each weighs 1/q of its row."""
    decay, begins, real, masses = residuals
    inverse = jnp.where(real, 1.0 / masses, 0.0)
    value = jnp.stack([real.astype(masses.dtype), inverse], axis=-1)
    above, below = _strictly(value, jnp.broadcast_to(decay[..., None], value.shape), begins)
    difference = above - below
    slope = difference[..., 0] * inverse + difference[..., 1]
    return jnp.moveaxis(jnp.where(real, slope, 0.0), 0, -1) * cotangent[:, None], None


_log_masses.defvjp(_log_masses_fwd, _log_masses_bwd)


def _level_targets(
    y: jax.Array, mask: jax.Array, by_score: jax.Array, levels: int, label_temperature: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What the targets come to with labels 0 .. L - 1.

    Returns:
        weights [B, L, L], P_y of a row of one level at an item of another; then which level the items in score order
        and the rows have, [K, B, L] 0 or 1. The weights of a list with any other label are NaN.
    """
    values = jnp.arange(levels, dtype=y.dtype)
    member = mask[..., None] & (y[..., None] == values[None, None])
    counts = jnp.sum(member, axis=1, dtype=y.dtype)
    affinity = jnp.exp(-jnp.abs(values[:, None] - values[None, :]) / label_temperature)
    total = jnp.sum(counts[:, None, :] * affinity[None], axis=-1)
    present = counts > 0
    weights = jnp.where(present[..., None], affinity[None] / jnp.where(present, total, 1.0)[..., None], 0.0)
    known = jnp.sum(counts, axis=-1) == jnp.sum(mask, axis=-1)
    weights = jnp.where(known[:, None, None], weights, jnp.nan)
    items = jnp.take_along_axis(member, by_score[..., None], axis=1)
    # Rows go through the levels from the largest down.
    reach = jnp.cumsum(counts[:, ::-1], axis=-1)[:, ::-1]
    position = jnp.arange(y.shape[1], dtype=y.dtype)[None, :, None]
    rows = (position < reach[:, None, :]) & (position >= (reach - counts)[:, None, :])
    items, rows = (jnp.moveaxis(x, 1, 0).astype(y.dtype) for x in (items, rows))
    return jax.lax.stop_gradient(weights), items, rows


@jax.custom_vjp
def _labelled_distances(s, real, weights, items, rows):
    """[B]: the sum over rows r and items k of weights[level of r, level of k] |s_r - s_k|, for descending s [B, K].

    Linear in s between ties, with slopes that are counts: c_i = what lies below minus what lies above i. As the slopes
    add up to 0, the value is the sum over gaps of gap times the slopes above it, all of one sign.
    """
    return _labelled_distances_fwd(s, real, weights, items, rows)[0]


def _labelled_distances_fwd(s, real, weights, items, rows):
    gap, _, begins = _steps(s, real)
    value = jnp.concatenate([items, rows], axis=-1)
    above, below = _strictly(value, jnp.ones_like(value), begins)
    items_below, rows_below = jnp.split(below - above, 2, axis=-1)
    as_row = jnp.sum(rows[..., :, None] * weights[None] * items_below[..., None, :], axis=(-2, -1))
    as_item = jnp.sum(rows_below[..., :, None] * weights[None] * items[..., None, :], axis=(-2, -1))
    slope = as_row + as_item
    one = jnp.ones_like(slope)
    # Summed from the nearer end: a running sum would carry the rounding of the whole list to the last gap.
    from_above = jnp.concatenate([jnp.zeros_like(slope[:1]), linear_recurrence(one, slope)[:-1]])
    from_below = -linear_recurrence(one, slope, reverse=True)
    near_top = jax.lax.broadcasted_iota(jnp.int32, slope.shape, 0) < slope.shape[0] // 2
    value = jnp.sum(gap * jnp.where(near_top, from_above, from_below), axis=0)
    return value, jnp.moveaxis(slope, 0, -1)


def _labelled_distances_bwd(slope, cotangent):
    return slope * cotangent[:, None], None, None, None, None


_labelled_distances.defvjp(_labelled_distances_fwd, _labelled_distances_bwd)
