"""Sequences in the layout that ComiRec publishes and CROLoss uses: a user has one part, an event is a row.

    NAME_{train,valid,test}.txt     without header: user_id,item_id,order
    NAME_item_cate.txt              without header: item_id,cate_id; may be absent

each gzipped or not. `order` is the position in the user's sequence, from 0 on, and no time. Item ids run from 1, by
falling popularity. Excerpts are read too: NAME_train.first20000.txt ends inside a user, who is left out, and
PaddleRec's paddle_valid_part-0.txt has a user a line, whose history is cut to its last items.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hccp_jax.config import field
from hccp_jax.data import buckets
from hccp_jax.data.csv_stream import Column, stream
from hccp_jax.data.guards import PARTS
from hccp_jax.data.sequences import Lists, counts, write_shard
from hccp_jax.data.sources.comirec_lines import by_line
from hccp_jax.data.sources.dataset import DataSet, Facts, PublishedFile
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

WORDS = {"train": "train", "valid": "validation", "test": "test"}
NAMED = re.compile(r"(?P<name>.+)_(?P<part>train|valid|test)(?P<first>\.first\d+)?\.txt(\.gz)?")
LINES = re.compile(r"paddle_(?P<part>train|valid|test)_part-\d+\.txt(\.gz)?")
BYTES = 14  # of a row, about
LARGEST = 100_000_000  # an item id; ids are dense, and the table of items has a row for each
COLUMNS = {"user_id": Column(low=0, high=2**31 - 1), "item_id": Column(low=1, high=LARGEST), "order": Column(low=0)}
NO_NDCG = (
    "the released evaluation of ComiRec and CROLoss divides a user's DCG by the ideal of the items found, not of those "
    "there are: that is no NDCG; the experiment here divides by the true ideal"
)
BY_USER = (
    "parts are split by user, not by time: training has events that are later than those predicted, as in the papers"
)


@dataclass(frozen=True)
class ComiRecConfig:
    """The protocol: which files, and how long a history is."""

    name: str = field("", "NAME of the files, such as book; empty where the folder has one only")
    history: int = field(20, "items of a history; the papers take 20 on Amazon Books and 50 on Taobao", at_least=1)


@dataclass(frozen=True)
class PartFile:
    """A file of a part: where it is, whether it ends inside a user, whether it has a user a line."""

    path: Path
    cut: bool = False
    lines: bool = False


def convert(folder: Path, protocol: ComiRecConfig, writer: StoreWriter, say: Callable[[str], None]) -> Facts:
    """Write the parts that are there."""
    name, files = _files(folder, protocol.name)
    warnings, largest = [], 0
    for part in PARTS:
        if part not in files:
            warnings.append(f"{part}: no file of it in the folder")
            continue
        found = _part(part, files[part], writer)
        largest = max(largest, found["largest"])
        warnings += found["warnings"]
        say(f"{part}: {found['rows']:,} events of {files[part].path.name}")
    _disjoint(writer, files)
    items, of_items, category = _categories(folder, name, largest)
    warnings += of_items
    writer.table("items", {"category": category})
    told = {"name": name, "items": items, "history": protocol.history}
    lines = [f"{name}: {items - 1:,} items", *counts(writer)]
    return Facts(timed=False, more=told, lines=lines, warnings=[*warnings, BY_USER, NO_NDCG])


def _files(folder: Path, wanted: str) -> tuple[str, dict[str, PartFile]]:
    """The name of the data and the file of each part."""
    there = sorted(path for path in folder.iterdir() if path.is_file())
    named = [(match, path) for path in there if (match := NAMED.fullmatch(path.name))]
    names = sorted({match["name"] for match, _ in named})
    if wanted and wanted not in names:
        raise UserError(f"name={wanted!r}: no {wanted}_train.txt in {folder}; it has {', '.join(names) or 'none'}")
    if len(names) > 1 and not wanted:
        raise UserError(f"name='': expected one of {', '.join(names)}, as {folder} has several")
    name = wanted or "".join(names)
    files: dict[str, PartFile] = {}
    for match, path in named:
        if match["name"] == name:
            part = WORDS[match["part"]]
            if part in files:
                raise UserError(f"{path.name}: {part} is in {files[part].path.name} already; expected one file a part")
            files[part] = PartFile(path, cut=match["first"] is not None)
    for path in there:
        if match := LINES.fullmatch(path.name):
            files.setdefault(WORDS[match["part"]], PartFile(path, lines=True))
    if not files:
        raise UserError(f"input={folder}: no NAME_train.txt, NAME_valid.txt or NAME_test.txt there, gzipped or not")
    return name or "paddle", files


def _part(part: str, file: PartFile, writer: StoreWriter) -> dict[str, Any]:
    """Write one part, a bucket of users at a time; what was found in its file."""
    path = file.path
    size = path.stat().st_size * (4 if path.suffix == ".gz" else 1)
    count, folder = buckets.how_many(size // BYTES), writer.work / part

    def spread() -> dict[str, Any]:
        seen = {"largest": 0, "last": -1}
        warnings: list[str] = []
        frames = by_line(path, LARGEST, warnings.append) if file.lines else _rows(path)
        rows = buckets.scatter(_watched(frames, seen), partial(buckets.of_key, "user_id"), count, folder)
        if file.cut:
            warnings.append(f"{path.name}: an excerpt; its last user, {seen['last']}, may be cut and is left out")
        return {"rows": rows, "warnings": warnings, **seen}

    found = writer.step(f"events of {part}", spread)
    for number in range(count):
        without = found["last"] if file.cut else None
        write_shard(writer, part, f"{number:04}", partial(_lists, path, folder, number, without))
    if not len(writer.opened(f"sequences_{part}")):
        raise UserError(f"{path.name}: row {found['rows']}: no complete user")
    return found


def _rows(path: Path) -> Iterator[pl.DataFrame]:
    row = 0
    for frame in stream(path, COLUMNS, names=list(COLUMNS)):
        yield frame.with_columns(pl.int_range(row, row + frame.height, dtype=pl.Int64).alias("row"))
        row += frame.height


def _watched(frames: Iterator[pl.DataFrame], seen: dict[str, int]) -> Iterator[pl.DataFrame]:
    for frame in frames:
        seen["largest"] = max(seen["largest"], int(frame["item_id"].to_numpy().max()))
        seen["last"] = int(frame["user_id"][-1])
        yield frame


def _lists(path: Path, folder: Path, number: int, without: int | None) -> Lists:
    """The sequences of a bucket, by user.

    Raises:
        UserError: where a user's orders are not 0, 1, 2, ...
    """
    frame = buckets.bucket_rows(folder, number)
    if frame is None:
        return Lists(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32), None)
    if without is not None:
        frame = frame.filter(pl.col("user_id") != without)
    frame = frame.sort("user_id", "order", maintain_order=True)
    user, order = frame["user_id"].to_numpy(), frame["order"].to_numpy()
    first = np.flatnonzero(np.diff(user, prepend=-1))
    length = np.diff(first, append=len(user))
    expected = np.arange(len(user)) - np.repeat(first, length)
    if (order != expected).any():
        wrong = int(np.flatnonzero(order != expected)[0])
        row = frame["row"][wrong] + 1
        raise UserError(
            f"{path.name}: row {row}: order={order[wrong]}, expected {expected[wrong]}, "
            f"as user_id={user[wrong]} has each of 0, 1, 2, ... once"
        )
    item = frame["item_id"].to_numpy().astype(np.int32)
    return Lists(user[first].astype(np.int32), length.astype(np.int32), item, None)


def _disjoint(writer: StoreWriter, files: dict[str, PartFile]) -> None:
    """Refuse a user in two parts."""
    users = {part: np.asarray(writer.opened(f"sequences_{part}")["user"][:]) for part in PARTS if part in files}
    for part in users:
        for other in list(users)[: list(users).index(part)]:
            both = np.intersect1d(users[other], users[part], assume_unique=True)
            if len(both):
                raise UserError(
                    f"{files[part].path.name}: user_id={both[0]} is in {files[other].path.name}, too, and so are "
                    f"{len(both) - 1} more; expected each user in one file"
                )


def _categories(folder: Path, name: str, largest: int) -> tuple[int, list[str], np.ndarray]:
    """How many items there are with the padding, what to know of them, and their categories."""
    path = next((p for p in (folder / f"{name}_item_cate.txt{end}" for end in ("", ".gz")) if p.is_file()), None)
    if path is None:
        return largest + 1, ["no categories of items"], np.zeros(largest + 1, np.int32)
    columns = {"item_id": Column(low=1, high=LARGEST), "cate_id": Column(low=1, high=2**31 - 1)}
    frame = pl.concat(list(stream(path, columns, names=list(columns))))
    again = frame["item_id"].is_duplicated()
    if again.any():
        row = int(np.flatnonzero(~frame["item_id"].is_first_distinct().to_numpy())[0])
        raise UserError(f"{path.name}: row {row + 1}: item_id={frame['item_id'][row]} again, expected each item once")
    items = max(largest, int(frame["item_id"].to_numpy().max())) + 1
    category = np.zeros(items, np.int32)
    category[frame["item_id"].to_numpy()] = frame["cate_id"].to_numpy()
    unknown = int((category[1:] == 0).sum())
    return items, [f"{path.name}: {unknown:,} items have no category"] if unknown else [], category


DATASETS = (
    DataSet(
        name="comirec",
        title="Sequences in the layout of ComiRec and CROLoss",
        papers="CROLoss (Tables 2-4), on Amazon Books and Taobao prepared by ComiRec",
        where="https://github.com/THUDM/ComiRec (its README links the prepared data)",
        licence="that of the raw data: Amazon reviews and Tianchi are for research",
        files=(
            PublishedFile("NAME_train.txt", "80 % of the users"),
            PublishedFile("NAME_valid.txt"),
            PublishedFile("NAME_test.txt"),
            PublishedFile("NAME_item_cate.txt", "optional; book: 367,982 items, taobao: 1,708,530 items"),
        ),
        config=ComiRecConfig,
        convert=convert,
        note="NAME is book or taobao; take --history=50 for taobao",
    ),
)
