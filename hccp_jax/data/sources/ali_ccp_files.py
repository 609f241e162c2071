"""The text of Ali-CCP: a list of features is one field of a row, its entries and their parts set apart by bytes 1 to 3.

Axes: n rows, e entries of all rows.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from pyarrow import csv as arrow_csv

from hccp_jax.data import csv_stream
from hccp_jax.data.csv_stream import Column
from hccp_jax.errors import UserError

_ENTRY = "^(?<field>[0-9_]+)\x02(?<id>[0-9]+)\x03(?<value>-?[0-9.]+(?:[eE][-+]?[0-9]+)?)$"
_AS_LINES = bytes.maketrans(b"\x01\x03", b"\n\x02")
_ENTRY_TYPES = arrow_csv.ConvertOptions(
    column_types={"field": pa.dictionary(pa.int32(), pa.string()), "id": pa.int32(), "value": pa.float32()},
    null_values=[],
)
_EXPECTED = "an entry field\\x02id\\x03value with an id below 2^31"
_LIST = {
    "common_feature_index": Column("text"),
    "feature_num": Column(low=1, high=2**31 - 1),
    "feature_list": Column("text"),
}
_LABEL = Column(low=0, high=1)
SKELETON = {"sample_id": Column(low=0), "click": _LABEL, "purchase": _LABEL, **_LIST}
COMMON = _LIST
_HELD = 2_000_000  # rows that wait to be merged
NONE = -1  # of a slot without an id


def read(path: Path, columns: Mapping[str, Column], widths: Mapping[str, int]) -> Iterator[pl.DataFrame]:
    """A file without its lists, but with the heaviest ids of the wanted fields.

    Args:
        path: the file, without a header.
        columns: SKELETON or COMMON.
        widths: field -> how many ids of it are kept.

    Yields:
        Frames with the columns but `feature_list`; "key" Int64, 32 bits of the index; for each field its ids
        "FIELD.0", "FIELD.1", ... Int32, NONE where there are fewer, and the value of the first, "FIELD.value" Float32,
        0 where there is none. The heaviest comes first, the smaller id where two weigh the same.

    Raises:
        UserError: one line naming the file, the row and what is not as documented.
    """
    rows = 0
    for frame in csv_stream.stream(path, columns, names=list(columns)):
        index = frame["common_feature_index"]
        _refuse(path, rows, index, ~index.str.contains("^[0-9a-fA-F]{8,}$"), "a hexadecimal checksum")
        slots = _slots(_entries(path, rows, frame, list(widths)), frame.height, widths)
        key = pl.col("common_feature_index").str.slice(0, 8).str.to_integer(base=16, dtype=pl.Int64).alias("key")
        yield frame.drop("feature_list", "feature_num").with_columns(key, **slots)
        rows += frame.height


def _refuse(path: Path, rows: int, values: pl.Series, bad: pl.Series, expected: str) -> None:
    if bad.any():
        row = int(bad.arg_true()[0])
        raise UserError(f"{path.name}: row {rows + row + 1}: {values.name}={values[row]!r:.80}, expected {expected}")


def _entries(path: Path, rows: int, frame: pl.DataFrame, fields: list[str]) -> pl.DataFrame:
    """[e] entries of the wanted fields: "group" is the row in the frame times all fields plus the field."""
    lists = frame["feature_list"]
    number = lists.str.count_matches("\x01", literal=True) + 1
    wrong = (number != frame["feature_num"]).arg_true()
    if len(wrong):
        row, found = int(wrong[0]), frame["feature_num"][int(wrong[0])]
        raise UserError(f"{path.name}: row {rows + row + 1}: {number[row]} entries in feature_list, expected {found}")
    # an entry a line and one mark between its parts is a delimited text of its own, which is parsed fastest
    text = lists.str.join("\n").item().encode().translate(_AS_LINES)
    reading = arrow_csv.ReadOptions(column_names=["field", "id", "value"], block_size=len(text) + 1, use_threads=False)
    parsing = arrow_csv.ParseOptions(delimiter="\x02", quote_char=False, ignore_empty_lines=False)
    try:
        table = arrow_csv.read_csv(pa.BufferReader(text), reading, parsing, _ENTRY_TYPES).combine_chunks()
    except pa.ArrowInvalid:
        raise _bad_entry(path, rows, lists) from None
    ids, values = table["id"].to_numpy(), table["value"].to_numpy()
    if len(ids) != number.sum() or not np.isfinite(values).all() or (ids < 0).any():
        raise _bad_entry(path, rows, lists)
    names: Any = table["field"].combine_chunks()
    codes_of = np.array([fields.index(name) if name in fields else -1 for name in names.dictionary.to_pylist()])
    code = codes_of[names.indices.to_numpy()]
    group = np.repeat(np.arange(len(lists)) * len(fields), number.to_numpy()) + code
    kept = code >= 0
    return pl.DataFrame({"group": group[kept], "id": ids[kept], "value": values[kept]})


def _bad_entry(path: Path, rows: int, lists: pl.Series) -> UserError:
    """The first entry that cannot be read."""
    entries = pl.DataFrame({"row": np.arange(len(lists)), "entry": lists.str.split("\x01")}).explode("entry")
    entry = entries["entry"].str.extract_groups(_ENTRY).struct
    number, value = entry.field("id").cast(pl.Int32, strict=False), entry.field("value").cast(pl.Float32, strict=False)
    bad = (number.is_null() | ~value.is_finite().fill_null(False)).arg_true()
    if not len(bad):
        return UserError(f"{path.name}: rows {rows + 1} to {rows + len(lists)}: feature_list cannot be read")
    row, shown = entries.row(int(bad[0]))
    return UserError(f"{path.name}: row {rows + row + 1}: feature_list has {shown!r:.80}, expected {_EXPECTED}")


def _slots(entries: pl.DataFrame, rows: int, widths: Mapping[str, int]) -> dict[str, pl.Series]:
    """Ids and values by column, as `read` says, of what `_entries` found."""
    numbers = entries["group"].to_numpy()
    crowded = pl.Series(np.bincount(numbers)[numbers] > 1)
    # most fields have one id, and need no order
    ordered = entries.filter(crowded).sort("group", "value", "id", descending=[False, True, False])
    kept = pl.concat([entries.filter(~crowded), ordered])
    group = kept["group"].to_numpy()
    begins = np.flatnonzero(np.diff(group, prepend=-1))
    place = np.arange(len(group)) - np.repeat(begins, np.diff(begins, append=len(group)))
    row, field = np.divmod(group, len(widths))
    starts = np.cumsum([0, *widths.values()])
    inside = place < np.diff(starts)[field]
    ids = np.full((rows, starts[-1]), NONE, np.int32)
    ids[row[inside], starts[field[inside]] + place[inside]] = kept["id"].to_numpy()[inside]
    values = np.zeros((rows, len(widths)), np.float32)
    values[row[begins], field[begins]] = kept["value"].to_numpy()[begins]
    found = {name: pl.Series(ids[:, number]) for number, name in enumerate(slot_names(widths))}
    return found | {f"{name}.value": pl.Series(values[:, number]) for number, name in enumerate(widths)}


def slot_names(widths: Mapping[str, int]) -> list[str]:
    """Names of the columns with ids."""
    return [f"{field}.{number}" for field, width in widths.items() for number in range(width)]


class Merged:
    """A table that grows by blocks and is merged now and then, so that it is never much larger than its keys."""

    def __init__(self, merge: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
        """Take what makes one row a key of many."""
        self._merge = merge
        self._held: list[pl.DataFrame] = []
        self._rows = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Rows of a block."""
        self._held.append(frame)
        self._rows += frame.height
        if self._rows >= _HELD:
            self._held, self._rows = [self._merge(pl.concat(self._held))], 0

    def table(self) -> pl.DataFrame:
        """One row a key."""
        return self._merge(pl.concat(self._held))


def first_seen(key: str, names: list[str]) -> Merged:
    """Features of each key where it is first seen, and "varies", whether they differ elsewhere."""
    differs = pl.any_horizontal(pl.col(name).min() < pl.col(name).max() for name in names)

    def merge(frame: pl.DataFrame) -> pl.DataFrame:
        by_key = frame.group_by(key, maintain_order=True)
        return by_key.agg(pl.col(*names).first(), (pl.col("varies").any() | differs).alias("varies"))

    return Merged(merge)


def frequencies() -> Merged:
    """Rows "field", "id" with their "count"."""
    return Merged(lambda frame: frame.group_by("field", "id").agg(pl.col("count").sum()))


def counted(frame: pl.DataFrame, widths: Mapping[str, int]) -> pl.DataFrame:
    """Rows "field", "id", "count" of the slots of some fields."""
    parts = [
        frame.select(pl.lit(field).alias("field"), pl.col(f"{field}.{number}").alias("id"))
        for field, width in widths.items()
        for number in range(width)
    ]
    known = pl.concat(parts).filter(pl.col("id") != NONE)
    return known.group_by("field", "id").agg(pl.len().cast(pl.Int64).alias("count"))


def codes(ids: np.ndarray, known: np.ndarray, first: int) -> np.ndarray:
    """Codes int32 of ids of any shape: `first` for none, then one for all that are not known, then the known ones.

    >>> codes(np.array([-1, 7, 5, 6]), np.array([5, 7]), 10).tolist()
    [10, 13, 12, 11]
    """
    if not len(known):
        return (first + (ids != NONE)).astype(np.int32)
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    code = np.where(known[place] == ids, place + 2, 1)
    return (first + np.where(ids == NONE, 0, code)).astype(np.int32)
