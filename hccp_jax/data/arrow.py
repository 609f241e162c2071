"""NumPy arrays as Arrow columns and back, without a copy: rows of any fixed shape are nested fixed-size lists."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

BOOL = "bool"  # Arrow packs bits, which no memory map shows as an array: a byte each, and the schema says so


def describe(array: np.ndarray) -> dict:
    """Of a column: {"dtype": NumPy's name, "shape": of one row}."""
    return {"dtype": array.dtype.name, "shape": list(array.shape[1:])}


def to_arrow(array: np.ndarray) -> pa.Array:
    """[n, ...] -> a column of n rows.

    Raises:
        ValueError: for a row without numbers, which Arrow cannot tell from none, or a type that is no number.
    """
    if array.dtype.kind not in "biuf":
        raise ValueError(f"dtype {array.dtype}: expected bool, integers or floats")
    if 0 in array.shape[1:]:
        raise ValueError(f"shape {array.shape}: rows without numbers")
    array = np.ascontiguousarray(array)
    column = pa.array((array.view(np.uint8) if array.dtype == np.bool_ else array).reshape(-1))
    for size in reversed(array.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def write(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """One uncompressed Arrow file with all rows in one batch."""
    batch = pa.record_batch([to_arrow(array) for array in columns.values()], names=list(columns))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def read(path: Path, columns: Mapping[str, Mapping], rows: int) -> dict[str, np.ndarray]:
    """The columns of a file that `write` made, as read-only arrays on its memory map.

    Args:
        path: the file.
        columns: name -> what `describe` says, in the order of the file.
        rows: how many.

    Raises:
        ValueError: if the file holds anything else.
        OSError: if it cannot be opened.
    """
    with pa.memory_map(str(path)) as file:
        try:
            found = pa.ipc.open_file(file)
            batch = found.get_batch(0) if found.num_record_batches == 1 else None
        except pa.ArrowException as error:
            raise ValueError(str(error).splitlines()[0]) from None
    if batch is None or batch.num_rows != rows:
        raise ValueError(f"{0 if batch is None else batch.num_rows} rows, expected {rows}")
    if batch.schema.names != list(columns):
        raise ValueError(f"columns {', '.join(batch.schema.names)}; expected {', '.join(columns)}")
    return {name: _array(name, batch.column(name), kind, rows) for name, kind in columns.items()}


def _array(name: str, column: pa.Array, kind: Mapping, rows: int) -> np.ndarray:
    shape = []
    while pa.types.is_fixed_size_list(column.type):
        shape.append(column.type.list_size)
        column = column.flatten()
    wanted = np.dtype(np.uint8 if kind["dtype"] == BOOL else kind["dtype"])
    if shape != list(kind["shape"]) or column.type != pa.from_numpy_dtype(wanted) or column.null_count:
        raise ValueError(f"column {name} of {column.type}{shape}; expected {kind['dtype']}{list(kind['shape'])}")
    array = column.to_numpy(zero_copy_only=True).reshape((rows, *shape))
    return array.view(np.bool_) if kind["dtype"] == BOOL else array
