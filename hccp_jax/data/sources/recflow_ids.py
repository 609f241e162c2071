"""The first reading of RecFlow: which published ids occur, and the features of each video and user where first seen.

Published ids count from 0 and those of videos reach 82 million, of which a period has a part: each column's ids that
occur are numbered anew from 1, in their order, so 0 is free for padding. Only `category_level_one` is different: the
public code leaves it as it is and pads it with 2, which is therefore "missing" here.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from hccp_jax.data import buckets
from hccp_jax.data.sources import recflow_files as files
from hccp_jax.errors import UserError

CATEGORY_PADDING = 2  # of category_level_one
ITEM_RANGE = 1 << 20  # published video ids whose features are put together at a time
_GROWN = 1 << 16
_WORD = 64


class Seen:
    """Which ids of each column of `IDS` occur: column -> [largest id + 1 or more] bool."""

    def __init__(self) -> None:
        self.flags = {name: np.zeros(0, bool) for name in files.IDS}

    def add(self, name: str, ids: np.ndarray) -> None:
        """Note ids [n] of a column."""
        self._with_room(name, ids)[ids] = True

    def first(self, name: str, ids: np.ndarray) -> np.ndarray:
        """[n] bool, which ids are the first of their value ever; they are not noted."""
        new = np.flatnonzero(~self._with_room(name, ids)[ids])
        found = np.zeros(len(ids), bool)
        found[new[np.unique(ids[new], return_index=True)[1]]] = True
        return found

    def _with_room(self, name: str, ids: np.ndarray) -> np.ndarray:
        flags = self.flags[name]
        beyond = int(ids.max(initial=-1)) + 1 - len(flags)
        if beyond > 0:
            flags = self.flags[name] = np.pad(flags, (0, -(-beyond // _GROWN) * _GROWN))
        return flags

    def save(self, path: Path) -> None:
        """Write to a file."""
        packed: dict = {name: np.packbits(flags, bitorder="little") for name, flags in self.flags.items()}
        np.savez(path, **packed)

    @classmethod
    def load(cls, path: Path) -> "Seen":
        """What `save` wrote."""
        found = cls()
        with np.load(path) as packed:
            found.flags = {name: np.unpackbits(packed[name], bitorder="little").view(bool) for name in files.IDS}
        return found


class Vocabulary:
    """Published ids of a column that occur, numbered from 1 in their order; three bits for each that might.

    >>> ids = Vocabulary(np.array([False, True, False, True]))
    >>> ids(np.array([3, 0, 1, 99])).tolist(), ids.size
    ([2, 0, 1, 0], 3)
    """

    def __init__(self, flags: np.ndarray) -> None:
        """Take which ids occur, [largest id + 1 or more] bool."""
        padded = np.pad(flags, (0, -len(flags) % _WORD + _WORD))  # the last word is empty: what is beyond is in it
        self._words = np.packbits(padded, bitorder="little").view("<u8")
        counts = np.bitwise_count(self._words)
        self._before = (np.cumsum(counts, dtype=np.int64) - counts).astype(np.int32)
        self.size = 1 + int(counts.sum(dtype=np.int64))  # the padding's number included

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """[n] int32 numbers of published ids [n] int64; 0 for one that does not occur."""
        word = np.minimum(ids // _WORD, len(self._words) - 1)
        bit = np.uint64(1) << (ids % _WORD).astype(np.uint64)
        here = self._words[word]
        number = self._before[word] + np.bitwise_count(here & (bit - np.uint64(1))).astype(np.int32) + 1
        return np.where(here & bit, number, np.int32(0))


def vocabularies(seen: Seen) -> dict[str, Vocabulary]:
    """Of each column."""
    one = seen.flags["category_level_one"].copy()
    one[CATEGORY_PADDING : CATEGORY_PADDING + 1] = False
    return {name: Vocabulary(flags) for name, flags in (seen.flags | {"category_level_one": one}).items()}


def first_reading(
    tables: Sequence[tuple[Path, str]], histories: Path, work: Path, day: str, before: str | None
) -> dict[str, int]:
    """Note the ids of a day; the features of videos and users that no earlier day has go to `work`.

    Args:
        tables: (file, its day) of Feather tables; the first is that of all stages, whose rows are counted.
        histories: the day's pickle.
        work: folder of scratch files.
        day: the day.
        before: the day read before it; None for the first.

    Returns:
        Of the first table: "rows", "begin" (first request, ms) and rows with each flag.
    """
    seen = Seen.load(work / f"seen-{before}.npz") if before else Seen()
    counts = dict.fromkeys(("rows", *files.FLAGS), 0) | {"begin": np.iinfo(np.int64).max}
    users: list[pl.DataFrame] = []

    def new_videos() -> Iterator[pl.DataFrame]:
        for number, (path, of) in enumerate(tables):
            for frame in files.table(path, _wanted(of, number == 0)):
                if number == 0:
                    _count(counts, frame)
                users.append(frame.filter(_note(seen, frame, files.USER_IDS)).select(files.USER_IDS))
                yield frame.filter(_note(seen, frame, files.VIDEO_IDS)).select(files.VIDEO)
        for frame in files.histories(histories):
            yield frame.filter(_note(seen, frame, files.VIDEO_IDS)).select(files.VIDEO)

    buckets.scatter(new_videos(), _by_range, 1 + files.MOST_ID // ITEM_RANGE, work / f"videos-{day}")
    buckets.scatter(users, lambda _: pl.lit(0, pl.UInt32), 1, work / f"users-{day}")
    if not counts["rows"]:
        raise UserError(f"{files.told(tables[0][0])}: row 1: no rows")
    seen.save(work / f"seen-{day}.npz")
    return counts


def _by_range(count: int) -> pl.Expr:
    return (pl.col("video_id") // ITEM_RANGE).clip(0, count - 1).cast(pl.UInt32)


def _wanted(day: str, flagged: bool) -> dict[str, files.Bounds]:
    names = ("request_timestamp", *files.USER_IDS, *files.VIDEO, *(files.FLAGS if flagged else ()))
    limits = files.bounds(day)
    return {name: limits[name] for name in names}


def _count(counts: dict[str, int], frame: pl.DataFrame) -> None:
    counts["rows"] += frame.height
    counts["begin"] = min(counts["begin"], int(frame["request_timestamp"].to_numpy().min()))
    for flag in files.FLAGS:
        counts[flag] += int(frame[flag].sum())


def _note(seen: Seen, frame: pl.DataFrame, names: tuple[str, ...]) -> pl.Series:
    """Note the ids of some columns; which rows are the first with their value of the first column."""
    first = seen.first(names[0], frame[names[0]].to_numpy())
    for name in names:
        seen.add(name, frame[name].to_numpy())
    return pl.Series(first)


def first_seen(folder: str, days: Iterable[str], work: Path, number: int) -> pl.DataFrame | None:
    """Rows of a scratch folder's bucket, of all days together."""
    found = (buckets.bucket_rows(work / f"{folder}-{day}", number) for day in days)
    frames = [frame for frame in found if frame is not None]
    return pl.concat(frames) if frames else None
