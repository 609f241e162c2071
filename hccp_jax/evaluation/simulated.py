"""Held-out requests of the simulated world as an evaluation set, and the floors and ceilings only it can give."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hccp_jax.cascade import logs
from hccp_jax.cascade.funnel import best_first
from hccp_jax.cascade.world import World, WorldConfig
from hccp_jax.data import hashing
from hccp_jax.evaluation.candidates import CandidateSet, permute
from hccp_jax.evaluation.evaluator import EvaluationSet
from hccp_jax.evaluation.octiles import assign_octiles
from hccp_jax.evaluation.ranking import tie_order

BLOCK = 64  # requests scored at once


@partial(jax.jit, static_argnums=1)
def _held_out(world: World, config: WorldConfig, request: jax.Array) -> logs.HeldOut:
    return jax.lax.map(partial(logs.held_out, world, config), request)


@partial(jax.jit, static_argnums=3)
def _evaluation_set(data: logs.HeldOut, octile: jax.Array, seed: jax.Array, ranked: int) -> EvaluationSet:
    """Slots in tie order: a keyed permutation, so that neither the logging order nor ids decide between ties."""

    def block(held: logs.HeldOut) -> EvaluationSet:
        request, ids = held.requests.user["request"], held.requests.items["id"]
        slots = tie_order(hashing.hash_bits("tie", seed, request[:, None], ids))
        order = best_first(held.ranker_scores)
        rank = jnp.zeros_like(order).at[jnp.arange(len(order))[:, None], order].set(jnp.arange(order.shape[1]))
        mask = held.requests.mask
        candidates = CandidateSet(
            ids=ids,
            mask=mask,
            ties=None,
            in_scenario={"click": held.clicked, "purchase": held.purchased},
            all_scenario={
                "click": held.clicked | held.clicked_elsewhere,
                "purchase": held.purchased | held.purchased_elsewhere,
            },
            ranker_rank=jnp.where(mask, rank, rank.shape[1]),
            exposed=held.exposed,
            truth=held.truth,
            octile=octile[ids],
            entered=mask & (jnp.arange(mask.shape[1]) < ranked),  # the best logged come first
        )
        requests = held.requests
        moved = permute((requests.items, requests.stage, requests.rank, mask), slots)
        items, stage, rank, mask = moved
        requests = replace(requests, items=items, stage=stage, rank=rank, mask=mask)
        return EvaluationSet(requests, permute(candidates, slots))

    return jax.lax.map(block, data)


def evaluation_set(
    world: World, config: WorldConfig, counts: np.ndarray, requests: int, stream: str = "evaluation"
) -> EvaluationSet:
    """Held-out requests of a stream that training never sees.

    Args:
        world: the world.
        config: its configuration.
        counts: [items + 1] impressions of the log, which define the frequency octiles; each octile holds the same
            true click mass over all candidates of these requests.
        requests: how many, rounded up to a multiple of BLOCK.
        stream: name of the stream.
    """
    rounded = -(-requests // BLOCK) * BLOCK
    return set_of_requests(world, config, counts, logs.request_ids(logs.STREAMS[stream], 0, rounded))


def set_of_requests(world: World, config: WorldConfig, counts: np.ndarray, request: ArrayLike) -> EvaluationSet:
    """The evaluation set of given request numbers, [n] int32 with n a multiple of BLOCK; see `evaluation_set`."""
    data = _held_out(world, config, jnp.asarray(request, jnp.int32).reshape(-1, BLOCK))
    ids, truth = np.asarray(data.requests.items["id"]).ravel(), np.asarray(data.truth).ravel()
    mass = np.bincount(ids, truth, minlength=config.items + 1)
    rank = np.arange(config.items)  # ids run by falling popularity
    octile = np.r_[0, assign_octiles(np.asarray(counts)[1:], rank, mass[1:])].astype(np.int8)
    return _evaluation_set(data, jnp.asarray(octile), jnp.int32(config.seed), config.ranked)


def references(counts: np.ndarray) -> dict[str, Callable[[CandidateSet], jax.Array]]:
    """The reference rows of a simulated table: truth and ranker above, popularity and random below."""
    return {
        "truth": lambda c: c.truth,
        "ranker": lambda c: -c.ranker_rank.astype(jnp.float32),
        "popularity": lambda c: jnp.asarray(counts)[c.ids],
        "random": lambda c: hashing.uniform("random row", jnp.arange(c.ids.shape[0])[:, None], c.ids),
    }
