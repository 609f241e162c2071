"""Taobao UserBehavior (Tianchi 649) as it is published: UserBehavior.csv, without header, in no order of time.

    user,item,category,behavior(pv|fav|cart|buy),timestamp in seconds

Some timestamps lie outside the nine days of the data, by years; they are left out and counted. Days are those of China.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import polars as pl

from hccp_jax.config import field
from hccp_jax.data.csv_stream import Column, find, stream
from hccp_jax.data.sources.dataset import DataSet, Facts, PublishedFile
from hccp_jax.data.sources.events import EventsConfig, Raw, convert_events
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

ZONE = 8
BEHAVIORS = ("pv", "fav", "cart", "buy")
BYTES = 36  # of a row, about
NAMES = ("user", "item", "category", "behavior", "timestamp")
COLUMNS = {
    "user": Column(low=0),
    "item": Column(low=0),
    "category": Column(low=0),
    "behavior": Column("text", choices=BEHAVIORS),
    "timestamp": Column(),
}


@dataclass(frozen=True)
class UserBehaviorConfig(EventsConfig):
    """The protocol: ComiRec's, which takes page views only."""

    history: int = field(50, "items of a history", at_least=1)
    behaviors: tuple[str, ...] = field(("pv",), "what counts as an event", choices=BEHAVIORS)
    first_day: int = field(20171125, "first day, YYYYMMDD")
    last_day: int = field(20171203, "last day, YYYYMMDD")


def convert(folder: Path, protocol: UserBehaviorConfig, writer: StoreWriter, say: Callable[[str], None]) -> Facts:
    """Write the sequences of all users."""
    path = find(folder, "UserBehavior.csv")
    begin, end = _midnight("first_day", protocol.first_day), _midnight("last_day", protocol.last_day) + 86_400
    if begin >= end:
        raise UserError(f"last_day={protocol.last_day}: expected first_day={protocol.first_day} or later")
    told = {"events of other behaviors": 0, "events outside the days": 0}

    def frames() -> Iterator[pl.DataFrame]:
        for frame in stream(path, COLUMNS, names=NAMES):
            wanted = frame.filter(pl.col("behavior").is_in(protocol.behaviors))
            inside = wanted.filter(pl.col("timestamp").is_between(begin, end, closed="left"))
            told["events of other behaviors"] += frame.height - wanted.height
            told["events outside the days"] += wanted.height - inside.height
            yield inside.select("user", "item", "category", (pl.col("timestamp") * 1000).alias("time"))

    size = path.stat().st_size * (5 if path.suffix == ".gz" else 1)
    raw = Raw("taobao", frames, size // BYTES, lambda: told)
    return convert_events(raw, protocol, writer, say, zone=ZONE)


def _midnight(name: str, day: int) -> int:
    """Seconds since 1970 of the beginning of a day in China."""
    try:
        return int(datetime.strptime(str(day), "%Y%m%d").replace(tzinfo=timezone(timedelta(hours=ZONE))).timestamp())
    except ValueError:
        raise UserError(f"{name}={day}: expected a day as YYYYMMDD") from None


DATASETS = (
    DataSet(
        name="userbehavior",
        title="Taobao UserBehavior (Tianchi 649)",
        papers="CROLoss (Tables 2-4), prepared by ComiRec's protocol",
        where="https://tianchi.aliyun.com/dataset/649",
        licence="for research, not to be passed on; an account is needed",
        files=(PublishedFile("UserBehavior.csv", "100,150,807 rows, 987,994 users, 4,162,024 items"),),
        config=UserBehaviorConfig,
        convert=convert,
    ),
)
