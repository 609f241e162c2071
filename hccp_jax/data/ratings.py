"""Ratings with times as requests: IntTower's protocol (CIKM 2022) without the label leak of its public code.

A request is a list of one user's ratings of a day. What a model is given of a user (the mean of past labels, how many
there were, the movies or products liked) and of an item is counted from ratings strictly before the request's first
one; with a random split, of those in the training part only. The public code takes the means over the very ratings
that are predicted: `leak="public_code"` makes them again, to show what that is worth.
Axes: n ratings, U requests, K list slots, H history.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from hccp_jax.config import field
from hccp_jax.data.guards import HISTORY_TIME, PARTS, TIME, area
from hccp_jax.data.lists import Slots, earlier, lists_by, local_day, padded
from hccp_jax.data.requests import Stage
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

TASKS = ("click",)
UTC = 0
SHARD = 1 << 15  # requests written at a time
TRAIN, TEST = 0, 2  # places in PARTS


@dataclass(frozen=True)
class RatingsConfig:
    """How ratings become requests."""

    split: str = field("time", "time: parts follow each other; random: IntTower's", choices=("time", "random"))
    test_share: float = field(0.2, "share of ratings in the test part", above=0, at_most=0.9)
    validation_share: float = field(0.1, "share of ratings in the validation part", above=0, at_most=0.9)
    seed: int = field(0, "seed of the random split", at_least=0)
    dropped: tuple[int, ...] = field((3,), "ratings that are left out, separated by commas", at_least=1, at_most=5)
    positive_above: int = field(3, "a higher rating is a positive label", at_least=0, at_most=4)
    exposed: int = field(20, "K: ratings in one request; a longer day goes on as another request", at_least=1)
    history: int = field(50, "H: latest positively rated items before the request", at_least=1)
    item_rating: bool = field(False, "adds items.dense: mean and log count of an item's past labels")
    leak: str = field(
        "none",
        "public_code: user and item means from the labels to predict, as published",
        choices=("none", "public_code"),
    )


class Ratings(NamedTuple):
    """Ratings, each [n]: dense ids int32, whether it is positive float32 0 or 1, time int64 ms."""

    user: np.ndarray
    item: np.ndarray
    positive: np.ndarray
    time: np.ndarray

    def at(self, rows: np.ndarray | slice) -> "Ratings":
        """Some of them."""
        return Ratings(*(column[rows] for column in self))


def parts_of(time: np.ndarray, protocol: RatingsConfig) -> np.ndarray:
    """[n] int8 place in PARTS of each rating.

    Raises:
        UserError: if the shares leave a part without ratings.
    """
    early = 1 - protocol.test_share - protocol.validation_share
    borders = [int(len(time) * share) for share in (early, 1 - protocol.test_share)] if early > 0 else [0, 0]
    if protocol.split == "random":
        found = np.empty(len(time), np.int8)
        order = np.random.default_rng(protocol.seed).permutation(len(time))
        found[order] = np.searchsorted(borders, np.arange(len(time)), side="right")
    else:  # ratings of one moment stay together
        found = np.searchsorted(np.sort(time)[borders], time, side="right").astype(np.int8)
    if len(np.unique(found)) != len(PARTS):
        shares = f"validation_share={protocol.validation_share} test_share={protocol.test_share}"
        raise UserError(f"{shares}: {len(time)} ratings leave a part empty")
    return found


def past_counts(
    key: np.ndarray, time: np.ndarray, positive: np.ndarray, of: np.ndarray, before: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many ratings of a key came strictly before a time, and how many of them were positive; [m] float64 each.

    Args:
        key: [n] user or item, ascending.
        time: [n] ascending within a key.
        positive: [n].
        of: [m] keys asked for.
        before: [m] times.
    """
    event, real = earlier(key, time, of, before, 1)
    begin = np.searchsorted(key, of)
    end = np.where(real[:, 0], event[:, 0] + 1, begin)
    total = np.pad(np.cumsum(positive, dtype=np.float64), (1, 0))
    return (end - begin).astype(np.float64), total[end] - total[begin]


def past_mean(count: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Mean of past labels, a half where there are none: two ratings, one of them positive, are added."""
    return (positives + 1.0) / (count + 2.0)


def public_code_mean(key: np.ndarray, positive: np.ndarray, scope: np.ndarray) -> np.ndarray:
    """[n] mean label of each rating's key within its scope, that rating included: the leak of the public code."""
    _, group = np.unique(scope.astype(np.int64) << 32 | key, return_inverse=True)
    return (np.bincount(group, weights=positive) / np.bincount(group))[group]


@dataclass(frozen=True)
class RequestLists:
    """Ratings in order of part, user and time, and what is known before each request.

    Attributes:
        log: all ratings in that order.
        part: [n] int8, ascending.
        slots: lists of the ratings.
        known: ratings that features may count, by user and time.
        user_dense: [U, 2] float32 mean and log count of the user's labels.
        item_dense: [n, 2] float32 the same of each rating's item.
        protocol: the settings.
    """

    log: Ratings
    part: np.ndarray
    slots: Slots
    known: Ratings
    user_dense: np.ndarray
    item_dense: np.ndarray
    protocol: RatingsConfig

    def shard(self, begin: int, end: int) -> Mapping[str, np.ndarray]:
        """Columns of requests begin to end."""
        starts = np.append(self.slots.first, len(self.part))
        rows = slice(starts[begin], starts[end])
        width = self.protocol.exposed
        slots = Slots(self.slots.row[rows] - begin, self.slots.slot[rows], self.slots.first[begin:end] - rows.start)
        log = self.log.at(rows)
        user, time = log.user[slots.first], log.time[slots.first]
        ids, times, mask = self._history(user, time)
        real = padded(slots, width, np.ones(len(log.user), bool))
        columns = {
            "user.id": user,
            "user.dense": self.user_dense[begin:end],
            "history.id": ids,
            "history.groups": mask[..., None].astype(np.float32),
            "history_mask": mask,
            "items.id": padded(slots, width, log.item),
            "stage": np.where(real, int(Stage.EXPOSED), int(Stage.PADDING)).astype(np.int8),
            "rank": np.full(real.shape, -1, np.int32),
            "labels.click": padded(slots, width, log.positive),
            "mask": real,
            TIME: time,
            HISTORY_TIME: times,
        }
        if self.protocol.item_rating:
            columns["items.dense"] = padded(slots, width, self.item_dense[rows])
        return columns

    def _history(self, user: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids and times of the latest positively rated items before each request, [U, H], and the mask."""
        rows = slice(
            np.searchsorted(self.known.user, user.min()), np.searchsorted(self.known.user, user.max(), "right")
        )
        liked = self.known.at(rows)
        liked = liked.at(liked.positive > 0)
        if not len(liked.user):
            shape = (len(user), self.protocol.history)
            return np.zeros(shape, np.int32), np.zeros(shape, np.int64), np.zeros(shape, bool)
        event, real = earlier(liked.user, liked.time, user, time, self.protocol.history)
        return np.where(real, liked.item[event], 0), np.where(real, liked.time[event], 0), real


def request_lists(ratings: Ratings, protocol: RatingsConfig, scope: str) -> tuple[RequestLists, tuple[float, float]]:
    """The ratings as requests, and the AUC on test of a user's mean label: the public code's, and of past ratings.

    Args:
        ratings: in any order.
        protocol: the settings.
        scope: over what the public code takes its means: "part" (each part by itself) or "all" (before it splits).
    """
    part = parts_of(ratings.time, protocol)
    order = np.lexsort((ratings.item, ratings.time, ratings.user, part))
    log, part = ratings.at(order), part[order]
    slots = lists_by((part, log.user, local_day(log.time, UTC)), protocol.exposed)
    before = log.time[slots.first]
    known = log.at(part == TRAIN) if protocol.split == "random" else log
    known = known.at(np.lexsort((known.item, known.time, known.user)))
    count, positives = past_counts(known.user, known.time, known.positive, log.user[slots.first], before)
    honest = past_mean(count, positives)
    of_items = known.at(np.lexsort((known.time, known.item)))
    item_count, item_positives = past_counts(
        of_items.item, of_items.time, of_items.positive, log.item, before[slots.row]
    )
    item_mean = past_mean(item_count, item_positives)
    within = part if scope == "part" else np.zeros_like(part)
    leaking = public_code_mean(log.user, log.positive, within)
    test = part == TEST
    shown = (area(leaking[test], log.positive[test] > 0), area(honest[slots.row][test], log.positive[test] > 0))
    if protocol.leak == "public_code":
        honest, item_mean = leaking[slots.first], public_code_mean(log.item, log.positive, within)
    user_dense = np.stack([honest, np.log1p(count) / 4.0], axis=1).astype(np.float32)
    item_dense = np.stack([item_mean, np.log1p(item_count) / 4.0], axis=1).astype(np.float32)
    return RequestLists(log, part, slots, known, user_dense, item_dense, protocol), shown


def write(
    ratings: Ratings, protocol: RatingsConfig, writer: StoreWriter, scope: str, published: str
) -> tuple[list[str], list[str]]:
    """Write the tables of requests; lines and warnings of the description.

    Args:
        ratings: all that are left after the protocol's filters.
        protocol: the settings.
        writer: of the store.
        scope: see `request_lists`.
        published: how the public code takes its means, in words.
    """
    lists, (leaking, honest) = request_lists(ratings, protocol, scope)
    of_list = lists.part[lists.slots.first]
    for number, name in enumerate(PARTS):
        first, last = np.searchsorted(of_list, [number, number + 1])
        for shard, begin in enumerate(range(first, last, SHARD)):
            writer.shard(name, f"{shard:05}", partial(lists.shard, begin, min(begin + SHARD, last)))
    lines = [
        f"leak: user_mean_rating of the public code has AUC {leaking:.4f} on test, of past ratings {honest:.4f}",
        f"split: {protocol.split}; days are counted in UTC; features count ratings strictly before the request"
        + (", of the training part" if protocol.split == "random" else ""),
    ]
    warnings = [f"IntTower's public code {published}: labels leak into its features, its AUC cannot be compared"]
    if protocol.leak == "public_code":
        warnings.append(
            "leak=public_code: features hold the labels of their own request; no result of it means anything"
        )
    if protocol.split == "random":
        warnings.append("split=random: training has ratings later than the test's; a model may learn from the future")
    return lines, warnings
