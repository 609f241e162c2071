"""Lists of Ali-CCP: what a bucket of sessions becomes, a pure function of its rows.

Axes: n samples of the bucket, s sessions, U lists, K slots.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from hccp_jax.data import lists
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.data.sources.ali_ccp_files import codes, slot_names
from hccp_jax.data.sources.bucket_shards import Made
from hccp_jax.data.store import columns_of

CROSS = ("508", "509", "702", "853")
_MIX = 0x85EBCA6B  # another one than that of `buckets`


@dataclass(frozen=True)
class Known:
    """What all buckets share.

    Attributes:
        users: [users] int32 published ids, ascending; the id in a store is the place, from 1.
        items: [items] int32 likewise.
        categories: field of a request -> (ids that have a code, ascending; where its codes begin).
    """

    users: np.ndarray
    items: np.ndarray
    categories: dict[str, tuple[np.ndarray, int]]


def _joined(rows: pl.DataFrame, sessions: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Samples once, with the number of their session, by session, context and sample_id."""
    numbers = sessions.select("common_feature_index", session=pl.int_range(pl.len(), dtype=pl.Int64))
    once = numbers.unique("common_feature_index", keep="first", maintain_order=True)
    samples = rows.unique("sample_id", keep="first", maintain_order=True)
    joined = samples.join(once, on="common_feature_index", how="inner")
    counts = {
        "duplicates": rows.height - samples.height,
        "orphans": samples.height - joined.height,
        "twice": sessions.height - once.height,
    }
    return joined.sort("session", "301.0", "sample_id"), counts


def requests(rows: pl.DataFrame, sessions: pl.DataFrame, known: Known, config: Any, training: bool) -> Made:
    """Lists of the sessions of a bucket.

    Args:
        rows: samples, as `ali_ccp` spreads them.
        sessions: common features of these sessions and perhaps others.
        known: the vocabularies.
        config: an `AliCcpConfig`.
        training: whether these are the published training samples, of which some become the validation part.
    """
    frame, counts = _joined(rows, sessions)
    session, context = frame["session"].to_numpy(), frame["301.0"].to_numpy()
    slots = lists.lists_by((session, context), config.width)
    click = frame["click"].to_numpy()
    order = lists.reordered(slots, slots.slot, -click)
    item = np.searchsorted(known.items, frame["205.0"].to_numpy()) + 1
    of = sessions[session[slots.first]]

    def padded(values: np.ndarray, empty: int = 0) -> Any:
        return lists.padded(slots, config.width, values[order], empty)

    empty = np.zeros((len(slots.first), 1), np.int32)
    fields: dict[str, Any] = {
        "user": {
            "id": codes(of["101.0"].to_numpy(), known.users, -1).clip(0),
            "categorical": _categories(of, context[slots.first], known, config),
        },
        "history": {"id": empty, "groups": empty[..., None].astype(np.float32)},
        "history_mask": empty > 0,
        "items": {"id": padded(item.astype(np.int32))},
        "cross": padded(np.stack([frame[f"{name}.value"].to_numpy() for name in CROSS], axis=1)),
        "stage": padded(np.full(len(item), Stage.EXPOSED, np.int8)),
        "rank": padded(slots.slot.astype(np.int32), -1),
        "labels": {task: padded(frame[task].to_numpy().astype(np.float32)) for task in ("click", "purchase")},
        "mask": padded(np.ones(len(item), bool)),
    }
    columns = columns_of(RequestBatch(**fields, teacher={}))
    if not training:
        return Made({"test": columns}, counts)
    held = held_out(of["key"].to_numpy(), config.validation_percent)
    parts = {"train": ~held, "validation": held}
    return Made({part: {name: leaf[rows] for name, leaf in columns.items()} for part, rows in parts.items()}, counts)


def held_out(key: np.ndarray, percent: int) -> np.ndarray:
    """[n] bool, by 32 bits of the sessions' checksums: whether they are in the validation part."""
    mixed = key.astype(np.uint64) * np.uint64(_MIX) % np.uint64(1 << 32)
    return (mixed * np.uint64(100) >> np.uint64(32)) < percent


def _categories(of: pl.DataFrame, context: np.ndarray, known: Known, config: Any) -> np.ndarray:
    """[U, C] int32: the context, then the user's past."""
    parts = [codes(context[:, None], *known.categories["301"])]
    for name, width in config.pasts.items():
        ids = np.stack([of[column].to_numpy() for column in slot_names({name: width})], axis=1)
        parts.append(codes(ids, *known.categories[name]))
    return np.concatenate(parts, axis=1)
