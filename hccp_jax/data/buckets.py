"""Rows of a log too large for memory, spread over files by a key: all rows of a key are then read together.

What needs all events of a user at once (their order, lists, history) is so done a bucket at a time, at any size of log.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

ROWS = 4_000_000  # of a bucket, to aim at
_HELD = 1 << 21  # rows in memory before they are written
_MIX, _BITS = 0x9E3779B1, 32  # Knuth's multiplicative hashing


def how_many(rows: int, at_most: int = 512) -> int:
    """How many buckets so many rows need."""
    return max(1, min(at_most, -(-rows // ROWS)))


def of_key(key: str, count: int) -> pl.Expr:
    """The bucket in [0, count) of each row by an integer column; the same on every machine."""
    mixed = (pl.col(key).cast(pl.UInt64) % (1 << _BITS)) * _MIX % (1 << _BITS)
    return (mixed * count // (1 << _BITS)).cast(pl.UInt32)


def scatter(frames: Iterable[pl.DataFrame], bucket: Callable[[int], pl.Expr], count: int, folder: Path) -> int:
    """Write the rows of all frames to `count` files of a folder, in their order; returns how many rows there were.

    Args:
        frames: with the same columns.
        bucket: count -> the number of each row's bucket.
        count: of buckets.
        folder: made if it is not there; what it holds is written over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writers: dict[int, Any] = {}
    held: list[pl.DataFrame] = []
    rows = 0

    def flush() -> None:
        if not held:
            return
        parts = pl.concat(held).with_columns(bucket(count).alias("_bucket")).partition_by("_bucket", as_dict=True)
        for (number,), part in sorted(parts.items()):
            table = part.drop("_bucket").to_arrow()
            if number not in writers:
                file = pa.OSFile(str(_path(folder, number)), "wb")
                writers[number] = (file, pa.ipc.new_stream(file, table.schema))
            writers[number][1].write_table(table)
        held.clear()

    try:
        for frame in frames:
            held.append(frame)
            rows += frame.height
            if sum(part.height for part in held) >= _HELD:
                flush()
        flush()
    finally:
        for file, writer in writers.values():
            writer.close()
            file.close()
    return rows


def bucket_rows(folder: Path, number: int) -> pl.DataFrame | None:
    """The rows of a bucket, in the order in which they came; None where there are none."""
    path = _path(folder, number)
    if not path.exists():
        return None
    with pa.memory_map(str(path)) as file:
        found: Any = pl.from_arrow(pa.ipc.open_stream(file).read_all())
    return found


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:04}.arrows"
