"""The simulated online test of pre-rankers: what their own exposures earn, over requests that no offline metric saw.

HCCP (section 4.1.2) reports UCTR, click page views over exposed users, and UCVR, purchase page views over exposed
users. Here a request stands for an exposed user: clicks and purchases are counted per request. All is simulated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hccp_jax.cascade.ab_test import Arm, logging_arm, outcomes
from hccp_jax.cascade.concentration import gini
from hccp_jax.cascade.world import World, WorldConfig
from hccp_jax.data.catalogue import Catalogue
from hccp_jax.evaluation.candidates import CandidateSet
from hccp_jax.evaluation.evaluator import EvaluationSet, Featurise, member_scores
from hccp_jax.evaluation.octiles import OCTILES, TAIL
from hccp_jax.evaluation.simulated import evaluation_set
from hccp_jax.methods.base import Method

Measurement = tuple[dict[str, float], dict[str, np.ndarray]]


def online_set(world: World, config: WorldConfig, counts: np.ndarray, requests: int) -> EvaluationSet:
    """Requests of the online test, of a stream of their own: offline and online metrics share none.

    Args:
        world: the world.
        config: its configuration.
        counts: [items + 1] impressions of the log, which define the frequency octiles.
        requests: how many, rounded up to whole blocks.
    """
    return evaluation_set(world, config, counts, requests, "online")


def scores_of(data: EvaluationSet, score: Callable[[CandidateSet], jax.Array]) -> jax.Array:
    """[blocks, U, P] scores of an arm that are a function of the candidates, such as the truth."""
    return jax.jit(lambda candidates: jax.lax.map(score, candidates))(data.candidates)


@partial(jax.jit, static_argnums=1)
def _outcomes(world: World, config: WorldConfig, tail: jax.Array, data: EvaluationSet, scores: jax.Array) -> Arm:
    def block(parts: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> Arm:
        return outcomes(world, config, *parts, tail)

    requests, candidates = data.requests.user["request"], data.candidates
    return jax.lax.map(block, (requests, candidates.ids, candidates.mask, scores))


@partial(jax.jit, static_argnums=1)
def _logging_scores(world: World, config: WorldConfig, data: EvaluationSet) -> jax.Array:
    parts = data.requests.user["request"], data.candidates.ids, data.candidates.mask
    return jax.lax.map(lambda part: logging_arm(world, config, *part), parts)


def checked(data: EvaluationSet, scores: Any) -> jax.Array:
    """Scores [blocks, U, P] of the candidates of a set.

    Raises:
        ValueError: if they have another shape.
        FloatingPointError: if a real candidate has no finite score.
    """
    mask, scores = np.asarray(data.candidates.mask), np.asarray(scores)
    if scores.shape != mask.shape:
        raise ValueError(f"scores of shape {scores.shape}, expected {mask.shape}")
    if bad := int((mask & ~np.isfinite(scores)).sum()):
        raise FloatingPointError(f"{bad} candidates have no finite score")
    return jnp.asarray(scores, jnp.float32)


@dataclass(frozen=True, eq=False)
class Online:
    """Serves the requests of one set with the scores of an arm.

    Attributes:
        world: the world that answers.
        config: its configuration.
        data: the requests; leaves [blocks, U, ...].
    """

    world: World
    config: WorldConfig
    data: EvaluationSet

    @cached_property
    def octile(self) -> np.ndarray:
        """[items + 1] int8: frequency octile of each item from 0; -1 for items that are nobody's candidates."""
        candidates = self.data.candidates
        found = np.full(self.config.items + 1, -1, np.int8)
        ids, octile, mask = (np.asarray(leaf) for leaf in (candidates.ids, candidates.octile, candidates.mask))
        found[ids[mask]] = octile[mask]
        return found

    @property
    def tail(self) -> np.ndarray:
        """[items + 1] bool: items of octiles 7 and 8; False for items that are nobody's candidates."""
        return self.octile >= TAIL

    def logging_scores(self) -> np.ndarray:
        """[blocks, U, P] float32: the arm that wrote the log, to compare others with."""
        return np.asarray(_logging_scores(self.world, self.config, self.data))

    def arm(self, scores: Any) -> Arm:
        """Outcomes of an arm on the host, leaves [requests, ...].

        Args:
            scores: [blocks, U, P] float, slot by slot those of the candidates; see `checked`.
        """
        arm = _outcomes(self.world, self.config, jnp.asarray(self.tail), self.data, checked(self.data, scores))
        return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), arm)

    def population(
        self, method: Method, parameters: Any, hypers: Sequence[Any], featurise: Featurise, catalogue: Catalogue
    ) -> list[Measurement]:
        """What `measured` gives for each member of a population, by its served score.

        Args:
            method: of all members.
            parameters: leaves [M, ...].
            hypers: the numbers of each member.
            featurise: attaches features to a stored batch.
            catalogue: feature tables.
        """
        score = jax.jit(lambda *member: member_scores(method, featurise, *member, self.data, catalogue)[0])
        members = enumerate(jax.tree.map(jnp.float32, hyper) for hyper in hypers)
        return [self.measured(score(jax.tree.map(lambda x, i=i: x[i], parameters), hyper)) for i, hyper in members]

    def measured(self, scores: Any) -> Measurement:
        """Metrics of an arm, and those of them that are means over requests, request by request.

        "online/clicks" and "online/purchases" are expected counts per request given what is shown (Rao-Blackwell);
        "online/realised_clicks" and "online/realised_purchases" the drawn ones. "online/tail_share" is the share of
        impressions that are of items in frequency octiles 7 and 8. "online/gini" is the Gini coefficient of impressions
        over all items of the catalogue (the Matthew effect: 0 even, 1 one item has all) and "online/distinct_items"
        the number of items shown at all; both grow or fall with the number of requests, so compare equal sets only.
        "online/CTR/octileJ" and "online/CVR/octileJ", J = 1..8, are expected clicks and purchases per impression of an
        item of that frequency octile, "online/share/octileJ" its share of the impressions; NaN without impressions.

        Args:
            scores: [blocks, U, P] float.

        Returns:
            name -> number, and name -> [requests] float32 in the order of the set; the latter has no "online/gini" and
            no "online/distinct_items".
        """
        arm = self.arm(scores)
        per_request = _per_request(arm)
        shown = np.bincount(arm.shown[arm.shown > 0], minlength=self.config.items + 1)[1:]
        metrics = {name: float(values.mean(dtype=np.float64)) for name, values in per_request.items()}
        metrics["online/tail_share"] = float(arm.tail_exposures.sum(dtype=np.float64) / arm.exposures.sum())
        metrics["online/gini"] = gini(shown)
        metrics["online/distinct_items"] = float(np.count_nonzero(shown))
        metrics |= self._by_octile(arm)
        return metrics, per_request

    def _by_octile(self, arm: Arm) -> dict[str, float]:
        real = arm.shown > 0
        group = self.octile[arm.shown[real]]

        def total(values: Any) -> np.ndarray:
            return np.bincount(group, values[real], minlength=OCTILES).astype(np.float64)

        exposures = total(np.ones(arm.shown.shape))
        with np.errstate(invalid="ignore"):
            found = {
                "CTR": total(arm.click_chance) / exposures,
                "CVR": total(arm.purchase_chance) / exposures,
                "share": exposures / exposures.sum(),
            }
        return {
            f"online/{name}/octile{place + 1}": float(value)
            for name, values in found.items()
            for place, value in enumerate(values)
        }


def _per_request(arm: Arm) -> dict[str, np.ndarray]:
    """Name -> [requests] float32 of an arm on the host."""
    share = arm.tail_exposures / np.maximum(arm.exposures, 1)
    named = {
        "clicks": arm.expected_clicks,
        "purchases": arm.expected_purchases,
        "realised_clicks": arm.clicks,
        "realised_purchases": arm.purchases,
        "tail_share": share,
    }
    return {f"online/{name}": np.asarray(values, np.float32) for name, values in named.items()}
