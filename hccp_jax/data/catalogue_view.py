"""Requests of users who are asked about the whole catalogue, block by block, and what they were looking for."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct

from hccp_jax.data.requests import RequestBatch, Stage


@struct.dataclass
class CatalogueView:
    """The whole catalogue for V users active in an evaluated period; features are frozen at its start.

    Attributes:
        requests: V rows with one empty slot each; `with_items` fills in a block of the catalogue.
        positives: task -> [V, Q] int32 ids that the user clicked (viewed long) in the period and had never seen before
            it, 0 = padding; Q differs by task and a user may have none.
        seen: [V, items] bool, to be left out of the ranking: padding and what the user saw before the period.
        popularity: name -> [items] float32 scores of the floors, known at the start of the period.
    """

    requests: RequestBatch
    positives: dict[str, jax.Array]
    seen: jax.Array
    popularity: dict[str, jax.Array]


def with_items(requests: RequestBatch, ids: jax.Array) -> RequestBatch:
    """The requests of a `CatalogueView` with candidates in place of the empty slot.

    Args:
        requests: V rows.
        ids: [V, B] int32 candidates, or [B] for the same ones in each row; 0 = padding.
    """
    ids = jnp.broadcast_to(ids, (len(requests.user["id"]), ids.shape[-1]))
    real = ids > 0
    blank = jnp.zeros(ids.shape, jnp.float32)
    return replace(
        requests,
        items={"id": ids},
        stage=jnp.where(real, int(Stage.POOL), int(Stage.PADDING)).astype(jnp.int8),
        rank=jnp.full(ids.shape, -1, jnp.int32),
        labels=dict.fromkeys(requests.labels, blank),
        mask=real,
    )
