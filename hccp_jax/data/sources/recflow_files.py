"""The published files of RecFlow: Feather tables read in record batches, and the histories in its pickles.

Column names have spaces around them in some files; they are taken without.
"""

import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from hccp_jax.data.lists import DAY_MS
from hccp_jax.data.sources.recflow_pickles import PickledArray, unpickled
from hccp_jax.errors import UserError

ZONE = 8  # Asia/Shanghai, without daylight saving
FLAGS = ("realshow", "rerank_pos", "rerank_neg", "rank_pos", "rank_neg", "coarse_neg", "prerank_neg")  # deepest first
FEEDBACK = ("effective_view", "long_view", "like", "follow", "forward", "comment")
USER_IDS = ("user_id", "device_id", "age", "gender", "province")
VIDEO_IDS = ("video_id", "author_id", "category_level_one", "category_level_two", "upload_type")
IDS = (*USER_IDS, *VIDEO_IDS)
VIDEO = (*VIDEO_IDS, "upload_timestamp", "duration")  # seconds; milliseconds
MOST_ID = (1 << 28) - 1  # three times the largest published id
RANK_MISSING = (1 << 31) - 1
BLOCK = 1 << 18  # rows looked at together
_HISTORY = 10  # columns of a behaviour; the published order is not that of the tables
_HISTORY_PLACES = {
    "video_id": 0,
    "author_id": 1,
    "category_level_two": 2,
    "category_level_one": 3,
    "upload_type": 4,
    "upload_timestamp": 5,
    "duration": 6,
    "time": 7,
}


class Bounds(NamedTuple):
    """The integers that a column may hold; `missing` replaces what is null, not a number or below `low`, if given."""

    low: int
    high: int
    missing: int | None = None


def bounds(day: str) -> dict[str, Bounds]:
    """Of all columns that are used of a day's table. A request may be a day off its file's name, not more."""
    begin = first_ms(day)
    limits = {"request_id": Bounds(0, 2**62), "request_timestamp": Bounds(begin - DAY_MS, begin + 2 * DAY_MS - 1)}
    limits |= dict.fromkeys(IDS, Bounds(0, MOST_ID))
    limits |= {"upload_timestamp": Bounds(-(10**10), 10**10), "duration": Bounds(-(10**12), 10**12)}
    limits |= dict.fromkeys((*FLAGS, *FEEDBACK), Bounds(0, 1))
    return limits | {"rank_index": Bounds(0, RANK_MISSING, RANK_MISSING)}


def first_ms(day: str) -> int:
    """Milliseconds since 1970 at which a day YYYY-MM-DD begins in Asia/Shanghai."""
    return (datetime.date.fromisoformat(day) - datetime.date(1970, 1, 1)).days * DAY_MS - ZONE * 3_600_000


def find(folder: Path, *names: str) -> Path | None:
    """The first of some paths that is in the folder or in its `data`."""
    places = (place / name for name in names for place in (folder, folder / "data"))
    return next((path for path in places if path.exists()), None)


def days(folder: Path) -> list[str]:
    """The days of the folder's `all_stage`, in order.

    Raises:
        UserError: if there are none, or a file is named otherwise.
    """
    place = find(folder, "all_stage")
    found = [] if place is None else sorted(path.stem for path in place.glob("*.feather") if path.stem != "example")
    if not found:
        raise UserError(f"input={folder}: no all_stage/YYYY-MM-DD.feather there or in its data folder")
    for day in found:
        if not is_day(day):
            raise UserError(f"all_stage/{day}.feather: expected a file for each day, YYYY-MM-DD.feather")
    return found


def is_day(text: str) -> bool:
    """Whether a text is a date YYYY-MM-DD."""
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def told(path: Path) -> str:
    """A file in an error: files of one name lie in several folders."""
    return f"{path.parent.name}/{path.name}"


def table(path: Path, columns: Mapping[str, Bounds]) -> Iterator[pl.DataFrame]:
    """Columns of a Feather file (Arrow IPC) as Int64, at most BLOCK rows at a time, in the order of the file.

    Raises:
        UserError: one line naming the file, row (from 1) and column of what is not as expected.
    """
    try:
        with pa.memory_map(str(path)) as file:
            names = [name.strip() for name in pa.ipc.open_file(file).schema.names]
            absent = [name for name in columns if name not in names]
            if absent:
                raise UserError(f"{told(path)}: no column {', '.join(absent)}; found {', '.join(names)}")
            options = pa.ipc.IpcReadOptions(included_fields=[names.index(name) for name in columns])
            reader = pa.ipc.open_file(file, options=options)
            row = 0
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                batch = batch.rename_columns([name.strip() for name in batch.schema.names])
                for begin in range(0, batch.num_rows, BLOCK):
                    part = batch.slice(begin, BLOCK)
                    yield pl.DataFrame({name: _integers(path, part, name, columns[name], row) for name in columns})
                    row += part.num_rows
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{told(path)}: {_why(path, error)}") from None


def _why(path: Path, error: Exception) -> str:
    """What is wrong with a file that Arrow does not read."""
    if path.stat().st_size == 0:
        return "empty; the repository of RecFlow holds placeholders, the data is elsewhere"
    with path.open("rb") as file:
        if file.read(4) == b"FEA1":
            return "Feather V1; expected V2, which is Arrow IPC"
    return f"not a whole Feather V2 (Arrow IPC) file: {str(error).splitlines()[0]}"


def _integers(path: Path, batch: pa.RecordBatch, name: str, limit: Bounds, before: int) -> pl.Series:
    column = batch.column(name)
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or (limit.missing is not None and _floats(kind))):
        raise UserError(f"{told(path)}: {name} is of {kind}, expected integers")
    values: Any = pl.from_arrow(column)
    if limit.missing is not None:
        values = values.fill_nan(None) if _floats(kind) else values
        values = values.set(values < limit.low, None).fill_null(limit.missing)
    bad = values.null_count() or values.min() < limit.low or values.max() > limit.high
    if bad:
        row = int((~values.is_between(limit.low, limit.high)).fill_null(True).arg_true()[0])
        shown = "nothing" if values[row] is None else values[row]
        wanted = f"an integer in [{limit.low}, {limit.high}]"
        raise UserError(f"{told(path)}: row {before + row + 1}: {name}={shown}, expected {wanted}")
    return values.cast(pl.Int64).alias(name)


def _floats(kind: Any) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_null(kind)


def rows(path: Path) -> int:
    """How many rows a Feather file has, without reading them."""
    try:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=[0]))
            return sum(reader.get_batch(number).num_rows for number in range(reader.num_record_batches))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{told(path)}: {_why(path, error)}") from None


def histories(path: Path, together: int = 4096) -> Iterator[pl.DataFrame]:
    """The behaviours before each request: `request_id`, the columns VIDEO and `time` (ms), Int64; padding is left out.

    Args:
        path: of a `seq_effective_50_dict`, {request_id: [n, 10] integers}, the oldest behaviour first; rows whose time
            is not positive are padding.
        together: how many requests are looked at together.

    Raises:
        UserError: naming the file and the request.
    """
    found = unpickled(path, told(path))
    while found:
        some = [_history(path, *found.popitem()) for _ in range(min(together, len(found)))]
        values = np.concatenate([value for _, value in some]).astype(np.int64, copy=False)
        request = np.repeat(np.array([key for key, _ in some], np.int64), [len(value) for _, value in some])
        real = values[:, _HISTORY_PLACES["time"]] > 0
        frame = {name: values[real, place] for name, place in _HISTORY_PLACES.items()}
        _check_history(path, request[real], frame)
        yield pl.DataFrame({"request_id": request[real], **frame})


def _history(path: Path, key: Any, value: Any) -> tuple[int, np.ndarray]:
    array = value.value if isinstance(value, PickledArray) else np.zeros(0)
    if not isinstance(key, int) or array.ndim != 2 or array.shape[1] != _HISTORY or array.dtype.kind not in "iu":
        what = f"{array.dtype}{list(array.shape)}" if isinstance(value, PickledArray) else type(value).__name__
        raise UserError(f"{told(path)}: request {key!r}: {what}, expected integers [50, {_HISTORY}]")
    return key, array


def _check_history(path: Path, request: np.ndarray, frame: Mapping[str, np.ndarray]) -> None:
    for name in VIDEO_IDS:
        bad = (frame[name] < 0) | (frame[name] > MOST_ID)
        if bad.any():
            first = int(np.argmax(bad))
            raise UserError(
                f"{told(path)}: request {request[first]}: {name}={frame[name][first]}, "
                f"expected an integer in [0, {MOST_ID}]"
            )
