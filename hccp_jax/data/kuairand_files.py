"""CSV files, gzipped or not, read whole and strictly: nothing cut off, ragged or out of range passes silently.

polars fills the missing fields of a short row with nulls and names no row in its errors, so rows are checked here.
"""

import csv
import gzip
import io
import zlib
from pathlib import Path

import polars as pl

from hccp_jax.errors import UserError


def find(data_dir: str | Path, name: str) -> Path | None:
    """The file in the directory or its `data` sub-folder, with or without `.gz`, or None."""
    folders = (Path(data_dir), Path(data_dir) / "data")
    options = (folder / (name + suffix) for folder in folders for suffix in ("", ".gz"))
    return next((path for path in options if path.is_file()), None)


def required(data_dir: str | Path, name: str) -> Path:
    """As `find`, but a file that is not there is refused."""
    path = find(data_dir, name)
    if path is None:
        raise UserError(f"data_dir={data_dir}: no {name} or {name}.gz there or in its data folder")
    return path


def read_bytes(path: Path) -> bytes:
    """The unpacked bytes of a file that is complete UTF-8 text and not empty."""
    raw = path.read_bytes()
    try:
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (EOFError, OSError, zlib.error) as problem:
        stream = zlib.decompressobj(31)
        try:
            readable = stream.decompress(raw).count(b"\n")
        except zlib.error:
            readable = 0
        raise UserError(f"{path.name}: gzip stream damaged after row {max(readable - 1, 0)}: {problem}") from None
    if not raw.strip():
        raise UserError(f"{path.name}: empty, expected a header and rows")
    try:
        raw.decode()
    except UnicodeDecodeError as problem:
        row = raw.count(b"\n", 0, problem.start)
        raise UserError(f"{path.name}: row {row}: byte {raw[problem.start]:#x} is not UTF-8 text") from None
    if not raw.endswith(b"\n"):
        row = raw.count(b"\n")
        raise UserError(f"{path.name}: row {row}: cut off, no end of line")
    return raw


def _ragged(path: Path, raw: bytes) -> None:
    """Refuse the first row whose number of fields is not the header's."""
    reader = csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True)
    try:
        width = len(next(reader))
        for row, fields in enumerate(reader, 1):
            if len(fields) != width:
                raise UserError(f"{path.name}: row {row}: {len(fields)} fields, expected {width}")
    except csv.Error as problem:
        raise UserError(f"{path.name}: row {reader.line_num - 1}: {problem}") from None


def read_text(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    """The whole file as text columns, with every row complete and `columns` among them; rows count from 1."""
    raw = read_bytes(path)
    try:
        frame = pl.read_csv(raw, infer_schema=False)
    except pl.exceptions.PolarsError as problem:
        _ragged(path, raw)
        raise UserError(f"{path.name}: {str(problem).splitlines()[0]}") from None
    absent = [name for name in columns if name not in frame.columns]
    if absent:
        raise UserError(f"{path.name}: no column {', '.join(absent)}; found {', '.join(frame.columns)}")
    if frame[frame.columns[-1]].null_count():  # polars fills short rows silently
        _ragged(path, raw)
    if frame.is_empty():
        raise UserError(f"{path.name}: row 1: no rows after the header")
    return frame


def refuse(path: Path, text: pl.Series, bad: pl.Series, expected: str) -> None:
    """Raise for the first row that is bad."""
    if bad.any():
        row = bad.arg_true()[0]
        found = "nothing" if text[row] is None else repr(text[row])
        raise UserError(f"{path.name}: row {row + 1}: {text.name}={found}, expected {expected}")


def integers(path: Path, frame: pl.DataFrame, limits: dict[str, tuple[int, int]]) -> pl.DataFrame:
    """Cast columns to Int64, each within [low, high]; a missing value is refused."""
    casted = []
    for name, (low, high) in limits.items():
        value = frame[name].cast(pl.Int64, strict=False)
        refuse(path, frame[name], ~value.is_between(low, high).fill_null(False), f"an integer in [{low}, {high}]")
        casted.append(value)
    return pl.DataFrame(casted)
