"""COLD (Wang et al., 2020): a full network over user, item and cross fields, with squeeze-and-excitation.

Read through a translated write-up.

s = sigmoid(W [e_1 .. e_M] + b) in R^M, one importance a field and candidate; v_i = s_i e_i goes into an MLP. For
feature selection fields are ordered by their mean importance, and a model with the chosen ones is trained anew.

The importances depend on the candidate, so the first layer cannot be split into a user sum and an item sum. It is
linear in each field, though: sum_i V_i (s_i e_i) = sum_i s_i (V_i e_i). The products V_i e_i and the shares of W e are
computed once per request and ahead for the items; a pair costs M times the hidden width.

Decisions: each history group is one user field, all cross features together are one field, which is zero where there
are none (so None and zeros score alike), and fields may have unequal widths. Smaller layers than the paper's, whose
float16 helper is not needed here: bfloat16 has the range of float32.
"""

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from hccp_jax.config import field, near_miss
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.errors import UserError
from hccp_jax.models.embeddings import Embeddings
from hccp_jax.models.pair_model import FEW, PairModel, in_blocks

USER, ITEM, CROSS = ("user.", "history_"), ("item.",), "cross"  # how names of fields begin


@dataclass(frozen=True)
class ColdConfig:
    """Sizes of the network, and the fields it sees."""

    id_width: int = field(16, "width of id embeddings", at_least=1)
    category_width: int = field(8, "width of categorical embeddings", at_least=1)
    hidden: int = field(64, "width of the first layer", at_least=1)
    second: int = field(32, "width of the second layer", at_least=1)
    fields: tuple[str, ...] = field((), "names of the fields to keep, e.g. user.id,item.id,cross; empty: all")
    dtype: str = field("float32", "compute type; sums stay float32", choices=("float32", "bfloat16"))


class UserSide(NamedTuple):
    """Joined user fields [U, D] and products V_i e_i [U, M_u, hidden], float32."""

    joined: jax.Array
    products: jax.Array


class ItemSide(NamedTuple):
    """Item share of W e [..., M] and products V_i e_i [..., M_i, hidden], float32."""

    excitation: jax.Array
    products: jax.Array


class FieldProducts(nn.Module):
    """V_i e_i of each field; one kernel a field, "field_0" and so on."""

    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, fields: list[jax.Array]) -> jax.Array:
        """M fields [..., w_i] -> [..., M, hidden] float32."""
        products = [
            nn.Dense(self.hidden, use_bias=False, dtype=self.dtype, name=f"field_{index}")(x)
            for index, x in enumerate(fields)
        ]
        return jnp.stack(products, axis=-2).astype(jnp.float32)


class Excitation(nn.Module):
    """A share of W e + b, of the joined fields of one side."""

    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, joined: jax.Array, fields: int) -> jax.Array:
        """[..., D] -> [..., fields] float32."""
        return nn.Dense(fields, use_bias=self.use_bias, dtype=self.dtype, name="share")(joined).astype(jnp.float32)


class Cold(PairModel):
    """One logit of all fields, each scaled by its importance for the candidate.

    Field names, in order: "user.id", "user.category_0" .., "user.dense", "history_0" .., "item.id", "item.category_0"
    .., "item.dense", "cross"; those of features that a source lacks do not exist.

    Attributes:
        config: sizes. Names in `config.fields` that do not exist, or none of a side, raise `UserError` when the model
            is traced.
        spec: vocabulary sizes.
    """

    config: ColdConfig
    spec: FeatureSpec

    def setup(self) -> None:
        """Create the layers."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        for name in c.fields:
            if not name.startswith((*USER, *ITEM)) and not (name == CROSS and self.spec.cross):
                raise UserError(
                    f"fields: unknown field {name!r}; fields begin with {', '.join((*USER, *ITEM))} or cross"
                )
        self.embeddings = Embeddings(self.spec, c.id_width, c.category_width, dtype)
        self.user_products, self.item_products = FieldProducts(c.hidden, dtype), FieldProducts(c.hidden, dtype)
        self.user_excitation = Excitation(use_bias=True, dtype=dtype)  # b of s is here
        self.item_excitation = Excitation(use_bias=False, dtype=dtype)
        self.has_cross = bool(self.spec.cross) and (not c.fields or CROSS in c.fields)
        if self.has_cross:
            self.cross_products = FieldProducts(c.hidden, dtype)
            self.cross_excitation = Excitation(use_bias=False, dtype=dtype)
        self.hidden_bias = self.param("hidden_bias", nn.initializers.zeros, (c.hidden,))
        self.second = nn.Dense(c.second, dtype=dtype)
        self.output = nn.Dense(1, dtype=dtype)

    def user_side(self, user: dict, history: dict, history_mask: jax.Array) -> UserSide:
        """What the user's fields contribute."""
        fields = self._user_fields(user, history, history_mask)[1]
        return UserSide(jnp.concatenate(fields, axis=-1), self.user_products(fields))

    def item_side(self, items: dict) -> ItemSide:
        """What the item's fields contribute; its parameters are created in the forward pass, not from here alone."""
        fields = self._item_fields(items)[1]
        # s has an entry for each user field, and each has one kernel
        total = len(self.user_products.variables["params"]) + len(fields) + self.has_cross
        excitation = self.item_excitation(jnp.concatenate(fields, axis=-1), total)
        return ItemSide(excitation, self.item_products(fields))

    def pair_logits(self, users: UserSide, items: ItemSide, cross: jax.Array | None) -> jax.Array:
        """[U, 1, K] logits; on a CPU many candidates of a single user are scored in blocks, to the same logits."""
        single = len(users.joined) == 1 and items.products.shape[-3] > FEW
        # layers are created by the plain form
        if not single or self.is_initializing():
            return self.plain_pair_logits(users, items, cross)
        return jax.lax.platform_dependent(
            users, items, cross, cpu=self._logits_in_blocks, default=self.plain_pair_logits
        )

    def _logits_in_blocks(self, users: UserSide, items: ItemSide, cross: jax.Array | None) -> jax.Array:
        """[1, 1, K] logits of one user."""
        own = jax.tree.map(lambda x: x[0], items) if items.products.ndim == 4 else items

        def score(block: tuple[ItemSide, jax.Array | None]) -> jax.Array:
            return self.plain_pair_logits(users, *jax.tree.map(lambda x: x[None], block))[0, 0]

        return in_blocks(score, (own, None if cross is None else cross[0]))[None, None]

    def plain_pair_logits(self, users: UserSide, items: ItemSide, cross: jax.Array | None) -> jax.Array:
        """[U, 1, K] logits by whole layers: every array of all pairs before the next one."""
        importance = self._importance(users, items, cross)
        own, theirs = users.products.shape[-2], items.products.shape[-2]
        x = jnp.einsum("ukm,umh->ukh", importance[..., :own], users.products)
        equation = "ukm,ukmh->ukh" if items.products.ndim == 4 else "ukm,kmh->ukh"
        x += jnp.einsum(equation, importance[..., own : own + theirs], items.products)
        if cross is not None and self.has_cross:
            x += importance[..., -1:] * self.cross_products([cross])[..., 0, :]
        hidden = self.second(nn.relu(x + self.hidden_bias).astype(self.second.dtype))
        return self.output(nn.relu(hidden))[..., 0].astype(jnp.float32)[:, None]

    def mean_importance(
        self, user: dict, history: dict, history_mask: jax.Array, items: dict, cross: jax.Array | None, where: jax.Array
    ) -> dict[str, jax.Array]:
        """Mean of s by field name, over the candidates [U, K] that `where` chooses; the fields to keep are the largest.

        Args:
            user: as in the forward pass, and so are the next four.
            history: [U, H, ...].
            history_mask: [U, H] bool.
            items: [U, K, ...].
            cross: [U, K, F] or None.
            where: [U, K] bool; where it chooses none, the means are 0.
        """
        users, sides = self.user_side(user, history, history_mask), self.item_side(items)
        total = jnp.sum(self._importance(users, sides, cross) * where[..., None], axis=(0, 1))
        names = self._user_fields(user, history, history_mask)[0] + self._item_fields(items)[0]
        names += [CROSS] if self.has_cross else []
        return dict(zip(names, total / jnp.maximum(jnp.sum(where), 1), strict=True))

    def _importance(self, users: UserSide, items: ItemSide, cross: jax.Array | None) -> jax.Array:
        """[U, K, M]: s of each candidate."""
        total = items.excitation.shape[-1]
        x = self.user_excitation(users.joined, total)[:, None] + items.excitation
        if cross is not None and self.has_cross:
            x += self.cross_excitation(cross, total)
        return nn.sigmoid(x)

    def _user_fields(self, user: dict, history: dict, history_mask: jax.Array) -> tuple[list[str], list[jax.Array]]:
        pooled = jnp.split(self.embeddings.history(history, history_mask), self.spec.history_groups, axis=-1)
        names = [*_names("user", user), *(f"history_{index}" for index in range(len(pooled)))]
        return self._chosen(USER, names, [*self.embeddings.user_fields(user), *pooled])

    def _item_fields(self, items: dict) -> tuple[list[str], list[jax.Array]]:
        return self._chosen(ITEM, _names("item", items), self.embeddings.item_fields(items))

    def _chosen(
        self, prefixes: tuple[str, ...], names: list[str], fields: list[jax.Array]
    ) -> tuple[list[str], list[jax.Array]]:
        """Names and fields of one side that the configuration keeps."""
        wanted = self.config.fields
        for name in wanted:
            if name.startswith(prefixes) and name not in names:
                raise UserError(f"fields: unknown field {name!r}; {near_miss(name, names)}")
        kept = [(name, x) for name, x in zip(names, fields, strict=True) if not wanted or name in wanted]
        if not kept:
            raise UserError(f"fields={','.join(wanted)}: expected at least one of {', '.join(names)}")
        return [name for name, _ in kept], [x for _, x in kept]


def _names(side: str, features: dict) -> list[str]:
    """Names of `Embeddings.user_fields` or `item_fields`, in their order."""
    names = [f"{side}.id"]
    if "categorical" in features:
        names += [f"{side}.category_{index}" for index in range(features["categorical"].shape[-1])]
    return [*names, f"{side}.dense"] if "dense" in features else names
