"""Rows of a log too large for memory, spread over files by a key: all rows of a key are then read together.

What needs all events of a user at once (their order, lists, history) is so done a bucket at a time, at any size of log.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from hccp_jax.data.store_writer import WriteError

ROWS = 2_000_000  # of a bucket, to aim at; of a dozen numbers each: fewer where rows are wide
_HELD = 1 << 26  # bytes in memory before they are written
_MIX, _BITS = 0x9E3779B1, 32  # Knuth's multiplicative hashing
_BUCKET = "_bucket"


def how_many(rows: int, at_most: int = 512) -> int:
    """How many buckets so many rows need."""
    return max(1, min(at_most, -(-rows // ROWS)))


def of_key(key: str, count: int) -> pl.Expr:
    """The bucket in [0, count) of each row by an integer column; the same on every machine."""
    low = pl.col(key).cast(pl.Int64).reinterpret(signed=False) % (1 << _BITS)
    mixed = low * _MIX % (1 << _BITS)
    return (mixed * count // (1 << _BITS)).cast(pl.UInt32)


def scatter(frames: Iterable[pl.DataFrame], bucket: Callable[[int], pl.Expr], count: int, folder: Path) -> int:
    """Write the rows of all frames to `count` files of a folder, in their order; returns how many rows there were.

    Args:
        frames: with the same columns.
        bucket: count -> the number of each row's bucket.
        count: of buckets.
        folder: made if it is not there; buckets that it holds are removed.

    Raises:
        WriteError: if the disk does not take them.
    """
    rows = 0
    with ExitStack() as closed:
        files = _Files(folder, closed)
        for frame in _joined(frames):
            parts = frame.with_columns(bucket(count).alias(_BUCKET)).partition_by(_BUCKET, as_dict=True)
            for (number,), part in sorted(parts.items()):
                files.append(number, part.drop(_BUCKET).to_arrow())
            rows += frame.height
        files.finish()
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


def _joined(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The same rows in frames of about _HELD bytes, so that each adds a good piece to every bucket."""
    held: list[pl.DataFrame] = []
    size = 0
    for frame in frames:
        held.append(frame)
        size += int(frame.estimated_size())
        if size >= _HELD:
            yield pl.concat(held)
            held, size = [], 0
    if held:
        yield pl.concat(held)


class _Files:
    """The files of the buckets while they are written; what cannot be written is a WriteError."""

    def __init__(self, folder: Path, closed: ExitStack) -> None:
        self.folder, self.closed = folder, closed
        self.writers: dict[int, Any] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob("*.arrows"):
                path.unlink()
        except OSError as error:
            raise self._cannot(error) from None

    def append(self, number: int, table: pa.Table) -> None:
        """Add rows to a bucket."""
        try:
            if number not in self.writers:
                file = self.closed.enter_context(pa.OSFile(str(_path(self.folder, number)), "wb"))
                self.writers[number] = file, pa.ipc.new_stream(file, table.schema)
            self.writers[number][1].write_table(table)
        except OSError as error:
            raise self._cannot(error) from None

    def finish(self) -> None:
        """Let the files be on the disk for good: one that a power failure cuts would read as a shorter one."""
        try:
            for number, (file, writer) in self.writers.items():
                writer.close()
                file.close()
                with _path(self.folder, number).open("rb") as written:
                    os.fsync(written.fileno())
        except OSError as error:
            raise self._cannot(error) from None

    def _cannot(self, error: OSError) -> WriteError:
        return WriteError(f"output={self.folder}: cannot be written ({error.strerror})")
