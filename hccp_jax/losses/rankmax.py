"""Rankmax and RankTower's adaptive-margin Rankmax."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.losses.recurrence import linear_recurrence
from hccp_jax.losses.reduction import ReduceFn, accumulated, list_mask, mean_valid
from hccp_jax.losses.row_blocks import sum_over_row_blocks
from hccp_jax.losses.sort import sort_descending

SMALL = 256
"""Up to this length the pairs cost less than a sort of both thresholds."""


def rankmax(
    scores: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""Rankmax (Kong et al., NeurIPS 2020), RankTower Eq 12: log of an adaptive projection, with sparse support.

    .. math::
        \ell(z, y) = \sum_{j: y_j > 0} \log \sum_i (z_i - z_j + 1)_+

    The sum holds the item itself, which is 1, so that a term is at least 0; an item scored 1 or more below the
    positive has no gradient. Other positives are in the sum, as printed.

    Args:
        scores: [..., K] floats; computed in float32 or wider.
        labels: [..., K], positive where larger than 0; the size does not matter.
        where: [..., K] bool, the items that count.
        reduce_fn: reduction of the per-list sums over positives; a list is valid if it has one.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list has a positive. Differentiable in reverse
        mode only.

    Cost: time O(K log K), memory O(K) a list, exact; up to `SMALL` items O(K^2) streamed, which is then faster.

    >>> loss = rankmax(jnp.array([2.0, 1.5, 0.0]), jnp.array([1.0, 0.0, 0.0]))
    >>> print(f"{loss:.4f}")  # log(1 + 0.5 + 0)
    0.4055

    """
    mask, z, y = _flat(scores, labels, where)
    positive = mask & ~(y <= 0)  # Not `y > 0`: a NaN label must not drop its list in silence.
    if z.shape[-1] > SMALL:
        # Everything is below a positive here, itself included.
        sums = _sums_by_sorting(z, z - 1.0, mask, positive.astype(z.dtype), 1, all_members=True)
        # 0 where no reader stands, and at a reader at least 1 but for rounding.
        values = jnp.sum(jnp.log(jnp.maximum(sums, 1.0)), axis=0)
    else:
        values = sum_over_row_blocks(_rankmax_rows, z, z, (positive, mask))
    shape = scores.shape[:-1]
    return reduce_fn(values.reshape(shape), jnp.any(positive, axis=-1).reshape(shape))


def am_rankmax(
    scores: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    levels: int | None = None,
    alpha: ArrayLike = 1.0,
    beta: ArrayLike = 1.0,
    power: float = 1,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""Adaptive-margin Rankmax of RankTower (2024), Eq 13 and 14, bounded below.

    .. math::
        \ell(z, y) = \sum_j \log \Big( 1 + \sum_{i: y_i < y_j} (z_i - z_j + m(i, j))_+ \Big), \quad
        m(i, j) = \alpha [y_i = 0] + \beta |y_i - y_j|^p

    The paper prints the sum without the 1, so that a list whose margins are all met costs log 0; with it the loss is
    `rankmax` for one positive and m = 1, and at least 0. Items of equal label do not meet, so that several positives
    of one level do not compete, unlike in Eq 12. Values of alpha, beta and p are not given in the paper.

    Args:
        scores: [..., K] floats; computed in float32 or wider.
        labels: [..., K], larger is better, 0 for items without any feedback or exposure. Constants.
        where: [..., K] bool, the items that count.
        levels: number L of label levels if labels are integers 0 .. L - 1, static: with p 0 or 1 this allows the
            fast form. A label that is none of them makes the loss NaN. None: any labels.
        alpha: extra margin over items of label 0, a scalar, possibly traced.
        beta: scale of the margin, likewise.
        power: p, static: 0 a constant margin beta, 1 linear in the gap of the labels, 2 quadratic.
        reduce_fn: reduction of the per-list sums over items; a list is valid if it has an item above another. Divide
            by the number of positives outside if wanted.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list is valid. Differentiable in reverse mode
        only.

    Raises:
        ValueError: for a negative power.

    Cost: with levels and p 0 or 1, time O(K log K + K L), memory O(K L) a list, exact; otherwise, and up to `SMALL`
    items, time O(K^2), memory O(K), streamed over blocks of rows.

    >>> loss = am_rankmax(jnp.array([2.0, 1.5, 0.0]), jnp.array([1, 0, 0]), levels=2)
    >>> print(f"{loss:.4f}")  # log(1 + 1.5 + 0)
    0.9163

    """
    if power < 0:
        raise ValueError(f"power={power!r}: expected at least 0")
    mask, z, y = _flat(scores, labels, where)
    lowest = jnp.min(jnp.where(mask, y, jnp.inf), axis=-1, keepdims=True, initial=jnp.inf)
    valid = jnp.any(mask & ~(y <= lowest), axis=-1)
    if levels is not None:
        known = _all_known(y, mask, levels)
        valid, z = valid | ~known, z + jnp.where(known, 0.0, jnp.nan)[:, None]
    if levels is not None and power in (0, 1) and z.shape[-1] > SMALL:
        slack = beta * y if power == 1 else jnp.zeros_like(y)
        upper = z + jnp.where(y == 0, jnp.asarray(alpha, z.dtype), 0.0) - slack + (0.0 if power == 1 else beta)
        sums = _sums_by_sorting(upper, z - slack, mask, y, levels - 1)
        values = jnp.sum(jnp.log1p(sums), axis=0)
    else:
        margins = jnp.stack([accumulated(alpha), accumulated(beta)]).astype(z.dtype)[None]
        margins = margins + jnp.zeros_like(z, shape=(len(z), 2))  # Inside shard_map it then varies as the scores do.
        term = partial(_am_rankmax_rows, power)
        values = sum_over_row_blocks(term, z, (z, margins), ((y, mask), (y, mask)))
        values += jnp.sum(0.0 * z, axis=-1)  # An item of unknown label is above and below nothing.
    shape = scores.shape[:-1]
    return reduce_fn(values.reshape(shape), valid.reshape(shape))


def _flat(scores: jax.Array, labels: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mask, scores and labels as [B, K]; 0 where masked. A NaN label becomes a NaN score, to be seen in the loss."""
    mask = list_mask(scores, where).reshape(math.prod(scores.shape[:-1]), scores.shape[-1])
    z, y = (jnp.where(mask, accumulated(x).reshape(mask.shape), 0.0) for x in (scores, labels))
    y = jax.lax.stop_gradient(y).astype(z.dtype)
    return mask, z + 0.0 * y, y


def _all_known(y: jax.Array, mask: jax.Array, levels: int) -> jax.Array:
    """[B] bool: all labels of the list are among 0 .. levels - 1."""
    return jnp.all(~mask | ((y >= 0) & (y < levels) & (y == jnp.round(y))), axis=-1)


def _rankmax_rows(z_row: jax.Array, z: jax.Array, constants) -> jax.Array:
    """[B] sums of a block of rows j against all items i."""
    positive, mask = constants
    hinges = jax.nn.relu(z[:, None, :] - z_row[:, :, None] + 1.0)
    sums = jnp.sum(jnp.where(mask[:, None, :], hinges, 0.0), axis=-1)
    return jnp.sum(jnp.where(positive, jnp.log(jnp.where(positive, sums, 1.0)), 0.0), axis=-1)


def _am_rankmax_rows(power: float, z_row: jax.Array, whole, constants) -> jax.Array:
    """[B] sums of a block of rows j against all items i."""
    z, margins = whole
    (y_row, real), (y, mask) = constants
    alpha, beta = margins[:, 0, None, None], margins[:, 1, None, None]
    below = mask[:, None, :] & (y[:, None, :] < y_row[:, :, None])
    gap = jnp.where(below, y_row[:, :, None] - y[:, None, :], 1.0)
    margin = alpha * (y == 0)[:, None, :] + beta * gap**power
    hinges = jax.nn.relu(z[:, None, :] - z_row[:, :, None] + margin)
    return jnp.sum(jnp.where(real, jnp.log1p(jnp.sum(jnp.where(below, hinges, 0.0), axis=-1)), 0.0), axis=-1)


def _sums_by_sorting(
    upper: jax.Array, lower: jax.Array, mask: jax.Array, label: jax.Array, lanes: int, all_members: bool = False
) -> jax.Array:
    """Hinge sums S_j, the sum of (upper_i - lower_j)_+ over the items i of smaller label.

    One descending sort of all thresholds, then two running sums a lane, one lane for each label above 0: how many
    members lie above, and gap by gap what they add. All terms are of one sign, so that nothing cancels.

    Args:
        upper: [B, K], the a_i.
        lower: [B, K], the b_j.
        mask: [B, K] bool, real items.
        label: [B, K] floats, 0 .. lanes.
        lanes: L.
        all_members: sum over all items, whatever their label.

    Returns:
        [2 K, B], in the sorted order; 0 where no reader stands.
    """
    # Equal thresholds add 0 either way; with the readers first their slope is 0 too.
    values, real = jnp.concatenate([lower, upper], axis=-1), jnp.concatenate([mask, mask], axis=-1)
    bad = jnp.sum(0.0 * values, axis=-1)  # A score that is not a finite number is to be seen in the loss.
    values = jnp.where(jnp.isfinite(values), values, 0.0)
    label = jnp.clip(jnp.nan_to_num(label), 0, lanes)
    role = jnp.concatenate([label, lanes + 1 + (jnp.zeros_like(label) if all_members else label)], axis=-1)
    descending, role = sort_descending(values, role, real, 2 * lanes + 2)
    real = jax.lax.broadcasted_iota(jnp.int32, role.shape, 0) < jnp.sum(real, axis=-1)[None]
    lane = jnp.arange(1, lanes + 1)[:, None]
    readers = real[:, None] & (role[:, None] == lane[None])
    members = real[:, None] & (role[:, None] > lanes) & (role[:, None] - lanes - 1 < lane[None])
    readers, members = readers.astype(values.dtype), members.astype(values.dtype)
    return _lane_sums(descending, real, members, readers) + bad[None]


@jax.custom_vjp
def _lane_sums(values, real, members, readers):
    """[2 K, B] hinge sums of the readers among descending `values`; lanes are [2 K, L, B] of 0 and 1."""
    return _lane_sums_fwd(values, real, members, readers)[0]


def _running(x: jax.Array, *, reverse: bool = False) -> jax.Array:
    return linear_recurrence(jnp.ones_like(x), x, reverse=reverse)


def _lane_sums_fwd(values, real, members, readers):
    gap = jnp.where(real[1:], values[:-1] - values[1:], 0.0)
    gap = jnp.concatenate([jnp.zeros_like(gap, shape=(1, gap.shape[1])), gap])
    above = _running(members) - members
    sums = jnp.sum(readers * _running(above * gap[:, None]), axis=1)
    return sums, (jnp.sum(readers * above, axis=1), members, readers)


def _lane_sums_bwd(residuals, cotangent):
    count, members, readers = residuals
    # A member feeds all readers below it, and a reader falls against all members above it.
    below = _running(readers * cotangent[:, None], reverse=True)
    return jnp.sum(members * below, axis=1) - count * cotangent, None, None, None


_lane_sums.defvjp(_lane_sums_fwd, _lane_sums_bwd)
