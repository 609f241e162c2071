"""Slots that a simulated cascade adds to logged exposures: N2 from the ranker's order, N3 from the pre-ranker's, N5.

Which cascade made the orders is another matter: `kuairand_cascade` has one of fixed rules, and one of trained models is
written by `experiments.full_stage_logs`. Axes: U requests, R exposures.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hccp_jax.data import sampling
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.errors import UserError


class Staged(NamedTuple):
    """Simulated slots of some requests, each [U, ranked + preranked + pool]: id, stage, rank as in `RequestBatch`."""

    ids: np.ndarray
    stage: np.ndarray
    rank: np.ndarray


def chunks_for(ranked: int, to_ranking: int, where: str) -> sampling.Chunks:
    """The paper's seven chunks scaled to `to_ranking` positions, giving `ranked` items in all, the first ones more.

    Raises:
        UserError: if the positions are too few; `where` names the group of settings that has both.
    """
    if to_ranking < 7 * -(-ranked // 7):
        raise UserError(f"{where}.to_ranking={to_ranking}: expected at least {7 * -(-ranked // 7)} for ranked={ranked}")
    used = min(7, ranked)  # a chunk gives one item at least; with fewer than seven items the last chunks are one
    each = [ranked // used + (index < ranked % used) for index in range(used)]
    borders = sampling.scaled_chunks(to_ranking, each[0]).borders
    return sampling.Chunks((*borders[: used - 1], borders[-1]), tuple(each))


@partial(jax.jit, static_argnums=range(5))
def draw(
    chunks: sampling.Chunks,
    to_ranking: int,
    preranked: int,
    pool: int,
    n_items: int,
    count: jax.Array,
    retrieved: jax.Array,
    keys: tuple,
) -> tuple[jax.Array, ...]:
    """Positions of N2 [B, ranked] (ascending) and N3 [B, preranked], ids of N5 [B, pool]."""
    ranked = jnp.sort(sampling.chunk_positions(chunks, *keys), axis=1)
    latter, _ = sampling.latter_positions(to_ranking, count, preranked, *keys)
    return ranked, latter, sampling.pool_negatives(n_items, retrieved, pool, *keys)[0]


def _take(order: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Ids at positions, 0 where the position is -1 or past the end."""
    inside = (positions >= 0) & (positions < order.shape[1])
    return np.where(inside, np.take_along_axis(order, np.where(inside, positions, 0), axis=1), 0)


def staged_slots(
    ranking: np.ndarray, preranking: np.ndarray, n2: np.ndarray, n3: np.ndarray, pool: np.ndarray, shown: np.ndarray
) -> Staged:
    """The slots of drawn positions.

    Args:
        ranking: [U, n] int32 ids in the ranker's order, 0 after the last.
        preranking: [U, m] int32 ids in the pre-ranker's order, 0 after the last.
        n2: [U, ranked] positions in `ranking`, -1 for none.
        n3: [U, preranked] positions in `preranking`, -1 for none.
        pool: [U, pool] int32 ids that were not retrieved, 0 for none.
        shown: [U] exposures of a request; the order of the ranking stage begins after them.
    """
    ids_2, ids_3 = _take(ranking, n2), _take(preranking, n3)
    ids = np.concatenate([ids_2, ids_3, pool], axis=1).astype(np.int32)
    widths = [part.shape[1] for part in (ids_2, ids_3, pool)]
    kinds = np.repeat(np.array([Stage.RANKED, Stage.PRERANKED, Stage.POOL], np.int8), widths)
    rank = np.full(ids.shape, -1, np.int32)
    rank[:, : widths[0]] = np.where(ids_2 > 0, shown[:, None] + n2, -1)
    return Staged(ids, np.where(ids > 0, kinds, np.int8(Stage.PADDING)), rank)


def append(batch: RequestBatch, staged: Staged) -> RequestBatch:
    """The batch with the simulated slots after the exposures."""

    def joined(exposed: Any, simulated: np.ndarray) -> Any:
        return np.concatenate([exposed, simulated], axis=1)

    none = np.zeros(staged.ids.shape, np.float32)
    return replace(
        batch,
        items={"id": joined(batch.items["id"], staged.ids)},
        stage=joined(batch.stage, staged.stage),
        rank=joined(batch.rank, staged.rank),
        labels={task: joined(label, none) for task, label in batch.labels.items()},
        mask=joined(batch.mask, staged.ids > 0),
    )
