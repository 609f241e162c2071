"""The two-tower retrieval model of CROLoss's experiments: the mean of the history, one linear layer, cosine.

CROLoss (Tang et al., CIKM 2022) says two towers, 32 dimensions and S(u, v) = tau <u, v> with the cosine <u, v> and tau
= 10 (4.1). The rest follows its released code: the user vector is a linear layer of the masked mean of the history's
item embeddings, without a profile; an item vector is the item's row of the same table; both are L2-normalised. The
model gives the cosine. The factor, called scale here, is a number of the loss and of the served score: it changes no
order.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.models.pair_model import PairModel, dot_products
from hccp_jax.models.table import ITEMS, Table
from hccp_jax.numerics import normalize


@dataclass(frozen=True)
class MeanHistoryConfig:
    """Sizes of the retrieval model (CROLoss 4.1)."""

    vector: int = field(32, "width of item embeddings and of both vectors", at_least=1)
    dtype: str = field("float32", "compute type; sums stay float32", choices=("float32", "bfloat16"))


class MeanHistory(PairModel):
    """Cosine of a user vector made of the history and the item's own embedding: [U, 1, K], one score for all tasks.

    A user without history has the direction of the linear layer's bias, the same for all such users: zero, and with
    it the score, until training has moved the bias.

    Attributes:
        config: sizes.
        spec: vocabulary sizes.
    """

    config: MeanHistoryConfig
    spec: FeatureSpec

    def setup(self) -> None:
        """Create the item table and the linear layer."""
        width, dtype = self.config.vector, jnp.dtype(self.config.dtype)
        self.item_id = Table(ITEMS, self.spec.item_rows, width, nn.initializers.normal(0.05))
        self.user_output = nn.Dense(width, dtype=dtype)

    def user_side(self, user: dict, history: dict, history_mask: jax.Array) -> jax.Array:
        """[U, d] unit vectors; of all features only the past items' ids count."""
        mask = history_mask[..., None]
        total = jnp.sum(jnp.where(mask, self.item_id(history), 0.0), axis=1)
        mean = total / jnp.maximum(jnp.sum(mask, axis=1), 1)
        return normalize(self.user_output(mean.astype(self.user_output.dtype))).astype(self.user_output.dtype)

    def item_side(self, items: dict) -> jax.Array:
        """[..., d] unit vectors."""
        return normalize(self.item_id(items)).astype(self.user_output.dtype)

    def pair_logits(self, users: jax.Array, items: jax.Array, cross: jax.Array | None) -> jax.Array:
        """[U, 1, K] cosines, float32; cross features are not read."""
        return dot_products(users, items)[:, None]
