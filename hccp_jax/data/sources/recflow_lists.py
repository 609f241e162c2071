"""Rows of RecFlow as lists of staged items, a bucket of requests at a time; a pure function of the bucket.

An item's row has a flag for each stage that logged it, and may have several; the deepest counts. The funnel of the
published system is retrieval, pre-rank, coarse rank, rank, re-rank, exposure, so `coarse_neg` (survived the pre-rank,
beyond the 500 of the coarse rank) got deeper than `prerank_neg` (beyond the 500 of the pre-rank). Neither entered the
ranking stage, so both are PRERANKED; what ranking or re-ranking logged and nobody saw is RANKED.

Axes: n rows or items, U requests, K slots, H history.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from hccp_jax.data.fields import side_by_side
from hccp_jax.data.guards import HISTORY_TIME, TIME
from hccp_jax.data.lists import DAY_MS, local_day
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.data.sources.recflow_files import FEEDBACK, FLAGS, ZONE
from hccp_jax.data.store import columns_of
from hccp_jax.errors import UserError

PRIORITY, REQUEST = "priority", "request_id"  # [U, K] int8, larger is better, and [U] int64, beside a batch's columns
LCRON_GROUPS = ("rank_pos", "rank_neg", "coarse_neg", "prerank_neg")
_PRIORITIES = (5, 4, 3, 4, 3, 2, 1)  # of FLAGS in RecFlow's FS-LTR; a click is worth 6
_CLICK = 6
_LCRON_BEST = 23  # LCRON's order 1, 2, .. of rank_pos, 21, 22, 23 of the others, turned round
_BIT = {flag: 1 << index for index, flag in enumerate(FLAGS)}
_RANKED = sum(_BIT[flag] for flag in ("rerank_pos", "rerank_neg", "rank_pos", "rank_neg"))
_WEEKDAYS, _HOURS = 8, 25  # with one for "missing"
_TIE_BITS = 30  # of a number that only orders what is equal otherwise
_THURSDAY = 3  # the first day of 1970, Monday being 0


@dataclass(frozen=True)
class Layout:
    """What lists a part of a store has.

    Attributes:
        groups: flags; an item is of the first that it has, and is left out if it has none.
        limits: how many items of each group a list has at most; None for no limit.
        slots: K.
        history: H.
        tasks: names of the labels, some of FEEDBACK.
        until: requests from this time on (ms) are left out; they belong to the next part.
        contexts: sizes of the vocabularies of devices and provinces.
    """

    groups: tuple[str, ...]
    limits: tuple[int, ...] | None
    slots: int
    history: int
    tasks: tuple[str, ...]
    until: int
    contexts: tuple[int, int]


class Items(NamedTuple):
    """Items of lists, each field [n]: the request's number, then what is known of the item there."""

    row: np.ndarray
    video: np.ndarray
    flags: np.ndarray
    feedback: np.ndarray
    rank_index: np.ndarray
    group: np.ndarray
    draw: np.ndarray

    def those(self, which: np.ndarray) -> "Items":
        """Some of them, by a mask or by numbers."""
        return Items(*(array[which] for array in self))


def lists_of(
    rows: pl.DataFrame, history: pl.DataFrame | None, layout: Layout, told: str
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """All columns of a bucket's requests in order of time, and counts of what was left out.

    Args:
        rows: request, time, user, device, province, video, flags, feedback, rank_index; see `recflow.spread`.
        history: request, video, time, the oldest first within a request; or None.
        layout: of the lists.
        told: the file, for errors.

    Raises:
        UserError: if a request has two users or times.
    """
    requests, items = _merged(rows, layout, told)
    counts = {"repeated": rows.height - len(items.row), "unflagged": int((items.group < 0).sum())}
    unseen = (items.feedback > 0) & (items.flags & _BIT["realshow"] == 0)
    counts["feedback_unexposed"] = int(unseen.sum())
    early = requests["time"] < layout.until
    counts["late_requests"] = int((~early).sum())
    items = items._replace(feedback=np.where(unseen, 0, items.feedback))
    items = items.those((items.group >= 0) & early[items.row])
    chosen = _limited(items, layout)
    counts["over_limit"] = len(items.row) - len(chosen.row)
    chosen, rank, slot = _arranged(chosen, layout.tasks)
    fits = slot < layout.slots
    counts["over_slots"] = int((~fits).sum())
    chosen, rank, slot = chosen.those(fits), rank[fits], slot[fits]
    kept = np.unique(chosen.row)
    kept = kept[np.lexsort((requests["request"][kept], requests["time"][kept]))]
    place = np.zeros(len(early), np.int64)
    place[kept] = np.arange(len(kept))
    heads = {name: values[kept] for name, values in requests.items()}
    chosen = chosen._replace(row=place[chosen.row])
    past, mask, when, counts["history_not_before"] = _histories(history, heads, layout.history)
    counts["no_history"] = int((~mask.any(axis=1)).sum())
    columns = _columns(heads, chosen, rank, slot, layout, past, mask)
    return columns | {TIME: heads["time"], HISTORY_TIME: when, REQUEST: heads["request"]}, counts


def _merged(rows: pl.DataFrame, layout: Layout, told: str) -> tuple[dict[str, np.ndarray], Items]:
    """Fields of requests [U], by their id, and items, those that a request repeats as one."""
    column = {name: rows[name].to_numpy() for name in rows.columns}
    order = np.lexsort((column["video"], column["request"]))
    column = {name: values[order] for name, values in column.items()}
    begins = _begins(column["request"])
    row = np.cumsum(begins) - 1
    requests = {name: column[name][begins] for name in ("request", "time", "user", "device", "province")}
    for name in ("user", "time", "device", "province"):
        differs = column[name] != requests[name][row]
        if differs.any():
            request = column["request"][np.argmax(differs)]
            raise UserError(f"{told}: request_id={request}: two values of {name}, expected one")
    heads = np.flatnonzero(begins | _begins(column["video"]))
    flags, feedback = (np.bitwise_or.reduceat(column[name], heads) for name in ("flags", "feedback"))
    best = np.minimum.reduceat(column["rank_index"], heads)
    video = column["video"][heads]
    group = _group_of(layout.groups)[flags]
    draw = _draw(column["request"][heads], video)
    return requests, Items(row[heads], video, flags, feedback, best, group, draw)


def _begins(values: np.ndarray) -> np.ndarray:
    return np.r_[True, values[1:] != values[:-1]]


def _group_of(groups: tuple[str, ...]) -> np.ndarray:
    """[128] int8: an item's group by its flags, -1 for none."""
    found = np.full(1 << len(FLAGS), -1, np.int8)
    for index, flag in reversed(list(enumerate(groups))):
        found[np.arange(len(found)) & _BIT[flag] > 0] = index
    return found


def _draw(request: np.ndarray, video: np.ndarray) -> np.ndarray:
    """[n] uint64 that look random, of a request and a video alone (the finaliser of SplitMix64)."""
    x = request.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + video.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _places(*keys: np.ndarray) -> np.ndarray:
    """[n] how many before an item have its keys; items of the same keys are neighbours."""
    heads = np.flatnonzero(np.logical_or.reduce([_begins(key) for key in keys])) if len(keys[0]) else keys[0]
    return np.arange(len(keys[0])) - np.repeat(heads, np.diff(heads, append=len(keys[0])))


def _limited(items: Items, layout: Layout) -> Items:
    """At most so many items of each group: the best of LCRON's `rank_pos`, of others drawn ones."""
    if layout.limits is None:
        return items
    first = _shortened(items.draw, _TIE_BITS)
    if layout.groups == LCRON_GROUPS:
        first = np.where(items.group == 0, np.minimum(items.rank_index, (1 << _TIE_BITS) - 1), first)
    order = np.argsort(_key((items.row, 31), (items.group, 3), (first, _TIE_BITS)), kind="stable")
    fits = np.empty(len(order), bool)
    fits[order] = _places(items.row[order], items.group[order]) < np.array(layout.limits)[items.group[order]]
    return items.those(fits)


def _shortened(draw: np.ndarray, bits: int) -> np.ndarray:
    return draw >> np.uint64(64 - bits)


def _key(*parts: tuple[np.ndarray, int]) -> np.ndarray:
    """[n] uint64 that sorts by several numbers of so many bits, the first one first: one sort instead of several."""
    key = np.zeros(len(parts[0][0]), np.uint64)
    for values, bits in parts:
        key = (key << np.uint64(bits)) | values.astype(np.uint64)
    return key


def _stage(items: Items) -> np.ndarray:
    lower = np.where(items.flags & _RANKED > 0, Stage.RANKED, Stage.PRERANKED)
    return np.where(items.flags & _BIT["realshow"] > 0, Stage.EXPOSED, lower).astype(np.int8)


def _label(items: Items, task: str) -> np.ndarray:
    return (items.feedback >> FEEDBACK.index(task)) & 1


def _arranged(items: Items, tasks: tuple[str, ...]) -> tuple[Items, np.ndarray, np.ndarray]:
    """Items, sorted by request and video, as lists store them, with their rank (-1 where not ranked) and slot.

    The ranking stage's order, the ten best that `rank_pos` tells first; within a list come clicked exposures, other
    exposures, ranked items, each by rank, then pre-ranked items, the deeper stage first and else in a random order.
    """
    stage = _stage(items)
    ranked = stage <= Stage.RANKED
    below = items.flags & _BIT["rank_pos"] == 0
    order = np.argsort(_key((items.row, 31), (~ranked, 1), (below, 1), (items.rank_index, 31)), kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = _places(items.row[order])
    rank[~ranked] = -1
    random = _key((items.group, 3), (_shortened(items.draw, _TIE_BITS - 3), _TIE_BITS - 3))
    depth = np.where(ranked, rank, random.astype(np.int64))
    unclicked = _label(items, tasks[0]) == 0
    key = _key((items.row, 31), (unclicked, 1), (stage, 2), (depth, _TIE_BITS))
    order = np.argsort(key, kind="stable")
    return items.those(order), rank[order], _places(items.row[order])


def _columns(
    heads: Mapping[str, np.ndarray],
    items: Items,
    rank: np.ndarray,
    slot: np.ndarray,
    layout: Layout,
    past: np.ndarray,
    past_mask: np.ndarray,
) -> dict[str, np.ndarray]:
    """The columns of a batch, and PRIORITY."""
    shape = (len(heads["request"]), layout.slots)

    def filled(values: Any, empty: Any, kind: type) -> np.ndarray:
        table: np.ndarray = np.full(shape, empty, kind)
        table[items.row, slot] = values
        return table

    time = heads["time"]
    weekday = (local_day(time, ZONE) + _THURSDAY) % 7 + 1
    hour = (time + ZONE * 3_600_000) % DAY_MS // 3_600_000 + 1
    sizes = (_WEEKDAYS, _HOURS, *layout.contexts)
    values = (weekday, hour, heads["device"], heads["province"])
    context, _ = side_by_side(list(zip(values, sizes, strict=True)), 1)
    fields: dict[str, Any] = {
        "user": {"id": heads["user"].astype(np.int32), "categorical": context[1:]},
        "history": {"id": past, "groups": past_mask[:, :, None].astype(np.float32)},
        "history_mask": past_mask,
        "items": {"id": filled(items.video, 0, np.int32)},
        "stage": filled(_stage(items), 0, np.int8),
        "rank": filled(rank, -1, np.int32),
        "labels": {task: filled(_label(items, task), 0, np.float32) for task in layout.tasks},
        "mask": filled(True, False, bool),
    }
    priority = filled(_priority(items, rank, layout), 0, np.int8)
    return {**columns_of(RequestBatch(**fields, cross=None, teacher={})), PRIORITY: priority}


def context_end(layout: Layout) -> int:
    """Where the vocabulary of a request's context ends, and that of the users' table begins."""
    return 1 + _WEEKDAYS + _HOURS + sum(layout.contexts)


def _priority(items: Items, rank: np.ndarray, layout: Layout) -> np.ndarray:
    """[n] the graded order that FS-LTR or LCRON trains and is evaluated with; larger is better."""
    if layout.groups == LCRON_GROUPS:
        return np.where(items.group == 0, _LCRON_BEST - rank, len(LCRON_GROUPS) - items.group)
    of_flags = np.zeros(1 << len(FLAGS), np.int8)
    for flag, priority in zip(FLAGS, _PRIORITIES, strict=True):
        having = np.arange(len(of_flags)) & _BIT[flag] > 0
        of_flags[having] = np.maximum(of_flags[having], priority)
    return np.where(_label(items, "effective_view") > 0, _CLICK, of_flags[items.flags])


def _histories(
    history: pl.DataFrame | None, heads: Mapping[str, np.ndarray], width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """[U, H] ids, mask and times (ms), the newest last, and how many were left out: not before their request."""
    shape = (len(heads["request"]), width)
    ids, mask, when = np.zeros(shape, np.int32), np.zeros(shape, bool), np.zeros(shape, np.int64)
    if history is None or not shape[0]:
        return ids, mask, when, 0
    by_id = np.argsort(heads["request"])
    of = history["request"].to_numpy()
    place = by_id[np.minimum(np.searchsorted(heads["request"], of, sorter=by_id), shape[0] - 1)]
    time = history["time"].to_numpy()
    known = heads["request"][place] == of
    before = known & (time < heads["time"][place])
    row, video, time = place[before], history["video"].to_numpy()[before], time[before]
    order = np.argsort(row, kind="stable")
    row, video, time = row[order], video[order], time[order]
    slot = width - 1 - _places(row[::-1])[::-1]
    fits = slot >= 0
    where = row[fits], slot[fits]
    ids[where], mask[where], when[where] = video[fits], True, time[fits]
    return ids, mask, when, int((known & ~before).sum())
