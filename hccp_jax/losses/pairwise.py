"""Losses of pairs of items: RankNet, BPR, the triplet hinge, and RankNet with the NDCG at stake as weight."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.losses.approx_ndcg import logarithmic_discount
from hccp_jax.losses.reduction import ReduceFn, accumulated, list_mask, mean_valid
from hccp_jax.losses.slot_fold import fold_slots
from hccp_jax.numerics import softplus_and_sigmoid

SHORT = 16  # Longest list for the plain form of `pairwise_logistic`: nearly as fast there, and compiled sooner.


def pairwise_logistic(
    scores: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""RankNet (Burges et al. 2005): logistic loss of every pair of items with different labels.

    .. math::
        \ell(z, y) = \sum_{i, j:\, y_i > y_j} w_i \log(1 + e^{-(z_i - z_j)})

    Summed over pairs, not averaged; equal labels make no pair (CROLoss Eq 3 gives them targets of 1/2). Only the order
    of the labels counts. Differentiable in scores and weights, in reverse mode only.
    Time O(K^2), memory O(K) a list: value and gradient in one pass over blocks of pairs.

    Args:
        scores: [..., K] floats; computed in float32 or wider, exact at any magnitude.
        labels: [..., K] numbers, larger is better. A NaN that counts makes the value of its list NaN.
        where: [..., K] bool, the items that count.
        weights: [..., K] weight of the preferred item of a pair, 1 if None.
        reduce_fn: reduction of the per-list sums [...]; a list is valid if two of its labels differ.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list has such a pair.

    >>> loss = pairwise_logistic(jnp.log(jnp.array([[3.0, 1.0, 2.0]])), jnp.array([[1.0, 0.0, 0.0]]))
    >>> print(f"{loss:.4f}")  # log(1 + 1/3) + log(1 + 2/3)
    0.7985

    """
    if scores.shape[-1] <= SHORT:
        return pairwise_logistic_materialized(scores, labels, where=where, weights=weights, reduce_fn=reduce_fn)
    mask = list_mask(scores, where)
    z, y = jnp.where(mask, accumulated(scores), 0.0), accumulated(labels)
    w = jnp.ones_like(z) if weights is None else jnp.where(mask, accumulated(weights), 0.0)
    # Scores and weights in one type, which inside shard_map also says over which devices they vary.
    dtype = jnp.result_type(z, w)
    zero = sum(jnp.zeros_like(array, dtype) for array in (z, w, y))
    # A masked label is the worst for an item that may be preferred, and the best for one that it may be preferred to.
    values = _ranknet(z + zero, w + zero, jnp.where(mask, y, -jnp.inf), jnp.where(mask, y, jnp.inf))
    return reduce_fn(*_of_differing(values, labels, mask))


def pairwise_logistic_materialized(
    scores: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    """`pairwise_logistic` as it is defined. Time O(K^2), memory O(K^2) a list.

    >>> loss = pairwise_logistic_materialized(jnp.log(jnp.array([[3.0, 1.0]])), jnp.array([[1.0, 0.0]]))
    >>> print(f"{loss:.4f}")  # log(1 + 1/3)
    0.2877

    """
    mask = list_mask(scores, where)
    pair, behind = _pairs(scores, labels, mask)
    terms = jnp.sum(jnp.where(pair, softplus_and_sigmoid(behind)[0], 0.0), axis=-1)
    if weights is not None:
        terms = terms * jnp.where(mask, accumulated(weights), 0.0)
    return reduce_fn(*_of_differing(jnp.sum(terms, axis=-1), labels, mask))


def _pairs(scores: jax.Array, labels: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[..., K, K]: whether i is preferred to j, and z_j - z_i there, 0 elsewhere."""
    z = accumulated(scores)
    pair = (labels[..., :, None] > labels[..., None, :]) & mask[..., :, None] & mask[..., None, :]
    return pair, jnp.where(pair, z[..., None, :] - z[..., :, None], 0.0)


def _of_differing(values: jax.Array, labels: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Per-list values and whether two labels differ; a NaN label differs from all and shows in the value."""
    y = accumulated(labels)
    best = jnp.max(jnp.where(mask, y, -jnp.inf), axis=-1, initial=-jnp.inf)
    worst = jnp.min(jnp.where(mask, y, jnp.inf), axis=-1, initial=jnp.inf)
    return jnp.where(jnp.isnan(best), best, values), ~(best <= worst)


@jax.custom_vjp
def _ranknet(scores: jax.Array, weights: jax.Array, labels: jax.Array, above: jax.Array) -> jax.Array:
    """Per-list loss; i is preferred to j where labels[i] > above[j]."""
    return _ranknet_fwd(scores, weights, labels, above)[0]


def _ranknet_fwd(z, w, y, above):
    """The loss is a sum, so its gradient is known up to the cotangent of a list: one pass finds both.

    Every slot j meets all items i, which stay in place. With d = z_j - z_i, the loss of i gets softplus(d) where i is
    preferred; the gradient in z_i gets -w_i sigmoid(d) there, and w_j sigmoid(-d) where j is preferred.
    """

    def fold(odds, *powers):
        def body(carry, block):
            slope, losses = carry
            product = jnp.zeros_like(z)
            for z_j, w_j, y_j, above_j, *powers_j in zip(*block, strict=True):
                behind = z_j - z
                up, down, e = odds(behind, *powers_j)  # sigmoid(d) : sigmoid(-d) = up : down, and e = exp(-|d|).
                better, worse = y > above_j, y < y_j
                slope += jnp.where(better, -w * up, jnp.where(worse, w_j * down, 0.0)) / (up + down)
                losses += jnp.where(better, jnp.maximum(behind, 0.0), 0.0)
                # A sum of log(1 + e) is the logarithm of a product; less 1, so that small e keep their digits.
                product += jnp.where(better, e, 0.0) * (1.0 + product)
            return slope, losses + jnp.log1p(product)

        columns = (z, 0.0), (w, 0.0), (y, -jnp.inf), (above, jnp.inf), *((power, 1.0) for power in powers)
        return fold_slots(body, (jnp.zeros_like(z), jnp.zeros_like(z)), *columns)

    def near():
        power, inverse = jnp.exp(z), jnp.exp(-z)
        return fold(lambda _, p_j, i_j: (p_j, power, jnp.minimum(p_j * inverse, power * i_j)), power, inverse)

    def far():
        def odds(behind):
            e = jnp.exp(-jnp.abs(behind))
            return jnp.where(behind > 0, 1.0, e), jnp.where(behind > 0, e, 1.0), e

        return fold(odds)

    # exp(40 + 40) is finite in float32: with such scores no pair needs an exponential of its own. A NaN goes `far`.
    slope, losses = jax.lax.cond(jnp.all(jnp.abs(z) <= 40.0), near, far)
    return jnp.sum(w * losses, axis=-1), (slope, losses)


def _ranknet_bwd(residuals, cotangent):
    slope, losses = residuals
    return slope * cotangent[..., None], losses * cotangent[..., None], None, None


_ranknet.defvjp(_ranknet_fwd, _ranknet_bwd)


def bpr(
    positive_logits: jax.Array,
    negative_logits: jax.Array,
    *,
    positive_where: jax.Array | None = None,
    negative_where: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""BPR (Rendle et al. 2009): every positive against every negative of the list.

    .. math::
        \ell = \sum_p \sum_n -\log \sigma(z_p - z_n)

    Time O(P N), memory O(P N) a list.

    Args:
        positive_logits: [..., P] floats; computed in float32 or wider, exact at any magnitude.
        negative_logits: [..., N] floats, the same leading axes.
        positive_where: [..., P] bool, the positives that count.
        negative_where: [..., N] bool, the negatives that count.
        reduce_fn: reduction of the per-list sums [...] over pairs; a list is valid if it has a positive.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list has a positive. Without negatives it is 0.

    >>> loss = bpr(jnp.log(jnp.array([[3.0]])), jnp.log(jnp.array([[1.0, 2.0]])))
    >>> print(f"{loss:.4f}")  # log(1 + 1/3) + log(1 + 2/3)
    0.7985

    """
    pair, behind, valid = _opposites(positive_logits, negative_logits, positive_where, negative_where)
    return reduce_fn(jnp.sum(jnp.where(pair, softplus_and_sigmoid(behind)[0], 0.0), axis=(-2, -1)), valid)


def triplet(
    positive_logits: jax.Array,
    negative_logits: jax.Array,
    *,
    margin: ArrayLike,
    positive_where: jax.Array | None = None,
    negative_where: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""Triplet hinge (Weston and Watkins 1999), the triplet loss of CROLoss's comparison.

    .. math::
        \ell = \sum_p \sum_n (m + z_n - z_p)_+

    Its slope is 0 at the corner. m is a scalar, possibly traced; the other arguments, the result and its empty cases
    are those of `bpr`. Time O(P N), memory O(P N) a list.

    >>> print(f"{triplet(jnp.array([[3.0]]), jnp.array([[1.0, 2.5]]), margin=1.0):.4f}")  # 0 + (1 + 2.5 - 3)
    0.5000

    """
    pair, behind, valid = _opposites(positive_logits, negative_logits, positive_where, negative_where)
    return reduce_fn(jnp.sum(jnp.where(pair, jax.nn.relu(margin + behind), 0.0), axis=(-2, -1)), valid)


def _opposites(
    positives: jax.Array, negatives: jax.Array, positive_where: jax.Array | None, negative_where: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[..., P, N]: whether a pair counts, and z_n - z_p there, 0 elsewhere; [...]: whether a positive counts."""
    positive, negative = list_mask(positives, positive_where), list_mask(negatives, negative_where)
    pair = positive[..., :, None] & negative[..., None, :]
    behind = accumulated(negatives)[..., None, :] - accumulated(positives)[..., :, None]
    return pair, jnp.where(pair, behind, 0.0), jnp.any(positive, axis=-1)


def delta_ndcg_logistic(
    log_values: jax.Array,
    relevance: jax.Array,
    *,
    where: jax.Array | None = None,
    top: int | None = None,
    ratio: bool = False,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""COPR-style rank alignment: RankNet whose pairs weigh the NDCG that swapping them would change.

    .. math::
        \ell = \sum_{i, j:\, g_i > g_j} \Delta_{ij} \log(1 + e^{-(\log e_i - \log e_j)}), \quad
        \Delta_{ij} = \frac{|g_i - g_j|}{\mathrm{IDCG}}
                      \left|\frac{1}{\log_2(1 + \pi_i)} - \frac{1}{\log_2(1 + \pi_j)}\right|

    with e the student's value of an item (predicted click rate times bid), g its relevance by the teacher, and pi its
    rank in the student's own order, as in LambdaRank (Burges et al. 2006); no gradient passes through Delta.
    Inferred, hence "-style": the equations of COPR (Zhao et al. 2023) could not be read. The pairs and their weights by
    NDCG are sure; argument, gain and ranks are our choice. Time O(K^2), memory O(K^2) a list.

    Args:
        log_values: [..., K] floats, log e; computed in float32 or wider. Equal values are ranked in slot order.
        relevance: [..., K], not negative, larger is better; for chunk k of M, best first, say (M - k) / M.
        where: [..., K] bool, the items that count.
        top: ranks beyond it have no discount and no weight, as in NDCG@top; None for all.
        ratio: e_i / e_j - 1 instead of log e_i - log e_j. It has no gradient for a pair far on the wrong side.
        reduce_fn: reduction of the per-list sums [...]; a list is valid if two of its relevances differ.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list has such a pair.

    >>> loss = delta_ndcg_logistic(jnp.log(jnp.array([[3.0, 1.0]])), jnp.array([[1.0, 0.0]]))
    >>> print(f"{loss:.4f}")  # (1 - 1 / log2(3)) log(1 + 1/3)
    0.1062

    """
    mask = list_mask(log_values, where)
    pair, behind = _pairs(log_values, relevance, mask)
    gain = jnp.where(mask, accumulated(relevance), 0.0)
    discount = _discount(_ranks(log_values, mask), top)
    ideal = jnp.sum(gain * _discount(_ranks(relevance, mask), top), axis=-1)
    stake = jnp.abs(gain[..., :, None] - gain[..., None, :]) * jnp.abs(discount[..., :, None] - discount[..., None, :])
    stake = jax.lax.stop_gradient(stake / jnp.where(ideal > 0, ideal, 1.0)[..., None, None])
    # Where log e_i - log e_j is above 10 the loss of the ratio is 0, even in float64, and exp would overflow.
    argument = -jnp.expm1(jnp.minimum(-behind, 10.0)) if ratio else behind
    terms = jnp.where(pair, stake * softplus_and_sigmoid(argument)[0], 0.0)
    return reduce_fn(*_of_differing(jnp.sum(terms, axis=(-2, -1)), relevance, mask))


def _ranks(x: jax.Array, mask: jax.Array) -> jax.Array:
    """[..., K] ranks from 1 among the items that count, the largest first, equal ones in slot order."""
    mine, other, slot = x[..., :, None], x[..., None, :], jnp.arange(x.shape[-1])
    earlier = jnp.broadcast_to(slot[None, :] < slot[:, None], (*x.shape, x.shape[-1]))
    ahead = (other > mine) | ((other == mine) & earlier)
    return 1 + jnp.sum(ahead & mask[..., None, :], axis=-1)


def _discount(rank: jax.Array, top: int | None) -> jax.Array:
    """1 / log2(1 + rank), 0 beyond `top`."""
    discount = logarithmic_discount(accumulated(rank))
    return discount if top is None else jnp.where(rank <= top, discount, 0.0)
