"""Embedding tables of users and items, shared between the towers."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.models.table import ITEMS, USERS, Table


class Embeddings(nn.Module):
    """Looks up ids and categorical fields and joins them with dense features.

    Attributes:
        spec: vocabulary sizes.
        id_width: width of an id embedding.
        category_width: width of each categorical field's embedding.
        dtype: compute type of the result.
        id_gate: the id embedding counts for items with at least so many times the mean impressions of an item in the
            log, by "log_frequency"; rarer ones are told by their other features alone. 0: for all.
    """

    spec: FeatureSpec
    id_width: int
    category_width: int
    dtype: jnp.dtype
    id_gate: float = 0.0

    def setup(self) -> None:
        """Create the four tables."""
        start = nn.initializers.normal(0.05)
        self.item_id = Table(ITEMS, self.spec.item_rows, self.id_width, start)
        self.user_id = Table(USERS, self.spec.user_rows, self.id_width, start)
        self.item_category = nn.Embed(self.spec.item_categories, self.category_width, embedding_init=start)
        self.user_category = nn.Embed(self.spec.user_categories, self.category_width, embedding_init=start)

    def item_fields(self, features: dict[str, jax.Array]) -> list[jax.Array]:
        """Fields [..., w] of items given by "id", "categorical", "dense": the id, each category, the dense features.

        Where there is "keep_id" [...] bool, the id embedding is 0 for the others.
        """
        ids = self.item_id(features)
        if self.id_gate > 0:
            frequent = features["log_frequency"] >= math.log(self.id_gate)
            ids = jnp.where(frequent[..., None], ids, 0)
        if "keep_id" in features:
            ids = jnp.where(features["keep_id"][..., None], ids, 0)
        return self._fields(ids, self.item_category, features)

    def user_fields(self, features: dict[str, jax.Array]) -> list[jax.Array]:
        """Fields [U, w] of users, in the same order."""
        return self._fields(self.user_id(features), self.user_category, features)

    def items(self, features: dict[str, jax.Array]) -> jax.Array:
        """[..., D]: the fields of items, joined."""
        return jnp.concatenate(self.item_fields(features), axis=-1)

    def user(self, features: dict[str, jax.Array]) -> jax.Array:
        """[U, D]: the fields of users, joined."""
        return jnp.concatenate(self.user_fields(features), axis=-1)

    def past_items(self, features: dict[str, jax.Array]) -> jax.Array:
        """[U, H, D]: what history tells of each past item, its id and categories."""
        fields = [self.item_id(features)]
        if "categorical" in features:
            fields.append(_flatten(self.item_category(features["categorical"])))
        return jnp.concatenate(fields, axis=-1)

    def history(self, features: dict[str, jax.Array], mask: jax.Array) -> jax.Array:
        """[U, G * D]: weighted means of past items, one for each column of "groups"; zero for an empty group."""
        weights = features["groups"] * mask[..., None]
        total = jnp.einsum("uhg,uhd->ugd", weights, self.past_items(features))
        mean = total / jnp.maximum(weights.sum(axis=1), 1.0)[..., None]
        return mean.reshape(mean.shape[0], -1).astype(self.dtype)

    def _fields(self, ids: jax.Array, table: nn.Embed, features: dict[str, jax.Array]) -> list[jax.Array]:
        fields = [ids]
        if "categorical" in features:
            categories = table(features["categorical"])
            fields += [categories[..., index, :] for index in range(categories.shape[-2])]
        if "dense" in features:
            fields.append(features["dense"])
        return [field.astype(self.dtype) for field in fields]


def _flatten(x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-2], -1)
