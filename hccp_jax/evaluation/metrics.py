"""Top-K metrics over all candidates of held-out requests, each one value a request, and their mergeable totals.

Let T be the K best candidates by the model's score (`ranking.order`), I the candidates with feedback and R the K best
of the downstream ranker.

* ISH@K, ISPH@K: |T & I| / |I| for clicks and purchases in this scenario; ASH@K, ASPH@K: in any scenario (HCCP 4.1.2).
* NDCG@K: binary relevance R, discount 1 / log2(1 + position), ideal = R first (HCCP 4.1.2).
* MAP@K: sum over positions i <= K with an item of R of precision(i), over min(K, |R|), so that 1 can be reached on
  short lists (HCCP divides by K).
* precision@K: |T & I| / K for clicks in this scenario, of requests with one; a purchase follows a click, so that I are
  all items with feedback. SDCL's Recall@K is ISH@K (decision: it defines the ground truth of neither).
* reverse@K: the share of the pairs of R that the model orders against the ranker; an equal pair counts one half.
* reverse: the same over D2, all that the logging pre-ranker passed on to the ranker: SDCL's reverse rate (Eq 9). Where
  D2 is unknown there is none; a request with more than `REVERSE` such items is left out.
* T@K: the true click mass of T over the largest mass that K candidates can hold. It has no sampling noise of clicks.

A request whose denominator is zero (no feedback, no candidate, no mass) is not valid: left out of means, and counted.

Axes: U requests, P candidate slots, C cutoffs. A cutoff beyond P means P.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hccp_jax.evaluation.candidates import CandidateSet
from hccp_jax.evaluation.ranking import order
from hccp_jax.losses.sort import argsort

_Tree = TypeVar("_Tree")

IN_SCENARIO = {"click": "ISH", "purchase": "ISPH"}
ALL_SCENARIO = {"click": "ASH", "purchase": "ASPH"}


REVERSE = 256  # items whose pairs are compared at most


class PerRequest(NamedTuple):
    """A metric of each request: value [U] float32, 0 where not valid, and valid [U] bool."""

    value: jax.Array
    valid: jax.Array


@struct.dataclass
class Totals:
    """Mergeable sums of a metric: total [...] float32, and the requests used and left out, [] int32 each."""

    total: jax.Array
    count: jax.Array
    left_out: jax.Array


def _ratio(numerator: jax.Array, denominator: jax.Array) -> PerRequest:
    valid = denominator > 0
    return PerRequest(jnp.where(valid, numerator / jnp.where(valid, denominator, 1), 0).astype(jnp.float32), valid)


def _take(values: jax.Array, slots: jax.Array) -> jax.Array:
    return jnp.take_along_axis(values, slots, axis=1)


def _sums_at(values: jax.Array, cutoffs: Sequence[int]) -> jax.Array:
    """[U, C] sums of the first K columns of [U, D], for each cutoff K."""
    running = jnp.cumsum(values, axis=1, dtype=jnp.float32)
    return running[:, np.minimum(cutoffs, values.shape[1]) - 1]


def _depth(candidates: CandidateSet, cutoffs: Sequence[int]) -> int:
    if not cutoffs or min(cutoffs) < 1:
        raise ValueError(f"cutoffs {tuple(cutoffs)}, expected at least one and all positive")
    return min(max(cutoffs), candidates.mask.shape[1])


def _flags(candidates: CandidateSet) -> dict[str, jax.Array]:
    """Metric name without its cutoff -> [U, P] bool positives, for the tasks that the requests know."""
    flags = {IN_SCENARIO[task]: flag for task, flag in candidates.in_scenario.items()}
    return flags | {ALL_SCENARIO[task]: flag for task, flag in candidates.all_scenario.items()}


def _hit_rates(top: jax.Array, candidates: CandidateSet, cutoffs: tuple[int, ...]) -> dict[str, PerRequest]:
    metrics = {}
    for name, flag in _flags(candidates).items():
        positives = flag & candidates.mask
        hits = _sums_at(_take(positives, top), cutoffs)
        for c, k in enumerate(cutoffs):
            metrics[f"{name}@{k}"] = _ratio(hits[:, c], positives.sum(axis=1))
    return metrics


def _precision(top: jax.Array, candidates: CandidateSet, cutoffs: tuple[int, ...]) -> dict[str, PerRequest]:
    """Precision of clicks in this scenario; a list shorter than K still counts K slots."""
    if "click" not in candidates.in_scenario:
        return {}
    positives = candidates.in_scenario["click"] & candidates.mask
    hits, some = _sums_at(_take(positives, top), cutoffs), positives.any(axis=1)
    return {f"precision@{k}": _ratio(hits[:, c], jnp.where(some, k, 0)) for c, k in enumerate(cutoffs)}


def _agreement(top: jax.Array, candidates: CandidateSet, cutoffs: tuple[int, ...]) -> dict[str, PerRequest]:
    """NDCG@K and MAP@K against the ranker's own top K."""
    rank = jnp.where(candidates.mask, candidates.ranker_rank, jnp.int32(np.iinfo(np.int32).max))
    rank_top = _take(rank, top)
    metrics = {}
    for k in cutoffs:
        relevant = (rank_top[:, :k] < k).astype(jnp.float32)
        known = (rank < k).sum(axis=1)
        position = jnp.arange(1, relevant.shape[1] + 1, dtype=jnp.float32)[None, :]
        discount = 1 / jnp.log2(position + 1)
        ideal = jnp.where(position <= known[:, None], discount, 0).sum(axis=1)
        metrics[f"NDCG@{k}"] = _ratio((relevant * discount).sum(axis=1), ideal)
        precision = jnp.cumsum(relevant, axis=1) / position
        metrics[f"MAP@{k}"] = _ratio((relevant * precision).sum(axis=1), jnp.minimum(known, k))
    return metrics


def _reverse(scores: jax.Array, candidates: CandidateSet, cutoffs: tuple[int, ...]) -> dict[str, PerRequest]:
    """Discordant pairs among the ranker's K best, K squared of them: for cutoffs up to `REVERSE`; and among D2."""
    slots = candidates.mask.shape[1]
    rank = jnp.where(candidates.mask, candidates.ranker_rank, slots)
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)  # ranked last
    rows = jnp.arange(len(rank))[:, None]
    slot_of = jnp.full_like(rank, -1).at[rows, rank].set(jnp.arange(slots, dtype=rank.dtype)[None], mode="drop")
    metrics = {}
    for k in cutoffs:
        if k > REVERSE:
            continue
        slot = slot_of[:, :k]
        metrics[f"reverse@{k}"] = _ratio(*_discordant(_take(scores, jnp.maximum(slot, 0)), slot >= 0))
    if candidates.entered is not None:
        entered = candidates.entered & candidates.mask
        slot = argsort(jnp.where(entered, rank, slots))[:, :REVERSE]
        wrong, pairs = _discordant(_take(scores, slot), _take(entered, slot))
        metrics["reverse"] = _ratio(wrong, jnp.where(entered.sum(axis=1) <= REVERSE, pairs, 0))
    return metrics


def _discordant(scores: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Discordant pairs and all pairs [U] of scores [U, n] that ought to fall, among real ones [U, n]."""
    better, worse = scores[:, :, None], scores[:, None, :]
    pairs = real[:, :, None] & real[:, None, :] & jnp.triu(jnp.ones((scores.shape[1],) * 2, bool), 1)
    wrong = jnp.where(pairs, (better < worse) + 0.5 * (better == worse), 0.0)
    return wrong.sum(axis=(1, 2)), pairs.sum(axis=(1, 2))


def _true_mass(top: jax.Array, candidates: CandidateSet, cutoffs: tuple[int, ...]) -> dict[str, PerRequest]:
    if candidates.truth is None:
        return {}
    truth = jnp.where(candidates.mask, candidates.truth, 0)
    best = order(truth, candidates.mask)[:, : top.shape[1]]  # ties do not matter for the ideal sum
    delivered, ideal = (_sums_at(_take(truth, slots), cutoffs) for slots in (top, best))
    return {f"T@{k}": _ratio(delivered[:, c], ideal[:, c]) for c, k in enumerate(cutoffs)}


def candidate_metrics(scores: jax.Array, candidates: CandidateSet, cutoffs: tuple[int, ...]) -> dict[str, PerRequest]:
    """All metrics of the module's docstring; traceable, with `cutoffs` static.

    Args:
        scores: [U, P] float, the model's score of each candidate; NaN ranks last (`ranking.count_not_finite`).
        candidates: what is known about them. Hit rates appear for the tasks it has, T@K where it has the truth.
        cutoffs: the values of K.

    Returns:
        Metric name such as "ISH@100" -> one value a request.

    """
    top = order(scores, candidates.mask, candidates.ties)[:, : _depth(candidates, cutoffs)]
    return {
        **_hit_rates(top, candidates, cutoffs),
        **_precision(top, candidates, cutoffs),
        **_agreement(top, candidates, cutoffs),
        **_reverse(scores, candidates, cutoffs),
        **_true_mass(top, candidates, cutoffs),
    }


def log_cutoffs(largest: int, count: int = 40) -> tuple[int, ...]:
    """At most `count` increasing cutoffs from 1 to `largest`, spaced by equal ratios as far as integers allow.

    >>> log_cutoffs(1000, 7)
    (1, 3, 10, 32, 100, 316, 1000)
    """
    return tuple(int(k) for k in np.unique(np.rint(np.geomspace(1, largest, count)).astype(int)))


def hit_curve(
    scores: jax.Array, candidates: CandidateSet, task: str, cutoffs: Sequence[int], *, all_scenarios: bool = True
) -> Totals:
    """Hit rate of one task at many cutoffs at once, for a picture (HCCP figure 4).

    Args:
        scores: [U, P] float.
        candidates: the requests.
        task: "click" or "purchase".
        cutoffs: the values of K (`log_cutoffs`), static.
        all_scenarios: ASH and ASPH; else ISH and ISPH.

    Returns:
        Totals with total [C].

    """
    known = candidates.all_scenario if all_scenarios else candidates.in_scenario
    positives = known[task] & candidates.mask
    top = order(scores, candidates.mask, candidates.ties)[:, : _depth(candidates, cutoffs)]
    hits = _sums_at(_take(positives, top), cutoffs)
    rates, valid = _ratio(hits, positives.sum(axis=1, keepdims=True))
    return Totals(rates.sum(axis=0), valid.sum(dtype=jnp.int32), (candidates.real & ~valid[:, 0]).sum(dtype=jnp.int32))


def totals(per_request: Mapping[str, PerRequest], real: jax.Array | None = None) -> dict[str, Totals]:
    """Sum per-request values.

    Args:
        per_request: metric -> values [U].
        real: [U] bool, requests that do not pad the batch (`CandidateSet.real`); None means all.

    Returns:
        Metric -> totals; `left_out` counts the real requests that are not valid.

    """

    def summed(metric: PerRequest) -> Totals:
        known = jnp.ones_like(metric.valid) if real is None else real
        used, unused = metric.valid & known, ~metric.valid & known
        value = jnp.where(used, metric.value, 0)
        return Totals(value.sum(), used.sum(dtype=jnp.int32), unused.sum(dtype=jnp.int32))

    return {name: summed(metric) for name, metric in per_request.items()}


def merge(first: _Tree, second: _Tree) -> _Tree:
    """Add two trees of totals of disjoint requests, of this module or of `octiles`."""
    return jax.tree.map(lambda a, b: a + b, first, second)


def value(summed: Totals) -> np.ndarray:
    """The mean over the requests used, on the host in float64, [...] like `total`; NaN where there are none.

    >>> float(value(Totals(np.float32(3), np.int32(4), np.int32(1))))
    0.75
    """
    total, count = np.asarray(summed.total, np.float64), float(summed.count)
    return total / count if count else np.full_like(total, np.nan)
