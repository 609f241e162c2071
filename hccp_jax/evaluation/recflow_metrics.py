"""Recall and NDCG of RecFlow's coarse-ranking test: as its public code has them, and as they are defined.

A request counts if it has a positive candidate and one that is none; the others are left out and counted. With h the
positives among the K best by score, DCG = sum over them of 1 / log2(1 + position), and P the positives of a request:

* recflow_recall@K, recflow_ndcg@K: the sum of h, or of the DCG, over all requests by the sum of P over all. Requests
  with many positives weigh more, and nothing is divided by the best DCG possible, so recflow_ndcg@K stays below 1. Only
  to be compared with numbers of that code, which orders equal scores as the candidates happen to lie.
* recall@K, NDCG@K: means over requests of h / P, and of DCG over that of min(K, P) positives ranked first.

Axes: U requests, P candidate slots (470 of the published lists, padded).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from hccp_jax.evaluation.metrics import PerRequest, Totals, totals
from hccp_jax.evaluation.ranking import order

CUTOFFS = (50, 100, 200)


def recflow_metrics(
    scores: jax.Array,
    positive: jax.Array,
    mask: jax.Array,
    ties: jax.Array | None = None,
    cutoffs: Sequence[int] = CUTOFFS,
) -> dict[str, Totals]:
    """The metrics of the module's docstring, to be added up over batches by `metrics.merge`; traceable.

    Args:
        scores: [U, P] float, larger is better; NaN ranks last.
        positive: [U, P] bool, the candidates that were viewed effectively.
        mask: [U, P] bool, real candidates.
        ties: [U, P] uint32 keys that order equal scores; None: by slot.
        cutoffs: values of K, static.

    Returns:
        Metric name such as "NDCG@50" -> totals, whose `metrics.value` is the metric; `left_out` counts requests.

    Raises:
        ValueError: without a cutoff, or for one below 1.

    >>> scores, positive = jnp.array([[3.0, 2.0, 1.0]]), jnp.array([[False, True, False]])
    >>> found = recflow_metrics(scores, positive, jnp.ones((1, 3), bool), None, (2,))
    >>> {name: round(float(totals.total / totals.count), 3) for name, totals in found.items()}
    {'recflow_recall@2': 1.0, 'recflow_ndcg@2': 0.631, 'recall@2': 1.0, 'NDCG@2': 0.631}
    """
    if not cutoffs or min(cutoffs) < 1:
        raise ValueError(f"cutoffs {tuple(cutoffs)}, expected at least one and all positive")
    positive = positive & mask
    count, real = positive.sum(axis=1, dtype=jnp.int32), mask.any(axis=1)
    valid = (count > 0) & (count < mask.sum(axis=1))
    hit = jnp.take_along_axis(positive, order(scores, mask, ties), axis=1).astype(jnp.float32)
    discount = 1 / jnp.log2(jnp.arange(2, hit.shape[1] + 2, dtype=jnp.float32))
    found, dcg, ideal = jnp.cumsum(hit, axis=1), jnp.cumsum(hit * discount, axis=1), jnp.cumsum(discount)
    metrics: dict[str, Totals] = {}
    for cutoff in cutoffs:
        last = min(cutoff, hit.shape[1]) - 1
        for name, sums in (("recall", found[:, last]), ("ndcg", dcg[:, last])):
            metrics[f"recflow_{name}@{cutoff}"] = _of_all(sums, count, valid, real)
        best = ideal[jnp.clip(count - 1, 0, last)]
        own = {f"recall@{cutoff}": found[:, last] / jnp.maximum(count, 1), f"NDCG@{cutoff}": dcg[:, last] / best}
        metrics |= totals({name: PerRequest(value, valid) for name, value in own.items()}, real)
    return metrics


def _of_all(sums: jax.Array, count: jax.Array, valid: jax.Array, real: jax.Array) -> Totals:
    """A ratio of sums over all requests."""
    used = valid & real
    left_out = (real & ~valid).sum(dtype=jnp.int32)
    return Totals(jnp.where(used, sums, 0).sum(), jnp.where(used, count, 0).sum(dtype=jnp.int32), left_out)
