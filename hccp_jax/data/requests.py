"""The batch that every method, source and evaluator shares: one user a row, and a padded list of staged items.

Axes: U requests, K list slots, H history, F cross features; a task is a name of a label ("click", "purchase").
"""

import enum
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from flax import struct

from hccp_jax.errors import UserError


class Stage(enum.IntEnum):
    """The deepest stage an item of a request reached; the negatives of HCCP section 3.2 in brackets."""

    PADDING = 0
    EXPOSED = 1  # N1 where the label is 0
    RANKED = 2  # N2: entered ranking, not exposed
    PRERANKED = 3  # N3: retrieved, cut by the pre-ranker
    POOL = 4  # N5: drawn from the catalogue, not retrieved


@struct.dataclass
class RequestBatch:
    """A batch of requests. Lists are stored in the arranged order of HCCP 3.2.1, exposures first.

    Attributes:
        user: observable user and context features, each [U, ...]; ids are int32 and 0 is padding.
        history: features of past items, each [U, H, ...]; "id" is always there.
        history_mask: [U, H] bool, real history slots.
        items: item features, each [U, K, ...]; "id" is always there.
        cross: [U, K, F] float32 user-times-item features, or None; zero for pool items, which have none.
        stage: [U, K] int8, a `Stage`.
        rank: [U, K] int32, downstream order, 0 the best, -1 where the item was not ranked.
        labels: task -> [U, K] float32, meaningful where exposed.
        teacher: task -> [U, K] float32 logged ranker probabilities; may be empty.
        mask: [U, K] bool, real slots.
    """

    user: dict[str, jax.Array]
    history: dict[str, jax.Array]
    history_mask: jax.Array
    items: dict[str, jax.Array]
    cross: jax.Array | None
    stage: jax.Array
    rank: jax.Array
    labels: dict[str, jax.Array]
    teacher: dict[str, jax.Array]
    mask: jax.Array

    @property
    def exposed(self) -> jax.Array:
        """[U, K] bool: the impressions."""
        return self.stage == Stage.EXPOSED


def first_slots(log: RequestBatch, slots: int) -> RequestBatch:
    """The log with its lists cut to their first `slots` slots."""

    def cut(leaf: Any) -> Any:
        return leaf[:, :slots]

    return replace(
        log,
        items=jax.tree.map(cut, log.items),
        cross=None if log.cross is None else cut(log.cross),
        stage=cut(log.stage),
        rank=cut(log.rank),
        labels=jax.tree.map(cut, log.labels),
        teacher=jax.tree.map(cut, log.teacher),
        mask=cut(log.mask),
    )


def _refuse(field: str, problem: str, where: np.ndarray | None = None) -> None:
    place = "" if where is None else f", first at request {where[0]}" + (f", slot {where[1]}" if len(where) > 1 else "")
    raise UserError(f"requests: {field}{place}: {problem}")


def _check(field: str, bad: Any, problem: str, values: Any = None) -> None:
    if bad.any():
        where = np.argwhere(bad)[0]
        found = "" if values is None else f", found {values[tuple(where)]}"
        _refuse(field, problem + found, where)


def _check_array(field: str, array: Any, lead: tuple[int, ...], dtype: type | None) -> None:
    if array.shape[: len(lead)] != lead:
        _refuse(field, f"shape {array.shape} does not begin with {lead}")
    if dtype is not None and array.dtype != dtype:
        _refuse(field, f"dtype {array.dtype}, expected {np.dtype(dtype).name}")
    if np.issubdtype(array.dtype, np.floating):
        finite = np.isfinite(array)
        _check(field, ~finite.all(axis=tuple(range(len(lead), array.ndim))), "not finite")


def validate(batch: RequestBatch, vocabulary: Mapping[str, int] | None = None) -> RequestBatch:
    """Check a batch on the host and return it, with numpy leaves.

    Args:
        batch: arrays of any array type; not usable on traced values.
        vocabulary: table size of each id feature by its dotted name ("items.id", "user.id", "history.id"); an id must
            lie in [0, size).

    Returns:
        The same batch with numpy leaves.

    Raises:
        UserError: naming the field, the request and the slot of the first violation of the contract above.

    """
    batch = jax.tree.map(np.asarray, batch)
    lead = batch.mask.shape
    if len(lead) != 2:
        _refuse("mask", f"shape {lead}, expected [requests, slots]")
    requests = lead[:1]
    fixed = {"mask": (lead, np.bool_), "stage": (lead, np.int8), "rank": (lead, np.int32)}
    for field, (shape, dtype) in fixed.items():
        _check_array(field, getattr(batch, field), shape, dtype)
    _check_array("history_mask", batch.history_mask, requests, np.bool_)
    for group, shape in (("user", requests), ("history", batch.history_mask.shape), ("items", lead)):
        for name, array in getattr(batch, group).items():
            dtype = np.int32 if name == "id" or np.issubdtype(array.dtype, np.integer) else np.float32
            _check_array(f"{group}.{name}", array, shape, dtype)
            size = (vocabulary or {}).get(f"{group}.{name}")
            if size is not None:
                _check(f"{group}.{name}", (array < 0) | (array >= size), f"id outside [0, {size})", array)
    for group in ("labels", "teacher"):
        for name, array in getattr(batch, group).items():
            _check_array(f"{group}.{name}", array, lead, np.float32)
    if batch.cross is not None:
        _check_array("cross", batch.cross, lead, np.float32)
    for group in ("items", "history"):
        if "id" not in getattr(batch, group):
            _refuse(f"{group}.id", "missing")
    _check_consistency(batch)
    return batch


def _check_consistency(batch: RequestBatch) -> None:
    """The rules between fields: masks, stages, order and labels."""
    mask, stage, exposed = batch.mask, batch.stage, batch.stage == Stage.EXPOSED
    _check("stage", (stage < 0) | (stage > max(Stage)), f"expected 0..{max(Stage).value}", stage)
    _check("mask", mask != (stage != Stage.PADDING), "a slot is real exactly where its stage is not PADDING")
    _check("items.id", mask & (batch.items["id"] == 0), "real slot with id 0, which is padding")
    _check("items.id", ~mask & (batch.items["id"] != 0), "padding slot with a real id")
    late = np.pad(exposed[:, 1:] & ~exposed[:, :-1], ((0, 0), (1, 0)))
    _check("stage", late, "exposed item after an unexposed one; exposures come first")
    ranked = exposed | (stage == Stage.RANKED)
    _check("rank", ~ranked & (batch.rank != -1), "an item that was not ranked has rank -1", batch.rank)
    _check("rank", (stage == Stage.RANKED) & (batch.rank < 0), "a ranked item needs its downstream order", batch.rank)
    for task, label in batch.labels.items():
        _check(f"labels.{task}", (label != 0) & ~exposed, "feedback without an exposure", label)
        _check(f"labels.{task}", (label < 0) | (label > 1), "expected a value in [0, 1]", label)
