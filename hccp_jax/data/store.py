"""Logs on disk: a folder with one NumPy file a field, read through the memory map, so that a log need not fit memory.

A batch reads the rows that it needs and nothing else; what is read often stays in the system's page cache.
"""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.lib.format import open_memmap

from hccp_jax.data.requests import RequestBatch
from hccp_jax.errors import UserError

INDEX = "index.json"


def write(directory: Path, requests: int, parts: Iterable[RequestBatch]) -> None:
    """Write the first requests of several parts; the folder appears whole or not at all.

    Args:
        directory: where; one that is there stays as it is.
        requests: how many.
        parts: [n, ...] each, at least so many requests in all.

    Raises:
        UserError: if the folder cannot be written.
        ValueError: if the parts have fewer requests.
    """
    partial = directory.with_name(f"{directory.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        files: dict[str, np.memmap] = {}
        begin = 0
        for part in parts:
            count = min(len(part.mask), requests - begin)
            for name, leaf in _named(part).items():
                if name not in files:
                    shape = (requests, *leaf.shape[1:])
                    files[name] = open_memmap(partial / f"{name}.npy", "w+", leaf.dtype, shape)
                files[name][begin : begin + count] = leaf[:count]
            begin += count
            if begin == requests:
                break
        if begin < requests or not requests:
            raise ValueError(f"{begin} requests to write, expected {requests}")
        for file in files.values():
            file.flush()
        (partial / INDEX).write_text(json.dumps({"requests": requests, "fields": sorted(files)}, indent=1) + "\n")
        if not directory.exists():  # another process may have written the same
            os.replace(partial, directory)
    except OSError as error:
        raise UserError(f"store={directory}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def open_store(directory: Path) -> RequestBatch:
    """The log of a folder, with memory-mapped leaves [n, ...].

    Raises:
        UserError: if it is no such folder, or a field is missing or shorter than the index says.
    """
    try:
        index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
        found = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in index["fields"]}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"store={directory}: cannot be read ({error})") from None
    for name, leaf in found.items():
        if len(leaf) != index["requests"]:
            raise UserError(f"store={directory}: {name} has {len(leaf)} requests, expected {index['requests']}")
    values: dict[str, Any] = {}
    for item in fields(RequestBatch):
        whole = found.get(item.name)
        prefix = f"{item.name}."
        under = {name.removeprefix(prefix): leaf for name, leaf in found.items() if name.startswith(prefix)}
        values[item.name] = whole if whole is not None or item.name == "cross" else under
    return RequestBatch(**values)


def _named(batch: RequestBatch) -> dict[str, np.ndarray]:
    """Leaves by dotted name; a field that is None has none."""
    paths = jax.tree_util.tree_leaves_with_path(batch)
    return {".".join(_word(part) for part in path): np.asarray(leaf) for path, leaf in paths}


def _word(part: Any) -> str:
    return part.name if hasattr(part, "name") else str(part.key)
