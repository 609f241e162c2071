"""The two-tower pre-ranker (DSSM; Huang et al., CIKM 2013): a user MLP, an item MLP, and a dot product.

The vector-product baseline of COLD, IntTower and RankTower. Deviations from DSSM: ReLU for tanh, one hidden layer, and
id embeddings for letter n-grams. By default the score is a cosine as in DSSM, times a learned scale plus a learned
bias: a cosine spans [-1, 1] only and a click logit more. Without normalisation the scale begins at 1.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.models.embeddings import Embeddings
from hccp_jax.models.pair_model import PairModel, dot_products
from hccp_jax.numerics import normalize


@dataclass(frozen=True)
class TwoTowerConfig:
    """Sizes of the two towers."""

    id_width: int = field(16, "width of id embeddings", at_least=1)
    category_width: int = field(8, "width of categorical embeddings", at_least=1)
    vector: int = field(32, "width of user and item vectors", at_least=1)
    hidden: int = field(64, "width of the hidden layer of each tower", at_least=1)
    normalize: bool = field(True, "cosine-normalised user and item vectors; false: free dot products")
    dtype: str = field("float32", "compute type; sums stay float32", choices=("float32", "bfloat16"))


class TwoTower(PairModel):
    """z = a <u, i> + b with learned scalars a and b; cross features are not used.

    Attributes:
        config: sizes.
        spec: vocabulary sizes.
    """

    config: TwoTowerConfig
    spec: FeatureSpec

    def setup(self) -> None:
        """Create the layers."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.embeddings = Embeddings(self.spec, c.id_width, c.category_width, dtype)
        self.user_hidden = nn.Dense(c.hidden, dtype=dtype)
        self.user_output = nn.Dense(c.vector, dtype=dtype)
        self.item_hidden = nn.Dense(c.hidden, dtype=dtype)
        self.item_output = nn.Dense(c.vector, dtype=dtype)
        self.scale = self.param("scale", nn.initializers.constant(5.0 if c.normalize else 1.0), ())
        self.bias = self.param("bias", nn.initializers.zeros, ())

    def user_side(self, user: dict, history: dict, history_mask: jax.Array) -> jax.Array:
        """[U, d] float32 user vectors, from the user's fields and the pooled history."""
        x = jnp.concatenate([self.embeddings.user(user), self.embeddings.history(history, history_mask)], axis=-1)
        return self._vector(self.user_output(nn.relu(self.user_hidden(x))))

    def item_side(self, items: dict) -> jax.Array:
        """[..., d] float32 item vectors."""
        return self._vector(self.item_output(nn.relu(self.item_hidden(self.embeddings.items(items)))))

    def vectors(self, user: dict, history: dict, history_mask: jax.Array, items: dict) -> tuple[jax.Array, jax.Array]:
        """User vectors [U, d] and item vectors [..., d], for losses on vectors such as a sampled softmax."""
        return self.user_side(user, history, history_mask), self.item_side(items)

    def pair_logits(self, users: jax.Array, items: jax.Array, cross: jax.Array | None) -> jax.Array:
        """[U, 1, K] logits."""
        products = dot_products(users, items)
        return (self.scale * products + self.bias)[:, None]

    def _vector(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        return normalize(x) if self.config.normalize else x
