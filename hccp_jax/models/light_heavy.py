"""Two models in series inside one pre-ranking stage, HAP-style: a light one for all candidates, a heavy one for few.

Each has a user tower, an item tower and an MLP over [u, i, u * i] that ends in a click logit, after the public figure
of HAP (Tong et al., WWW 2026). The heavy model has more layers and, as in the figure, an attention layer. Inferred:
what the attention attends to (here the item looks at the user's history, and the outcome joins the MLP's input), all
sizes, and that the models share embedding tables.

An MLP's first layer over [u, i, u * i] is, for one request, an affine map of i alone: its matrix W_i + diag(u) W_ui
and its offset u W_u + b are computed once a request, so that an item side is no more than a vector and a candidate
costs one product. The attention's share of the first layer is folded into the values in the same way.
"""

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.models.embeddings import Embeddings
from hccp_jax.models.pair_model import PairModel

LIGHT, HEAVY = 0, 1  # places of the two logits


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of one of the two models."""

    vector: int = field(16, "width of user and item vectors", at_least=1)
    hidden: int = field(32, "width of the towers' hidden layer", at_least=1)
    width: int = field(32, "width of the MLP's layers", at_least=1)
    layers: int = field(1, "hidden layers of the MLP", at_least=1)


@dataclass(frozen=True)
class HapConfig:
    """Sizes of the pair; the paper's are 1.8 and 6.2 million parameters, the tables included."""

    light: TowerConfig = TowerConfig()
    heavy: TowerConfig = TowerConfig(vector=32, hidden=128, width=64, layers=3)
    id_width: int = field(16, "width of id embeddings", at_least=1)
    category_width: int = field(8, "width of categorical embeddings", at_least=1)
    tables: str = field(
        "shared",
        "embedding tables: both models train one set, each has its own, or the light model's serve the heavy one",
        choices=("shared", "separate", "frozen"),
    )
    cross: bool = field(False, "give the heavy model the cross features")
    dtype: str = field("float32", "compute type; sums stay float32", choices=("float32", "bfloat16"))


class FirstLayer(NamedTuple):
    """The MLP's first layer for one request: matrix [U, d, w] and offset [U, w] of the item vector's affine map."""

    matrix: jax.Array
    offset: jax.Array


class Attended(NamedTuple):
    """The history for the attention: keys [U, H, d], values [U, H, w] with their weights applied, mask [U, H]."""

    keys: jax.Array
    values: jax.Array
    mask: jax.Array


class UserSide(NamedTuple):
    """What runs once a request, for both models."""

    light: FirstLayer
    heavy: FirstLayer
    history: Attended


class ItemSide(NamedTuple):
    """The item vectors of both models, [..., d] each."""

    light: jax.Array
    heavy: jax.Array


def _split(items: jax.Array) -> str:
    """Axes of item vectors before the last: a list a request, or one for all requests."""
    return "uk" if items.ndim == 3 else "k"


class InteractionTowers(nn.Module):
    """User tower, item tower and MLP of one model.

    Attributes:
        sizes: widths and depth.
        dtype: compute type.
    """

    sizes: TowerConfig
    dtype: jnp.dtype

    def setup(self) -> None:
        """Create the layers."""
        s, start = self.sizes, nn.initializers.lecun_normal()
        self.user_hidden = nn.Dense(s.hidden, dtype=self.dtype)
        self.user_output = nn.Dense(s.vector, dtype=self.dtype)
        self.item_hidden = nn.Dense(s.hidden, dtype=self.dtype)
        self.item_output = nn.Dense(s.vector, dtype=self.dtype)
        self.first = self.param("first", start, (3 * s.vector, s.width))  # rows of u, of i and of u * i
        self.first_bias = self.param("first_bias", nn.initializers.zeros, (s.width,))
        self.deeper = [nn.Dense(s.width, dtype=self.dtype) for _ in range(s.layers - 1)]
        self.output = self.param("output", start, (s.width, 1))
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (1,))

    def user(self, x: jax.Array) -> FirstLayer:
        """[U, D] -> the first layer of each request, float32."""
        vector = self.user_output(nn.relu(self.user_hidden(x))).astype(jnp.float32)
        of_user, of_item, of_both = jnp.split(self.first, 3)
        return FirstLayer(of_item + vector[:, :, None] * of_both, vector @ of_user + self.first_bias)

    def item(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., d] item vectors."""
        return self.item_output(nn.relu(self.item_hidden(x)))

    def logits(self, first: FirstLayer, items: jax.Array, more: jax.Array | float = 0.0) -> jax.Array:
        """[U, K] float32; `more` [U, K, w] is what else enters the first layer."""
        product = jnp.einsum(
            f"{_split(items)}d,udw->ukw", items, first.matrix.astype(self.dtype), preferred_element_type=jnp.float32
        )
        hidden = nn.relu(product + first.offset[:, None] + more).astype(self.dtype)
        for layer in self.deeper:
            hidden = nn.relu(layer(hidden))
        output = self.output[:, 0].astype(self.dtype)
        return jnp.einsum("ukw,w->uk", hidden, output, preferred_element_type=jnp.float32) + self.output_bias


class LightHeavy(PairModel):
    """The light and the heavy model. `pair_logits` gives [U, 2, K], light first: two scores of one task, the click.

    Training and evaluation compute both logits of every candidate; in service the heavy one runs on those that the
    light one lets through.

    Attributes:
        config: sizes.
        spec: vocabulary sizes.
    """

    config: HapConfig
    spec: FeatureSpec

    def setup(self) -> None:
        """Create the layers."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.embeddings = Embeddings(self.spec, c.id_width, c.category_width, dtype)
        if c.tables == "separate":
            self.heavy_embeddings = Embeddings(self.spec, c.id_width, c.category_width, dtype)
        self.light = InteractionTowers(c.light, dtype)
        self.heavy = InteractionTowers(c.heavy, dtype)
        self.keys = nn.Dense(c.heavy.vector, use_bias=False, dtype=dtype)
        self.values = nn.Dense(c.heavy.width, use_bias=False, dtype=dtype)
        if self.uses_cross:
            self.cross = nn.Dense(c.heavy.width, use_bias=False, dtype=dtype)

    @property
    def uses_cross(self) -> bool:
        """Whether the heavy model reads cross features."""
        return self.config.cross and self.spec.cross > 0

    def user_side(self, user: dict, history: dict, history_mask: jax.Array) -> UserSide:
        """First layers of both models, keys and values of the history."""
        light = _user_input(self.embeddings, user, history, history_mask)
        tables = self._heavy_tables()
        heavy = self._own(_user_input(tables, user, history, history_mask))
        past = self._own(tables.past_items(history)).astype(self.keys.dtype)
        attended = Attended(self.keys(past), self.values(past), history_mask)
        return UserSide(self.light.user(light), self.heavy.user(heavy), attended)

    def item_side(self, items: dict) -> ItemSide:
        """Item vectors of both models; can be computed for a whole catalogue."""
        light, heavy = self.embeddings.items(items), self._own(self._heavy_tables().items(items))
        return ItemSide(self.light.item(light), self.heavy.item(heavy))

    def pair_logits(self, users: UserSide, items: ItemSide, cross: jax.Array | None) -> jax.Array:
        """[U, 2, K] click logits: the light model's, the heavy model's."""
        return jnp.stack([self.light_logits(users, items), self.heavy_logits(users, items, cross)], axis=1)

    def light_logits(self, users: UserSide, items: ItemSide) -> jax.Array:
        """[U, K] logits of the light model alone."""
        return self.light.logits(users.light, items.light)

    def heavy_logits(self, users: UserSide, items: ItemSide, cross: jax.Array | None) -> jax.Array:
        """[U, K] logits of the heavy model alone."""
        more = self._attention(users.history, items.heavy)
        if cross is not None and self.uses_cross:
            more = more + self.cross(cross.astype(self.cross.dtype))
        return self.heavy.logits(users.heavy, items.heavy, more)

    def _attention(self, history: Attended, items: jax.Array) -> jax.Array:
        """[U, K, w] float32: values weighted by softmax_h(i . key_h / sqrt(d)); zero without history."""
        scores = jnp.einsum(
            f"{_split(items)}d,uhd->ukh", items, history.keys, preferred_element_type=jnp.float32
        ) / jnp.sqrt(float(items.shape[-1]))
        mask = history.mask[:, None, :]
        weights = nn.softmax(jnp.where(mask, scores, -1e30), axis=-1) * mask
        return jnp.einsum(
            "ukh,uhw->ukw", weights.astype(items.dtype), history.values, preferred_element_type=jnp.float32
        )

    def _heavy_tables(self) -> Embeddings:
        return self.heavy_embeddings if self.config.tables == "separate" else self.embeddings

    def _own(self, x: jax.Array) -> jax.Array:
        """Inputs of the heavy model; frozen tables learn from the light model alone."""
        return jax.lax.stop_gradient(x) if self.config.tables == "frozen" else x


def _user_input(tables: Embeddings, user: dict, history: dict, history_mask: jax.Array) -> jax.Array:
    return jnp.concatenate([tables.user(user), tables.history(history, history_mask)], axis=-1)
