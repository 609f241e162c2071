"""The two networks of SDCL (Gao et al., Weibo): a pre-ranking net on pruned, gated fields, and a ranking net on all.

Both look their fields up in the same tables; the ranking net is trained along and serves nothing. The paper states the
scale of the gate (2) and "the idea of SNR" for the core; all sizes, which features are pruned, and the towers are
decisions here. Fields are named "user_id", "user_category_0", "user_dense", "history_0" (the pooled past items of a
group), "item_id", "item_category_0", "item_dense" and "cross_0" (one a cross feature).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from hccp_jax.config import field, near_miss
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.errors import UserError
from hccp_jax.models.embeddings import Embeddings
from hccp_jax.models.gates import GateUnit, fscd_keep_gate
from hccp_jax.models.pair_model import PairModel
from hccp_jax.models.snr import AVER, GATES, TRANS, Blocks, SubNetworkRouting

Fields = dict[str, jax.Array]
USER, ITEM, CROSS = "user", "item", "cross"
KINDS = {"user": USER, "history": USER, "item": ITEM, "cross": CROSS}
"""Which side a field belongs to, by the first word of its name."""


@dataclass(frozen=True)
class SdclConfig:
    """Sizes and static choices; of these SDCL states the scale of the gate only."""

    id_width: int = field(16, "width of id embeddings", at_least=1)
    category_width: int = field(8, "width of categorical embeddings", at_least=1)
    gate_hidden: int = field(32, "width of the gate unit's hidden layer (Eq 6)", at_least=1)
    gate_scale: float = field(2.0, "alpha of the gate unit (Eq 6)", above=0)
    stop_gate_grad: bool = field(False, "no gradient to the input through its gate, as in PEPNet")
    layers: int = field(2, "SNR layers of blocks", at_least=1)
    blocks: int = field(4, "SNR blocks in a layer", at_least=1)
    width: int = field(32, "width of an SNR block", at_least=1)
    routing: str = field(TRANS, "SNR with a matrix a connection, or averages", choices=(TRANS, AVER))
    tower: int = field(16, "width of a task tower's hidden layer", at_least=1)
    ranker: tuple[int, ...] = field((128, 64), "hidden widths of the ranking net", at_least=1)
    pruned: tuple[str, ...] = field((), "fields that the pre-ranking net does without (Eq 4), e.g. cross_0,history_1")
    learned_pruning: bool = field(False, "learn which of the other fields to keep (FSCD)")
    pruning_temperature: float = field(0.1, "temperature of the field gates (FSCD)", above=0)
    gated_similarity: bool = field(True, "Eq 8 compares gated inputs g; false: the inputs x")
    weight_gradient: bool = field(False, "differentiate Eq 7 through its weights, to the letter")
    groups: int = field(5, "user groups whose mean weights are logged where the log has them", at_least=1)
    days: int = field(16, "days whose mean weights are logged where requests have one", at_least=1)
    dtype: str = field("float32", "compute type; sums stay float32", choices=("float32", "bfloat16"))


class FieldGate(NamedTuple):
    """The learned gate of a field, FSCD.

    Attributes:
        value: [] what the field is multiplied by, one draw of the relaxed gate.
        keep: [] the probability that the field is kept, without gradient.
        width: numbers in the field.
    """

    value: jax.Array
    keep: jax.Array
    width: int


Gates = dict[str, FieldGate]


class Side(NamedTuple):
    """What is known of a user [U, ...] or an item [..., ...] before the pair is.

    Attributes:
        x: [..., D], its kept fields joined, its part of the input of Eq 6.
        share: [..., hidden] float32, its share of the gate unit's first layer.
    """

    x: jax.Array
    share: jax.Array


class Outputs(NamedTuple):
    """What the loss needs.

    Attributes:
        logits: [U, T, K] float32 of the pre-ranking net.
        compared: [U, K, D] vectors whose cosines Eq 8 takes: the gated inputs g, or x.
        teacher: [U, T, E] float32 logits of the ranking net, on the leading slots.
        log_alpha: [G] float32 parameters of the SNR gates.
        fields: name -> gate of the fields with a learned one.
    """

    logits: jax.Array
    compared: jax.Array
    teacher: jax.Array
    log_alpha: jax.Array
    fields: Gates


class FieldPruner(nn.Module):
    """SDCL's feature pruner, Eq 4: the kept fields of one side, joined; with FSCD gates where they are to be learned.

    A learned field is multiplied by its relaxed gate, one draw a field and a call, where the module has the random
    stream "gates". As served the draw is u = 1/2, the median. Gates begin at a keep probability of 0.88 (inferred).

    Attributes:
        pruned: names of fields to leave out.
        learned: whether the others have gates.
        temperature: of the gates.
    """

    pruned: tuple[str, ...]
    learned: bool
    temperature: float

    @nn.compact
    def __call__(self, fields: Fields) -> tuple[jax.Array, Gates]:
        """Fields [..., w] to the joined input [..., D], and the learned gates."""
        kept = {name: value for name, value in fields.items() if name not in self.pruned}
        if not self.learned:
            return jnp.concatenate(list(kept.values()), axis=-1), {}
        start = nn.initializers.constant(2.0)
        logits = jnp.stack([self.param(name, start, ()) for name in kept])
        draw = self.make_rng(GATES) if self.has_rng(GATES) else jnp.float32(0.5)
        gates = fscd_keep_gate(logits, draw, temperature=self.temperature)
        closed = [value * gate.astype(value.dtype) for value, gate in zip(kept.values(), gates, strict=True)]
        keep = jax.lax.stop_gradient(nn.sigmoid(logits))
        widths = (value.shape[-1] for value in kept.values())
        return jnp.concatenate(closed, axis=-1), dict(zip(kept, map(FieldGate, gates, keep, widths), strict=True))


class RankingNet(nn.Module):
    """The teacher: a plain MLP on all fields.

    Attributes:
        hidden: widths of its layers.
        tasks: number of logits.
        dtype: compute type.
    """

    hidden: tuple[int, ...]
    tasks: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to [..., T] float32."""
        for index, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, dtype=self.dtype, name=f"hidden_{index}")(x))
        return nn.Dense(self.tasks, dtype=self.dtype, name="logits")(x).astype(jnp.float32)


class Sdcl(PairModel):
    """SDCL's two networks; as a `PairModel` the pre-ranking net, which needs no parameter of the other.

    The gate of Eq 6 multiplies the input of the pair, so the whole SNR runs for every candidate; ahead of it only the
    look-ups and the first layer of the gate unit are computed once a request, or once an item.

    Attributes:
        config: sizes.
        spec: vocabulary sizes and tasks.

    Raises:
        UserError: if `config.pruned` names no field, or all fields of a user or an item.
    """

    config: SdclConfig
    spec: FeatureSpec

    def setup(self) -> None:
        """Create the layers; those of the ranking net are made on first use, which serving never is."""
        c, dtype, tasks = self.config, jnp.dtype(self.config.dtype), len(self.spec.tasks)
        for name in c.pruned:
            if name.split("_")[0] not in KINDS:
                raise UserError(f"pruned={name}: {near_miss(name.split('_')[0], KINDS)}")
        self.embeddings = Embeddings(self.spec, c.id_width, c.category_width, dtype)
        self.pruners = {
            side: FieldPruner(c.pruned, c.learned_pruning, c.pruning_temperature) for side in (USER, ITEM, CROSS)
        }
        self.crossed = [index for index in range(self.spec.cross) if f"cross_{index}" not in c.pruned]
        self.gate = GateUnit(c.gate_hidden, c.gate_scale, 3 if self.crossed else 2, c.stop_gate_grad, dtype)
        self.routing = SubNetworkRouting(tasks, c.layers, c.blocks, c.width, c.routing, dtype)
        self.tower_hidden = Blocks(c.tower, dtype)
        self.tower_logits = Blocks(1, dtype)
        self.ranking_net = RankingNet(c.ranker, tasks, dtype)

    def user_side(self, user: dict, history: dict, history_mask: jax.Array) -> Side:
        """The user's part of x and of the gate unit's hidden layer."""
        return self._side(USER, self._user_fields(user, history, history_mask))[0]

    def item_side(self, items: dict) -> Side:
        """The item's part of both, for a whole catalogue if need be."""
        return self._side(ITEM, self._item_fields(items))[0]

    def pair_logits(self, users: Side, items: Side, cross: jax.Array | None) -> jax.Array:
        """[U, T, K] logits of the pre-ranking net; without cross features their part is 0, as it is for pool items."""
        return self._pairs(users, items, self._cross_fields(cross))[0]

    def __call__(
        self, user: dict, history: dict, history_mask: jax.Array, items: dict, cross: jax.Array | None
    ) -> jax.Array:
        """[U, T, K] logits of the pre-ranking net; initialisation makes the ranking net's parameters as well."""
        if self.is_initializing():
            return self.everything(user, history, history_mask, items, cross, 1).logits
        return super().__call__(user, history, history_mask, items, cross)

    def everything(
        self, user: dict, history: dict, history_mask: jax.Array, items: dict, cross: jax.Array | None, exposed: int
    ) -> Outputs:
        """Both networks.

        Args:
            user: as in `PairModel.user_side`.
            history: as there.
            history_mask: as there.
            items: [U, K, ...] features of items.
            cross: [U, K, F] or None.
            exposed: E, the leading slots that the ranking net scores.
        """
        user_fields, item_fields = self._user_fields(user, history, history_mask), self._item_fields(items)
        cross_fields = self._cross_fields(cross)
        users, user_gates = self._side(USER, user_fields)
        sides, item_gates = self._side(ITEM, item_fields)
        logits, compared, log_alpha, cross_gates = self._pairs(users, sides, cross_fields)
        shape = (*items["id"].shape[:1], min(exposed, items["id"].shape[1]))
        shown = [x[:, : shape[1]] for x in [*item_fields.values(), *cross_fields.values()]]
        if cross is None and self.spec.cross:  # a ranking net that knows cross features has zeros for unknown ones
            shown.append(jnp.zeros((*shape, self.spec.cross), shown[0].dtype))
        everyone = [jnp.broadcast_to(x[:, None], (*shape, x.shape[-1])) for x in user_fields.values()]
        teacher = self.ranking_net(jnp.concatenate([*everyone, *shown], axis=-1))
        fields = user_gates | item_gates | cross_gates
        return Outputs(logits, compared, jnp.moveaxis(teacher, -1, 1), log_alpha, fields)

    def _user_fields(self, user: dict, history: dict, history_mask: jax.Array) -> Fields:
        fields = _named("user", user, self.embeddings.user_fields(user))
        if groups := self.spec.history_groups:
            pooled = jnp.split(self.embeddings.history(history, history_mask), groups, axis=-1)
            fields |= {f"history_{group}": x for group, x in enumerate(pooled)}
        self._check_pruned(USER, fields)
        return fields

    def _item_fields(self, items: dict) -> Fields:
        fields = _named("item", items, self.embeddings.item_fields(items))
        self._check_pruned(ITEM, fields)
        return fields

    def _cross_fields(self, cross: jax.Array | None) -> Fields:
        names = [f"cross_{index}" for index in range(self.spec.cross)]
        self._check_pruned(CROSS, names)
        if cross is None:
            return {}
        cross = cross.astype(self.config.dtype)
        return {name: cross[..., index : index + 1] for index, name in enumerate(names)}

    def _check_pruned(self, side: str, known: Collection[str]) -> None:
        """Every pruned name of this side is one of its fields, and one field is left of a user and of an item."""
        names = {name for name in self.config.pruned if KINDS[name.split("_")[0]] == side}
        for name in sorted(names - set(known)):
            raise UserError(f"pruned={name}: {near_miss(name, known) if known else 'there are no cross features'}")
        if side != CROSS and set(known) <= names:
            raise UserError(f"pruned={','.join(self.config.pruned)}: no {side} field is left")

    def _side(self, side: str, fields: Fields) -> tuple[Side, Gates]:
        x, gates = self.pruners[side](fields)
        return Side(x, self.gate.share((USER, ITEM, CROSS).index(side), x)), gates

    def _pairs(self, users: Side, items: Side, cross: Fields) -> tuple[jax.Array, jax.Array, jax.Array, Gates]:
        """Logits [U, T, K], compared vectors [U, K, D], log alpha, and the gates of cross fields."""
        item = Side(*(leaf if leaf.ndim == 3 else leaf[None] for leaf in items))
        shape = (len(users.x), item.x.shape[1])
        shares, parts = users.share[:, None] + item.share, [users.x[:, None], item.x]
        gates: Gates = {}
        if self.crossed and cross:
            crossed, gates = self._side(CROSS, cross)
            shares, parts = shares + crossed.share, [*parts, crossed.x]
        elif self.crossed:
            parts.append(jnp.zeros((*shape, len(self.crossed)), item.x.dtype))
        x = jnp.concatenate([jnp.broadcast_to(part, (*shape, part.shape[-1])) for part in parts], axis=-1)
        gated = x * self.gate.gate(shares, x.shape[-1]).astype(x.dtype)  # Eq 6
        towers, log_alpha = self.routing(gated)
        logits = self.tower_logits(nn.relu(self.tower_hidden(towers)))[..., 0]
        return jnp.moveaxis(logits, -1, 1), gated if self.config.gated_similarity else x, log_alpha, gates


def _named(kind: str, features: dict, vectors: list[jax.Array]) -> Fields:
    """Names for what `Embeddings` looks up: the id, each category, the dense features."""
    categories = features["categorical"].shape[-1] if "categorical" in features else 0
    names = [f"{kind}_id", *(f"{kind}_category_{index}" for index in range(categories))]
    return dict(zip([*names, *([f"{kind}_dense"] if "dense" in features else [])], vectors, strict=True))
