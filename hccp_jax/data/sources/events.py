"""From raw events (who, what, when) to sequences, by ComiRec's protocol and at any size.

Items with too few events are left out, then users with too few of the others (once, not until nothing changes);
items are numbered by falling popularity, users by bucket. Where ComiRec splits users 8:1:1 by a shuffle in memory,
here a keyed hash of the user decides, so that a part does not hang on the order of the file.

The first pass spreads the events over buckets of users and counts the items; the second writes a bucket at a time.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hccp_jax.config import field
from hccp_jax.data import buckets
from hccp_jax.data.guards import PARTS
from hccp_jax.data.order import drawn
from hccp_jax.data.sequences import Lists, counts, write_shard, written
from hccp_jax.data.sources.comirec import BY_USER, NO_NDCG
from hccp_jax.data.sources.dataset import Facts
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

ITEMS = "items.arrow"
_MERGED = 1 << 22  # rows counted at a time
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class EventsConfig:
    """The protocol of sequences from raw events."""

    at_least: int = field(5, "events of an item, and then of a user, to stay", at_least=1)
    history: int = field(20, "items of a history", at_least=1)
    validation: float = field(0.1, "share of the users", at_least=0, at_most=0.5)
    test: float = field(0.1, "share of the users", at_least=0, at_most=0.5)
    seed: int = field(0, "of the split of users", at_least=0)


@dataclass(frozen=True)
class Raw:
    """Events of a data set.

    Attributes:
        name: of the data.
        frames: -> frames with `user` and `item` (both Int64, or both String with an Int64 `key` of the user), `time`
            Int64 milliseconds and, where events tell it, `category` Int64.
        rows: of them, about.
        told: -> counts of what was left out, after all frames.
        categories: items [n] in the order of their ids -> the raw category of each, null where unknown; None where
            events tell it.
    """

    name: str
    frames: Callable[[], Iterator[pl.DataFrame]]
    rows: int
    told: Callable[[], dict[str, int]]
    categories: Callable[[pl.Series], pl.Series] | None = None


def convert_events(raw: Raw, protocol: EventsConfig, writer: StoreWriter, say: Callable[[str], None], **facts) -> Facts:
    """Write the store of sequences; `facts` are further fields of `Facts`.

    Raises:
        UserError: if no item or no user has enough events.
    """
    count, folder = buckets.how_many(raw.rows), writer.work / "events"

    def gather() -> dict[str, Any]:
        tally = ItemTally()
        rows = buckets.scatter(tally.watching(raw.frames()), _bucket_of, count, folder)
        tally.frame().write_ipc(writer.work / ITEMS)
        return {"rows": rows, "told": raw.told()}

    gathered = writer.step("events", gather)
    say(f"{gathered['rows']:,} events read")
    everything = pl.read_ipc(writer.work / ITEMS)
    kept = everything.filter(pl.col("count") >= protocol.at_least).sort(["count", "item"], descending=[True, False])
    if not len(kept):
        raise UserError(f"at_least={protocol.at_least}: no item has so many of the {gathered['rows']} events")
    items = kept.select("item", pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("id"))
    warnings, columns = _item_columns(raw, kept)
    writer.table("items", columns)
    left: dict[str, int] = {}
    for number in range(count):
        for name, value in _bucket(protocol, writer, folder, number, items).items():
            left[name] = left.get(name, 0) + value
        say(f"bucket {number + 1} of {count}")
    if not written(writer, "sequences_train"):
        raise UserError(f"at_least={protocol.at_least}: no user of train has so many events of items that stay")
    lines = [f"{raw.name}: {len(kept):,} items", *counts(writer)]
    lines += [f"left out: {value:,} {name}" for name, value in gathered["told"].items()]
    lines += [f"left out: {len(everything) - len(kept):,} items with fewer than {protocol.at_least} events"]
    lines += [f"left out: {left['users']:,} users with fewer than {protocol.at_least} events of the other items"]
    lines += [f"kept: {left['duplicates']:,} exact duplicates of an event, as ComiRec keeps them"]
    more = {"name": raw.name, "items": len(kept) + 1, "history": protocol.history}
    return Facts(timed=False, more=more, lines=lines, warnings=[*warnings, BY_USER, NO_NDCG], **facts)


def _bucket_of(count: int) -> pl.Expr:
    return buckets.of_key("key", count)


class ItemTally:
    """Events of each item, in memory of the size of the number of items."""

    def __init__(self) -> None:
        self._whole: pl.DataFrame | None = None
        self._held: list[pl.DataFrame] = []
        self._rows = 0

    def watching(self, frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """Pass frames on and count their items."""
        for frame in frames:
            category = [pl.col("category")] if "category" in frame.columns else []
            self._held.append(frame.select("item", pl.lit(1, pl.Int64).alias("count"), *_ends(category)))
            self._rows += frame.height
            if self._rows >= _MERGED:
                self._merge()
            passed = frame.drop("category", strict=False)
            yield passed if "key" in passed.columns else passed.with_columns(pl.col("user").alias("key"))

    def frame(self) -> pl.DataFrame:
        """item, count and, where there are categories, the smallest and largest of each item (`low`, `high`).

        Raises:
            UserError: without an event.
        """
        self._merge()
        if self._whole is None:
            raise UserError("events: none is left by the protocol")
        return self._whole

    def _merge(self) -> None:
        if not self._rows:
            return
        together = pl.concat([*([] if self._whole is None else [self._whole]), *self._held])
        ends = [pl.col("low").min(), pl.col("high").max()] if "low" in together.columns else []
        self._whole = together.group_by("item").agg(pl.col("count").sum(), *ends)
        self._held, self._rows = [], 0


def _ends(category: list[pl.Expr]) -> list[pl.Expr]:
    return [one.alias(name) for one in category for name in ("low", "high")]


def _item_columns(raw: Raw, kept: pl.DataFrame) -> tuple[list[str], dict[str, np.ndarray]]:
    """Warnings, and the columns of the table of items; categories are numbered from 1 in their own order."""
    warnings = []
    if raw.categories is not None:
        category = raw.categories(kept["item"])
    elif "low" in kept.columns:
        category = kept["low"]
        several = int((kept["low"] != kept["high"]).sum())
        if several:
            warnings.append(f"{several:,} items have several categories; the one with the smallest number is taken")
    else:
        category = pl.Series([None] * len(kept), dtype=pl.Int64)
    known = category.drop_nulls().unique().sort()
    numbers = category.replace_strict(known, np.arange(1, len(known) + 1), default=0, return_dtype=pl.Int32)
    if category.null_count():
        warnings.append(f"{category.null_count():,} of {len(kept):,} items have no category")
    columns = {"category": np.pad(numbers.fill_null(0).to_numpy(), (1, 0)).astype(np.int32)}
    if kept["item"].dtype == pl.Int64:
        columns["raw"] = np.pad(kept["item"].to_numpy(), (1, 0))
    return warnings, columns


def _bucket(
    protocol: EventsConfig, writer: StoreWriter, folder: Path, number: int, items: pl.DataFrame
) -> dict[str, int]:
    """Write the sequences of a bucket's users; what was left out."""
    first = 1 + sum(written(writer, f"sequences_{part}") for part in PARTS)
    found = cache(lambda: _sequences(folder, number, items, protocol, first))
    left = writer.step(f"bucket {number}", lambda: found()[1])
    for part in PARTS:
        if part == "train" or getattr(protocol, part) > 0:
            write_shard(writer, part, f"{number:04}", partial(_of_part, found, part))
    return left


def _of_part(found: Callable[[], tuple[dict[str, Lists], dict[str, int]]], part: str) -> Lists:
    return found()[0][part]


def _sequences(
    folder: Path, number: int, items: pl.DataFrame, protocol: EventsConfig, first: int
) -> tuple[dict[str, Lists], dict[str, int]]:
    """The sequences of a bucket by part, users numbered from `first`, and what was left out."""
    frame = buckets.bucket_rows(folder, number)
    if frame is None:
        frame = pl.DataFrame(schema={"user": pl.Int64, "key": pl.Int64, "time": pl.Int64, "id": pl.Int32})
        users = 0
    else:
        users = frame["user"].n_unique()
        frame = frame.join(items, on="item", how="inner", maintain_order="left").drop("item")
    frame = frame.sort("user", "time", maintain_order=True)  # equal times stay in the order of the file
    length = frame["user"].rle_id().value_counts(sort=False).sort("user")["count"].to_numpy().astype(np.int32)
    stays = length >= protocol.at_least
    frame = frame.filter(pl.Series(np.repeat(stays, length)))
    length = length[stays]
    left = {"users": users - len(length), "duplicates": frame.height - frame.select("user", "time", "id").n_unique()}
    heads = (np.cumsum(length) - length).astype(np.int64)
    part = split(frame["key"].to_numpy()[heads], protocol)
    user = (first + np.arange(len(length))).astype(np.int32)
    item, time = frame["id"].to_numpy().astype(np.int32), frame["time"].to_numpy()
    lists = {}
    for index, name in enumerate(PARTS):
        own = part == index
        events = np.repeat(own, length)
        lists[name] = Lists(user[own], length[own], item[events], time[events])
    return lists, left


def split(key: np.ndarray, protocol: EventsConfig) -> np.ndarray:
    """[n] which of PARTS each user is in, by a hash of its key [n] int64."""
    share = (drawn(protocol.seed, key) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.where(share < protocol.test, 2, np.where(share < protocol.test + protocol.validation, 1, 0))


def text_key(column: pl.Series) -> pl.Series:
    """[n] Int64 hash of texts, the same on every machine: what spreads and splits users, and never what tells apart."""
    longest = int(column.str.len_bytes().to_numpy().max(initial=1))
    words = (
        np.array(column.cast(pl.Binary).to_list(), f"S{-(-longest // 8) * 8}").view(np.uint64).reshape(len(column), -1)
    )
    found = np.zeros(len(column), np.uint64)
    for index in range(words.shape[1]):  # a word of padding changes nothing, so that the width does not
        found = np.where(words[:, index] == 0, found, drawn(index, found ^ words[:, index]))
    return pl.Series((found >> np.uint64(1)).astype(np.int64))
