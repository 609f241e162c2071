"""RankTower's sorting loss: cross entropy between SoftSort permutation matrices."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.losses.reduction import NEGATIVE, ReduceFn, accumulated, list_mask, mean_valid
from hccp_jax.losses.row_blocks import sum_over_row_blocks
from hccp_jax.losses.softsort_terms import labelled_distances, level_weights, log_masses
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
        weights, counts = level_weights(y, flat, levels, label_temperature)
        s, level = sort_descending(x, jnp.clip(jnp.nan_to_num(y), 0, levels - 1), flat, levels)
        real = _leading(flat)
        values = labelled_distances(s, real, level, weights, counts) + log_masses(s, real)
    else:
        s, slot = sort_descending(x, jnp.broadcast_to(jnp.arange(size)[None], x.shape), flat, size)
        real, by_score = _leading(flat), slot.T
        if mode == "teacher":
            assert teacher is not None
            hint = jnp.where(flat, accumulated(teacher).reshape(-1, size), 0.0)
            gaps = _distance(s - jnp.take_along_axis(x, _best_first(y, hint, flat), axis=-1).T, power)
            values = jnp.sum(jnp.where(real, gaps, 0.0), axis=0) + jnp.sum(0.0 * hint, axis=-1)
            fast = power == 1 and size > SMALL
            values += log_masses(s, real) if fast else _pairs(None, power, s.T, y, real.T)
        else:
            scale = 1.0 if mode == "block" else jax.lax.stop_gradient(accumulated(label_temperature))
            values = _pairs(mode, power, s.T, jnp.take_along_axis(y, by_score, axis=-1), real.T, scale)
        if levels is not None:
            values += jnp.sum(0.0 * level_weights(y, flat, levels, 1.0)[0], axis=(1, 2))
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
