"""RankTower (2024), section 2: multi-head gated networks, bi-directional gated cross-attention, maximum similarity.

The paper gives no sizes, no phi, no initial temperature and no width of the attention; the decisions here are 8 heads
of width 16 on both sides, phi = SiLU as in the gated attention unit it builds on, projections of one width without
biases, own parameters for each of the two directions ("parallel branches"), two-layer MLPs, and tau = 0.1 at first.
Eq 8 sums over the user's heads, which spans [-H_u, H_u] / tau; the mean over heads is an option. Its logit has no bias,
so it ranks but is not a calibrated click logit.
"""

import math
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.models.embeddings import Embeddings
from hccp_jax.models.gated_attention import Output, Side, best_cosines
from hccp_jax.models.pair_model import FEW, PairModel
from hccp_jax.numerics import normalize


@dataclass(frozen=True)
class RankTowerConfig:
    """Sizes of RankTower; the paper states none."""

    id_width: int = field(16, "width of id embeddings", at_least=1)
    category_width: int = field(8, "width of categorical embeddings", at_least=1)
    hidden: int = field(64, "width of the hidden layers of the MLPs and of the gates", at_least=1)
    user_heads: int = field(8, "H_u, sub-spaces of a user", at_least=1)
    item_heads: int = field(8, "H_i, sub-spaces of an item", at_least=1)
    head_width: int = field(16, "k, width of a sub-space", at_least=1)
    attention: int = field(16, "width of queries, keys, values and gates", at_least=1)
    temperature: float = field(0.1, "tau of Eq 8 at the start; learned", above=0)
    mean_over_heads: bool = field(False, "mean over user heads; false: the sum of Eq 8")
    dtype: str = field("float32", "compute type; sums stay float32", choices=("float32", "bfloat16"))


class GatedHeads(nn.Module):
    """Multi-head gated network (Eq 1, 2): e^h = MLP(X)^h * sigmoid(gMLP(X))^h; X gets no gradient from gMLP."""

    hidden: int
    heads: int
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., heads, width]."""
        gate = self._layers("gate", jax.lax.stop_gradient(x))
        product = self._layers("value", x) * nn.sigmoid(gate)
        return product.reshape(*x.shape[:-1], self.heads, self.width)

    def _layers(self, name: str, x: jax.Array) -> jax.Array:
        hidden = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name=f"{name}_hidden")(x))
        return nn.Dense(self.heads * self.width, dtype=self.dtype, name=f"{name}_output")(hidden)


class Projections(nn.Module):
    """Eq 5 for one side: Q = phi(X W_q), U = sigmoid(X W_u), K = phi(X W_k), V = phi(X W_v)."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, heads: jax.Array) -> Side:
        """[..., H, k] -> the heads and four projections [..., H, width], float32."""
        projected = {
            name: nn.Dense(self.width, use_bias=False, dtype=self.dtype, name=name)(heads)
            for name in ("query", "gate", "key", "value")
        }
        gate = nn.sigmoid(projected.pop("gate"))
        side = Side(heads, gate=gate, **{name: nn.silu(x) for name, x in projected.items()})
        # float32: a CPU has no products of bfloat16 with float32 sums
        return jax.tree.map(lambda x: x.astype(jnp.float32), side)


class RankTower(PairModel):
    """z = sum over user heads of max over item heads of cos(attended user head, attended item head), over tau.

    Only attention and maximum similarity run per pair; heads and projections are computed once per request and ahead
    for the items. Cross features are not used.

    Attributes:
        config: sizes.
        spec: vocabulary sizes.
    """

    config: RankTowerConfig
    spec: FeatureSpec

    def setup(self) -> None:
        """Create the layers."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.embeddings = Embeddings(self.spec, c.id_width, c.category_width, dtype)
        self.user_heads = GatedHeads(c.hidden, c.user_heads, c.head_width, dtype)
        self.item_heads = GatedHeads(c.hidden, c.item_heads, c.head_width, dtype)
        self.user_projections = Projections(c.attention, dtype)
        self.item_projections = Projections(c.attention, dtype)
        self.user_attended = nn.Dense(c.head_width, use_bias=False)  # W_o of Eq 6
        self.item_attended = nn.Dense(c.head_width, use_bias=False)
        self.user_norm, self.item_norm = nn.LayerNorm(), nn.LayerNorm()
        self.log_temperature = self.param("log_temperature", nn.initializers.constant(math.log(c.temperature)), ())

    def user_side(self, user: dict, history: dict, history_mask: jax.Array) -> Side:
        """Heads of U users and their projections, float32."""
        x = jnp.concatenate([self.embeddings.user(user), self.embeddings.history(history, history_mask)], axis=-1)
        return self.user_projections(self.user_heads(x))

    def item_side(self, items: dict) -> Side:
        """Heads of items [...] and their projections, float32."""
        return self.item_projections(self.item_heads(self.embeddings.items(items)))

    def pair_logits(self, users: Side, items: Side, cross: jax.Array | None) -> jax.Array:
        """[U, 1, K] logits.

        On a CPU many candidates of a single user are scored in blocks, with equal results up to rounding.
        """
        single = len(users.heads) == 1 and items.heads.shape[-3] > FEW
        # the layers are created by the plain form
        if not single or self.is_initializing():
            return self.plain_pair_logits(users, items)
        best = jax.lax.platform_dependent(users, items, cpu=self._best_in_blocks, default=self._best)
        return self._logits(best)

    def plain_pair_logits(self, users: Side, items: Side) -> jax.Array:
        """[U, 1, K] logits by whole layers: every array of all pairs before the next one."""
        return self._logits(self._best(users, items))

    def _logits(self, best: jax.Array) -> jax.Array:
        """Eq 8, from the largest cosine [U, K, H_u] of each user head."""
        total = jnp.mean(best, axis=-1) if self.config.mean_over_heads else jnp.sum(best, axis=-1)
        return (total * jnp.exp(-self.log_temperature))[:, None]

    def _best_in_blocks(self, users: Side, items: Side) -> jax.Array:
        """[1, K, H_u] of one user."""
        one, candidates = jax.tree.map(lambda x: x[0], (users, items if items.heads.ndim == 4 else _shared(items, 1)))
        layers = ((self.user_attended, self.user_norm), (self.item_attended, self.item_norm))
        outputs = [Output(**dense.variables["params"], **norm.variables["params"]) for dense, norm in layers]
        return best_cosines(one, candidates, *outputs)[None]

    def _best(self, users: Side, items: Side) -> jax.Array:
        """[U, K, H_u]."""
        if items.heads.ndim == 3:  # one set of candidates for all users
            items = _shared(items, len(users.heads))
        # Eq 7, both ways: users p, items q; products with a user's side are of plain matrices, one a user
        width = jnp.sqrt(float(self.config.attention))
        of_users = nn.softmax(jnp.einsum("upw,ukqw->ukpq", users.query, items.key) / width, axis=-1)
        of_items = nn.softmax(jnp.einsum("ukqw,upw->ukqp", items.query, users.key) / width, axis=-1)
        # Eq 6: U * (A V)
        seen = users.gate[:, None] * jnp.einsum("ukpq,ukqw->ukpw", of_users, items.value)
        told = items.gate * jnp.einsum("ukqp,upw->ukqw", of_items, users.value)
        asking = self.user_norm(users.heads[:, None] + self.user_attended(seen))  # Eq 3
        asked = self.item_norm(items.heads + self.item_attended(told))  # Eq 4
        return jnp.max(jnp.einsum("ukpw,ukqw->ukpq", normalize(asking), normalize(asked)), axis=-1)


def _shared(items: Side, users: int) -> Side:
    """Candidates [K, ...] that all users share, as [U, K, ...]."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x[None], (users, *x.shape)), items)
