"""Logistic regression, the weakest pre-ranker of RankTower's Table 1: one weight for each feature, and no interaction.

The paper names it only. As additive scores go, what depends on the user alone moves all candidates of a request
alike: it calibrates and ranks nothing. The order comes from the item's weights and from the cross features, which are
the only place where user and item meet.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.models.pair_model import PairModel
from hccp_jax.models.table import ITEMS, USERS, Table


@dataclass(frozen=True)
class LogisticConfig:
    """A logistic regression has no sizes besides its features."""

    dtype: str = field("float32", "compute type; sums stay float32", choices=("float32", "bfloat16"))


class LogisticRegression(PairModel):
    """z = user part + item part + cross part + bias, as one logit that serves every task.

    Weights of ids, categories and past items are tables of width 1 (of width G for past items: one for each history
    group) that begin at zero, as does everything else: the loss is convex.

    Attributes:
        config: compute type.
        spec: vocabulary sizes.
    """

    config: LogisticConfig
    spec: FeatureSpec

    def setup(self) -> None:
        """Create the weights."""
        spec, dtype, zeros = self.spec, jnp.dtype(self.config.dtype), nn.initializers.zeros
        self.user_id = Table(USERS, spec.user_rows, 1, zeros)
        self.item_id = Table(ITEMS, spec.item_rows, 1, zeros)
        self.user_category = nn.Embed(spec.user_categories, 1, embedding_init=zeros)
        self.item_category = nn.Embed(spec.item_categories, 1, embedding_init=zeros)
        self.past_item = Table(ITEMS, spec.item_rows, spec.history_groups, zeros)
        self.user_dense = nn.Dense(1, use_bias=False, kernel_init=zeros, dtype=dtype)
        self.item_dense = nn.Dense(1, use_bias=False, kernel_init=zeros, dtype=dtype)
        if spec.cross:
            self.cross_weight = nn.Dense(1, use_bias=False, kernel_init=zeros, dtype=dtype)
        self.bias = self.param("bias", zeros, ())

    def user_side(self, user: dict, history: dict, history_mask: jax.Array) -> jax.Array:
        """[U] float32: the user's own weights, those of past items summed in each history group, and the bias."""
        own = _sum_of_weights(user, self.user_id, self.user_category, self.user_dense)
        weights = history["groups"] * history_mask[..., None]
        past = jnp.sum(weights * self.past_item(history), axis=(1, 2))
        return own + past + self.bias

    def item_side(self, items: dict) -> jax.Array:
        """[...] float32: the sum of an item's weights."""
        return _sum_of_weights(items, self.item_id, self.item_category, self.item_dense)

    def pair_logits(self, users: jax.Array, items: jax.Array, cross: jax.Array | None) -> jax.Array:
        """[U, 1, K] logits."""
        logits = users[:, None] + items
        if cross is not None and self.spec.cross:
            logits += self.cross_weight(cross)[..., 0].astype(jnp.float32)
        return logits[:, None]


def _sum_of_weights(features: dict, identity: Table, category: nn.Embed, dense: nn.Dense) -> jax.Array:
    total = identity(features)[..., 0]
    if "categorical" in features:
        total += jnp.sum(category(features["categorical"])[..., 0], axis=-1)
    if "dense" in features:
        total += dense(features["dense"])[..., 0].astype(jnp.float32)
    return total
