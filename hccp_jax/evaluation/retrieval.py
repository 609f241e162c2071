"""Recall@N of a retrieval model in its two senses, from the ranks of the positives.

Macro is the mean over users of the share of their positives in the top N, as the released code of CROLoss reports.
Micro is the share of all pairs (user, positive) in the top N, Eq 5 of the paper. They are equal where every user has as
many positives. Ranks come from `ranking.ranks_of`, which orders equal scores by a seeded key; Eq 6 of the paper counts
every equal score as ahead.

Axes: U users, Q slots of positives, C cutoffs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hccp_jax.evaluation.metrics import Totals


class Recall(NamedTuple):
    """Mergeable sums, `total` [C] each: macro over users, micro over pairs. `metrics.value` makes means of them."""

    macro: Totals
    micro: Totals


def recall_at(ranks: jax.Array, where: jax.Array, cutoffs: Sequence[int], real: jax.Array | None = None) -> Recall:
    """Recall at each cutoff.

    Args:
        ranks: [U, Q] int32, 0 the best, of each positive among all items.
        where: [U, Q] bool, real positives.
        cutoffs: the values of N, static.
        real: [U] bool, users that do not pad the batch; None means all.

    Returns:
        Macro counts the users with a positive and, as left out, those without one; micro counts the pairs.

    Raises:
        ValueError: without a cutoff, or for one below 1.

    >>> ranks, where = jnp.array([[0, 7], [3, 0]]), jnp.array([[True, True], [True, False]])
    >>> found = recall_at(ranks, where, (1, 5))  # shares 1/2 and 0, 1/2 and 1; 1 and 2 of 3 pairs
    >>> print(found.macro.total / found.macro.count, found.micro.total, found.micro.count)
    [0.25 0.75] [1. 2.] 3

    """
    if not cutoffs or min(cutoffs) < 1:
        raise ValueError(f"cutoffs {tuple(cutoffs)}, expected at least one and all positive")
    known = jnp.ones(len(ranks), bool) if real is None else real
    where = where & known[:, None]
    inside = where[..., None] & (ranks[..., None] < np.asarray(cutoffs))
    hits, positives = inside.sum(axis=1, dtype=jnp.int32), where.sum(axis=1, dtype=jnp.int32)
    share = hits / jnp.maximum(positives, 1)[:, None]
    used = (positives > 0).sum(dtype=jnp.int32)
    macro = Totals(share.sum(axis=0), used, known.sum(dtype=jnp.int32) - used)
    micro = Totals(hits.sum(axis=0).astype(jnp.float32), positives.sum(dtype=jnp.int32), jnp.int32(0))
    return Recall(macro, micro)
