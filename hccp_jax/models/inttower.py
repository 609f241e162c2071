"""IntTower (Li et al., CIKM 2022): two towers that meet early, as read from the authors' code.

Light-SE weighs the fields of each tower; the FE block compares sub-vectors of every user layer with those of the last
item layer. Deviations: no dropout and no batch normalisation, so that a score does not depend on its batch, and
smaller layers (the code: 300/300/128, 32 heads of width 64). Fields may have unequal widths; each history group is one
user field.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.errors import UserError
from hccp_jax.models.embeddings import Embeddings
from hccp_jax.models.pair_model import PairModel


@dataclass(frozen=True)
class IntTowerConfig:
    """Sizes of the two towers and of the FE block."""

    id_width: int = field(16, "width of id embeddings", at_least=1)
    category_width: int = field(8, "width of categorical embeddings", at_least=1)
    layers: tuple[int, ...] = field((64, 64, 32), "widths of each tower's layers, input first", at_least=1)
    user_heads: int = field(8, "sub-vectors of each user layer", at_least=1)
    item_heads: int = field(8, "sub-vectors of an item", at_least=1)
    head_width: int = field(16, "width of a sub-vector", at_least=1)
    only_layer: int = field(-1, "user layer that alone is scored, the faster serving; -1: all of them", at_least=-1)
    dtype: str = field("float32", "compute type; sums stay float32", choices=("float32", "bfloat16"))


class LightSE(nn.Module):
    """Light squeeze-and-excitation: Z_f the mean of field f, A = softmax(W Z), output E + A E, without bias or ReLU."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, fields: list[jax.Array]) -> jax.Array:
        """F fields [..., w_f] of any widths -> [..., sum of w_f]."""
        squeezed = jnp.stack([jnp.mean(x.astype(jnp.float32), axis=-1) for x in fields], axis=-1)
        excited = nn.softmax(nn.Dense(len(fields), use_bias=False, name="excitation")(squeezed), axis=-1)
        weights = jnp.split(1.0 + excited, len(fields), axis=-1)
        return jnp.concatenate([x * w.astype(self.dtype) for x, w in zip(fields, weights, strict=True)], axis=-1)


class IntTower(PairModel):
    """z = mean over user layers l and user heads h of max over item heads m of <U_l[h], V[m]> / sqrt(w), plus a bias.

    The paper has the sum of plain products. As all maxima are positive at the start, its first logits are in the tens,
    from where the log-loss does not find back in short training; with a constant factor it is the same family of
    functions.

    Cross features are not used. Parameters do not depend on `config.only_layer`: train with all layers and serve the
    same parameters with one.

    Attributes:
        config: sizes; `only_layer` beyond the last layer raises `UserError`.
        spec: vocabulary sizes.
    """

    config: IntTowerConfig
    spec: FeatureSpec

    def setup(self) -> None:
        """Create the layers."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        if not c.layers:
            raise UserError("layers=(): expected at least one layer")
        if c.only_layer >= len(c.layers):
            raise UserError(f"only_layer={c.only_layer}: expected less than the {len(c.layers)} layers")
        self.embeddings = Embeddings(self.spec, c.id_width, c.category_width, dtype)
        self.user_excitation, self.item_excitation = LightSE(dtype), LightSE(dtype)
        self.user_layers = [nn.Dense(width, dtype=dtype) for width in c.layers]
        self.item_layers = [nn.Dense(width, dtype=dtype) for width in c.layers]
        self.user_parts = [nn.Dense(c.user_heads * c.head_width, use_bias=False, dtype=dtype) for _ in c.layers]
        self.item_part = nn.Dense(c.item_heads * c.head_width, use_bias=False, dtype=dtype)
        self.bias = self.param("bias", nn.initializers.zeros, ())

    def user_side(self, user: dict, history: dict, history_mask: jax.Array) -> jax.Array:
        """[U, L, H_u, w] float32 sub-vectors U_l, taken from the input of each layer."""
        return self._user(user, history, history_mask)[0]

    def item_side(self, items: dict) -> jax.Array:
        """[..., H_i, w] float32 sub-vectors V, taken from the last layer's output."""
        return self._item(items)[0]

    def pair_logits(self, users: jax.Array, items: jax.Array, cross: jax.Array | None) -> jax.Array:
        """[U, 1, K] logits."""
        only = self.config.only_layer
        layers = users if only < 0 else users[:, only : only + 1]
        equation = "ulhw,ukmw->uklhm" if items.ndim == 4 else "ulhw,kmw->uklhm"
        products = jnp.einsum(equation, layers, items, preferred_element_type=jnp.float32)
        products = products / self.config.head_width**0.5
        return (jnp.mean(jnp.max(products, axis=-1), axis=(-2, -1)) + self.bias)[:, None]

    def everything(
        self, user: dict, history: dict, history_mask: jax.Array, items: dict, cross: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """All that the losses need: last outputs [U, d] and [U, K, d] of the towers, logits [U, 1, K]."""
        layers, user_output = self._user(user, history, history_mask)
        heads, item_output = self._item(items)
        return user_output, item_output, self.pair_logits(layers, heads, cross)

    def _user(self, user: dict, history: dict, history_mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        groups = jnp.split(self.embeddings.history(history, history_mask), self.spec.history_groups, axis=-1)
        x = self.user_excitation([*self.embeddings.user_fields(user), *groups])
        heads = []
        for layer, part in zip(self.user_layers, self.user_parts, strict=True):
            heads.append(part(x))
            x = nn.relu(layer(x))
        return self._sub_vectors(jnp.stack(heads, axis=-2), self.config.user_heads), x.astype(jnp.float32)

    def _item(self, items: dict) -> tuple[jax.Array, jax.Array]:
        x = self.item_excitation(self.embeddings.item_fields(items))
        for layer in self.item_layers:
            x = nn.relu(layer(x))
        return self._sub_vectors(self.item_part(x), self.config.item_heads), x.astype(jnp.float32)

    def _sub_vectors(self, x: jax.Array, heads: int) -> jax.Array:
        # float32: a CPU has no products of bfloat16 with float32 sums
        return x.reshape(*x.shape[:-1], heads, self.config.head_width).astype(jnp.float32)
