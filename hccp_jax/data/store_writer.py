"""Writing a store: it appears whole or not at all, and a conversion that was stopped goes on shard by shard.

While it is written a store is the folder NAME.partial, with a journal of the shards that are complete. The same command
finds it and makes only what is missing; another command (other input, other settings) begins afresh.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hccp_jax.data import arrow
from hccp_jax.data.requests import RequestBatch
from hccp_jax.data.store import FORMAT, MANIFEST, Store, Table, checksum, columns_of, open_store
from hccp_jax.errors import UserError

JOURNAL, WORK = "journal.json", "work"


class WriteError(UserError):
    """The disk does not take it; what is written stays, for a command that goes on."""


class StoreWriter(AbstractContextManager):
    """Writes one store; a context that releases its lock, and keeps the partial folder unless `finish` was called.

    Args:
        directory: where the store is to appear; nothing may be there.
        identity: what decides its content: source, settings, input files with sizes and times.

    Raises:
        UserError: if something is there already, cannot be written, or is being written by another command.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any]) -> None:
        self.directory = directory
        self.partial = directory.with_name(f"{directory.name}.partial")
        self.identity = json.loads(json.dumps(identity, default=str))
        if directory.exists():
            raise UserError(f"output={directory}: is there already; remove it or choose another")
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            self._lock = (self.partial / "lock").open("wb")
        except OSError as error:
            raise UserError(f"output={directory}: cannot be written ({error.strerror})") from None
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UserError(f"output={directory}: another command is writing it") from None
        self.journal = self._found()
        self.resumed = sum(len(shards) for shards in self.journal["shards"].values())
        self._names: dict[str, list[str]] = {}

    def _found(self) -> dict[str, Any]:
        """The journal of the same command, or a new one in an empty folder."""
        try:
            journal = json.loads((self.partial / JOURNAL).read_text(encoding="utf-8"))
            if journal["identity"] == self.identity:
                return journal
        except (OSError, ValueError, KeyError):
            pass
        for path in self.partial.iterdir():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return {"identity": self.identity, "steps": {}, "columns": {}, "shards": {}}

    def __exit__(self, *_: Any) -> None:
        self._lock.close()

    @property
    def work(self) -> Path:
        """A folder for what is needed between steps; gone when the store is finished."""
        path = self.partial / WORK
        path.mkdir(exist_ok=True)
        return path

    def step(self, name: str, make: Callable[[], Any]) -> Any:
        """What a step that is done once found, as JSON; a conversion that goes on does not do it again."""
        if name not in self.journal["steps"]:
            self.journal["steps"][name] = json.loads(json.dumps(make()))
            self._note()
        return self.journal["steps"][name]

    def shard(self, table: str, name: str, make: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Write columns [n, ...] as one shard of a table, unless an earlier command did; a shard may be empty.

        Args:
            table: which.
            name: of the shard within the table; shards are read in the order of these calls.
            make: columns of one height, with the dtypes and shapes of the table's other shards.

        Raises:
            UserError: if it cannot be written.
            ValueError: if the columns do not fit.
        """
        self._names.setdefault(table, []).append(name)
        if name in self.journal["shards"].setdefault(table, {}):
            return
        columns = {key: np.asarray(value) for key, value in make().items()}
        rows = {len(array) for array in columns.values()}
        if len(rows) != 1:
            heights = {key: len(array) for key, array in columns.items()}
            raise ValueError(f"table {table}: columns of different heights: {heights}")
        kinds = {key: arrow.describe(array) for key, array in columns.items()}
        if self.journal["columns"].setdefault(table, kinds) != kinds:
            raise ValueError(f"table {table}, shard {name}: columns {kinds}, before {self.journal['columns'][table]}")
        file = f"{table}-{name}.arrow"
        try:
            arrow.write(self.partial / f"{file}.tmp", columns)
            _durable(self.partial / f"{file}.tmp")
            os.replace(self.partial / f"{file}.tmp", self.partial / file)
        except OSError as error:
            raise self._cannot(error) from None
        path = self.partial / file
        entry = {"file": file, "rows": rows.pop(), "bytes": path.stat().st_size, "crc32": checksum(path)}
        self.journal["shards"][table][name] = entry
        self._note()

    def table(self, name: str, columns: Mapping[str, np.ndarray], rows: int = 1 << 16) -> None:
        """Write a table that is in memory, in shards of so many rows."""
        height = len(next(iter(columns.values())))
        for number, begin in enumerate(range(0, max(height, 1), rows)):
            part = slice(begin, begin + rows)
            self.shard(name, f"{number:05}", partial(_cut, columns, part))

    def requests(self, name: str, batch: RequestBatch, more: Mapping[str, np.ndarray] | None = None) -> None:
        """Write a log that is in memory, with more columns beside a batch's own."""
        self.table(name, {**columns_of(batch), **(more or {})})

    @property
    def tables(self) -> list[str]:
        """Names of the tables so far."""
        return list(self._names)

    def opened(self, table: str) -> Table:
        """A table as far as it is written."""
        shards = [self.journal["shards"][table][name] for name in self._names[table]]
        return Table(self.partial, self.journal["columns"][table], shards)

    def finish(self, facts: Mapping[str, Any]) -> Store:
        """Write the manifest and let the store appear.

        Args:
            facts: what is known of the data; see `data.convert`.
        """
        found = {name: self.opened(name) for name in self.tables}
        tables = {
            name: {"rows": len(table), "columns": table.columns, "shards": table.shards}
            for name, table in found.items()
        }
        manifest = {"format": FORMAT, "identity": self.identity, "facts": facts, "tables": tables}
        try:
            (self.partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            _durable(self.partial / MANIFEST)
            for name in (WORK, JOURNAL, "lock"):
                path = self.partial / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            os.rename(self.partial, self.directory)
        except OSError as error:
            raise self._cannot(error) from None
        return open_store(self.directory, "quick")

    def discard(self) -> None:
        """Remove the partial folder: what it was made from is of no use."""
        shutil.rmtree(self.partial, ignore_errors=True)

    def _note(self) -> None:
        path = self.partial / f"{JOURNAL}.tmp"
        try:
            path.write_text(json.dumps(self.journal), encoding="utf-8")
            _durable(path)
            os.replace(path, self.partial / JOURNAL)
        except OSError as error:
            raise self._cannot(error) from None

    def _cannot(self, error: OSError) -> WriteError:
        return WriteError(f"store={self.directory}: cannot be written ({error.strerror})")


def _cut(columns: Mapping[str, np.ndarray], rows: slice) -> dict[str, np.ndarray]:
    return {name: array[rows] for name, array in columns.items()}


def _durable(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_log(directory: Path, requests: int, parts: Iterable[RequestBatch], rows: int = 1 << 16) -> None:
    """Write the first requests of several parts as a store with one table, "log".

    Args:
        directory: where; a store that is there, or that another process finishes earlier, stays as it is.
        requests: how many.
        parts: [n, ...] each, at least so many requests in all.
        rows: of a shard, at least.

    Raises:
        UserError: if it cannot be written.
        ValueError: if the parts have fewer requests.
    """
    if directory.exists():
        return
    mine = directory.with_name(f"{directory.name}.{os.getpid()}")
    with StoreWriter(mine, {}) as writer:
        try:
            for number, shard in enumerate(_joined(parts, requests, rows)):
                writer.shard("log", f"{number:05}", partial(dict, shard))
            writer.finish({})
            if not directory.exists():
                os.rename(mine, directory)
        except OSError as error:
            raise UserError(f"store={directory}: cannot be written ({error.strerror})") from None
        finally:
            writer.discard()
            shutil.rmtree(mine, ignore_errors=True)


def _joined(parts: Iterable[RequestBatch], requests: int, rows: int) -> Iterator[dict[str, np.ndarray]]:
    """Columns of at least `rows` requests at a time, of the first so many in all."""
    held: list[dict[str, np.ndarray]] = []
    left, count = requests, 0
    for part in parts:
        columns = {name: leaf[:left] for name, leaf in columns_of(part).items()}
        held.append(columns)
        taken = len(columns["mask"])
        left, count = left - taken, count + taken
        if count >= rows or not left:
            yield {name: np.concatenate([one[name] for one in held]) for name in columns}
            held, count = [], 0
        if not left:
            return
    raise ValueError(f"{requests - left} requests to write, expected {requests}")
