"""Simulated stages below exposure for KuaiRand: a cascade of our own over the real catalogue.

The log holds exposures only, so what a request retrieved, pre-ranked and ranked is SIMULATED, from past days alone:

1. retrieval: draws from recently popular videos, from videos of tags the user saw (popular ones more
   often), and uniformly; never a video that the user saw before or sees that day;
2. pre-ranker: taste for the tag + log popularity + noise; the best `to_ranking` go on, the rest are N3;
3. ranker: past long-view rate + taste for the tag + log exposures; N2 is drawn from its order in chunks;
4. N5 comes from the catalogue without the retrieved items.

Real exposures keep the ranks 0..n-1 in the order shown, the simulated order follows. All draws are keyed by (seed,
user, day, part of the day), so that no other row of the log moves them. Axes: B requests of one chunk, D draws.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from hccp_jax.data import hashing
from hccp_jax.data.kuairand import KuaiRandConfig
from hccp_jax.data.simulated_stages import Staged, chunks_for, draw, staged_slots

CHUNK = 2048  # requests simulated at a time
POPULAR, TAGGED = 0.4, 0.4  # shares of the retrieval draws; the rest is uniform
POPULARITY = 0.5  # weight of log popularity in the pre-ranker; with 1, N2 is far more popular than the exposures
NOISE = 0.5  # standard deviation of the pre-ranker's noise
_TICKETS = 1 << 14  # resolution of the popularity-weighted draws
_ID_BITS = 20
_LAST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class World:
    """What the simulated cascade may look at; everything is of earlier periods, except `first_seen` as an exclusion.

    Attributes:
        tag: [items] int32 slot of the first tag in [0, A).
        popular: [P, tickets] int32 ids, repeated in proportion to their recent exposures: those of the last seven days
            and a quarter of all earlier ones, most of which have no date (on the first day nothing else is known).
        tagged: [P, A, tickets / 16] int32, the same within a tag.
        popularity: [P, items] float32 log of one plus the recent exposures.
        quality: [P, items] float32 long-view log-odds plus a quarter of the log of all exposures.
        first_seen: [users, items] uint8 period in which the user first saw the item, 0 = before the log, 255 = never.
    """

    tag: np.ndarray
    popular: np.ndarray
    tagged: np.ndarray
    popularity: np.ndarray
    quality: np.ndarray
    first_seen: np.ndarray


def first_seen(user: np.ndarray, item: np.ndarray, period: np.ndarray, users: int, items: int) -> np.ndarray:
    """[users, items] uint8 of `World`: period + 1 of the first exposure, 255 where there is none."""
    table = np.full((users, items), 255, np.uint8)
    order = np.argsort(-period, kind="stable")  # later assignments win, so the first period comes last
    table[user[order], item[order]] = period[order] + 1
    return table


def _tickets(ids: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    """[count] ids, each repeated in proportion to its weight (a systematic sample)."""
    ends = np.cumsum(weight)
    return ids[np.searchsorted(ends, (np.arange(count) + 0.5) * (ends[-1] / count))].astype(np.int32)


def make_world(tag: np.ndarray, tags: int, week: np.ndarray, statistics: np.ndarray, seen: np.ndarray) -> World:
    """The tables of the cascade.

    Args:
        tag: [items] int32.
        tags: A.
        week: [P, items] exposures of the last seven days.
        statistics: [P, items, S] of `kuairand_features.item_statistics`.
        seen: [users, items] uint8.
    """
    ids = np.arange(1, len(tag))
    recent = week + 0.25 * np.expm1(4.0 * statistics[..., 2])
    weight = recent[:, 1:].astype(np.float64) + 1.0
    popular = np.stack([_tickets(ids, row, _TICKETS) for row in weight])
    members = [np.flatnonzero(tag[1:] == slot) for slot in range(tags)]
    members = [rows if len(rows) else np.arange(len(ids)) for rows in members]
    tagged = np.stack([[_tickets(ids[rows], row[rows], _TICKETS // 16) for rows in members] for row in weight])
    quality = statistics[..., 1] + statistics[..., 2]  # that is a quarter of the log of all exposures
    return World(tag, popular, tagged, np.log1p(recent).astype(np.float32), quality.astype(np.float32), seen)


@partial(jax.jit, static_argnums=0)
def _retrieve(
    draws: int, tables: tuple, period: jax.Array, history: jax.Array, length: jax.Array, keys: tuple
) -> jax.Array:
    """[B, D] int32 ids, with repetitions."""
    popular, tagged, tag = tables
    n_popular, n_tagged = round(POPULAR * draws), round(TAGGED * draws)
    keys = (*(key[:, None] for key in keys), jnp.arange(draws)[None])
    bits = hashing.hash_bits("retrieval", *keys)
    by_popularity = popular[period[:, None], bits[:, :n_popular] % popular.shape[1]]
    rest = bits[:, n_popular + n_tagged :]
    n_items = len(tag) - 1
    uniform = jnp.minimum((rest >> 8).astype(jnp.float32) * (n_items * 2.0**-24), n_items - 1).astype(jnp.int32) + 1
    # a past exposure (real ones are last) names the tag; users without one draw from all tags
    in_tag = bits[:, n_popular : n_popular + n_tagged]
    below = jnp.maximum(length, 1)[:, None].astype(jnp.uint32)
    slot = history.shape[1] - 1 - ((in_tag >> 16) % below).astype(jnp.int32)
    seen_tag = tag[jnp.take_along_axis(history, slot, axis=1)]
    any_tag = ((in_tag >> 16) % tagged.shape[1]).astype(jnp.int32)
    drawn_tag = jnp.where(length[:, None] > 0, seen_tag, any_tag)
    by_tag = tagged[period[:, None], drawn_tag, in_tag % tagged.shape[2]]
    return jnp.concatenate([by_popularity, by_tag, uniform], axis=1)


@jax.jit
def _preranker(
    ids: jax.Array, period: jax.Array, taste: jax.Array, tag: jax.Array, popularity: jax.Array, keys: tuple
) -> jax.Array:
    """[B, D] float32 scores of the simulated pre-ranker."""
    noise = hashing.normal("pre-ranker", *(key[:, None] for key in keys), ids)
    popular = popularity[period[:, None], ids]
    return jnp.take_along_axis(taste, tag[ids], axis=1) + POPULARITY * popular + NOISE * noise


def _descending(score: np.ndarray, ids: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Ids by falling score (ties: smaller id), 0 where not valid, which come last. One sort of packed integers."""
    level = np.round((1e4 - np.clip(score, -1e4, 1e4)) * 65536.0).astype(np.int64)
    keys = np.sort(np.where(valid, (level << _ID_BITS) | ids, _LAST), axis=1)
    return np.where(keys == _LAST, 0, keys & ((1 << _ID_BITS) - 1)).astype(np.int32)


class Cascade:
    """The simulated cascade with its compiled parts."""

    def __init__(self, world: World, config: KuaiRandConfig) -> None:
        self.world, self.config = world, config
        self.tables = jax.tree.map(jnp.asarray, (world.popular, world.tagged, world.tag))
        self.popularity = jnp.asarray(world.popularity)
        sizes = (config.to_ranking, config.preranked, config.pool, len(world.tag) - 1)
        self.draw = partial(draw, chunks_for(config.ranked, config.to_ranking, "kuairand"), *sizes)

    def candidates(
        self, user: np.ndarray, period: np.ndarray, history: np.ndarray, taste: np.ndarray, keys: tuple
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draws [B, D] with repetitions; candidates in pre-ranking order [B, D], 0 after the last; their count [B]."""
        length = (history > 0).sum(axis=1).astype(np.int32)
        draws = np.array(_retrieve(self.config.candidates, self.tables, period, history, length, keys))
        draws.sort(axis=1)
        valid = np.diff(draws, axis=1, prepend=0) > 0
        valid &= self.world.first_seen[user[:, None], draws] > period[:, None] + 1
        score = np.asarray(_preranker(draws, period, taste, self.tables[2], self.popularity, keys))
        return draws, _descending(score, draws, valid), valid.sum(axis=1).astype(np.int32)

    def ranking(self, entering: np.ndarray, period: np.ndarray, taste: np.ndarray) -> np.ndarray:
        """The candidates that entered ranking [B, to_ranking], in the order of the simulated ranker."""
        score = np.take_along_axis(taste, self.world.tag[entering], axis=1)
        return _descending(score + self.world.quality[period[:, None], entering], entering, entering > 0)

    def _chunk(
        self,
        shown: np.ndarray,
        user: np.ndarray,
        period: np.ndarray,
        history: np.ndarray,
        affinity: np.ndarray,
        *keys: np.ndarray,
    ) -> Staged:
        config = self.config
        taste = affinity.sum(axis=-1)
        draws, order, count = self.candidates(user, period, history, taste, keys)
        ranked = self.ranking(order[:, : config.to_ranking], period, taste)
        n2, n3, pool = (np.asarray(part) for part in self.draw(count, draws, keys))
        unseen = self.world.first_seen[user[:, None], pool] > period[:, None] + 1
        return staged_slots(ranked, order, n2, n3, np.where(unseen, pool, 0), shown)

    def stages(
        self,
        shown: np.ndarray,
        user: np.ndarray,
        period: np.ndarray,
        history: np.ndarray,
        affinity: np.ndarray,
        keys: tuple[np.ndarray, ...],
    ) -> Staged:
        """Simulate the stages of U requests.

        Args:
            shown: [U] int32 exposures of the request; the simulated order begins there.
            user: [U] int32.
            period: [U] int32.
            history: [U, H] int32 ids, real ones at the end.
            affinity: [U, A, 2] float32.
            keys: integer arrays [U] that name the request.
        """
        parts = []
        seed = np.full(len(user), self.config.seed, np.int32)
        arrays = (shown, user, period, history, affinity, seed, *keys)
        for start in range(0, len(user), CHUNK):
            real = min(CHUNK, len(user) - start)
            # the last chunk is filled up, so that every chunk has one shape and is compiled once
            rows = np.minimum(np.arange(start, start + CHUNK), len(user) - 1)
            chunk = [array[rows] for array in arrays]
            staged = self._chunk(*chunk)
            parts.append(Staged(*(field[:real] for field in staged)))
        return Staged(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))
