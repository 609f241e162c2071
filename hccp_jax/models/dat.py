"""DAT, the dual augmented two-tower model (Yu et al., DLP-KDD 2021), read through a translated write-up.

Each user id and each item id owns an augmented vector, a parameter as wide as a tower's output. It joins the inputs of
its own tower, and the adaptive-mimic loss (a kernel in `losses`) draws it towards the outputs of the other tower for
positive pairs, so that a tower sees something of the other side before the dot product. These vectors are looked up,
never drawn: the widely copied re-implementation that draws them at random in each forward pass is another model.

Deviations: a ReLU layer and a linear one (the paper has 256/128/32, all ReLU), and by default the paper's plain score
<p_u, p_v> is scaled and shifted by learned scalars: of unit vectors it lies in [-1, 1].
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.models.embeddings import Embeddings
from hccp_jax.models.pair_model import PairModel, dot_products
from hccp_jax.models.table import ITEMS, USERS, Table
from hccp_jax.numerics import normalize


@dataclass(frozen=True)
class DatConfig:
    """Sizes of the two towers."""

    id_width: int = field(16, "width of id embeddings", at_least=1)
    category_width: int = field(8, "width of categorical embeddings", at_least=1)
    vector: int = field(32, "width of tower outputs and of augmented vectors (DAT: 32)", at_least=1)
    hidden: int = field(64, "width of the hidden layer of each tower", at_least=1)
    scaled: bool = field(True, "learned scale, at first 5, and bias on the score; false: the paper's inner product")
    dtype: str = field("float32", "compute type; sums stay float32", choices=("float32", "bfloat16"))


class DualAugmentedTower(PairModel):
    """z = a <p_u, p_v> + b, unit vectors p of ReLU towers; cross features are not used.

    Attributes:
        config: sizes.
        spec: vocabulary sizes.
    """

    config: DatConfig
    spec: FeatureSpec

    def setup(self) -> None:
        """Create the layers and the two tables of augmented vectors."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.embeddings = Embeddings(self.spec, c.id_width, c.category_width, dtype)
        start = nn.initializers.normal(0.05)
        self.user_augmented = Table(USERS, self.spec.user_rows, c.vector, start)
        self.item_augmented = Table(ITEMS, self.spec.item_rows, c.vector, start)
        self.user_hidden = nn.Dense(c.hidden, dtype=dtype)
        self.user_output = nn.Dense(c.vector, dtype=dtype)
        self.item_hidden = nn.Dense(c.hidden, dtype=dtype)
        self.item_output = nn.Dense(c.vector, dtype=dtype)
        if c.scaled:
            self.scale = self.param("scale", nn.initializers.constant(5.0), ())
            self.bias = self.param("bias", nn.initializers.zeros, ())

    def augmented(self, user: dict, items: dict) -> tuple[jax.Array, jax.Array]:
        """Augmented vectors a_u [U, d] and a_v [..., d], float32: rows of two tables."""
        return self.user_augmented(user), self.item_augmented(items)

    def user_side(self, user: dict, history: dict, history_mask: jax.Array) -> jax.Array:
        """[U, d] float32 unit vectors p_u."""
        fields = [self.embeddings.user(user), self.embeddings.history(history, history_mask)]
        return _unit_vector([*fields, self.user_augmented(user)], self.user_hidden, self.user_output)

    def item_side(self, items: dict) -> jax.Array:
        """[..., d] float32 unit vectors p_v."""
        fields = [self.embeddings.items(items), self.item_augmented(items)]
        return _unit_vector(fields, self.item_hidden, self.item_output)

    def pair_logits(self, users: jax.Array, items: jax.Array, cross: jax.Array | None) -> jax.Array:
        """[U, 1, K] logits."""
        products = dot_products(users, items)
        return (self.scale * products + self.bias if self.config.scaled else products)[:, None]

    def everything(
        self, user: dict, history: dict, history_mask: jax.Array, items: dict, cross: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
        """All that DAT's losses need: p_u [U, d], a_u [U, d], p_v [U, K, d], a_v [U, K, d], logits [U, 1, K]."""
        users, vectors = self.user_side(user, history, history_mask), self.item_side(items)
        own, theirs = self.augmented(user, items)
        return users, own, vectors, theirs, self.pair_logits(users, vectors, cross)


def _unit_vector(fields: list[jax.Array], hidden: nn.Dense, output: nn.Dense) -> jax.Array:
    """A ReLU layer and a linear one, then L2 normalisation.

    The paper's last layer is ReLU too, and a tower can die of it: with all its output units off, nothing reaches it.
    """
    x = jnp.concatenate([field.astype(hidden.dtype) for field in fields], axis=-1)
    return normalize(output(nn.relu(hidden(x))))
