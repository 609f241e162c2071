"""A prepared store of impressions as what training and evaluation read: sizes, feature tables, and logs on disk."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from hccp_jax.data.catalogue import Catalogue, FeatureSpec, with_frequency
from hccp_jax.data.guards import blocks
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.data.store import Store, Table
from hccp_jax.errors import UserError

PERIODS = "periods"  # in facts["more"]: how many there are of the daily statistics


@dataclass(frozen=True)
class StoredLogs:
    """The logs of a store.

    Attributes:
        store: where they lie.
        spec: sizes.
        catalogue: feature tables on the device.
        exposed: leading slots of training lists that may hold impressions.
        sequence: leading slots that may hold impressions or ranked items.
        has: what training requests have, in the words of `Method.needs`; cross features are the experiment's to say.
        impressions: [items] float32 of each item in training.
    """

    store: Store
    spec: FeatureSpec
    catalogue: Catalogue
    exposed: int
    sequence: int
    has: frozenset[str]
    impressions: np.ndarray

    def part(self, name: str) -> RequestBatch:
        """The requests of a part, on disk."""
        return self.store[name].requests()


def spec_of(store: Store) -> FeatureSpec:
    """The sizes of a store's features.

    Raises:
        UserError: for a store of anything else than impressions.
    """
    told = store.facts.get("spec")
    if told is None:
        source = store.facts.get("source", "a log")
        raise UserError(f"store={store.directory}: holds {source}, which has no lists of impressions")
    return FeatureSpec(**{**told, "tasks": tuple(told["tasks"])})


def read_logs(store: Store) -> StoredLogs:
    """Read the feature tables, and look through the training requests once.

    Raises:
        UserError: if the store has no training requests.
    """
    spec, table = spec_of(store), store["train"]
    exposed, sequence, stages, shown, past = _layout(table, spec.items)
    words = {Stage.RANKED: "ranked", Stage.PRERANKED: "preranked", Stage.POOL: "pool"}
    has = {word for stage, word in words.items() if stage in stages}
    has |= {"history"} if past else set()
    has |= {"teacher"} if any(name.startswith("teacher.") for name in table.columns) else set()
    return StoredLogs(store, spec, _catalogue(store, spec, shown), exposed, sequence, frozenset(has), shown)


def _layout(table: Table, items: int) -> tuple[int, int, set[Stage], np.ndarray, bool]:
    """Slots that hold impressions and ranked items, stages, impressions of each item, whether there is any history."""
    exposed, sequence, past = 1, 1, False
    stages: set[Stage] = set()
    shown = np.zeros(items, np.float32)
    for _, batch in blocks(table):
        stage: Any = np.asarray(batch.stage)
        there = {Stage(value) for value in np.unique(stage)}
        stages |= there
        past |= bool(np.asarray(batch.history_mask).any())
        for column in np.flatnonzero((stage == Stage.EXPOSED).any(axis=0))[-1:]:
            exposed = max(exposed, int(column) + 1)
        for column in np.flatnonzero(((stage == Stage.EXPOSED) | (stage == Stage.RANKED)).any(axis=0))[-1:]:
            sequence = max(sequence, int(column) + 1)
        shown += np.bincount(np.asarray(batch.items["id"])[stage == Stage.EXPOSED], minlength=items)
    return exposed, sequence, stages, shown, past


def _catalogue(store: Store, spec: FeatureSpec, shown: np.ndarray) -> Catalogue:
    def features(name: str) -> dict[str, Any]:
        if name not in store:
            return {}
        table = store[name]
        wanted = ("categorical", "dense", "group")
        return {column: jnp.asarray(np.asarray(table[column][:])) for column in table.columns if column in wanted}

    daily = None
    if "daily" in store:
        shape = (store.facts["more"][PERIODS], spec.items, -1)
        daily = jnp.asarray(np.asarray(store["daily"]["statistics"][:]).reshape(shape))
    return with_frequency(Catalogue(features("users"), features("items"), daily), shown)
