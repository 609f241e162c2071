"""Terms that shape vectors and rank nothing: DAT's adaptive mimic and category alignment, IntTower's contrast."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.losses.contrastive import info_nce
from hccp_jax.losses.reduction import ReduceFn, accumulated, list_mask, mean_valid
from hccp_jax.numerics import normalize


def adaptive_mimic(
    augmented: jax.Array,
    other_side: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""Adaptive mimic of DAT (Yu et al. 2021): a free vector learns what the other tower says of its positives.

    .. math::
        \ell = \| y a + (1 - y) p - p \|^2 = y^2 \| a - p \|^2, \quad p = \text{stop-gradient(the other tower)}

    DAT has one for users, a = the user's augmented vector and p = the item tower's output, and one for items with the
    roles exchanged; each is weighted 0.5. A pair with y = 0 costs 0 and still counts in the mean, as in the paper.
    The definition follows a published summary of the paper, whose text was not at hand; equation numbers are left out.

    Args:
        augmented: [..., d] floats, a; computed in float32 or wider.
        other_side: [..., d] floats, p: no gradient reaches them. Axes of size 1 broadcast, so that [U, 1, d] users
            meet [U, K, d] items.
        labels: [...], y, one a pair: the common leading axes of the two.
        where: [...] bool, the pairs that count.
        reduce_fn: reduction of the per-pair values [...]; every pair that counts is valid.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no pair counts.

    Time O(T d), memory O(T d) for T pairs.

    >>> a, p = jnp.array([[3.0, 4.0], [1.0, 1.0]]), jnp.array([[0.0, 0.0], [5.0, 5.0]])
    >>> print(adaptive_mimic(a, p, jnp.array([1.0, 0.0])))  # (3^2 + 4^2 + 0) / 2
    12.5

    """
    mask = list_mask(labels, where)
    a = jnp.where(mask[..., None], accumulated(augmented), 0.0)
    p = jnp.where(mask[..., None], jax.lax.stop_gradient(accumulated(other_side)), 0.0)
    y = jnp.where(mask, accumulated(labels), 0.0)
    return reduce_fn(jnp.sum(jnp.square(y[..., None] * (a - p)), axis=-1), mask)


def category_alignment(
    vectors: jax.Array,
    categories: jax.Array,
    *,
    num_categories: int,
    where: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""Category alignment of DAT (Yu et al. 2021): every category's covariance is drawn to that of the largest one.

    .. math::
        \ell = \sum_{c \ne \text{major}} \| C(S_c) - C(S_\text{major}) \|_F^2, \quad
        C(S) = \frac{1}{|S| - 1} \sum_{x \in S} (x - \bar x)(x - \bar x)^\top

    S_c holds the vectors of category c in the batch. The major category is the one with most of them, ties going to
    the smallest id. Gradients flow into both covariances. The summary of the paper that was at hand does not say how
    C is divided: |S| - 1 is CORAL's and the unbiased choice, and a category with fewer than two vectors is skipped.

    Args:
        vectors: [..., N, d] floats; computed in float32 or wider.
        categories: [..., N] integers; an id outside [0, num_categories) means that the vector is in no category.
        num_categories: static.
        where: [..., N] bool, the vectors that count.
        reduce_fn: reduction of the per-batch sums over categories [...]; a batch is valid if two categories or more
            have two vectors or more. A covariance of all devices' vectors needs them gathered beforehand.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if nothing can be compared.

    Time O(N d^2 + C d^2), memory the same, for C categories.

    >>> x = jnp.array([[0.0], [2.0], [4.0], [0.0], [2.0], [9.0]])
    >>> loss = category_alignment(x, jnp.array([1, 1, 1, 0, 0, 2]), num_categories=3)
    >>> print(loss)  # variances 4 (major) and 2; the third category has one vector
    4.0

    """
    inside = (categories >= 0) & (categories < num_categories)
    mask = list_mask(categories, where) & inside
    lead, (size, width) = categories.shape[:-1], vectors.shape[-2:]
    flat = math.prod(lead)
    values, valid = jax.vmap(partial(_misalignment, num_categories=num_categories))(
        accumulated(vectors).reshape(flat, size, width),
        jnp.where(mask, categories, 0).reshape(flat, size),
        mask.reshape(flat, size),
    )
    return reduce_fn(values.reshape(lead), valid.reshape(lead))


def _misalignment(
    x: jax.Array, category: jax.Array, mask: jax.Array, num_categories: int
) -> tuple[jax.Array, jax.Array]:
    """The loss of one batch, x [N, d], category [N] in range, mask [N]; and whether it compares anything."""
    total = partial(jax.ops.segment_sum, segment_ids=category, num_segments=num_categories)
    count = total(mask.astype(jnp.int32))
    # Vectors of skipped categories leave before any sum: what they hold, NaN included, reaches no gradient.
    counted = (mask & (count[category] >= 2))[:, None]
    x = jnp.where(counted, x, 0.0)
    mean = total(x) / jnp.maximum(count, 1)[:, None]
    centred = jnp.where(counted, x - mean[category], 0.0)
    covariance = total(centred[:, :, None] * centred[:, None, :]) / jnp.maximum(count - 1, 1)[:, None, None]
    major = jnp.argmax(count)  # The first of equals.
    other = (count >= 2) & (jnp.arange(num_categories) != major)
    gap = jnp.where(other[:, None, None], covariance - covariance[major][None], 0.0)
    return jnp.sum(jnp.square(gap)), jnp.any(other)


def contrastive_interaction(
    user_vectors: jax.Array,
    item_vectors: jax.Array,
    positive_where: jax.Array | None = None,
    *,
    where: jax.Array | None = None,
    temperature: ArrayLike = 0.07,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""Contrastive interaction regularization (CIR) of IntTower (Li et al. 2022): InfoNCE along the batch's diagonal.

    .. math::
        \ell_b = -\log \frac{e^{\cos(u_b, v_b) / \tau}}{\sum_c e^{\cos(u_b, v_c) / \tau}}, \quad b \text{ positive}

    Pair b is (u_b, v_b); c runs over the items of all pairs that count, positive or not, b among them. An item that
    stands in the batch twice is its own negative, as in plain in-batch softmax. The released code computes another
    thing (it takes the 0/1 label for the column) and leaves it out of its total.

    Args:
        user_vectors: [..., B, d] floats; normalised here, in float32 or wider.
        item_vectors: [..., B, d] floats, the same pairs.
        positive_where: [..., B] bool, the pairs whose users pull their items; all if None.
        where: [..., B] bool, the pairs that count at all.
        temperature: tau, possibly traced.
        reduce_fn: reduction of the per-pair values [..., B]; the positives among the pairs that count are valid.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if there is no positive. A positive that is alone in
        its batch costs 0.

    Time O(B^2 d), memory O(B^2).

    >>> u, v = jnp.eye(2), 2 * jnp.eye(2)
    >>> print(f"{contrastive_interaction(u, v, temperature=1.0):.4f}")  # log(1 + e^-1)
    0.3133

    """
    pairs = user_vectors.shape[:-1]
    mask = jnp.broadcast_to(True if where is None else jnp.asarray(where, bool), pairs)
    positive = mask if positive_where is None else mask & jnp.asarray(positive_where, bool)
    # Cleaned before the norms, whose gradient at a masked NaN would be NaN.
    users = normalize(jnp.where(positive[..., None], accumulated(user_vectors), 0.0))
    items = normalize(jnp.where(mask[..., None], accumulated(item_vectors), 0.0))
    cosines = jnp.einsum("...bd,...cd->...bc", users, items) / temperature
    others = jnp.broadcast_to(~jnp.eye(pairs[-1], dtype=bool), cosines.shape)
    return info_nce(
        jnp.diagonal(cosines, axis1=-2, axis2=-1)[..., None],
        cosines,
        positive_where=positive[..., None],
        negative_where=others & mask[..., None, :],
        reduce_fn=reduce_fn,
    )
