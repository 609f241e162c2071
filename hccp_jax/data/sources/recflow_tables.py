"""The tables of RecFlow's videos and users: what was logged where an id was first seen, so never of later than that."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import polars as pl

from hccp_jax.data.fields import side_by_side
from hccp_jax.data.lists import DAY_MS, local_day
from hccp_jax.data.sources import recflow_files as files
from hccp_jax.data.sources.recflow_ids import ITEM_RANGE, Vocabulary, first_seen
from hccp_jax.data.store_writer import StoreWriter

_VIDEO_FIELDS = ("author_id", "category_level_one", "category_level_two", "upload_type")
_THURSDAY = 3  # the first day of 1970, Monday being 0


def item_tables(writer: StoreWriter, days: Sequence[str], known: dict[str, Vocabulary], authors: bool) -> int:
    """Write `items`: "categorical" [n, 6 or 5] int32 and "dense" [n, 1] float32; returns the size of its vocabulary.

    The fields are author (unless left out), category of level one and two, type, weekday and hour of the upload; the
    number is log(1 + seconds that the video lasts).
    """
    fields = _VIDEO_FIELDS if authors else _VIDEO_FIELDS[1:]
    sizes = [*(known[name].size for name in fields), 8, 25]
    padding = {"categorical": np.zeros((1, len(sizes)), np.int32), "dense": np.zeros((1, 1), np.float32)}
    writer.shard("items", "padding", lambda: padding)
    read = partial(first_seen, "videos", days, writer.work)
    ranges = range(1 + files.MOST_ID // ITEM_RANGE)
    for number in writer.step("items", lambda: [at for at in ranges if read(at) is not None]):
        writer.shard("items", f"{number:03}", partial(_videos, partial(read, number), fields, sizes, known))
    return 1 + sum(sizes)


def _videos(read: partial, fields: Sequence[str], sizes: Sequence[int], known: dict[str, Vocabulary]) -> dict:
    rows: pl.DataFrame = read().sort("video_id")
    uploaded = rows["upload_timestamp"].to_numpy() * 1000
    real = uploaded > 0
    weekday = np.where(real, (local_day(uploaded, files.ZONE) + _THURSDAY) % 7 + 1, 0)
    hour = np.where(real, (uploaded + files.ZONE * 3_600_000) % DAY_MS // 3_600_000 + 1, 0)
    codes = [*(known[name](rows[name].to_numpy()) for name in fields), weekday, hour]
    categorical, _ = side_by_side(list(zip(codes, sizes, strict=True)), 1)
    seconds = np.maximum(rows["duration"].to_numpy(), 0) / 1000
    return {"categorical": categorical[1:], "dense": np.log1p(seconds).astype(np.float32)[:, None]}


def user_table(writer: StoreWriter, days: Sequence[str], known: dict[str, Vocabulary], first: int) -> int:
    """Write `users`: "categorical" [n, 2] int32, age and gender, in a vocabulary that begins at `first`; its end."""
    sizes = [known["age"].size, known["gender"].size]

    def columns() -> dict[str, np.ndarray]:
        rows = first_seen("users", days, writer.work, 0)
        assert rows is not None  # a day has rows
        rows = rows.sort("user_id")
        codes = [known[name](rows[name].to_numpy()) for name in ("age", "gender")]
        return {"categorical": side_by_side(list(zip(codes, sizes, strict=True)), first)[0]}

    writer.shard("users", "all", columns)
    return first + sum(sizes)
