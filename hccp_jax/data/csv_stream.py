"""Delimited text of any size, gzipped or not, a block at a time and strictly: nothing cut off or ragged passes.

pyarrow parses; what it refuses is looked for again by hand, since its errors name no row. Rows count from 1, after the
header where there is one; blank lines are none. A row is one line: a quote that is never closed would swallow others.
"""

import csv
import gzip
import io
import itertools
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
from pyarrow import compute as pc
from pyarrow import csv as arrow_csv

from hccp_jax.errors import UserError

BLOCK = 16 << 20
_SHOWN = 500  # characters of a header in a message
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
        try:  # pyarrow's rules, not Python's: no "1_0", no "+5", nothing of more than 64 bits
            plain = text.isascii() and text.isdecimal() and len(text) < 19  # most are, and a cast is slow
            value = int(text) if plain else pc.cast(pa.scalar(text.strip(" \t")), _TYPES[self.kind]).as_py()
        except pa.ArrowInvalid:
            return False
        low = -math.inf if self.low is None else self.low
        return math.isfinite(value) and low <= value and (self.high is None or value <= self.high)


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
    """A binary stream that knows its last byte and how many lines it has."""

    def __init__(self, path: Path) -> None:
        self.file = _opened(path)
        self.last, self.lines = b"", 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        found = self.file.read(size)
        self.last = found[-1:] or self.last
        self.lines += found.count(b"\n")
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
    file = _File(path, columns, _header(path, delimiter) if names is None else list(names), delimiter, header)
    rows = 0
    try:
        with _Watched(path) as watched:
            for batch in arrow_csv.open_csv(pa.PythonFile(watched, "r"), *file.options(block)):
                frame: Any = pl.from_arrow(batch)
                file.check(frame, rows)
                rows += frame.height
                if frame.height:  # a block of blank lines has none
                    yield frame
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error) as error:
        first = str(error).split("\n")[0] or type(error).__name__
        raise file.fault(rows) or UserError(f"{path.name}: {first}") from None
    if rows and watched.last != b"\n":
        raise UserError(f"{path.name}: row {rows}: cut off, no end of line; if nothing is missing, add one")
    if watched.lines != rows + header or not rows:  # blank lines, or some that a quote has swallowed
        fault = file.fault(rows)
        if fault is not None:
            raise fault


def _header(path: Path, delimiter: str) -> list[str]:
    try:
        with _opened(path) as file:
            first = file.readline(1 << 20).decode("utf-8-sig")
        return [name.strip() for name in next(csv.reader([first], delimiter=delimiter, strict=True), [])]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path.name}: row 0: no header can be read ({error})") from None


def _shown(names: Sequence[str]) -> str:
    """The columns of a file in a line, though it may not be text at all."""
    text = ", ".join(name if name.isprintable() else repr(name) for name in names)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


class _File:
    """What a file is expected to be; refuses, by a UserError, what it is not."""

    def __init__(
        self, path: Path, columns: Mapping[str, Column], names: list[str], delimiter: str, header: bool
    ) -> None:
        self.path, self.columns, self.names, self.delimiter, self.header = path, columns, names, delimiter, header
        for name in columns:
            if names.count(name) != 1:
                problem = "more than one" if name in names else "no"
                raise UserError(f"{path.name}: {problem} column {name}; found {_shown(names)}")

    def options(self, block: int) -> tuple[arrow_csv.ReadOptions, arrow_csv.ParseOptions, arrow_csv.ConvertOptions]:
        """For pyarrow."""
        return (
            arrow_csv.ReadOptions(block_size=block, column_names=self.names, skip_rows=int(self.header)),
            arrow_csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            arrow_csv.ConvertOptions(
                column_types={name: _TYPES[column.kind] for name, column in self.columns.items()},
                include_columns=list(self.columns),
                null_values=list(NOTHING),
                strings_can_be_null=True,
            ),
        )

    def check(self, frame: pl.DataFrame, passed: int) -> None:
        """Hold a block of rows, which follows so many others, to what the columns may hold."""
        first, fault = frame.height, ""
        for name, column in self.columns.items():
            bad = np.flatnonzero(_bad(frame[name], column))
            if len(bad) and bad[0] < first:
                first = int(bad[0])
                value = frame[name][first]
                fault = f"{name}={'nothing' if value is None else repr(value)}, expected {column.expected}"
        if fault:
            raise UserError(f"{self.path.name}: row {passed + first + 1}: {fault}")

    def fault(self, passed: int) -> UserError | None:
        """What is wrong with the first bad row, found by reading the file again line by line; None if nothing is.

        Args:
            passed: rows whose fields are known to be good.
        """
        row = line = 0
        try:
            with _opened(self.path) as file:
                text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
                reader = csv.reader(text, delimiter=self.delimiter, strict=True)
                for fields in reader:
                    lines, line = reader.line_num - line, reader.line_num
                    if not fields or (self.header and line == lines):
                        continue
                    row += 1
                    problem = f"a quote is closed only {lines - 1} lines later" if lines > 1 else ""
                    problem = problem or self._problem(fields, row > passed)
                    if problem:
                        return UserError(f"{self.path.name}: row {row}: {problem}")
        except csv.Error as error:
            problem = f"row {row + 1}: {error}"
        except (EOFError, OSError, zlib.error) as error:
            problem = f"cannot be read after row {row}: {error}"
        else:
            problem = "" if row else "row 1: no rows"
        return UserError(f"{self.path.name}: {problem}") if problem else None

    def _problem(self, fields: list[str], doubtful: bool) -> str:
        if len(fields) != len(self.names):
            return f"{len(fields)} fields, expected {len(self.names)}"
        for name, field in zip(self.names, fields, strict=True) if doubtful else ():
            if name not in self.columns:
                continue
            strange = re.search("[\udc80-\udcff]", field)  # a byte that could not be decoded
            if strange:
                return f"{name}: byte {ord(strange[0]) - 0xDC00:#x} is not UTF-8 text"
            if not self.columns[name].fits(field):
                return f"{name}={field!r}, expected {self.columns[name].expected}"
        return ""


def _bad(values: pl.Series, column: Column) -> np.ndarray:
    """[n] bool, which values are none of a column's."""
    bad = pl.Series([False]).new_from_index(0, len(values)) if column.missing else values.is_null()
    if column.choices:
        bad = bad | ~values.is_in(column.choices).fill_null(True)
    elif column.kind == "float":
        bad = bad | ~values.is_finite().fill_null(True)
    if column.low is not None:
        bad = bad | (values < column.low).fill_null(False)
    if column.high is not None:
        bad = bad | (values > column.high).fill_null(False)
    return bad.to_numpy()
