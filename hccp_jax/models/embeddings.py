"""Embedding tables of users and items, shared between the towers."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from hccp_jax.data.catalogue import FeatureSpec


class Embeddings(nn.Module):
    """Looks up ids and categorical fields and joins them with dense features.

    Attributes:
        spec: vocabulary sizes.
        id_width: width of an id embedding.
        category_width: width of each categorical field's embedding.
        dtype: compute type of the result.
    """

    spec: FeatureSpec
    id_width: int
    category_width: int
    dtype: jnp.dtype

    def setup(self) -> None:
        """Create the four tables."""
        start = nn.initializers.normal(0.05)
        self.item_id = nn.Embed(self.spec.items, self.id_width, embedding_init=start)
        self.user_id = nn.Embed(self.spec.users, self.id_width, embedding_init=start)
        self.item_category = nn.Embed(self.spec.item_categories, self.category_width, embedding_init=start)
        self.user_category = nn.Embed(self.spec.user_categories, self.category_width, embedding_init=start)

    def items(self, features: dict[str, jax.Array]) -> jax.Array:
        """[..., D]: id, categorical fields and dense features of items given by "id", "categorical", "dense"."""
        return self._join(self.item_id(features["id"]), self.item_category, features)

    def user(self, features: dict[str, jax.Array]) -> jax.Array:
        """[U, D]: the same for users."""
        return self._join(self.user_id(features["id"]), self.user_category, features)

    def history(self, features: dict[str, jax.Array], mask: jax.Array) -> jax.Array:
        """[U, G * D]: weighted means of past items, one for each column of "groups"; zero for an empty group."""
        items = [self.item_id(features["id"])]
        if "categorical" in features:
            items.append(_flatten(self.item_category(features["categorical"])))
        weights = features["groups"] * mask[..., None]
        total = jnp.einsum("uhg,uhd->ugd", weights, jnp.concatenate(items, axis=-1))
        mean = total / jnp.maximum(weights.sum(axis=1), 1.0)[..., None]
        return mean.reshape(mean.shape[0], -1).astype(self.dtype)

    def _join(self, ids: jax.Array, table: nn.Embed, features: dict[str, jax.Array]) -> jax.Array:
        parts = [ids]
        if "categorical" in features:
            parts.append(_flatten(table(features["categorical"])))
        if "dense" in features:
            parts.append(features["dense"])
        return jnp.concatenate(parts, axis=-1).astype(self.dtype)


def _flatten(x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-2], -1)
