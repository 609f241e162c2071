"""The two terms of the sorting loss for power 1, in the order of the scores: recurrences and sums of counts.

Arrays of a batch are [K, B], position first, so that a recurrence steps through whole vectors. The machinery of
`softsort`, whose plain form over pairs is the oracle.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.losses.recurrence import linear_recurrence


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
def log_masses(s: jax.Array, real: jax.Array) -> jax.Array:
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


log_masses.defvjp(_log_masses_fwd, _log_masses_bwd)


def level_weights(
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
def labelled_distances(s, real, labels, weights, counts):
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


labelled_distances.defvjp(_labelled_distances_fwd, _labelled_distances_bwd)
