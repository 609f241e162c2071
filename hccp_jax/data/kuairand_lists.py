"""One list a user of an evaluated period of KuaiRand: what the user was shown, and simulated candidates beside it.

Exposures and their feedback are real. The candidates are SIMULATED: what the retrieval of `kuairand_cascade` draws at
the start of the period for this user, which looks at the past only. RankTower (2024) measures recall and NDCG at 100
without saying of which lists; these are the lists that its pre-ranker would be given.
"""

from typing import Any

import jax
import numpy as np
from flax import struct

from hccp_jax.data.kuairand import KuaiRandConfig
from hccp_jax.data.kuairand_cascade import CHUNK, Cascade, make_world
from hccp_jax.data.kuairand_dataset import KuaiRand
from hccp_jax.data.requests import RequestBatch


@struct.dataclass
class UserLists:
    """V users, each with one list of L slots: exposures first, then candidates.

    Attributes:
        requests: user and history features at the start of the period, one empty slot each.
        ids: [V, L] int32, 0 = padding; an item stands once in a list.
        feedback: [V, S] float32 of the first S slots, those of the exposures: how many kinds of feedback an item got.
    """

    requests: RequestBatch
    ids: np.ndarray
    feedback: np.ndarray


def user_lists(data: KuaiRand, period: str, config: KuaiRandConfig, users: int = 0) -> UserLists:
    """The lists of "validation" or "test", of about so many users with feedback, evenly chosen; 0: all of them."""
    view, log = data.views[period], getattr(data, period)
    owner = np.searchsorted(np.asarray(view.requests.user["id"]), np.asarray(log.user["id"]))
    row, shown, feedback = _exposures(log, owner)
    wanted = np.unique(row[feedback > 0])
    wanted = wanted[:: max(1, len(wanted) // users)] if users else wanted
    requests: Any = jax.tree.map(lambda leaf: np.asarray(leaf[wanted]), view.requests)
    kept = np.isin(row, wanted)
    row, shown, feedback = np.searchsorted(wanted, row[kept]), shown[kept], feedback[kept]
    slot = np.arange(len(row)) - np.searchsorted(row, row)  # rows ascend
    width = int(slot.max()) + 1
    ids, labels = np.zeros((len(wanted), width), np.int32), np.zeros((len(wanted), width), np.float32)
    ids[row, slot], labels[row, slot] = shown, feedback
    drawn = _candidates(data, period, requests, np.asarray(view.seen[wanted]), config)
    drawn = np.where((drawn[:, :, None] == ids[:, None]).any(axis=-1), 0, drawn)
    return UserLists(requests, np.concatenate([ids, drawn], axis=1), labels)


def _exposures(log: RequestBatch, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct exposures, ascending by user: row of the user, item, and most kinds of feedback of one exposure."""
    request, slot = np.nonzero(np.asarray(log.mask))
    item = np.asarray(log.items["id"])[request, slot].astype(np.int64)
    kinds = sum(np.asarray(label)[request, slot] for label in log.labels.values())
    pairs, place = np.unique(owner[request] * (1 << 32) + item, return_inverse=True)
    most = np.zeros(len(pairs), np.float32)
    np.maximum.at(most, place, kinds)
    return pairs >> 32, (pairs & ((1 << 32) - 1)).astype(np.int32), most


def _candidates(data: KuaiRand, period: str, requests: Any, seen: np.ndarray, config: KuaiRandConfig) -> np.ndarray:
    """[V, D] ids that the simulated retrieval draws, 0 = padding."""
    affinity, history = requests.user["affinity"], requests.history["id"]
    tag: Any = np.maximum(np.asarray(data.catalogue.items["categorical"])[:, 0] - 1, 0)
    day = int(requests.user["day"][0])
    week, daily = data.views[period].popularity["popularity_7d"], np.asarray(data.catalogue.daily)[day]
    first = np.where(seen, 0, 255).astype(np.uint8)
    cascade = Cascade(make_world(tag, affinity.shape[1], np.asarray(week)[None], daily[None], first), config)
    count, parts = len(history), []
    for start in range(0, count, CHUNK):
        rows = np.minimum(np.arange(start, start + CHUNK), count - 1)
        keys = (np.full(CHUNK, config.seed, np.int32), requests.user["id"][rows], np.full(CHUNK, day, np.int32))
        taste = affinity[rows].sum(axis=-1)
        _, order, _ = cascade.candidates(rows, np.zeros(CHUNK, np.int32), history[rows], taste, keys)
        parts.append(order[: min(CHUNK, count - start)])
    drawn = np.concatenate(parts)
    return drawn[:, : int((drawn > 0).sum(axis=1).max())]
