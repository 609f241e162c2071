"""Softmax cross entropy over a list, and its form in which positives do not compete with each other."""

import jax
import jax.numpy as jnp

from hccp_jax.losses.contrastive import info_nce
from hccp_jax.losses.reduction import ReduceFn, accumulated, list_mask, log_sum_exp, mean_valid


def softmax_cross_entropy(
    scores: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""Cross entropy of the softmax over a list, weighted by the labels as they are: "Softmax" of RankTower's Table 3.

    .. math::
        \ell(z, y) = -\sum_i y_i \log \frac{e^{z_i}}{\sum_j e^{z_j}}

    The labels are not normalized, so that a list counts as much as its labels sum to; `list_net` is the normalized
    form. Rax's `softmax_loss` gives the same value a list, but its mean counts lists without a positive label.
    Time O(K), memory O(K) a list.

    Args:
        scores: [..., K] floats; computed in float32 or wider, accurate at any magnitude.
        labels: [..., K], not negative.
        where: [..., K] bool, the items that count.
        reduce_fn: reduction of the per-list sums [...]; a list is valid if its labels have a positive sum.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list has a positive label.

    >>> loss = softmax_cross_entropy(jnp.log(jnp.array([[1.0, 2.0, 5.0]])), jnp.array([[0.0, 1.0, 2.0]]))
    >>> print(f"{loss:.4f}")  # log(8/2) + 2 log(8/5)
    2.3263

    """
    mask = list_mask(scores, where)
    z = jnp.where(mask, accumulated(scores), 0.0)
    y = jnp.where(mask, accumulated(labels), 0.0)
    valid = ~(jnp.sum(y, axis=-1) <= 0)  # Not `> 0`: a NaN label must not drop its list in silence.
    normalizer = jnp.where(valid, log_sum_exp(z, mask), 0.0)
    return reduce_fn(jnp.sum(y * (normalizer[..., None] - z), axis=-1), valid)


def multi_positive_softmax(
    scores: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""Multi-positive softmax of "Rethinking the Role of Pre-ranking" (Zhang et al. 2023, ASMOL).

    .. math::
        \ell(z, P) = \sum_{i \in P} -\log \frac{e^{z_i}}{e^{z_i} + \sum_{j \in S \setminus P} e^{z_j}}

    over the positives P of a list S: a denominator holds one positive and all negatives. It is `info_nce` of the list
    with itself, and with one positive `softmax_cross_entropy`. Known from a translation whose formula is garbled; this
    is the reading that fits its prose. Time O(K), memory O(K) a list.

    Args:
        scores: [..., K] floats, divided by the temperature; computed in float32 or wider, accurate at any magnitude.
        labels: [..., K]; items with a label above 0 are positive. A NaN that counts makes its score NaN.
        where: [..., K] bool, the items that count.
        reduce_fn: reduction of the per-list sums [...] over positives; a list is valid if it has a positive.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list has a positive. A list of positives only
        is valid and costs 0.

    >>> loss = multi_positive_softmax(jnp.log(jnp.array([[1.0, 2.0, 5.0]])), jnp.array([[0.0, 1.0, 1.0]]))
    >>> print(f"{loss:.4f}")  # log(3/2) + log(6/5)
    0.5878

    """
    mask, y = list_mask(scores, where), accumulated(labels)
    z = jnp.where(jnp.isnan(y), jnp.nan, accumulated(scores))
    positive = ~(y <= 0)
    return info_nce(z, z, positive_where=mask & positive, negative_where=mask & ~positive, reduce_fn=reduce_fn)
