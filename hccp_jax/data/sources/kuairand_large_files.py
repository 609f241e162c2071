"""The files of KuaiRand-1K and KuaiRand-27K, whole or in parts, a block of rows at a time with every value checked."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from hccp_jax.data.csv_stream import Column, stream
from hccp_jax.data.kuairand import TABS, USER_FIELDS
from hccp_jax.data.lists import local_day
from hccp_jax.errors import UserError

ZONE = 8  # hours east of UTC, Asia/Shanghai
VIDEOS = 100_000_000  # published ids of videos lie below: there are arrays by published id
LOG = {
    "user_id": Column(low=0, high=2**31 - 1),
    "video_id": Column(low=0, high=VIDEOS - 1),
    "date": Column(low=20000101, high=20991231),
    "time_ms": Column(low=10**11, high=10**13),
    "is_click": Column(low=0, high=1),
    "long_view": Column(low=0, high=1),
    "tab": Column(low=0, high=TABS - 1),
}
EXPOSURE = pl.Schema(
    {  # what is kept of a row: user, from 1; published video; click and view: labels; day: since 1970
        "user": pl.Int32,
        "video": pl.Int32,
        "time": pl.Int64,
        "day": pl.Int32,
        "tab": pl.Int32,
        "click": pl.Int32,
        "view": pl.Int32,
    }
)
_TEXT = Column(kind="text", missing=True)
_USER = {"user_id": LOG["user_id"], **dict.fromkeys(USER_FIELDS, _TEXT)}
_VIDEO = {
    "video_id": LOG["video_id"],
    "author_id": Column(low=0, missing=True),
    "video_duration": Column(kind="float", low=0, high=1e9, missing=True),
    **dict.fromkeys(("upload_dt", "video_type", "upload_type", "music_type", "tag"), _TEXT),
}


def published(folder: Path, stem: str) -> list[Path]:
    """A file of the folder or its `data` sub-folder, with or without `.gz`, or all its parts in order; maybe none.

    Raises:
        UserError: if parts are missing in between, or stand beside the whole.
    """
    name = re.compile(rf"{stem}(?:_part(\d+))?\.csv(?:\.gz)?")
    found: dict[int, Path] = {}
    for place in (folder, folder / "data"):
        for path in sorted(place.glob(f"{stem}*")):
            match = name.fullmatch(path.name)
            if match and path.is_file():
                found.setdefault(int(match[1] or 0), path)
    numbers = sorted(found)
    if numbers not in ([0], list(range(1, len(numbers) + 1))):
        listed = ", ".join(found[number].name for number in numbers)
        raise UserError(
            f"input={folder}: {listed}; expected {stem}.csv alone, or _part1, _part2 and so on, none left out"
        )
    return [found[number] for number in numbers]


def required(folder: Path, stem: str) -> list[Path]:
    """As `published`, but there has to be something."""
    found = published(folder, stem)
    if not found:
        raise UserError(f"input={folder}: no {stem}.csv or {stem}_part1.csv there, with or without .gz")
    return found


@dataclass
class Scanned:
    """What went by while logs were read.

    Attributes:
        rows: how many.
        first: the first day that a row states, which is the day of its hourly file.
        videos: one more than the greatest published id.
        days: of exposures, since 1970.
    """

    rows: int = 0
    first: int = 1 << 30
    videos: int = 0
    days: set[int] = field(default_factory=set)


def exposures(paths: Sequence[Path], users: np.ndarray, scanned: Scanned) -> Iterator[pl.DataFrame]:
    """Blocks of exposures as they come, with the columns of EXPOSURE.

    Args:
        paths: logs.
        users: [n] int64 published ids of users, ascending.
        scanned: is told what goes by.

    Raises:
        UserError: for the first row that is not as published.
    """
    for path in paths:
        rows = 0
        for block in stream(path, LOG):
            published_user = block["user_id"].to_numpy()
            user = np.minimum(np.searchsorted(users, published_user), len(users) - 1)
            _refuse(path, rows, block["user_id"], users[user] != published_user, "a user of the table of users")
            stated = _days(path, rows, block["date"].cast(pl.String), "%Y%m%d").to_numpy()
            day = local_day(block["time_ms"].to_numpy(), ZONE)
            apart = np.abs(stated - day) > 1
            _refuse(path, rows, block["date"], apart, "at most a day from time_ms in Asia/Shanghai")
            rows += block.height
            scanned.rows += block.height
            scanned.first = min(scanned.first, int(stated.min()))
            scanned.videos = max(scanned.videos, 1 + int(block["video_id"].to_numpy().max()))
            scanned.days.update(np.unique(day).tolist())
            names = ("video_id", "time_ms", "tab", "is_click", "long_view")
            columns = dict(zip(("video", "time", "tab", "click", "view"), block.select(names), strict=True))
            yield pl.DataFrame({"user": user + 1, "day": day, **columns}).select(EXPOSURE.names()).cast(EXPOSURE)


def read_users(folder: Path, size: str) -> pl.DataFrame:
    """The table of users by published id, categorical fields as text with null where missing."""
    paths = required(folder, f"user_features_{size}")
    users = pl.concat([block for path in paths for block in stream(path, _USER)])
    _refuse(paths[-1], 0, users["user_id"], ~users["user_id"].is_first_distinct().to_numpy(), "each id once")
    return users.sort("user_id")


def read_videos(paths: Sequence[Path], item_of: np.ndarray, items: int) -> tuple[pl.DataFrame, int]:
    """Features of items 1..items - 1 in this order; item 1 stands for many videos and has none, so that all are null.

    Args:
        paths: of the table of videos.
        item_of: [published ids] int32 item of each video; only those from 2 are looked at.
        items: how many there are, with padding.

    Returns:
        author_id Int64, upload_dt Int32 days since 1970 (the median where it is missing), video_duration Float64,
        and texts; and how many items have no row in the table.
    """
    known = np.zeros(items, bool)
    parts = []
    for path in paths:
        rows = 0
        for block in stream(path, _VIDEO):
            video = block["video_id"].to_numpy()
            item = np.where(video < len(item_of), item_of[np.minimum(video, len(item_of) - 1)], 0)
            kept = item > 1
            again = kept & (known[item] | ~block["video_id"].is_first_distinct().to_numpy())
            _refuse(path, rows, block["video_id"], again, "each id once")
            known[item[kept]] = True
            uploaded = _days(path, rows, block["upload_dt"], "%Y-%m-%d")
            found = block.with_columns(pl.Series("item", item, pl.Int32), pl.Series("upload_dt", uploaded))
            parts.append(found.filter(kept).drop("video_id"))
            rows += block.height
    every = pl.DataFrame({"item": np.arange(1, items, dtype=np.int32)})
    videos = every.join(pl.concat(parts), on="item", how="left", maintain_order="left")
    days = videos["upload_dt"].drop_nulls().to_numpy()
    day = pl.col("upload_dt").fill_null(int(np.median(days)) if len(days) else 0)
    return videos.with_columns(day), int(items - 2 - known.sum())


def _days(path: Path, rows: int, text: pl.Series, form: str) -> pl.Series:
    """Days since 1970, null where the text is."""
    days = text.str.to_date(form, strict=False)
    bad = days.is_null() & text.is_not_null()
    _refuse(path, rows, text, bad.to_numpy(), f"a date as {date(2022, 4, 8).strftime(form)}")
    return days.cast(pl.Int32)


def _refuse(path: Path, rows: int, values: pl.Series, bad: np.ndarray, expected: str) -> None:
    """Raise for the first bad row of a block that comes after so many rows."""
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(f"{path.name}: row {rows + row + 1}: {values.name}={values[row]!r}, expected {expected}")
