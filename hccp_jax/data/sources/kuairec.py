"""KuaiRec 2.0 (Gao et al., CIKM 2022): training on a usual log, test on a matrix that is observed almost everywhere.

`big_matrix.csv` is split by time into training and validation; a request is a list of one user's day. In the test part
a user's whole row of `small_matrix.csv` is one list, asked at the end of the big matrix: a feedback is known for nearly
every item of it, which no other public log has.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hccp_jax.config import field
from hccp_jax.data import buckets
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.csv_stream import Column, find, stream
from hccp_jax.data.fields import codes, several, side_by_side
from hccp_jax.data.guards import column
from hccp_jax.data.identities import Distinct, dense
from hccp_jax.data.kuairand import USER_FIELDS
from hccp_jax.data.lists import DAY_MS, lists_by, local_day
from hccp_jax.data.ratings import TASKS, Ratings, RatingsConfig, RequestLists, past_counts, past_mean
from hccp_jax.data.sources.dataset import DataSet, Facts, PublishedFile
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

ZONE = 8  # Asia/Shanghai, without daylight saving in 2020
BIG, SMALL = "big_matrix.csv", "small_matrix.csv"
ROW_BYTES = 75
_ID = Column(low=0, high=2**31 - 2)
COLUMNS = {
    "user_id": _ID,
    "video_id": _ID,
    "video_duration": Column(low=0, high=2**40),
    "timestamp": Column("float", low=0, high=2**33, missing=True),
    "watch_ratio": Column("float", low=0),
}


@dataclass(frozen=True)
class KuaiRecConfig:
    """How the matrices become requests."""

    watch_ratio_above: float = field(2.0, "a higher share of the video's length is a positive label", at_least=0)
    validation_days: int = field(3, "last days of the big matrix that form the validation part", at_least=1)
    exposed: int = field(20, "K of training and validation; a longer day goes on as another request", at_least=1)
    candidates: int = field(4000, "K of the test part at most; a longer row goes on as another request", at_least=1)
    history: int = field(50, "H: latest positive videos before the request", at_least=1)


def spread(folder: Path, work: Path, count: int, above: float) -> dict[str, Any]:
    """Scatter both matrices by user; counts, the time of the last row, and the ids and durations in files."""
    users, videos = Distinct(), Distinct()
    lengths: list[pl.DataFrame] = []
    found: dict[str, Any] = {"missing": 0, "latest": 0, "longest": 0}
    in_row: dict[int, int] = {}

    def read(name: str) -> Iterator[pl.DataFrame]:
        for frame in stream(find(folder, name), COLUMNS):
            users.add(frame["user_id"])
            videos.add(frame["video_id"])
            lengths.append(frame.group_by("video_id").agg(pl.col("video_duration").min()))
            if name == BIG:
                timed = frame.filter(pl.col("timestamp").is_not_null())
                found["missing"] += frame.height - timed.height
                frame = timed
                latest: Any = frame["timestamp"].max()
                found["latest"] = max(found["latest"], round((latest or 0) * 1000))
            else:
                for user, rows in frame["user_id"].value_counts().iter_rows():
                    in_row[user] = in_row.get(user, 0) + rows
            yield frame.select(
                "user_id",
                "video_id",
                (pl.col("timestamp").fill_null(0) * 1000).round().cast(pl.Int64).alias("time"),
                "watch_ratio",
                (pl.col("watch_ratio") > above).cast(pl.Float32).alias("positive"),
            )

    for name in (BIG, SMALL):
        found[name] = buckets.scatter(read(name), partial(buckets.of_key, "user_id"), count, work / name)
    durations = pl.concat(lengths).group_by("video_id").agg(pl.col("video_duration").min()).sort("video_id")
    durations.write_ipc(work / "videos.arrow")
    np.save(work / "users.npy", users.sorted().to_numpy())
    found["longest"] = max(in_row.values())
    return found


def request_lists(log: Ratings, known: Ratings, width: int, history: int) -> RequestLists:
    """Lists of a user's day, of impressions by user and time; features count `known` impressions before them."""
    slots = lists_by((log.user, local_day(log.time, ZONE)), width)
    user, before = log.user[slots.first], log.time[slots.first]
    count, positives = past_counts(known.user, known.time, known.positive, user, before)
    dense_user = np.stack([past_mean(count, positives), np.log1p(count) / 4.0], axis=1).astype(np.float32)
    none = np.zeros((len(log.user), 2), np.float32)
    settings = RatingsConfig(exposed=width, history=history)
    return RequestLists(log, np.zeros(len(log.user), np.int8), slots, known, dense_user, none, settings)


def item_table(folder: Path, videos: pl.Series) -> tuple[np.ndarray, int, list[str]]:
    """[1 + videos, C] int32 categories where `item_categories.csv` is there, else one for all; size, and a line."""
    path = _optional(folder, "item_categories.csv")
    if path is None:
        return (
            np.pad(np.ones((len(videos), 1), np.int32), ((1, 0), (0, 0))),
            2,
            ["no item_categories.csv: no categories"],
        )
    table = pl.concat(stream(path, {"video_id": _ID, "feat": Column("text")}))
    bad = ~table["feat"].str.contains(r"^\[\d+(, *\d+)*\]$")
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise UserError(f"{path.name}: row {row + 1}: feat={table['feat'][row]!r}, expected a list as [27,9]")
    joined = pl.DataFrame({"video_id": videos}).join(
        table.unique("video_id"), "video_id", "left", maintain_order="left"
    )
    numbers, count = several(joined["feat"].str.replace_all(r"[\[\] ]", "").str.split(","))
    return np.pad(numbers, ((1, 0), (0, 0))), count + 1, []


def user_table(folder: Path, users: pl.Series) -> tuple[np.ndarray, int, list[str]]:
    """[1 + users, C] int32 categories where `user_features.csv` is there, else one for all; size, and a line."""
    path = _optional(folder, "user_features.csv")
    if path is None:
        return np.pad(np.ones((len(users), 1), np.int32), ((1, 0), (0, 0))), 2, ["no user_features.csv: no categories"]
    fields = dict.fromkeys(USER_FIELDS, Column("text", missing=True))
    table = pl.concat(stream(path, {"user_id": _ID, **fields})).unique("user_id", keep="first")
    joined = pl.DataFrame({"user_id": users}).join(table, "user_id", "left", maintain_order="left")
    return *side_by_side([codes(joined[name]) for name in USER_FIELDS], 1), []


def _optional(folder: Path, name: str) -> Path | None:
    try:
        return find(folder, name)
    except UserError:
        return None


def convert(folder: Path, protocol: KuaiRecConfig, writer: StoreWriter, say: Callable[[str], None]) -> Facts:
    """Convert; see `data.sources.dataset`."""
    path = find(folder, BIG)
    rows = path.stat().st_size * (4 if path.suffix == ".gz" else 1) // ROW_BYTES
    count, work = buckets.how_many(rows), writer.work
    found = writer.step("spread", lambda: spread(folder, work, count, protocol.watch_ratio_above))
    say(f"rows: {BIG} {found[BIG]:,}, {SMALL} {found[SMALL]:,}")
    users, videos = pl.Series(np.load(work / "users.npy")), pl.read_ipc(work / "videos.arrow")
    last_day = int(local_day(np.array([found["latest"]]), ZONE)[0])
    border = (last_day - protocol.validation_days + 1) * DAY_MS - ZONE * 3_600_000
    width = min(protocol.candidates, found["longest"])

    def events(name: str, number: int) -> Ratings:
        frame = buckets.bucket_rows(work / name, number)
        if frame is None:
            return Ratings(*(np.zeros(0, kind) for kind in (np.int32, np.int32, np.float32, np.int64)))
        frame = frame.unique().sort("user_id", "time", "video_id", "watch_ratio")
        ids = dense(users, frame["user_id"]), dense(videos["video_id"], frame["video_id"])
        return Ratings(*ids, frame["positive"].to_numpy(), frame["time"].to_numpy())

    for number in range(count):
        big, small = events(BIG, number), events(SMALL, number)
        asked = small.at(np.lexsort((small.item, small.user)))
        asked = asked._replace(time=np.full(len(small.time), found["latest"] + 1))
        parts = {"train": big.at(big.time < border), "validation": big.at(big.time >= border), "test": asked}
        for part, log in parts.items():
            if len(log.user):
                lists = request_lists(log, big, width if part == "test" else protocol.exposed, protocol.history)
                writer.shard(part, f"{number:05}", partial(lists.shard, 0, len(lists.slots.first)))
    absent = [part for part in ("train", "validation", "test") if part not in writer.tables]
    if absent:
        raise UserError(f"validation_days={protocol.validation_days}: no rows in {', '.join(absent)}")
    kept = {part: sum(int(mask.sum()) for mask in column(writer.opened(part), "mask")) for part in writer.tables}
    of_users, user_size, user_lines = user_table(folder, users)
    of_items, item_size, item_lines = item_table(folder, videos["video_id"])
    seconds = np.log(np.fmax(videos["video_duration"].to_numpy() / 1000.0, 1.0)) - 3.0
    writer.table("users", {"categorical": of_users})
    writer.table("items", {"categorical": of_items, "dense": np.pad(seconds, (1, 0))[:, None].astype(np.float32)})
    sizes = {"user.id": len(users) + 1, "items.id": len(videos) + 1, "history.id": len(videos) + 1}
    return Facts(
        spec=FeatureSpec(sizes["user.id"], sizes["items.id"], user_size, item_size, TASKS, 1, 0),
        vocabulary=sizes,
        zone=ZONE,
        lines=[
            f"removed {found['missing']} rows of {BIG} without a time and "
            f"{found[BIG] - kept['train'] - kept['validation']} exact duplicates of it, "
            f"{found[SMALL] - kept['test']} of {SMALL}",
            f"click: watch_ratio above {protocol.watch_ratio_above:g}, as the authors suggest for a like with 2",
            *user_lines,
            *item_lines,
        ],
        warnings=[
            f"the test part is a whole matrix, asked after the last row of {BIG}; its feedback is of the same weeks, "
            "so that a history may be later than the feedback that is predicted",
            "daily statistics and play times are left out: they hold the labels",
        ],
    )


DATASETS = (
    DataSet(
        name="kuairec",
        title="KuaiRec 2.0 (Gao et al., CIKM 2022)",
        papers="unbiased evaluation on a fully observed matrix",
        where="https://kuairec.com",
        licence="CC BY-SA 4.0",
        files=(
            PublishedFile(BIG, "12,530,806 rows"),
            PublishedFile(SMALL, "4,676,570 rows"),
            PublishedFile("item_categories.csv", "optional"),
            PublishedFile("user_features.csv", "optional"),
        ),
        config=KuaiRecConfig,
        convert=convert,
        note="version 2.0 numbers videos without the unused one; do not mix it with files of version 1",
    ),
)
