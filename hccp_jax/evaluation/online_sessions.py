"""The online metrics of SDCL in the simulated online test: watch time, requests and valid reads of a session."""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import jax
import numpy as np

from hccp_jax.cascade.ab_test import shown_by
from hccp_jax.cascade.sessions import SessionConfig, Sessions, session_outcomes, session_requests
from hccp_jax.cascade.world import World, WorldConfig
from hccp_jax.evaluation.evaluator import EvaluationSet
from hccp_jax.evaluation.online import checked
from hccp_jax.evaluation.simulated import BLOCK, set_of_requests


def session_set(
    world: World, config: WorldConfig, session: SessionConfig, counts: np.ndarray, sessions: int
) -> EvaluationSet:
    """The requests of sessions, one after another, as a set that arms can score.

    Args:
        world: the world.
        config: its configuration.
        session: the session model.
        counts: [items + 1] impressions of the log.
        sessions: how many, each of another user; rounded up to a multiple of the blocks' size.

    Raises:
        UserError: if the world has too few users.
    """
    requests = session_requests(config, session, -(-sessions // BLOCK) * BLOCK)
    return set_of_requests(world, config, counts, requests.ravel())


@partial(jax.jit, static_argnums=(1, 2))
def _sessions(
    world: World, config: WorldConfig, session: SessionConfig, data: EvaluationSet, scores: jax.Array
) -> Sessions:
    request, candidates = data.requests.user["request"], data.candidates
    parts = request, candidates.ids, candidates.mask, scores
    shown = jax.lax.map(lambda part: shown_by(world, config, *part), parts)
    shown = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), shown)
    return session_outcomes(world, config, session, request.reshape(-1, session.length), shown)


@dataclass(frozen=True, eq=False)
class OnlineSessions:
    """Serves sessions with the scores of an arm.

    Attributes:
        world: the world that answers.
        config: its configuration.
        session: the session model.
        data: the requests of `session_set`; leaves [blocks, U, ...].
    """

    world: World
    config: WorldConfig
    session: SessionConfig
    data: EvaluationSet

    def measured(self, scores: Any) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Means over sessions, and the values of each session.

        "online/watch_time" (AWT, seconds), "online/requests" (ANR) and "online/valid_reads" (ANVR) are expectations
        given what would be shown; "online/realised_..." the drawn values.

        Args:
            scores: [blocks, U, P] float; see `online.checked`.

        Returns:
            name -> number, and name -> [sessions] float32.
        """
        found = _sessions(self.world, self.config, self.session, self.data, checked(self.data, scores))
        named = {item.name: np.asarray(getattr(found, item.name)) for item in fields(Sessions)}
        per_session = {f"online/{_name(name)}": values for name, values in named.items()}
        return {name: float(values.mean(dtype=np.float64)) for name, values in per_session.items()}, per_session


def _name(field: str) -> str:
    return field.removeprefix("expected_") if field.startswith("expected_") else f"realised_{field}"
