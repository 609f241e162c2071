"""Logs with candidates of several stages, a row each, as padded lists: exposures first, then deeper stages first.

For data sets whose train and test parts are published as files. Axes: n rows, U requests, K list slots.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from hccp_jax.data.buckets import bucket_rows
from hccp_jax.data.lists import Slots, lists_by, padded
from hccp_jax.data.requests import Stage
from hccp_jax.errors import UserError


def published_parts(folder: Path, days: Sequence[str] = ()) -> dict[str, list[Path]]:
    """Files of the parts "train" and "test": in folders, or with names, that begin so; hidden and `_SUCCESS` are none.

    Args:
        folder: which has them, or whose `data` sub-folder has.
        days: sub-folders of the training part to take; all where none is named.

    Raises:
        UserError: if a part has no file.
    """
    found: dict[str, list[Path]] = {"train": [], "test": []}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        parts = path.relative_to(folder).parts
        parts = parts[1:] if parts[0] == "data" and len(parts) > 1 else parts
        name = next((name for name in found if parts[0].startswith(name)), None)
        skipped = path.name.startswith((".", "_")) or (name == "train" and days and parts[1] not in days)
        if name is not None and not skipped:
            found[name].append(path)
    for name, paths in found.items():
        if not paths:
            word = f" of days {', '.join(days)}" if days and name == "train" else ""
            raise UserError(f"input={folder}: no files of the {name} part{word}, expected a folder {name} with files")
    return found


def frames(paths: Iterable[Path], read: Callable[[Path], Iterator[pl.DataFrame]]) -> Iterator[pl.DataFrame]:
    """What `read` finds in each file; its errors name the file's folder too, since days have files of the same name."""
    for path in paths:
        try:
            yield from read(path)
        except UserError as error:
            raise UserError(f"{path.parent.name}/{error}") from None


def arranged(key: np.ndarray, stage: np.ndarray, width: int) -> tuple[np.ndarray, Slots]:
    """Where rows lie in lists of at most `width`.

    Args:
        key: [n] int request of each row.
        stage: [n] int8 `Stage`.
        width: K; what a request has beyond it goes on as another request.

    Returns:
        [n] the order of the rows, by request, stage and the order in which they came; and their slots in that order.
    """
    order = np.lexsort((stage, key))
    return order, lists_by((key[order],), width)


def pieces(slots: Slots, requests: int) -> Iterator[tuple[slice, Slots]]:
    """The rows of at most so many requests at a time, with their slots."""
    ends = np.append(slots.first, len(slots.row))
    for begin in range(0, len(slots.first), requests):
        end = min(begin + requests, len(slots.first))
        rows = slice(int(ends[begin]), int(ends[end]))
        yield rows, Slots(slots.row[rows] - begin, slots.slot[rows], slots.first[begin:end] - rows.start)


def columns(
    slots: Slots, width: int, item: np.ndarray, stage: np.ndarray, rank: np.ndarray, labels: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Columns of a table of requests without history, of rows [n] in the order of their slots.

    Args:
        slots: of the rows.
        width: K.
        item: int32 ids.
        stage: int8 `Stage`.
        rank: int32 downstream order, -1 where an item was not ranked.
        labels: task -> float32, of exposures; others count as 0.
    """
    requests = len(slots.first)
    found = {
        "history.id": np.zeros((requests, 1), np.int32),
        "history.groups": np.zeros((requests, 1, 1), np.float32),
        "history_mask": np.zeros((requests, 1), bool),
        "items.id": padded(slots, width, item.astype(np.int32)),
        "stage": padded(slots, width, stage.astype(np.int8), int(Stage.PADDING)),
        "rank": padded(slots, width, rank.astype(np.int32), -1),
        "mask": padded(slots, width, np.ones(len(item), bool)),
    }
    shown = stage == Stage.EXPOSED
    for task, label in labels.items():
        found[f"labels.{task}"] = padded(slots, width, np.where(shown, label, 0).astype(np.float32))
    return found


def group(frame: pl.DataFrame, names: Sequence[str]) -> np.ndarray:
    """[n] int64 number of each row's group of equal values, in the order in which groups come."""
    kinds = frame.select(names).unique(maintain_order=True).with_row_index("_group")
    return frame.select(names).join(kinds, on=names, how="left", maintain_order="left")["_group"].to_numpy().astype(int)


def measured(
    folder: Path,
    count: int,
    width: int,
    named: str,
    requests_of: Callable[[pl.DataFrame], tuple[pl.DataFrame, np.ndarray]],
) -> dict[str, int]:
    """Counts of all buckets of a part: duplicates, names, requests, the longest and those longer than a list.

    Args:
        folder: of the buckets.
        count: how many.
        width: K.
        named: column whose distinct values are counted as "names".
        requests_of: a bucket -> its distinct rows, and the request of each.
    """
    found = dict.fromkeys(("duplicates", "names", "requests", "longer", "longest"), 0)
    for number in range(count):
        frame = bucket_rows(folder, number)
        if frame is not None:
            rows, request = requests_of(frame)
            sizes = np.bincount(request)
            found["duplicates"] += frame.height - rows.height
            found["names"] += rows[named].n_unique()
            found["requests"] += len(sizes)
            found["longer"] += int((sizes > width).sum())
            found["longest"] = max(found["longest"], int(sizes.max()))
    return found


def present(size: int) -> dict[str, np.ndarray]:
    """A table of ids without features: {"present": [size] int8}, 0 for padding only."""
    return {"present": (np.arange(size) > 0).astype(np.int8)}
