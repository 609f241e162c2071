"""Tables of item and user features, looked up by id when a batch is used: logs store ids, not copies of features."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hccp_jax.data.requests import RequestBatch


@struct.dataclass
class Catalogue:
    """Feature tables; row 0 of each is padding. Always an argument of a jitted function, never a captured constant.

    Attributes:
        users: "categorical" [users, C] int32 (fields share one vocabulary, already offset; 0 = unknown) and "dense"
            [users, D] float32; either may be absent.
        items: the same for items, [items, ...].
        daily: [days, items, S] float32 item statistics known when a day begins, or None.
    """

    users: dict[str, jax.Array]
    items: dict[str, jax.Array]
    daily: jax.Array | None = None


@dataclass(frozen=True)
class FeatureSpec:
    """Static sizes that a model needs to be built. Vocabularies include the padding id 0.

    Attributes:
        users: user ids there are.
        items: item ids there are.
        user_categories: size of the shared vocabulary of all categorical user fields.
        item_categories: the same for items.
        tasks: names of the feedback labels, the first one is the click.
        history_groups: G, the ways history is pooled.
        cross: F, user-times-item features; 0 for none.
        hashed_users: rows that users share; 0: each has its own. See `vocabulary.hashed`.
        hashed_items: the same for items.
    """

    users: int
    items: int
    user_categories: int
    item_categories: int
    tasks: tuple[str, ...]
    history_groups: int
    cross: int
    hashed_users: int = 0
    hashed_items: int = 0

    @property
    def user_rows(self) -> int:
        """Rows of a table of users."""
        return self.hashed_users or self.users

    @property
    def item_rows(self) -> int:
        """Rows of a table of items."""
        return self.hashed_items or self.items


def attach(batch: RequestBatch, catalogue: Catalogue) -> RequestBatch:
    """Add the catalogue's features to a stored batch.

    Items gain "categorical" [U, K, C] and "dense" [U, K, D(+S)], history gains "categorical" [U, H, C], the user gains
    "categorical" [U, C] and "dense" [U, D]; dense user features already in the batch are kept and come first. All gain
    the "row" of their id where the catalogue tells one (`vocabulary.hashed`). Where the catalogue has daily tables,
    `user["day"]` [U] int32 chooses the row and the statistics are appended to "dense".
    """
    ids, user_ids = batch.items["id"], batch.user["id"]
    items = batch.items | {name: table[ids] for name, table in catalogue.items.items()}
    if catalogue.daily is not None:
        statistics = catalogue.daily[batch.user["day"][:, None], ids]
        parts = [items["dense"], statistics] if "dense" in items else [statistics]
        items["dense"] = jnp.concatenate(parts, axis=-1)
    history = dict(batch.history)
    for name in {"categorical", "row"} & catalogue.items.keys():
        history[name] = catalogue.items[name][history["id"]]
    user = dict(batch.user)
    for name, table in catalogue.users.items():
        rows = table[user_ids]
        user[name] = jnp.concatenate([user[name], rows], axis=-1) if name in user else rows
    return replace(batch, items=items, history=history, user=user)


def every_item(catalogue: Catalogue) -> dict[str, jax.Array]:
    """Features of all items with their ids, row 0 (padding) included: what item sides are computed ahead from.

    Daily statistics are not among them; they depend on a request's day.
    """
    rows = len(next(iter(catalogue.items.values())))
    return catalogue.items | {"id": jnp.arange(rows, dtype=jnp.int32)}


def with_frequency(catalogue: Catalogue, counts: np.ndarray) -> Catalogue:
    """Add "log_frequency": log of an item's share of impressions over that of a uniform draw, smoothed by one."""
    smoothed = counts[1:] + 1.0
    relative = np.r_[0.0, np.log(smoothed / smoothed.mean())].astype(np.float32)
    return replace(catalogue, items=catalogue.items | {"log_frequency": jnp.asarray(relative)})
