"""Stores of sequences: the items that each user met, in order, for next-item prediction.

For each part there is (train, validation, test; users are in one part only) such a store has two tables:

* `sequences_PART`, a row a user: `user` int32, and `begin` int64 and `length` int32 into
* `events_PART`: `item` int32 from 1 on (0 is padding), and `time` int64 milliseconds where the data has times;

and one table `items` with `category` int32 [n], 0 where it is not known; row 0 is padding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from hccp_jax.data.guards import PARTS
from hccp_jax.data.store import Store
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError


class Lists(NamedTuple):
    """Sequences one after the other.

    Attributes:
        user: [U] int32.
        length: [U] int32.
        item: [n] int32, the items of the first user, then those of the second.
        time: [n] int64 milliseconds, or None.
    """

    user: np.ndarray
    length: np.ndarray
    item: np.ndarray
    time: np.ndarray | None


@dataclass(frozen=True)
class Sequences:
    """One part of a store.

    Attributes:
        user: [U] int32.
        begin: [U] int64 first event of each.
        length: [U] int32.
        item: [n] int32, possibly memory-mapped.
    """

    user: np.ndarray
    begin: np.ndarray
    length: np.ndarray
    item: Any

    def before(self, row: np.ndarray, end: np.ndarray, width: int) -> np.ndarray:
        """The last `width` items of some sequences before positions `end`, oldest first, then zeros.

        Args:
            row: [...] which sequences.
            end: [...] positions in them, at most their length.
            width: H.

        Returns:
            [..., H] int32.
        """
        taken = np.minimum(end, width)
        place = (self.begin[row] + end - taken)[..., None] + np.arange(width)
        real = np.arange(width) < taken[..., None]
        return np.where(real, self.item[np.where(real, place, 0)], 0)

    def at(self, row: np.ndarray, position: np.ndarray) -> np.ndarray:
        """[...] int32 items at positions of some sequences."""
        return np.asarray(self.item[self.begin[row] + position])


def sequences(store: Store, part: str) -> Sequences:
    """A part of a store.

    Raises:
        UserError: if the store has no such sequences, or they do not fit its events.
    """
    if f"sequences_{part}" not in store or "items" not in store:
        there = ", ".join(store.manifest["tables"])
        raise UserError(f"store={store.directory}: no sequences of {part}; it has {there}")
    table, events = store[f"sequences_{part}"], store[f"events_{part}"]
    user, begin, length = (np.asarray(table[name][:]) for name in ("user", "begin", "length"))
    found = Sequences(user, begin, length, events["item"])
    if not len(user) or length.min() < 1 or begin.min() < 0 or (begin + length).max() > len(events):
        raise UserError(f"store={store.directory}: sequences_{part} does not fit its {len(events)} events")
    return found


def items_of(store: Store) -> int:
    """How many items there are, the padding included.

    Raises:
        UserError: if an event has another.
    """
    count = len(store["items"])
    for part in PARTS:
        if f"events_{part}" in store:
            item = np.asarray(store[f"events_{part}"]["item"])
            if item.size and not 0 < item.min() <= item.max() < count:
                span = f"{item.min()}..{item.max()}, expected 1..{count - 1}"
                raise UserError(f"store={store.directory}: events_{part}: items {span}")
    return count


def write_shard(writer: StoreWriter, part: str, name: str, make: Callable[[], Lists]) -> None:
    """Write some sequences as a shard of a part, behind those that are there.

    Args:
        writer: of the store.
        part: one of PARTS.
        name: of the shard within the part.
        make: the sequences; not called if both shards are written.
    """
    once, begin = cache(make), written(writer, f"events_{part}")

    def events() -> dict[str, np.ndarray]:
        lists = once()
        return {"item": lists.item} | ({} if lists.time is None else {"time": lists.time})

    def rows() -> dict[str, np.ndarray]:
        user, length, *_ = once()
        return {"user": user, "begin": begin + np.cumsum(length, dtype=np.int64) - length, "length": length}

    writer.shard(f"events_{part}", name, events)
    writer.shard(f"sequences_{part}", name, rows)


def written(writer: StoreWriter, table: str) -> int:
    """Rows of a table so far."""
    return len(writer.opened(table)) if table in writer.tables else 0


def counts(writer: StoreWriter) -> list[str]:
    """What the parts of a store hold, a line each."""
    lines = []
    for part in PARTS:
        if f"sequences_{part}" in writer.tables:
            length = np.asarray(writer.opened(f"sequences_{part}")["length"][:])
            middle = f", {np.median(length):g} each in the middle, at most {length.max()}" if len(length) else ""
            lines.append(f"{part}: {len(length):,} users, {length.sum():,} events{middle}")
    return lines
