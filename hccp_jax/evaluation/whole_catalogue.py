"""Ranks the whole catalogue for each user of a period of real logs, by counting the items ahead of each positive."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hccp_jax.data import hashing
from hccp_jax.data.catalogue import Catalogue
from hccp_jax.data.requests import RequestBatch
from hccp_jax.evaluation.metrics import log_cutoffs
from hccp_jax.evaluation.octiles import OCTILES
from hccp_jax.evaluation.ranking import ranks_of
from hccp_jax.methods.base import Method

BLOCK = 64  # users scored at once


@struct.dataclass
class Users:
    """Users of a period in blocks; leaves [blocks, BLOCK, ...]; empty rows fill the last block.

    Attributes:
        requests: user and history features, one padding slot each.
        positives: task -> [.., Q] int32 ids, 0 = padding.
        seen: [.., items] bool, left out of the ranking.
    """

    requests: RequestBatch
    positives: dict[str, jax.Array]
    seen: jax.Array


def in_blocks(requests: RequestBatch, positives: dict[str, Any], seen: Any) -> Users:
    """Split users into blocks of BLOCK, padding the last with users without positives."""

    def split(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        empty = np.zeros((-len(leaf) % BLOCK, *leaf.shape[1:]), leaf.dtype)
        return np.concatenate([leaf, empty]).reshape(-1, BLOCK, *leaf.shape[1:])

    return jax.tree.map(split, Users(requests, positives, seen))


class Ranked(NamedTuple):
    """What one ranking gives: metrics by name, and task -> recall at each of CURVE."""

    metrics: dict[str, float]
    curves: dict[str, list[float]]


CURVE = log_cutoffs(1000, 25)
Score = Callable[[Users], dict[str, jax.Array]]


def _ranks(users: Users, score: Score) -> dict[str, jax.Array]:
    """Task -> [blocks, BLOCK, Q] int32 ranks of the positives among the items not seen."""

    def block(part: Users) -> dict[str, jax.Array]:
        scores = score(part)
        items = part.seen.shape[-1]
        ties = hashing.hash_bits("tie", part.requests.user["id"][:, None], jnp.arange(items))
        return {task: ranks_of(scores[task], ~part.seen, ties, ids, ids > 0) for task, ids in part.positives.items()}

    return jax.lax.map(block, users)


def _metrics(ranks: dict[str, Any], positives: dict[str, Any], cutoffs: tuple[int, ...], octile: np.ndarray) -> Ranked:
    """Recall, hit rate and NDCG at each cutoff, means over users with a positive; recall at 100 by octile.

    Recall@K is the share of a user's positives in the top K, hit rate whether there is one, NDCG binary.
    """
    found, curves = {}, {}
    for task, rank in ranks.items():
        ids = positives[task].reshape(-1, positives[task].shape[-1])
        rank, real = rank.reshape(ids.shape), ids > 0
        count = real.sum(axis=1)
        known = count > 0
        gain = np.where(real, 1 / np.log2(rank + 2.0), 0)
        steps = np.cumsum(1 / np.log2(np.arange(max(cutoffs)) + 2.0))
        for k in cutoffs:
            inside = real & (rank < k)
            found[f"{task}/recall@{k}"] = float((inside.sum(axis=1)[known] / count[known]).mean())
            found[f"{task}/hit_rate@{k}"] = float(inside.any(axis=1)[known].mean())
            ideal = steps[np.minimum(count[known], k) - 1]
            found[f"{task}/ndcg@{k}"] = float(((gain * inside).sum(axis=1)[known] / ideal).mean())
        inside, group = real & (rank < 100), octile[ids]
        for index in range(OCTILES):
            here = real & (group == index)
            found[f"{task}/recall@100/octile{index + 1}"] = float(inside[here].mean()) if here.any() else float("nan")
        found[f"{task}/users"] = float(known.sum())
        curves[task] = [float(((real & (rank < k)).sum(axis=1)[known] / count[known]).mean()) for k in CURVE]
    return Ranked(found, curves)


@dataclass(frozen=True)
class WholeCatalogue:
    """Evaluates rankings of the whole catalogue for the users of one period.

    Attributes:
        users: the users in blocks.
        catalogue: feature tables.
        with_items: (requests, ids) -> requests with these candidates.
        featurise: attaches features to a stored batch.
        cutoffs: K of the table.
        octile: [items] int8 frequency octile of each item.
    """

    users: Users
    catalogue: Catalogue
    with_items: Callable[[RequestBatch, jax.Array], RequestBatch]
    featurise: Callable[[RequestBatch, Catalogue], RequestBatch]
    cutoffs: tuple[int, ...]
    octile: np.ndarray

    def scores(self, per_task: dict[str, jax.Array]) -> Ranked:
        """Evaluate a ranking that is the same for every user: task -> [items] scores."""

        def score(part: Users) -> dict[str, jax.Array]:
            rows = len(part.requests.user["id"])
            return {task: jnp.broadcast_to(s, (rows, len(s))) for task, s in per_task.items()}

        return self._finish(jax.jit(lambda users: _ranks(users, score))(self.users))

    def random(self) -> Ranked:
        """Evaluate a random ranking."""

        def score(part: Users) -> dict[str, jax.Array]:
            items = self.users.seen.shape[-1]
            draw = hashing.uniform("random row", part.requests.user["id"][:, None], jnp.arange(items))
            return dict.fromkeys(self.users.positives, draw)

        return self._finish(jax.jit(lambda users: _ranks(users, score))(self.users))

    def ranker(self, method: Method) -> Callable[[Any, Any], Ranked]:
        """A function (parameters, hyper) -> metrics of one member, each task by its own head; compiled once."""
        run = jax.jit(partial(self._member, method))
        return lambda parameters, hyper: self._finish(run(parameters, hyper, self.users, self.catalogue))

    def population(self, method: Method, parameters: Any, hypers: Any) -> list[Ranked]:
        """Evaluate members with parameters and hypers [M, ...]; each task is ranked by its own head."""
        rank = self.ranker(method)
        found = []
        for member in range(len(jax.tree.leaves(parameters)[0])):
            own, hyper = jax.tree.map(lambda leaf, m=member: leaf[m], (parameters, hypers))
            found.append(rank(own, hyper))
        return found

    def _member(
        self, method: Method, parameters: Any, hyper: Any, users: Users, catalogue: Catalogue
    ) -> dict[str, jax.Array]:
        """Item sides once for the catalogue, user sides and cross features once a block."""
        ids = jnp.arange(users.seen.shape[-1], dtype=jnp.int32)
        one = jax.tree.map(lambda leaf: leaf[0, :1], users.requests)
        items = {name: leaf[0] for name, leaf in self.featurise(self.with_items(one, ids), catalogue).items.items()}
        sides = method.item_side(parameters, items)

        def score(part: Users) -> dict[str, jax.Array]:
            batch = self.featurise(self.with_items(part.requests, ids), catalogue)
            heads = method.pair_scores(parameters, method.user_side(parameters, batch), sides, batch.cross)
            return method.route(heads, hyper, ~part.seen)

        return _ranks(users, score)

    def _finish(self, ranks: dict[str, jax.Array]) -> Ranked:
        positives = {task: np.asarray(ids) for task, ids in self.users.positives.items()}
        return _metrics({task: np.asarray(r) for task, r in ranks.items()}, positives, self.cutoffs, self.octile)
