"""Guards against leaks and broken protocols, on for every source; one that trips stops the conversion.

They look at the tables of requests as they were written, not at what a source says of itself:

* parts do not overlap in time, and follow each other;
* no item of a history is as late as its request;
* no number that a model is given tells the label: a feature whose order alone separates clicks from the rest almost
  perfectly was made from them (play time has an AUC of .98);
* ids lie in their vocabularies, and everything is finite (`requests.validate`).

What is not an error but has to be known (users and items that only the test part has, duplicates, users with more
impressions than a person makes) is counted and becomes a line of the description.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from hccp_jax.data.requests import RequestBatch, Stage, validate
from hccp_jax.data.store import Table
from hccp_jax.errors import UserError

PARTS = ("train", "validation", "test")
TIME, HISTORY_TIME = "request_time", "history_time"  # [U] and [U, H] int64 milliseconds, beside the batch's own columns
BLOCK = 1 << 14  # requests looked at together
TELLS = 0.97  # an AUC that no honest feature has
SHOWN = 200_000  # impressions of a part that the search for such features looks at
BOT_DAILY = 1000  # impressions of a user and day that no person makes
_DAY_MS = 24 * 3_600_000


def blocks(table: Table, rows: int = BLOCK) -> Iterator[tuple[slice, RequestBatch]]:
    """A table of requests a block at a time, with NumPy leaves."""
    whole = table.requests()
    for begin in range(0, len(table), rows):
        part = slice(begin, min(begin + rows, len(table)))
        yield part, jax.tree.map(lambda leaf, part=part: np.asarray(leaf[part]), whole)


def check(parts: Mapping[str, Table], vocabulary: Mapping[str, int], timed: bool = True) -> list[str]:
    """Check the parts of a data set; returns what has to be known of them, a line each.

    Args:
        parts: some of PARTS, in that order, with the columns TIME and HISTORY_TIME where the data has times.
        vocabulary: of `requests.validate`.
        timed: whether parts are split by time; a published split by user is not, and its times are not compared.

    Raises:
        UserError: naming the part and the column that is at fault.
    """
    for name, table in parts.items():
        for _, batch in blocks(table):
            try:
                validate(batch, vocabulary)
            except UserError as error:
                raise UserError(f"{name}: {error}") from None
        _histories(name, table)
        _telling(name, table)
    if timed:
        _in_order(parts)
    return [*_overlap(parts), *_bots(parts)]


def _in_order(parts: Mapping[str, Table]) -> None:
    latest, before = None, ""
    for name, table in parts.items():
        if TIME not in table.columns or not len(table):
            continue
        times = np.asarray(table[TIME][:])
        if latest is not None and times.min() <= latest:
            raise UserError(f"{name}: {TIME}={times.min()} is not after the last of {before}, {latest}")
        latest, before = times.max(), name


def _histories(name: str, table: Table) -> None:
    if HISTORY_TIME not in table.columns:
        return
    for begin in range(0, len(table), BLOCK):
        part = slice(begin, min(begin + BLOCK, len(table)))
        late = np.asarray(table["history_mask"][part]) & (
            np.asarray(table[HISTORY_TIME][part]) >= np.asarray(table[TIME][part])[:, None]
        )
        if late.any():
            row, slot = np.argwhere(late)[0]
            raise UserError(f"{name}: {HISTORY_TIME} of request {begin + row}, slot {slot}: not before the request")


def _telling(name: str, table: Table) -> None:
    """Refuse a feature that tells a label of exposed items."""
    features: dict[str, list[np.ndarray]] = {}
    labels: dict[str, list[np.ndarray]] = {}
    seen = 0
    for _, batch in blocks(table):
        exposed: Any = batch.mask & (batch.stage == Stage.EXPOSED)
        seen += int(exposed.sum())
        for task, label in batch.labels.items():
            labels.setdefault(task, []).append(np.asarray(label)[exposed])
        for column, values in _numbers(batch, exposed).items():
            features.setdefault(column, []).append(values)
        if seen >= SHOWN:
            break
    for column, found in features.items():
        values = np.concatenate(found)
        for task, parts in labels.items():
            positive = np.concatenate(parts) > 0
            if not positive.any() or positive.all():
                continue
            area = _area(values, positive)
            if max(area, 1 - area) >= TELLS:
                raise UserError(f"{name}: {column} tells {task} (AUC {area:.3f}): it was made from the label")


def _numbers(batch: RequestBatch, exposed: np.ndarray) -> dict[str, np.ndarray]:
    """Each number of an exposed item or of its request that a model may be given, [impressions]."""
    found: dict[str, np.ndarray] = {}
    rows = np.nonzero(exposed)[0]
    groups = [(f"items.{name}", leaf, True) for name, leaf in batch.items.items()]
    groups += [(f"user.{name}", leaf, False) for name, leaf in batch.user.items()]
    groups += [("cross", batch.cross, True)] if batch.cross is not None else []
    for name, leaf, by_item in groups:
        array = np.asarray(leaf)
        if array.dtype.kind != "f":
            continue
        chosen = array[exposed] if by_item else array[rows]
        flat = chosen.reshape(len(chosen), -1)
        found |= {f"{name}[{index}]" if flat.shape[1] > 1 else name: flat[:, index] for index in range(flat.shape[1])}
    return found


def _area(values: np.ndarray, label: np.ndarray) -> float:
    """AUC, ties counted half."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2
    positives = label.sum()
    return float((rank[group][label].sum() - positives * (positives + 1) / 2) / (positives * (len(label) - positives)))


def _overlap(parts: Mapping[str, Table]) -> list[str]:
    """What the test part has that training has not."""
    if not {"train", "test"} <= parts.keys():
        return []
    lines = []
    for column, word in (("user.id", "users"), ("items.id", "items")):
        if column not in parts["train"].columns:
            continue
        known, new = _ids(parts["train"], column), _ids(parts["test"], column)
        both = int((new[: len(known)] & known[: len(new)]).sum())
        lines.append(f"{word}: {new.sum()} in test, {new.sum() - both} of them not in train")
    return lines


def _ids(table: Table, column: str) -> np.ndarray:
    """[largest id + 1] bool, which ids occur; they are dense, so a byte each is less than a list of them."""
    found = np.zeros(1, bool)
    for begin in range(0, len(table), BLOCK):
        ids = np.asarray(table[column][begin : begin + BLOCK])
        found = np.pad(found, (0, max(0, int(ids.max(initial=0)) + 1 - len(found))))
        found[ids] = True
    found[0] = False
    return found


def _bots(parts: Mapping[str, Table]) -> list[str]:
    """Users with more impressions a day than a person makes."""
    busy, most = 0, 0
    for table in parts.values():
        if TIME not in table.columns or "user.id" not in table.columns or not len(table):
            continue
        shown = np.concatenate([np.asarray(batch.exposed).sum(axis=1) for _, batch in blocks(table)])
        day = np.asarray(table[TIME][:]) // _DAY_MS
        key = day.astype(np.int64) * (1 << 32) + np.asarray(table["user.id"][:])
        _, group = np.unique(key, return_inverse=True)
        daily = np.bincount(group, weights=shown)
        busy, most = busy + int((daily > BOT_DAILY).sum()), max(most, int(daily.max(initial=0)))
    if not most:
        return []
    return [f"impressions of a user and day: at most {most}; {busy} user-days with more than {BOT_DAILY}"]
