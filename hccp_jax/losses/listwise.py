"""Losses of the order of a list: ListMLE and ListNet."""

import jax
import jax.numpy as jnp

from hccp_jax.losses.recurrence import linear_recurrence, suffix_exponential_sums
from hccp_jax.losses.reduction import NEGATIVE, ReduceFn, accumulated, list_mask, log_sum_exp, mean_valid
from hccp_jax.losses.sort import positions


def list_mle(
    scores: jax.Array,
    rank: jax.Array | None = None,
    *,
    where: jax.Array | None = None,
    tie_key: jax.Array | None = None,
    position_weights: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""ListMLE (Xia et al. 2008), the global and local consistency losses of HCCP, Eq 3 and 4.

    .. math::
        \ell(z, \pi) = \sum_j w_j \Big[ \log \sum_{k \ge j} e^{z_{\pi(k)}} - z_{\pi(j)} \Big]

    The negative log likelihood of the order under the Plackett-Luce model: each item against itself and all later
    ones. Summed over positions, as in the paper, with w = 1 unless given.

    Args:
        scores: [..., K] floats; computed in float32 or wider, accurate for scores hundreds apart.
        rank: [..., K], smaller is better; None means that the lists are stored best first, which spares the sort.
            Equal ranks are taken in slot order unless there is a `tie_key`.
        where: [..., K] bool, the items that count, anywhere in the list; the others are as if deleted.
        tie_key: PRNG key; equal ranks are then put in a random order, each as likely. Lists of different devices need
            different keys. Used with `rank`.
        position_weights: [K] floats, w of the first item, the second, and so on; zeros after the k-th make a top-k
            ListMLE. Constants. None: all 1.
        reduce_fn: reduction of the per-list sums [...]; a list is valid if it has an item that counts. A list of one
            item is valid and costs 0.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list has an item. Differentiable in reverse
        mode only.

    Raises:
        ValueError: for a `tie_key` without a `rank`.

    Cost: time O(K log K) with a rank, O(K) without; memory O(K) a list.

    >>> print(f"{list_mle(jnp.log(jnp.array([[3.0, 2.0, 1.0]]))):.4f}")  # log(6/3) + log(3/2)
    1.0986
    >>> print(f"{list_mle(jnp.log(jnp.array([[2.0, 3.0, 1.0]])), jnp.array([[1, 0, 2]])):.4f}")
    1.0986

    """
    if tie_key is not None and rank is None:
        raise ValueError("tie_key is given without a rank: lists that are stored in order have no ties")
    mask = list_mask(scores, where)
    # Masked scores are told by their value from here on: a sort then moves one array.
    marked = jnp.where(mask, accumulated(scores), NEGATIVE)
    if rank is not None and scores.shape[-1]:
        order = jnp.where(mask, rank, 0)
        if tie_key is not None:
            shuffle = positions(jax.random.bits(tie_key, scores.shape).astype(jnp.int32))
            marked, order = _placed(marked, shuffle), _placed(order, shuffle)
        marked = _placed(marked, positions(order))
    real = marked != NEGATIVE
    weights = real.astype(marked.dtype)
    if position_weights is not None:
        place = jnp.maximum(jnp.cumsum(real, axis=-1) - 1, 0)
        weights = weights * jnp.take(jnp.asarray(position_weights, marked.dtype), place, axis=0)
    values = _plackett_luce(marked, weights) if scores.shape[-1] else jnp.sum(marked, axis=-1)
    return reduce_fn(values, jnp.any(mask, axis=-1))


def _placed(x: jax.Array, place: jax.Array) -> jax.Array:
    """Element k of each list moved to position place[k], a permutation."""
    flat = x.reshape(-1, x.shape[-1])
    row = jax.lax.broadcasted_iota(jnp.int32, flat.shape, 0)
    moved = jnp.zeros_like(flat).at[row, place.reshape(flat.shape)]
    return moved.set(flat, unique_indices=True, mode="promise_in_bounds").reshape(x.shape)


@jax.custom_vjp
def _plackett_luce(scores: jax.Array, weights: jax.Array) -> jax.Array:
    """[..., K] scores, best first and `NEGATIVE` where masked, to the per-list loss [...]; weights are 0 there."""
    return _plackett_luce_fwd(scores, weights)[0]


def _plackett_luce_fwd(scores, weights):
    scores, weights = jnp.moveaxis(scores, -1, 0), jnp.moveaxis(weights, -1, 0)
    sums = suffix_exponential_sums(scores)
    # Trailing padding adds itself to `total`, but the first real score before it outweighs it by e^(1e30).
    real = scores != NEGATIVE
    terms = jnp.where(real, weights * ((sums.peak - scores) + jnp.log(sums.total)), 0.0)
    # A product with ones and not a sum: within a reduction XLA on the CPU takes one logarithm at a time.
    return jnp.tensordot(jnp.ones_like(terms, shape=len(terms)), terms, 1), (real, weights, sums)


def _plackett_luce_bwd(residuals, cotangent):
    """Gradient e^(z_k) * (sum of w_j / S_j over j <= k) - w_k, S_j the suffix sums; linear in the length of the list.

    t_k = S_k * (sum of w_j / S_j over j <= k) obeys t_k = w_k + t_(k-1) S_k / S_(k-1), a ratio of at most 1, so that
    nothing overflows.
    """
    real, weights, sums = residuals
    ratio = sums.shrink[:-1] * (sums.total[1:] / sums.total[:-1])
    above = linear_recurrence(jnp.concatenate([jnp.zeros_like(sums.total[:1]), ratio]), weights)
    slope = jnp.where(real, sums.own / sums.total * above - weights, 0.0)
    return jnp.moveaxis(slope * cotangent[None], 0, -1), None


_plackett_luce.defvjp(_plackett_luce_fwd, _plackett_luce_bwd)


def list_net(
    scores: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""ListNet, top one (Cao et al. 2007), with binary feedback: HCCP's baseline Base+ListNet.

    .. math::
        \ell(z, y) = -\sum_j \frac{y_j}{\sum_k y_k} \log \frac{e^{z_j}}{\sum_k e^{z_k}}

    The original takes softmax(y) for its target; with 0/1 labels y / sum(y) is customary and puts no weight on items
    without feedback.

    Args:
        scores: [..., K] floats; computed in float32 or wider.
        labels: [..., K], not negative.
        where: [..., K] bool, the items that count.
        reduce_fn: reduction of the per-list values [...]; a list is valid if its labels have a positive sum.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list has a positive label.

    Cost: time and memory O(K) a list.

    >>> loss = list_net(jnp.log(jnp.array([[1.0, 2.0, 5.0]])), jnp.array([[0.0, 1.0, 0.0]]))
    >>> print(f"{loss:.4f}")  # log(8/2)
    1.3863

    """
    mask = list_mask(scores, where)
    z = jnp.where(mask, accumulated(scores), 0.0)
    y = jnp.where(mask, accumulated(labels), 0.0)
    total = jnp.sum(y, axis=-1)
    valid = ~(total <= 0)  # Not `total > 0`: a NaN label must not drop its list in silence.
    target = y / jnp.where(valid, total, 1.0)[..., None]
    normalizer = jnp.where(valid, log_sum_exp(z, mask), 0.0)
    return reduce_fn(jnp.sum(target * (normalizer[..., None] - z), axis=-1), valid)
