"""Recall and NDCG of one list a user, in which few items have feedback: those shown, among sampled candidates."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hccp_jax.data import hashing
from hccp_jax.data.catalogue import Catalogue
from hccp_jax.data.requests import RequestBatch
from hccp_jax.evaluation.ranking import ranks_of
from hccp_jax.methods.base import Method

BLOCK = 16  # users scored at once


@struct.dataclass
class ListBlocks:
    """Lists in blocks; leaves [blocks, BLOCK, ...]; empty rows fill the last block.

    Attributes:
        requests: user and history features, one padding slot each.
        ids: [.., L] int32 candidates, 0 = padding.
        feedback: [.., S] float32 of the first S slots; those above 0 are asked for.
    """

    requests: RequestBatch
    ids: jax.Array
    feedback: jax.Array


def list_metrics(ranks: np.ndarray, feedback: np.ndarray, cutoffs: tuple[int, ...]) -> dict[str, float]:
    """Means over users with feedback.

    recall@K is the share of a user's items with feedback in the top K. ndcg@K is sum of y / log2(rank + 2) in the top
    K over the same sum of the best order, y being the feedback and the first rank 0.

    Args:
        ranks: [V, S] int of the first S slots of each list.
        feedback: [V, S] float; 0 for what is not relevant.
        cutoffs: K.

    >>> list_metrics(np.array([[0, 3]]), np.array([[1.0, 2.0]]), (1, 4))["recall@1"]
    0.5
    """
    known = (feedback > 0).any(axis=1)
    rank, gain = ranks[known], feedback[known].astype(np.float64)
    best = -np.sort(-gain, axis=1)
    found = {"users": float(known.sum())}
    for k in cutoffs:
        inside = (rank < k) & (gain > 0)
        found[f"recall@{k}"] = float((inside.sum(axis=1) / (gain > 0).sum(axis=1)).mean())
        ideal = (best[:, :k] / np.log2(np.arange(best[:, :k].shape[1]) + 2.0)).sum(axis=1)
        found[f"ndcg@{k}"] = float(((inside * gain / np.log2(rank + 2.0)).sum(axis=1) / ideal).mean())
    return found


@dataclass(frozen=True)
class SampledLists:
    """Evaluates the served score on one list a user.

    Attributes:
        lists: the users in blocks.
        catalogue: feature tables.
        with_items: (requests, ids) -> requests with these candidates.
        featurise: attaches features to a stored batch.
        cutoffs: K.
    """

    lists: ListBlocks
    catalogue: Catalogue
    with_items: Callable[[RequestBatch, jax.Array], RequestBatch]
    featurise: Callable[[RequestBatch, Catalogue], RequestBatch]
    cutoffs: tuple[int, ...]

    @classmethod
    def of(cls, requests: RequestBatch, ids: Any, feedback: Any, *described: Any) -> "SampledLists":
        """Split lists [V, L] into blocks; `described` are the attributes after `lists`."""

        def split(leaf: Any) -> np.ndarray:
            leaf = np.asarray(leaf)
            empty = np.zeros((-len(leaf) % BLOCK, *leaf.shape[1:]), leaf.dtype)
            return np.concatenate([leaf, empty]).reshape(-1, BLOCK, *leaf.shape[1:])

        return cls(jax.tree.map(split, ListBlocks(requests, ids, feedback)), *described)

    def ranker(self, method: Method) -> Callable[[Any, Any], dict[str, float]]:
        """A function (parameters, hyper) -> metrics of one member; compiled once."""
        run = jax.jit(partial(self._ranks, method))
        return lambda parameters, hyper: self.finish(run(parameters, hyper, self.lists, self.catalogue))

    def by_item(self, scores: Any) -> dict[str, float]:
        """Metrics of a score [items] that is the same for every user."""

        def block(part: ListBlocks) -> jax.Array:
            return _queried(jnp.asarray(scores)[part.ids], part)

        return self.finish(jax.jit(partial(jax.lax.map, block))(self.lists))

    def random(self) -> dict[str, float]:
        """Metrics of a random order."""

        def block(part: ListBlocks) -> jax.Array:
            return _queried(hashing.uniform("random list", part.requests.user["id"][:, None], part.ids), part)

        return self.finish(jax.jit(partial(jax.lax.map, block))(self.lists))

    def finish(self, ranks: Any) -> dict[str, float]:
        """Metrics of ranks [blocks, BLOCK, S]."""
        feedback = np.asarray(self.lists.feedback)
        width = feedback.shape[-1]
        return list_metrics(np.asarray(ranks).reshape(-1, width), feedback.reshape(-1, width), self.cutoffs)

    def _ranks(self, method: Method, parameters: Any, hyper: Any, lists: ListBlocks, catalogue: Catalogue) -> jax.Array:
        """Item sides once for the catalogue, user sides and cross features once a block."""
        every = jnp.arange(len(jax.tree.leaves(catalogue.items)[0]), dtype=jnp.int32)
        one = jax.tree.map(lambda leaf: leaf[0, :1], lists.requests)
        items = {name: leaf[0] for name, leaf in self.featurise(self.with_items(one, every), catalogue).items.items()}
        sides = method.item_side(parameters, items)

        def block(part: ListBlocks) -> jax.Array:
            batch = self.featurise(self.with_items(part.requests, part.ids), catalogue)
            own = jax.tree.map(lambda leaf: leaf[part.ids], sides)
            heads = method.pair_scores(parameters, method.user_side(parameters, batch), own, batch.cross)
            return _queried(method.served(method.route(heads, hyper, part.ids > 0), hyper), part)

        return jax.lax.map(block, lists)


def _queried(scores: jax.Array, part: ListBlocks) -> jax.Array:
    """[BLOCK, S] int32 ranks of the first S slots."""
    ties = hashing.hash_bits("tie", part.requests.user["id"][:, None], part.ids)
    slots = jnp.broadcast_to(jnp.arange(part.feedback.shape[-1]), part.feedback.shape)
    return ranks_of(scores, part.ids > 0, ties, slots, part.feedback > 0)
