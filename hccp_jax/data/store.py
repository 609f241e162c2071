"""Prepared logs on disk: tables of Arrow shards, read through the memory map, so that a log need not fit memory.

A store is a folder with `manifest.json` and uncompressed Arrow files. Its tables have columns of a fixed shape a row;
a table of requests has those of `RequestBatch` under dotted names ("items.id"). A batch reads the rows that it needs
and nothing else, from whichever shards they are in; what is read often stays in the system's page cache. Which rows a
step has is `data.order`'s to say, in constant time and without a permutation in memory.
"""

import bisect
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hccp_jax.data import arrow
from hccp_jax.data.requests import RequestBatch
from hccp_jax.errors import UserError

MANIFEST = "manifest.json"
FORMAT = 1
CHECKED_BYTES = 4 << 30  # a store up to here is read once when it is opened, to compare its checksums
_BLOCK = 1 << 24


class Rows:
    """An array [n, ...] that lies in several shards; indexed by rows, it reads those and no others."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        """Take arrays [n_i, ...] that follow each other."""
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self._ends[-1]), *parts[0].shape[1:])
        self.dtype, self.ndim = parts[0].dtype, parts[0].ndim
        self.nbytes = sum(part.nbytes for part in parts)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Rows by a slice, a number, or an integer array of any shape, whose shape the answer begins with."""
        if isinstance(index, tuple):
            leading = 1 if isinstance(index[0], slice) else np.ndim(index[0])
            return self[index[0]][(slice(None),) * leading + index[1:]]
        if isinstance(index, slice):
            return self._range(*index.indices(len(self)))
        wanted = np.asarray(index)
        if wanted.size and not (-len(self) <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"row {wanted.min()} or {wanted.max()} of {len(self)}")
        flat = np.where(wanted < 0, wanted + len(self), wanted).reshape(-1)
        found = np.empty((len(flat), *self.shape[1:]), self.dtype)
        shard = np.searchsorted(self._ends, flat, side="right")
        order = np.argsort(shard, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(shard[order])) + 1):
            if not len(places):
                break
            number = int(shard[places[0]])
            part = self._parts[number]
            found[places] = part[flat[places] - (int(self._ends[number]) - len(part))]
        return found.reshape((*wanted.shape, *self.shape[1:]))

    def _range(self, begin: int, end: int, step: int) -> np.ndarray:
        if step != 1:
            return self[np.arange(begin, end, step)]
        parts = []
        for number in range(bisect.bisect_right(self._ends, begin), len(self._parts)):
            first = int(self._ends[number]) - len(self._parts[number])
            if first >= end:
                break
            parts.append(self._parts[number][max(begin - first, 0) : end - first])
        return parts[0] if len(parts) == 1 else np.concatenate([self._parts[0][:0], *parts])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self._parts).astype(dtype or self.dtype, copy=False)


@dataclass(frozen=True)
class Table:
    """One table of a store.

    Attributes:
        directory: of the store.
        columns: name -> {"dtype", "shape"} of a row.
        shards: {"file", "rows", "bytes", "crc32"} each.
    """

    directory: Path
    columns: Mapping[str, Mapping]
    shards: Sequence[Mapping]

    def __len__(self) -> int:
        return sum(shard["rows"] for shard in self.shards)

    def __getitem__(self, name: str) -> Any:
        """A column [n, ...], memory-mapped."""
        return self._arrays[name]

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        found = [_opened(self.directory, shard, self.columns) for shard in self.shards]
        if len(found) == 1:
            return found[0]
        return {name: Rows([shard[name] for shard in found]) for name in self.columns}

    def requests(self) -> RequestBatch:
        """The table as a log, with memory-mapped leaves [n, ...]; columns that are none of a batch's are left out."""
        arrays, values = self._arrays, dict[str, Any]()
        for item in fields(RequestBatch):
            prefix = f"{item.name}."
            under = {name.removeprefix(prefix): leaf for name, leaf in arrays.items() if name.startswith(prefix)}
            values[item.name] = arrays.get(item.name, None if item.name == "cross" else under)
        return RequestBatch(**values)

    def loaded(self) -> RequestBatch:
        """The table as a log in memory, with NumPy leaves [n, ...]."""
        return jax.tree.map(lambda leaf: np.asarray(leaf[:]), self.requests())


@dataclass(frozen=True)
class Store:
    """An opened store.

    Attributes:
        directory: where it is.
        manifest: all of `manifest.json`; its "facts" are what the conversion knew of the data.
    """

    directory: Path
    manifest: Mapping[str, Any]

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the conversion said of the data."""
        return self.manifest["facts"]

    def __contains__(self, name: str) -> bool:
        return name in self.manifest["tables"]

    def __getitem__(self, name: str) -> Table:
        """A table by name."""
        if name not in self:
            there = ", ".join(self.manifest["tables"])
            raise UserError(f"store={self.directory}: no table {name}; it has {there}")
        table = self.manifest["tables"][name]
        return Table(self.directory, table["columns"], table["shards"])


def open_store(directory: Path, check: str = "auto") -> Store:
    """Open a store and verify it.

    Args:
        directory: where.
        check: "full" compares the checksum of every byte, "quick" sizes, schemas and row counts only; "auto" is full up
            to CHECKED_BYTES.

    Raises:
        UserError: one line, if it is no store or any part of it is not what the manifest says.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        tables = manifest["tables"]
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']}, expected {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"store={directory}: cannot be read ({error})") from None
    total = sum(shard["bytes"] for table in tables.values() for shard in table["shards"])
    full = check == "full" or (check == "auto" and total <= CHECKED_BYTES)
    for table in tables.values():
        for shard in table["shards"]:
            _opened(directory, shard, table["columns"])
            if full and checksum(directory / shard["file"]) != shard["crc32"]:
                raise UserError(f"store={directory}: {shard['file']} has changed since it was written")
    return Store(directory, manifest)


def _opened(directory: Path, shard: Mapping, columns: Mapping[str, Mapping]) -> dict[str, np.ndarray]:
    path = directory / shard["file"]
    try:
        size = path.stat().st_size
        if size != shard["bytes"]:
            raise ValueError(f"{size} bytes, expected {shard['bytes']}")
        return arrow.read(path, columns, shard["rows"])
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"store={directory}: {shard['file']} cannot be read ({why})") from None


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found


def columns_of(batch: RequestBatch) -> dict[str, np.ndarray]:
    """A batch's leaves by dotted name, the columns of a table of requests; a field that is None has none."""
    paths = jax.tree_util.tree_leaves_with_path(batch)
    word: Callable[[Any], str] = lambda part: part.name if hasattr(part, "name") else str(part.key)  # noqa: E731
    return {".".join(word(part) for part in path): np.asarray(leaf) for path, leaf in paths}
