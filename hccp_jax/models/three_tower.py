"""The three-tower pre-ranker of HCCP 3.1.1: user tower with MMoE, item tower, cross-feature tower.

The paper gives no formula for how the cross score weights the dot product; the decision here is
z^t = a_t <u^t, i> + b_t c^t + d_t(u) with learned scalars a_t and b_t, one item vector shared by all tasks, and a
request-level offset d_t(u) from the user tower, which calibrates click rates between users and ranks nothing. Nor does
it say whether vectors are normalised. They are here by default: Eq 5 then holds with v = 1, and its margin of 0.9 is
one in cosine, as in the margin softmax it cites; on free dot products that margin makes the vectors collapse.
"""

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.models.embeddings import Embeddings
from hccp_jax.models.mmoe import MixtureOfExperts
from hccp_jax.models.pair_model import PairModel
from hccp_jax.numerics import normalize


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the three towers; HCCP states the number of experts only."""

    id_width: int = field(16, "width of id embeddings", at_least=1)
    category_width: int = field(8, "width of categorical embeddings", at_least=1)
    vector: int = field(32, "width of user and item vectors", at_least=1)
    hidden: int = field(64, "width of the item tower's hidden layer", at_least=1)
    experts: int = field(8, "MMoE experts (HCCP 4.1.4)", at_least=1)
    expert_width: int = field(32, "width of an expert", at_least=1)
    cross_hidden: int = field(16, "width of the cross tower's hidden layer", at_least=1)
    diversity: bool = field(False, "add the diversity task, whose label HCCP leaves open")
    normalize: bool = field(True, "cosine-normalised user and item vectors; false: free dot products")
    id_gate: float = field(
        0.0, "item ids count from so many times the mean impressions on; 0: all (a remedy for the tail)", at_least=0
    )
    id_dropout: float = field(0.0, "share of item ids that training leaves out", at_least=0, at_most=0.9)
    dtype: str = field("float32", "compute type; sums stay float32", choices=("float32", "bfloat16"))


class UserSide(NamedTuple):
    """What the user tower gives once per request: vectors [U, T, d] and offsets [U, T], float32."""

    vectors: jax.Array
    offsets: jax.Array


class ThreeTower(PairModel):
    """Towers and heads; every method of the class is pure under `apply`.

    Attributes:
        config: sizes.
        spec: vocabulary sizes.
        heads: names of the outputs.
    """

    config: ModelConfig
    spec: FeatureSpec
    heads: tuple[str, ...]

    def setup(self) -> None:
        """Create the layers."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.embeddings = Embeddings(self.spec, c.id_width, c.category_width, dtype, c.id_gate)
        self.mixture = MixtureOfExperts(c.experts, c.expert_width, len(self.heads), dtype)
        self.user_output = self.param(
            "user_output", nn.initializers.lecun_normal(), (len(self.heads), c.expert_width, c.vector)
        )
        self.user_offset = self.param("user_offset", nn.initializers.zeros, (len(self.heads), c.expert_width))
        self.item_hidden = nn.Dense(c.hidden, dtype=dtype)
        self.item_output = nn.Dense(c.vector, dtype=dtype)
        if self.spec.cross:
            self.cross_hidden = nn.Dense(c.cross_hidden, dtype=dtype)
            self.cross_output = nn.Dense(len(self.heads), dtype=dtype)
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        # a cosine spans [-1, 1] only, a click logit more
        scale = nn.initializers.constant(5.0) if c.normalize else ones
        self.dot_weight = self.param("dot_weight", scale, (len(self.heads),))  # a_t
        self.cross_weight = self.param("cross_weight", ones, (len(self.heads),))  # b_t
        self.bias = self.param("bias", zeros, (len(self.heads),))  # d_t

    def user_side(self, user: dict, history: dict, history_mask: jax.Array) -> UserSide:
        """One user vector and one offset a head; runs once per request."""
        x = jnp.concatenate([self.embeddings.user(user), self.embeddings.history(history, history_mask)], axis=-1)
        # float32: a CPU has no products of bfloat16 with float32 sums
        mixed = self.mixture(x).astype(jnp.float32)
        vectors = jnp.einsum("uth,thd->utd", mixed, self.user_output)
        offsets = jnp.einsum("uth,th->ut", mixed, self.user_offset) + self.bias
        return UserSide(normalize(vectors) if self.config.normalize else vectors, offsets)

    def item_side(self, items: dict) -> jax.Array:
        """[..., d] float32: one vector an item, shared by the heads; can be computed for a whole catalogue."""
        hidden = nn.relu(self.item_hidden(self.embeddings.items(items)))
        vectors = self.item_output(hidden).astype(jnp.float32)
        return normalize(vectors) if self.config.normalize else vectors

    def cross_scores(self, cross: jax.Array | None) -> jax.Array | float:
        """[U, K, T] float32 cross scores c^t; 0 without cross features."""
        if cross is None or not self.spec.cross:
            return 0.0
        hidden = nn.relu(self.cross_hidden(cross.astype(self.cross_hidden.dtype)))
        return self.cross_output(hidden).astype(jnp.float32)

    def pair_scores(self, users: UserSide, items: jax.Array, cross: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Combine the towers.

        Args:
            users: of U requests.
            items: [U, K, d] item vectors, or [K, d] shared by all users.
            cross: [U, K, F] or None.

        Returns:
            Dot products [U, T, K] and final logits [U, T, K], float32.
        """
        equation = "utd,ukd->utk" if items.ndim == 3 else "utd,kd->utk"
        dots = jnp.einsum(equation, users.vectors, items, preferred_element_type=jnp.float32)
        scores = self.cross_scores(cross)
        crossed = jnp.moveaxis(scores, -1, 1) * self.cross_weight[:, None] if not isinstance(scores, float) else 0.0
        return dots, dots * self.dot_weight[:, None] + crossed + users.offsets[:, :, None]

    def pair_logits(self, users: UserSide, items: jax.Array, cross: jax.Array | None) -> jax.Array:
        """[U, T, K] final logits."""
        return self.pair_scores(users, items, cross)[1]

    def everything(
        self, user: dict, history: dict, history_mask: jax.Array, items: dict, cross: jax.Array | None
    ) -> tuple:
        """All that HCCP's loss needs: user vectors, item vectors, dot products, final logits."""
        users, vectors = self.user_side(user, history, history_mask), self.item_side(items)
        return users.vectors, vectors, *self.pair_scores(users, vectors, cross)
