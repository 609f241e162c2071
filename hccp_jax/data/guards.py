"""Guards against leaks and broken protocols, on for every source; one that trips stops the conversion.

They look at the tables of requests as they were written, not at what a source says of itself:

* parts do not overlap in time, and follow each other;
* no item of a history is as late as its request;
* no number of a request or of its items tells the label: a feature, other than an id, whose order alone separates
  clicks from the rest almost perfectly was made from them (play time has an AUC of .98);
* ids lie in their vocabularies, and everything is finite (`requests.validate`).

What is not an error but has to be known (users and items that only the test part has, duplicates, users with more
impressions than a person makes) is counted and becomes a line of the description.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from hccp_jax.data.lists import local_day
from hccp_jax.data.requests import RequestBatch, Stage, validate
from hccp_jax.data.store import Table
from hccp_jax.errors import UserError

PARTS = ("train", "validation", "test")
TIME, HISTORY_TIME = "request_time", "history_time"  # [U] and [U, H] int64 milliseconds, beside the batch's own columns
BLOCK = 1 << 14  # requests looked at together
TELLS = 0.97  # an AUC that no honest feature has
FEW = 30  # positives, or negatives, below which an order that separates them may be chance
SHOWN = 200_000  # impressions of a part that the search for such features looks at
BOT_DAILY = 1000  # impressions of a user and day that no person makes
_MANY = 1 << 20  # rows of a single column looked at together


def blocks(table: Table, rows: int = BLOCK) -> Iterator[tuple[slice, RequestBatch]]:
    """A table of requests a block at a time, with NumPy leaves."""
    whole = table.requests()
    for begin in range(0, len(table), rows):
        part = slice(begin, min(begin + rows, len(table)))
        yield part, jax.tree.map(lambda leaf, part=part: np.asarray(leaf[part]), whole)


def column(table: Table, name: str, rows: int = _MANY) -> Iterator[np.ndarray]:
    """A column of a table a block at a time."""
    for begin in range(0, len(table), rows):
        yield np.asarray(table[name][begin : begin + rows])


def period(table: Table) -> tuple[int, int] | None:
    """First and last time of a table's requests; None where it has no times or no requests."""
    if TIME not in table.columns or not len(table):
        return None
    ends = [(int(times.min()), int(times.max())) for times in column(table, TIME)]
    return min(first for first, _ in ends), max(last for _, last in ends)


def check(parts: Mapping[str, Table], vocabulary: Mapping[str, int], timed: bool = True, zone: int = 0) -> list[str]:
    """Check the parts of a data set; returns what has to be known of them, a line each.

    Args:
        parts: some of PARTS, in that order, with the columns TIME and HISTORY_TIME where the data has times.
        vocabulary: of `requests.validate`.
        timed: whether parts are split by time; a published split by user is not, and its times are not compared.
        zone: hours east of UTC in which days are counted.

    Raises:
        UserError: naming the part and the column that is at fault.
    """
    for name, table in parts.items():
        for rows, batch in blocks(table):
            try:
                validate(batch, vocabulary)
            except UserError as error:
                place = f" from request {rows.start}" if rows.start else ""
                raise UserError(f"{name}{place}: {error}") from None
        _histories(name, table)
        _telling(name, table)
    if timed:
        _in_order(parts)
    return [*_overlap(parts), *_bots(parts, zone)]


def _in_order(parts: Mapping[str, Table]) -> None:
    latest: int | None = None
    before = ""
    for name, table in parts.items():
        ends = period(table)
        if ends is None:
            continue
        if latest is not None and ends[0] <= latest:
            raise UserError(f"{name}: {TIME}={ends[0]} is not after the last of {before}, {latest}")
        latest, before = ends[1], name


def _histories(name: str, table: Table) -> None:
    if HISTORY_TIME not in table.columns:
        return
    if TIME not in table.columns:
        raise UserError(f"{name}: {HISTORY_TIME} without {TIME}")
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
        for feature, values in _numbers(batch, exposed).items():
            features.setdefault(feature, []).append(values)
        if seen >= SHOWN:
            break
    for feature, found in features.items():
        values = np.concatenate(found)
        for task, parts in labels.items():
            positive = np.concatenate(parts) > 0
            if min(positive.sum(), (~positive).sum()) < FEW:
                continue
            auc = area(values, positive)
            if max(auc, 1 - auc) >= TELLS:
                raise UserError(f"{name}: {feature} tells {task} (AUC {auc:.3f}): it was made from the label")


def _numbers(batch: RequestBatch, exposed: np.ndarray) -> dict[str, np.ndarray]:
    """Each number of an exposed item or of its request that a model may be given, [impressions]."""
    found: dict[str, np.ndarray] = {}
    rows = np.nonzero(exposed)[0]
    groups = [(f"items.{name}", leaf, True) for name, leaf in batch.items.items()]
    groups += [(f"user.{name}", leaf, False) for name, leaf in batch.user.items()]
    groups += [("cross", batch.cross, True)] if batch.cross is not None else []
    for name, leaf, by_item in groups:
        array = np.asarray(leaf)
        if name.endswith(".id"):
            continue
        chosen = array[exposed] if by_item else array[rows]
        flat = chosen.reshape(len(chosen), int(np.prod(chosen.shape[1:])))  # not -1: there may be none
        found |= {f"{name}[{index}]" if flat.shape[1] > 1 else name: flat[:, index] for index in range(flat.shape[1])}
    return found


def area(values: np.ndarray, label: np.ndarray) -> float:
    """AUC of [n] values for [n] bool labels, ties counted half; NaN where there is one class only."""
    if not label.any() or label.all():
        return float("nan")
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2
    positives = label.sum()
    return float((rank[group][label].sum() - positives * (positives + 1) / 2) / (positives * (len(label) - positives)))


def _overlap(parts: Mapping[str, Table]) -> list[str]:
    """What the test part has that training has not."""
    if not {"train", "test"} <= parts.keys():
        return []
    lines = []
    for name, word in (("user.id", "users"), ("items.id", "items")):
        if name not in parts["train"].columns:
            continue
        known, new = _present(parts["train"], name), _present(parts["test"], name)
        only = new.sum() - (new[: len(known)] & known[: len(new)]).sum()
        lines.append(f"{word}: {new.sum()} in test, {only} of them not in train")
    return lines


def _present(table: Table, name: str) -> np.ndarray:
    """[largest id + 1] bool, which ids a column has; padding is none."""
    found = np.zeros(1, bool)
    for ids in column(table, name, BLOCK):
        found = np.pad(found, (0, max(0, int(ids.max(initial=0)) + 1 - len(found))))
        found[ids] = True
    found[0] = False
    return found


def _bots(parts: Mapping[str, Table], zone: int) -> list[str]:
    """Users with more impressions a day than a person makes."""
    busy, most = 0, 0
    for table in parts.values():
        if TIME not in table.columns or "user.id" not in table.columns:
            continue
        daily = _daily(table, zone)
        busy, most = busy + int((daily > BOT_DAILY).sum()), max(most, int(daily.max(initial=0)))
    if not most:
        return []
    return [f"impressions of a user and day: at most {most}; {busy} user-days with more than {BOT_DAILY}"]


def _daily(table: Table, zone: int) -> np.ndarray:
    """[user-days] impressions of each user on each day, in no order."""
    keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for times, users, stages in zip(column(table, TIME), column(table, "user.id"), column(table, "stage"), strict=True):
        days = local_day(times, zone).astype(np.int64)
        keys, group = np.unique(np.concatenate([keys, (days << 32) + users]), return_inverse=True)
        known = users > 0  # users without an id are not one busy user
        shown = np.concatenate([counts, (stages == Stage.EXPOSED).sum(axis=1) * known])
        counts = np.bincount(group, weights=shown, minlength=len(keys)).astype(np.int64)
    return counts
