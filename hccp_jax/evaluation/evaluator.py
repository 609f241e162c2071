"""Scores every candidate of held-out requests with trained members of a population, and with reference rankings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hccp_jax.data.catalogue import Catalogue, every_item
from hccp_jax.data.requests import RequestBatch
from hccp_jax.evaluation import exposures
from hccp_jax.evaluation.candidates import CandidateSet
from hccp_jax.evaluation.metrics import PerRequest, Totals, candidate_metrics, hit_curve, value
from hccp_jax.evaluation.octiles import OctileTotals, octile_table, octile_totals
from hccp_jax.evaluation.ranking import count_not_finite
from hccp_jax.methods.base import Method

Featurise = Callable[[RequestBatch, Catalogue], RequestBatch]


@struct.dataclass
class EvaluationSet:
    """Held-out requests in equal blocks; leaves [blocks, U, ...].

    Attributes:
        requests: users, histories and the candidates as items, slot by slot those of `candidates`.
        candidates: what is known about them.
    """

    requests: RequestBatch
    candidates: CandidateSet


@struct.dataclass
class _Raw:
    """What one ranking of one block gives, on device."""

    per_request: dict[str, PerRequest]
    octiles: OctileTotals
    curves: dict[str, Totals]
    exposed_scores: jax.Array
    not_finite: jax.Array


class Result(NamedTuple):
    """What one ranking of the whole set gives, on the host.

    metrics: name -> mean over the requests that have it; left_out: name -> requests without it; per_request: name ->
    [requests] float32 with NaN where left out; curves: "ISH" and "ASH" -> hit rate at each of `curve_cutoffs`.
    """

    metrics: dict[str, float]
    left_out: dict[str, int]
    per_request: dict[str, np.ndarray]
    curves: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Evaluates rankings of one set of held-out requests.

    Attributes:
        data: the requests.
        catalogue: feature tables.
        featurise: attaches features to a stored batch.
        cutoffs: K of the table.
        curve_cutoffs: K of the hit-rate curves.
        octile_cutoff: K of the octile breakdown.
    """

    data: EvaluationSet
    catalogue: Catalogue
    featurise: Featurise
    cutoffs: tuple[int, ...]
    curve_cutoffs: tuple[int, ...]
    octile_cutoff: int = 100

    def _measure(self, scores: jax.Array, candidates: CandidateSet, exposed_scores: jax.Array) -> _Raw:
        return _Raw(
            candidate_metrics(scores, candidates, self.cutoffs),
            octile_totals(scores, candidates, self.octile_cutoff),
            {
                "ISH": hit_curve(scores, candidates, "click", self.curve_cutoffs, all_scenarios=False),
                "ASH": hit_curve(scores, candidates, "click", self.curve_cutoffs, all_scenarios=True),
            },
            jnp.where(candidates.exposed, exposed_scores, jnp.nan),
            count_not_finite(scores, candidates.mask),
        )

    def scores(self, rankings: Mapping[str, Callable[[CandidateSet], jax.Array]], shards: int = 1) -> dict[str, Result]:
        """Evaluate rankings that are functions of the candidates: truth, ranker, random, popularity."""
        if not rankings:
            return {}

        def block(candidates: CandidateSet) -> list[jax.Array]:
            return [score(candidates) for score in rankings.values()]

        scored = jax.device_get(jax.jit(lambda data: jax.lax.map(block, data))(self.data.candidates))
        found = self.measured([(ranking, ranking) for ranking in scored], shards)
        return dict(zip(rankings, found, strict=True))

    def population(self, method: Method, parameters: Any, hypers: Any, shards: int = 1) -> list[Result]:
        """Evaluate the served score of every member.

        Args:
            method: of all members.
            parameters: leaves [M, ...].
            hypers: leaves [M].
            shards: devices over which members are spread.

        Returns:
            One result a member. AUC is that of the click head on the impressions.
        """
        score = _spread(partial(member_scores, method, self.featurise), shards)
        members = len(jax.tree.leaves(hypers)[0])
        rankings = []
        for first in range(0, members, shards):
            chosen = np.minimum(np.arange(first, first + shards), members - 1)
            some = jax.tree.map(lambda leaf, c=chosen: np.asarray(leaf)[c], (parameters, hypers))
            served, click = jax.device_get(score(*some, self.data, self.catalogue))
            rankings += list(zip(served, click, strict=True))
        return self.measured(rankings[:members], shards)

    def measured(self, rankings: Sequence[tuple[np.ndarray, np.ndarray]], shards: int = 1) -> list[Result]:
        """Measure rankings given as (scores, click logits), [blocks, U, P] each, `shards` at a time."""
        run = self._measuring(shards)
        found = []
        for first in range(0, len(rankings), shards):
            chosen = [rankings[min(first + place, len(rankings) - 1)] for place in range(shards)]
            scores, clicks = (np.stack(column) for column in zip(*chosen, strict=True))
            raw = jax.device_get(run(scores, clicks, self.data.candidates))
            found += [self._result(jax.tree.map(lambda leaf, i=place: leaf[i], raw)) for place in range(shards)]
        return found[: len(rankings)]

    @cache  # noqa: B019 - an evaluator lives as long as its experiment
    def _measuring(self, shards: int) -> Callable[..., _Raw]:
        """One compiled program measures every row of a table, trained or not."""

        def one(scores: jax.Array, clicks: jax.Array, candidates: CandidateSet) -> _Raw:
            return jax.lax.map(lambda parts: self._measure(*parts), (scores, candidates, clicks))

        return _spread(one, shards)

    def _result(self, raw: _Raw) -> Result:
        """Sum the blocks on the host.

        Raises:
            FloatingPointError: if a real candidate has no finite score.
        """
        raw = jax.device_get(raw)
        if int(np.sum(raw.not_finite)):
            raise FloatingPointError(f"{int(np.sum(raw.not_finite))} candidates have no finite score")
        metrics, left_out, per_request = {}, {}, {}
        for name, found in raw.per_request.items():
            values, valid = np.ravel(found.value), np.ravel(found.valid)
            metrics[name] = float(values[valid].mean(dtype=np.float64)) if valid.any() else float("nan")
            left_out[name] = int((~valid).sum())
            per_request[name] = np.where(valid, values, np.nan).astype(np.float32)
        metrics |= octile_table(jax.tree.map(lambda leaf: np.sum(leaf, axis=0), raw.octiles))
        candidates = self.data.candidates
        shown: Any = np.asarray(candidates.exposed)
        metrics["AUC"] = exposures.auc(raw.exposed_scores, candidates.in_scenario["click"], shown)
        curves = {name: value(jax.tree.map(lambda leaf: np.sum(leaf, axis=0), t)) for name, t in raw.curves.items()}
        return Result(metrics, left_out, per_request, curves)


def member_scores(
    method: Method,
    featurise: Featurise,
    parameters: Any,
    hyper: Any,
    data: EvaluationSet,
    catalogue: Catalogue,
    *others: Any,
) -> tuple[jax.Array, ...]:
    """Served scores and click logits [blocks, U, P] of one member, then the served scores by other numbers.

    `others` are further numbers of the method that differ in what is served only, such as fused heads.
    Item sides are computed once for the whole catalogue, as at serving time.
    """
    score = member_scorer(method, parameters, hyper, catalogue, *others)
    return jax.lax.map(lambda part: score(featurise(part.requests, catalogue)), data)


def member_scorer(
    method: Method, parameters: Any, hyper: Any, catalogue: Catalogue, *others: Any
) -> Callable[[RequestBatch], tuple[jax.Array, ...]]:
    """From requests with features attached to what `member_scores` gives, [U, P] each."""
    items = method.item_side(parameters, every_item(catalogue))

    def score(batch: RequestBatch) -> tuple[jax.Array, ...]:
        users = method.user_side(parameters, batch)
        own = jax.tree.map(lambda leaf: leaf[batch.items["id"]], items)
        heads = method.route(method.pair_scores(parameters, users, own, batch.cross), hyper, batch.mask)
        return method.served(heads, hyper), heads["click"], *(method.served(heads, other) for other in others)

    return score


def _spread(one: Callable[..., Any], shards: int) -> Callable[..., Any]:
    """Run `one(member, member, shared...)` for `shards` members at once, one on each device.

    The first two arguments have a leading axis of `shards`; so does the result.
    """

    def first(own: Any, other: Any, *shared: Any) -> Any:
        squeezed = jax.tree.map(lambda leaf: leaf[0], (own, other))
        return jax.tree.map(lambda leaf: leaf[None], one(*squeezed, *shared))

    if shards == 1:
        return jax.jit(first)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:shards]), ("members",))
    spec = jax.sharding.PartitionSpec

    def placed(own: Any, other: Any, *shared: Any) -> Any:
        specs = (spec("members"), spec("members"), *([spec()] * len(shared)))
        return jax.shard_map(first, mesh=mesh, in_specs=specs, out_specs=spec("members"))(own, other, *shared)

    return jax.jit(placed)
