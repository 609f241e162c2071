"""How a model treats negatives of different difficulty: losses, mean logits and AUC, one group of negatives at a time.

HAP (Tong et al., WWW 2026) says that hard and easy negatives pull on a light model with forces more than ten times
apart, in directions that disagree, and that logits rise with difficulty. `group_losses` is what those forces are
measured on, with `training.gradients`. Under InfoNCE all groups share the positives, as the boxes of the public
figure do.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import ArrayLike as HostArray

from hccp_jax.evaluation.exposures import gauc
from hccp_jax.losses.grouped import grouped_info_nce
from hccp_jax.losses.pointwise import binary_cross_entropy
from hccp_jax.losses.reduction import no_reduction

LOSSES = ("infonce", "bce")


def group_losses(logits: jax.Array, positive: jax.Array, groups: jax.Array, temperature: ArrayLike) -> jax.Array:
    """InfoNCE and cross entropy of the positives with each group of negatives alone.

    Args:
        logits: [U, K] float32.
        positive: [U, K] bool.
        groups: [G, U, K] bool, the negatives of each group, none of them positive.
        temperature: tau of InfoNCE, a scalar.

    Returns:
        [2, G] float32 in the order of `LOSSES`: InfoNCE as the mean over the positives of a list, then over the lists
        that have one; cross entropy as the mean over the negatives of the group, without the positives, whose pull is
        the same for all groups and would be told apart by the groups' sizes alone. 0 where there are none.

    >>> positive, group = jnp.array([[True, False]]), jnp.array([[[False, True]]])
    >>> print(group_losses(jnp.zeros((1, 2)), positive, group, 1.0).round(4).ravel())  # log 2 both
    [0.6931 0.6931]

    """
    shape = groups.shape
    every, shared = jnp.broadcast_to(logits, shape), jnp.broadcast_to(positive, shape)
    contrast = grouped_info_nce(
        every,
        positive=shared,
        groups=groups[:, :, None, :],
        temperature=temperature,
        average_positives=True,
        reduce_fn=no_reduction,
    )
    lists = jnp.maximum(jnp.sum(jnp.any(positive, axis=-1)), 1)
    cross = binary_cross_entropy(every, jnp.zeros(shape), where=groups, reduce_fn=no_reduction)
    slots = jnp.maximum(jnp.sum(groups, axis=(-2, -1)), 1)
    return jnp.stack([jnp.sum(contrast, axis=-1) / lists, jnp.sum(cross, axis=-1) / slots])


def mean_logits(logits: HostArray, groups: HostArray) -> np.ndarray:
    """[G] float64 means of logits [U, K] over groups [G, U, K] bool; NaN where a group is empty.

    >>> mean_logits([[1.0, 3.0, 8.0]], [[[True, True, False]], [[False, False, False]]])
    array([ 2., nan])

    """
    values, chosen = np.asarray(logits, np.float64), np.asarray(groups, bool)
    counts = chosen.sum(axis=(-2, -1))
    totals = np.where(chosen, values, 0.0).sum(axis=(-2, -1))
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def bucket_auc(scores: HostArray, positive: HostArray, groups: HostArray) -> np.ndarray:
    """AUC of the positives against one group of negatives at a time, within a list.

    Within a list, as only candidates of one request compete, and as scores of two models in series mean nothing
    beyond it. Lists without a positive or without a negative of the group have none; the others are weighted by their
    entries (`exposures.gauc`).

    Args:
        scores: [U, K] float; order matters only.
        positive: [U, K] bool.
        groups: [G, U, K] bool.

    Returns:
        [G] float64; NaN where no list has both.

    >>> groups = [[[False, True, False]], [[False, False, True]]]
    >>> bucket_auc([[0.5, 0.9, 0.1]], [[True, False, False]], groups)
    array([0., 1.])

    """
    score, wanted = np.asarray(scores), np.asarray(positive, bool)
    request = np.broadcast_to(np.arange(len(score))[:, None], score.shape)
    return np.array([gauc(score, wanted, request, wanted | group).value for group in np.asarray(groups, bool)])
