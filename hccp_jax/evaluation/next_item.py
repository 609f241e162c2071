"""Ranks all items for each held-out user and asks where the items of the rest of its sequence are (CROLoss 4.1).

Recall@N is a user's share of targets in the top N, a mean over users (macro), as the released code has it; micro is the
share of all targets, Eq 5 of the paper. NDCG@N divides by the best that N items can reach; the released code divides by
the ideal of the targets found, so that what is missed costs nothing. An item that comes twice in the rest is one
target; items of the history are ranked like any other. Equal scores are ordered by a seeded permutation of the items.

Axes: U users, Q targets of a user, P pairs (user, target), I items without the padding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hccp_jax.data.catalogue import Catalogue, attach
from hccp_jax.data.lists import lists_by, padded
from hccp_jax.data.next_item import TASK, Questions, requests
from hccp_jax.data.order import permuted
from hccp_jax.evaluation.metrics import log_cutoffs, value
from hccp_jax.evaluation.ranking import ranks_of
from hccp_jax.evaluation.retrieval import recall_at
from hccp_jax.evaluation.whole_catalogue import Ranked
from hccp_jax.methods.base import Method

SCORES = 1 << 24  # in memory at a time
TIE_SEED = 77
CURVE = log_cutoffs(1000, 25)


@dataclass(frozen=True)
class NextItem:
    """Evaluates rankings of all items.

    Attributes:
        questions: of held-out users.
        items: how many there are, the padding included.
        catalogue: feature tables of items, possibly empty.
        cutoffs: values of N.
    """

    questions: Questions
    items: int
    catalogue: Catalogue
    cutoffs: tuple[int, ...]

    @cached_property
    def order(self) -> np.ndarray:
        """[I] int32 ids in the order of equal scores."""
        count = self.items - 1
        return (1 + permuted(np.arange(count), count, TIE_SEED, np.zeros(count))).astype(np.int32)

    @cached_property
    def place(self) -> np.ndarray:
        """[items] int32 where each id is in that order."""
        found = np.zeros(self.items, np.int32)
        found[self.order] = np.arange(self.items - 1)
        return found

    def scores(self, score: np.ndarray) -> Ranked:
        """Evaluate a ranking [items] that is the same for every user."""
        best = np.argsort(-np.asarray(score, np.float64)[self.order], kind="stable")
        rank = np.empty(len(best), np.int32)
        rank[best] = np.arange(len(best))
        return self._finish(rank[self.place[self.questions.target]])

    def ranker(self, method: Method) -> Callable[[Any], Ranked]:
        """A function parameters -> metrics, compiled once."""
        run = jax.jit(partial(self._ranks, method))
        asked = self._blocks()

        def rank(parameters: Any) -> Ranked:
            ranks = run(parameters, self.catalogue, jnp.asarray(self.order), *asked)
            return self._finish(np.asarray(ranks).ravel()[: len(self.questions.row)])

        return rank

    def _blocks(self) -> tuple[jax.Array, ...]:
        """User id, history and target's place of each pair, [blocks, B, ...]; the last pair fills the last block."""
        asked, pairs = self.questions, len(self.questions.row)
        size = int(np.clip(SCORES // self.items, 1, min(256, pairs)))
        chosen = np.minimum(np.arange(-(-pairs // size) * size), pairs - 1).reshape(-1, size)
        row = asked.row[chosen]
        return tuple(jnp.asarray(x) for x in (asked.user[row], asked.history[row], self.place[asked.target[chosen]]))

    @staticmethod
    def _ranks(
        method: Method,
        parameters: Any,
        catalogue: Catalogue,
        order: jax.Array,
        user: jax.Array,
        history: jax.Array,
        place: jax.Array,
    ) -> jax.Array:
        """[blocks, B] int32 rank of each pair's target; item sides once, scores a block at a time."""
        one = requests(user[0, :1], history[0, :1], order[None])
        sides = method.item_side(parameters, {name: leaf[0] for name, leaf in attach(one, catalogue).items.items()})

        def block(inputs: tuple[jax.Array, ...]) -> jax.Array:
            user, history, place = inputs
            batch = attach(requests(user, history, order[:1] * jnp.ones_like(user)[:, None]), catalogue)
            heads = method.pair_scores(parameters, method.user_side(parameters, batch), sides, None)
            scores = heads[TASK]
            real = jnp.ones(scores.shape, bool)
            return ranks_of(scores, real, None, place[:, None], jnp.ones_like(place, bool)[:, None])[:, 0]

        return jax.lax.map(block, (user, history, place))

    def _finish(self, rank: np.ndarray) -> Ranked:
        row = self.questions.row
        slots = lists_by((row,), len(rank))
        width = int(slots.slot.max()) + 1
        ranks = padded(slots, width, rank)
        real = padded(slots, width, np.ones(len(rank), bool), False)
        return Ranked(_metrics(ranks, real, self.cutoffs), {TASK: _curve(ranks, real)})


def _metrics(ranks: np.ndarray, real: np.ndarray, cutoffs: Sequence[int]) -> dict[str, float]:
    """Means over users from the ranks [U, Q] of their targets."""
    recall = recall_at(jnp.asarray(ranks), jnp.asarray(real), cutoffs)
    count = real.sum(axis=1)
    gain = np.where(real, 1 / np.log2(ranks + 2.0), 0)
    ideal = np.cumsum(1 / np.log2(np.arange(max(cutoffs)) + 2.0))
    found = {"users": float(len(ranks)), "targets": float(count.sum())}
    for index, n in enumerate(cutoffs):
        inside = real & (ranks < n)
        found[f"recall@{n}"] = float(value(recall.macro)[index])
        found[f"micro_recall@{n}"] = float(value(recall.micro)[index])
        found[f"hit_rate@{n}"] = float(inside.any(axis=1).mean())
        found[f"ndcg@{n}"] = float(((gain * inside).sum(axis=1) / ideal[np.minimum(count, n) - 1]).mean())
    return found


def _curve(ranks: np.ndarray, real: np.ndarray) -> list[float]:
    return value(recall_at(jnp.asarray(ranks), jnp.asarray(real), CURVE).macro).tolist()
