"""Events in order as padded lists: which list an event belongs to, its slot, and what came before.

Axes: n events, U lists, K slots, H history. All arrays are NumPy and of one part of a log that fits memory.
"""

from typing import Any, NamedTuple

import numpy as np

DAY_MS = 24 * 3_600_000


class Slots(NamedTuple):
    """Where events lie in lists.

    Attributes:
        row: [n] int64 list of each event, ascending.
        slot: [n] int64 its place in the list, from 0.
        first: [U] int64 event that begins each list.
    """

    row: np.ndarray
    slot: np.ndarray
    first: np.ndarray


def local_day(time_ms: np.ndarray, zone_hours: int) -> np.ndarray:
    """[n] int32 days since 1970 in a time zone without daylight saving."""
    return ((time_ms + zone_hours * 3_600_000) // DAY_MS).astype(np.int32)


def lists_by(keys: tuple[np.ndarray, ...], width: int, gap: tuple[np.ndarray, int] | None = None) -> Slots:
    """Lists of neighbours with equal keys, cut into lists of at most `width`.

    Args:
        keys: arrays [n]; events are sorted by them, then by time.
        width: K; a longer list goes on as another.
        gap: (times [n], gap): a list ends as well where the next event comes later than that.

    >>> user = np.array([1, 1, 1, 2])
    >>> lists_by((user,), 2).row.tolist(), lists_by((user,), 9, (np.array([0, 5, 90, 91]), 10)).row.tolist()
    ([0, 0, 1, 2], [0, 0, 1, 2])
    """
    count = len(keys[0])
    begins = np.zeros(count, bool)
    begins[:1] = True
    for key in keys:
        begins[1:] |= key[1:] != key[:-1]
    if gap is not None:
        begins[1:] |= np.diff(gap[0]) > gap[1]
    heads = np.flatnonzero(begins)
    position = np.arange(count) - np.repeat(heads, np.diff(heads, append=count))
    slot = position % width
    return Slots(np.cumsum(slot == 0) - 1, slot, np.flatnonzero(slot == 0))


def padded(slots: Slots, width: int, values: np.ndarray, empty: Any = 0) -> np.ndarray:
    """[n, ...] values in their slots, [U, K, ...]."""
    table = np.full((len(slots.first), width, *values.shape[1:]), empty, values.dtype)
    table[slots.row, slots.slot] = values
    return table


def reordered(slots: Slots, *keys: np.ndarray) -> np.ndarray:
    """[n] which event comes where if each list is sorted, by the last key first, as in `np.lexsort`."""
    return np.lexsort((*keys, slots.row))


def earlier(
    user: np.ndarray, time: np.ndarray, of_user: np.ndarray, before: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """The last events of some users strictly before some times, the newest last.

    Args:
        user: [n] int of events, ascending.
        time: [n] int64 of events, ascending within a user.
        of_user: [U] users asked for.
        before: [U] int64 times.
        width: H.

    Returns:
        [U, H] int64 events, 0 where there is none, and [U, H] bool, whether there is one; real ones are at the end.
    """
    begin = np.searchsorted(user, of_user)
    # a user's events by time, as positions in the order of (user, time)
    order = np.lexsort((before, of_user))
    merged = np.concatenate([user, of_user[order]])
    when = np.concatenate([time, before[order]])
    asked = np.concatenate([np.ones(len(user), np.int8), np.zeros(len(of_user), np.int8)])
    place = np.lexsort((asked, when, merged))  # a question comes before the events of its own time
    ahead = np.cumsum(place < len(user))
    end = np.empty(len(of_user), np.int64)
    end[order[place[place >= len(user)] - len(user)]] = ahead[place >= len(user)]
    events = end[:, None] - np.arange(width, 0, -1)
    real = events >= begin[:, None]
    return np.where(real, events, 0), real
