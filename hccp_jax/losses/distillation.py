"""What a student learns from the predictions of a ranker. No gradient reaches the teacher in any of these."""

import jax
import jax.numpy as jnp

from hccp_jax.losses.listwise import list_net
from hccp_jax.losses.pairwise import pairwise_logistic
from hccp_jax.losses.pointwise import binary_cross_entropy
from hccp_jax.losses.reduction import ReduceFn, accumulated, list_mask, mean_valid
from hccp_jax.losses.softmax import softmax_cross_entropy


def softmax_distillation(
    scores: jax.Array,
    teacher: jax.Array,
    *,
    normalize: bool = False,
    where: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""RankTower's distillation, Eq 9: the softmax over the impressions, weighted by the ranker's predictions.

    .. math::
        \ell(z, p) = -\sum_i p_i \log \frac{e^{z_i}}{\sum_j e^{z_j}}

    As printed the p are probabilities of single items that do not sum to 1: a list counts as much as its p sum to.
    `softmax_cross_entropy` with p for labels; with `normalize` it is `list_net`. The distillation of "Rethinking the
    Role of Pre-ranking" is the same, with p_ctr, or p_ctr p_cvr, over exposures. Time O(K), memory O(K) a list.

    Args:
        scores: [..., K] floats, the student's logits; computed in float32 or wider.
        teacher: [..., K] probabilities, not negative; stop-gradient.
        normalize: divide p by its sum over the list, so that all lists count alike.
        where: [..., K] bool, the items that count (RankTower: the impressions).
        reduce_fn: reduction of the per-list sums [...]; a list is valid if its p have a positive sum.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list is valid.

    >>> loss = softmax_distillation(jnp.log(jnp.array([[1.0, 3.0]])), jnp.array([[0.2, 0.4]]))
    >>> print(f"{loss:.4f}")  # 0.2 log(4) + 0.4 log(4/3)
    0.3923

    """
    loss = list_net if normalize else softmax_cross_entropy
    return loss(scores, jax.lax.stop_gradient(teacher), where=where, reduce_fn=reduce_fn)


def weighted_log_loss(
    scores: jax.Array,
    teacher: jax.Array,
    *,
    where: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""Pointwise distillation: "weighted logloss" of RankTower's Table 4, and L_distill of SDCL, Eq 5.

    .. math::
        \ell(z, p) = -\sum_i [p_i \log \sigma(z_i) + (1 - p_i) \log(1 - \sigma(z_i))]

    SDCL's text speaks of logits as proxy labels, but its Eq 5 is this cross entropy between probabilities, for one
    task and over the exposed items; its task weight is the caller's. SDCL says nothing of the gradient to the ranker,
    which is trained along: it is stopped. Smallest at z = logit(p), with the entropy of p for a value, not 0.
    `binary_cross_entropy` with p for labels. Time O(K), memory O(K) a list.

    Args:
        scores: [..., K] floats, the student's logits; computed in float32 or wider, exact at any magnitude.
        teacher: [..., K] probabilities; stop-gradient.
        where: [..., K] bool, the items that count.
        reduce_fn: reduction of the per-list sums [...]; a list is valid if it has an item that counts.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list has an item.

    >>> loss = weighted_log_loss(jnp.log(jnp.array([[1.0, 3.0]])), jnp.array([[0.5, 0.0]]))
    >>> print(f"{loss:.4f}")  # log(2) + log(4)
    2.0794

    """
    return binary_cross_entropy(scores, jax.lax.stop_gradient(teacher), where=where, reduce_fn=reduce_fn)


def pairwise_log_loss(
    scores: jax.Array,
    teacher: jax.Array,
    *,
    where: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""Pairwise distillation: "pairwise logloss" of RankTower's Table 4, RankNet on the order of the ranker.

    .. math::
        \ell(z, p) = \sum_{i, j:\, p_i > p_j} \log(1 + e^{-(z_i - z_j)})

    The paper gives no formula. It sees the order of the p only, not how far apart they are. `pairwise_logistic` with p
    for labels. Time O(K^2), memory O(K) a list.

    Args:
        scores: [..., K] floats, the student's logits; computed in float32 or wider, exact at any magnitude.
        teacher: [..., K] probabilities, or any numbers that grow with them; stop-gradient.
        where: [..., K] bool, the items that count.
        reduce_fn: reduction of the per-list sums [...] over pairs; a list is valid if two of its p differ.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list has such a pair.

    >>> loss = pairwise_log_loss(jnp.log(jnp.array([[1.0, 3.0]])), jnp.array([[0.1, 0.2]]))
    >>> print(f"{loss:.4f}")  # log(1 + 1/3)
    0.2877

    """
    return pairwise_logistic(scores, jax.lax.stop_gradient(teacher), where=where, reduce_fn=reduce_fn)


def mse_on_logits(
    scores: jax.Array,
    teacher: jax.Array,
    *,
    teacher_is_logits: bool = False,
    smallest: float = 1e-6,
    where: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""Squared difference of the student's and the ranker's logits (Ba and Caruana 2014), summed over a list.

    .. math::
        \ell(z, p) = \sum_i \Big(z_i - \log \frac{p_i}{1 - p_i}\Big)^2

    Summed over the list, as all losses here, in spite of its name. Time O(K), memory O(K) a list.

    Args:
        scores: [..., K] floats, the student's logits; computed in float32 or wider.
        teacher: [..., K] probabilities, or logits with `teacher_is_logits`; stop-gradient.
        teacher_is_logits: take the teacher as it is.
        smallest: p and 1 - p are raised to it before their logarithm, so that p = 0 and p = 1 have finite logits.
        where: [..., K] bool, the items that count.
        reduce_fn: reduction of the per-list sums [...]; a list is valid if it has an item that counts.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list has an item.

    >>> loss = mse_on_logits(jnp.array([[1.0, -1.0]]), jnp.array([[0.5, 0.5]]))
    >>> print(f"{loss:.4f}")  # 1^2 + (-1)^2
    2.0000

    """
    mask = list_mask(scores, where)
    target = jax.lax.stop_gradient(jnp.where(mask, accumulated(teacher), 0.5))
    if not teacher_is_logits:
        # Both are bounded from below: 1 - smallest has too few digits left to bound p from above.
        target = jnp.log(jnp.maximum(target, smallest)) - jnp.log(jnp.maximum(1.0 - target, smallest))
    errors = jnp.where(mask, accumulated(scores), 0.0) - target
    return reduce_fn(jnp.sum(jnp.where(mask, jnp.square(errors), 0.0), axis=-1), jnp.any(mask, axis=-1))
