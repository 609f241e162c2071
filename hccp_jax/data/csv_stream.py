"""Delimited text of any size, gzipped or not, a block at a time and strictly: nothing cut off or ragged passes.

pyarrow parses; what it refuses is looked for again by hand, since its errors name no row. Rows count from 1, after the
header where there is one.
"""

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
from pyarrow import csv as arrow_csv

from hccp_jax.errors import UserError

BLOCK = 16 << 20
NOTHING = ("", "NULL", "null", "\\N")
_TYPES = {"int": pa.int64(), "float": pa.float64(), "text": pa.string()}


@dataclass(frozen=True)
class Column:
    """What a column holds.

    Attributes:
        kind: "int", "float" or "text".
        low: smallest number; None for any.
        high: largest number.
        missing: whether it may be empty or NULL; it is null then.
        choices: the texts there are; None for any.
    """

    kind: str = "int"
    low: float | None = None
    high: float | None = None
    missing: bool = False
    choices: tuple[str, ...] | None = None

    @property
    def expected(self) -> str:
        """In words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        word = {"int": "an integer", "float": "a number", "text": "text"}[self.kind]
        if self.low is not None or self.high is not None:
            word += (
                f" in [{self.low if self.low is not None else '-inf'}, {self.high if self.high is not None else 'inf'}]"
            )
        return word + (" or nothing" if self.missing else "")

    def fits(self, text: str) -> bool:
        """Whether a field of text is one of this column's."""
        if self.missing and text in NOTHING:
            return True
        if self.kind == "text":
            return text in self.choices if self.choices else text not in NOTHING
        try:
            value = int(text) if self.kind == "int" else float(text)
        except ValueError:
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


def find(folder: Path, *names: str) -> Path:
    """The first of some names that is in a folder or its `data` sub-folder, with or without `.gz`.

    Raises:
        UserError: if none is.
    """
    for name, place, suffix in itertools.product(names, (folder, folder / "data"), ("", ".gz")):
        if (place / (name + suffix)).is_file():
            return place / (name + suffix)
    raise UserError(f"input={folder}: no {' or '.join(names)} there, with or without .gz")


def _opened(path: Path) -> BinaryIO:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rb")


class _Watched(io.RawIOBase):
    """A binary stream that knows its last byte."""

    def __init__(self, path: Path) -> None:
        self.file = _opened(path)
        self.last = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        found = self.file.read(size)
        self.last = found[-1:] or self.last
        return found

    def close(self) -> None:
        self.file.close()
        super().close()


def stream(
    path: Path,
    columns: Mapping[str, Column],
    *,
    names: Sequence[str] | None = None,
    delimiter: str = ",",
    block: int = BLOCK,
) -> Iterator[pl.DataFrame]:
    """The wanted columns of a file, a block of rows at a time, in the order of the file.

    Args:
        path: the file.
        columns: the wanted ones.
        names: of all columns, for a file without a header; else the header's are taken, without spaces around them.
        delimiter: one character.
        block: bytes of text at a time.

    Yields:
        Frames with Int64, Float64 or String columns, null only where a column may be missing.

    Raises:
        UserError: one line naming the file, the row and the column of the first thing that is not as expected.
    """
    header = names is None
    found = list(names) if names is not None else _header(path, delimiter)
    absent = [name for name in columns if name not in found]
    if absent:
        raise UserError(f"{path.name}: no column {', '.join(absent)}; found {', '.join(found)}")
    reading = arrow_csv.ReadOptions(block_size=block, column_names=found, skip_rows=int(header))
    parsing = arrow_csv.ParseOptions(delimiter=delimiter)
    converting = arrow_csv.ConvertOptions(
        column_types={name: _TYPES[column.kind] for name, column in columns.items()},
        include_columns=list(columns),
        null_values=list(NOTHING),
        strings_can_be_null=True,
    )
    rows = 0
    with _Watched(path) as watched:
        try:
            reader = arrow_csv.open_csv(pa.PythonFile(watched, "r"), reading, parsing, converting)
            for batch in reader:
                frame: Any = pl.from_arrow(batch)
                _check(path, frame, columns, rows)
                rows += frame.height
                yield frame
        except (pa.ArrowInvalid, OSError, EOFError, zlib.error) as error:
            raise _explained(path, columns, found, delimiter, header, error) from None
        if rows and watched.last != b"\n":
            raise UserError(f"{path.name}: row {rows}: cut off, no end of line")
    if not rows:
        raise UserError(f"{path.name}: row 1: no rows")


def _header(path: Path, delimiter: str) -> list[str]:
    try:
        with _opened(path) as file:
            first = file.readline(1 << 20)
        return [name.strip().strip('"').strip() for name in first.decode("utf-8-sig").rstrip("\r\n").split(delimiter)]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path.name}: row 0: no header can be read ({error})") from None


def _check(path: Path, frame: pl.DataFrame, columns: Mapping[str, Column], rows: int) -> None:
    for name, column in columns.items():
        values = frame[name]
        bad = pl.Series([False]).new_from_index(0, frame.height) if column.missing else values.is_null()
        if column.choices:
            bad = bad | ~values.is_in(column.choices).fill_null(True)
        elif column.kind == "float":
            bad = bad | ~values.is_finite().fill_null(True)
        if column.low is not None:
            bad = bad | (values < column.low).fill_null(False)
        if column.high is not None:
            bad = bad | (values > column.high).fill_null(False)
        if bad.any():
            row = int(np.flatnonzero(bad.to_numpy())[0])
            shown = "nothing" if values[row] is None else repr(values[row])
            raise UserError(f"{path.name}: row {rows + row + 1}: {name}={shown}, expected {column.expected}")


def _explained(
    path: Path, columns: Mapping[str, Column], names: Sequence[str], delimiter: str, header: bool, error: Exception
) -> UserError:
    """The first row of the file that cannot be read, found by reading it again line by line."""
    row = 0
    try:
        opened: Any = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            for fields in itertools.islice(reader, int(header), None):
                if not fields:
                    continue
                row += 1
                if len(fields) != len(names):
                    return UserError(f"{path.name}: row {row}: {len(fields)} fields, expected {len(names)}")
                for name, field in zip(names, fields, strict=True):
                    if name in columns and not columns[name].fits(field):
                        expected = columns[name].expected
                        return UserError(f"{path.name}: row {row}: {name}={field!r}, expected {expected}")
    except UnicodeDecodeError as problem:
        return UserError(f"{path.name}: row {row + 1}: byte {problem.object[problem.start]:#x} is not UTF-8 text")
    except (EOFError, OSError, zlib.error) as problem:
        return UserError(f"{path.name}: gzip stream damaged after row {row}: {problem}")
    except csv.Error as problem:
        return UserError(f"{path.name}: row {row + 1}: {problem}")
    return UserError(f"{path.name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
