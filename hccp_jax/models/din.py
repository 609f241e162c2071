"""DIN (Zhou et al., KDD 2018), the deep interest network: the ranker that teaches in HCCP's public experiment.

For target e_a and past items e_1 .. e_H: a_t = MLP([e_t, e_a, e_t - e_a, e_t * e_a]), without softmax; the interest is
sum_t a_t e_t, and an MLP over user fields, item fields, interest and cross features gives one logit a task.

Decisions: PReLU where the paper's best rows have Dice, whose statistics tie a score to its batch; 36-16-1 and 64-32 in
place of 80-40-1 and 200-80; e_t and e_a are the id and the categories, which both a past item and a candidate have. The
means of the history groups join the user fields by default, as a past item's group is not in e_t.

No array of all candidates, past items and features together is ever made. The first attention layer is linear:
W_1 e_t + W_2 e_a + W_3 (e_t - e_a) + W_4 (e_t * e_a) = (W_1 + W_3) e_t + (W_2 - W_3) e_a + (W_4 diag(e_t)) e_a, where
the first part runs once per request and the second ahead for the items; blocks of past items run one after the other.
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

BLOCK = 1 << 24  # floats of hidden activations that one block of past items may take


@dataclass(frozen=True)
class DinConfig:
    """Sizes of DIN."""

    id_width: int = field(16, "width of id embeddings", at_least=1)
    category_width: int = field(8, "width of categorical embeddings", at_least=1)
    attention: int = field(36, "width of the attention's first layer", at_least=1)
    attention_second: int = field(16, "width of the attention's second layer", at_least=1)
    hidden: int = field(64, "width of the first layer", at_least=1)
    second: int = field(32, "width of the second layer", at_least=1)
    pooled_history: bool = field(True, "means of the history groups join the user fields; false: the paper's inputs")
    dtype: str = field("float32", "compute type; sums stay float32", choices=("float32", "bfloat16"))


class UserSide(NamedTuple):
    """Past items e_t [U, H, D] and their mask, (W_1 + W_3) e_t + b [U, H, A], first-layer share [U, hidden]."""

    past: jax.Array
    mask: jax.Array
    attention: jax.Array
    first: jax.Array


class ItemSide(NamedTuple):
    """Target e_a [..., D], (W_2 - W_3) e_a [..., A], first-layer share [..., hidden]."""

    target: jax.Array
    attention: jax.Array
    first: jax.Array


class AttentionWeights(nn.Module):
    """The parameters of the attention MLP, as arrays for code that runs inside a loop.

    "kernel" [4 D, A], "bias", "slope" of layer 1, "second_kernel" [A, B], "second_bias", "second_slope" of layer 2, and
    "output_kernel" [B], "output_bias".
    """

    first: int
    second: int

    @nn.compact
    def __call__(self, width: int) -> dict[str, jax.Array]:
        """The arrays, for past items of `width` features."""
        kernel, zeros, slope = nn.initializers.lecun_normal(), nn.initializers.zeros, nn.initializers.constant(0.25)
        return {
            "kernel": self.param("kernel", kernel, (4 * width, self.first)),
            "bias": self.param("bias", zeros, (self.first,)),
            "slope": self.param("slope", slope, (self.first,)),
            "second_kernel": self.param("second_kernel", kernel, (self.first, self.second)),
            "second_bias": self.param("second_bias", zeros, (self.second,)),
            "second_slope": self.param("second_slope", slope, (self.second,)),
            "output_kernel": self.param("output_kernel", kernel, (self.second, 1))[:, 0],
            "output_bias": self.param("output_bias", zeros, (1,))[0],
        }


class Din(PairModel):
    """One logit a task from target attention over the history.

    Attributes:
        config: sizes.
        spec: vocabulary sizes and tasks.
    """

    config: DinConfig
    spec: FeatureSpec

    def setup(self) -> None:
        """Create the layers."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.embeddings = Embeddings(self.spec, c.id_width, c.category_width, dtype)
        self.weights = AttentionWeights(c.attention, c.attention_second)
        self.user_first = nn.Dense(c.hidden, dtype=dtype)  # the first layer's bias is here
        self.item_first = nn.Dense(c.hidden, use_bias=False, dtype=dtype)
        self.interest_first = nn.Dense(c.hidden, use_bias=False, dtype=dtype)
        if self.spec.cross:
            self.cross_first = nn.Dense(c.hidden, use_bias=False, dtype=dtype)
        self.first_slope, self.second_slope = nn.PReLU(negative_slope_init=0.25), nn.PReLU(negative_slope_init=0.25)
        self.second = nn.Dense(c.second, dtype=dtype)
        self.output = nn.Dense(len(self.spec.tasks), dtype=dtype)

    def user_side(self, user: dict, history: dict, history_mask: jax.Array) -> UserSide:
        """Past items and the user's share of the first layers."""
        past = self.embeddings.past_items(history)
        fields = self.embeddings.user_fields(user)
        if self.config.pooled_history:
            fields.append(self.embeddings.history(history, history_mask))
        weights = self.weights(past.shape[-1])
        alone, _, difference, _ = jnp.split(weights["kernel"], 4)
        attention = self._product(past, alone + difference) + weights["bias"]
        first = self.user_first(jnp.concatenate(fields, axis=-1)).astype(jnp.float32)
        return UserSide(past, history_mask, attention, first)

    def item_side(self, items: dict) -> ItemSide:
        """The target and the item's share of the first layers."""
        target = self.embeddings.past_items(items)
        _, alone, difference, _ = jnp.split(self.weights(target.shape[-1])["kernel"], 4)
        first = self.item_first(self.embeddings.items(items)).astype(jnp.float32)
        return ItemSide(target, self._product(target, alone - difference), first)

    def attention(self, users: UserSide, items: ItemSide) -> jax.Array:
        """[U, H, K] float32: a_t of each candidate, 0 where the history is padding."""
        weights = self.weights(users.past.shape[-1])
        crossing = jnp.split(weights["kernel"], 4)[3]
        equation = "ukd,uda->uka" if items.target.ndim == 3 else "kd,uda->uka"
        dtype = jnp.dtype(self.config.dtype)

        @jax.checkpoint
        def one(step: tuple[jax.Array, jax.Array]) -> jax.Array:
            """[U, K]: the attention of one past item of each user, from e_t [U, D] and its share [U, A]."""
            past, share = step
            kernel = (past[:, :, None] * crossing).astype(dtype)
            product = jnp.einsum(equation, items.target.astype(dtype), kernel, preferred_element_type=jnp.float32)
            x = _prelu(share[:, None] + items.attention + product, weights["slope"])
            x = jnp.einsum(
                "uka,ab->ukb",
                x.astype(dtype),
                weights["second_kernel"].astype(dtype),
                preferred_element_type=jnp.float32,
            )
            x = _prelu(x + weights["second_bias"], weights["second_slope"])
            return x @ weights["output_kernel"] + weights["output_bias"]

        steps = (jnp.moveaxis(users.past, 1, 0), jnp.moveaxis(users.attention, 1, 0))
        pairs = len(users.past) * items.first.shape[-2] * self.config.attention
        found = jax.lax.map(one, steps, batch_size=max(1, min(len(steps[0]), BLOCK // max(pairs, 1))))
        return jnp.where(users.mask[:, :, None], jnp.moveaxis(found, 0, 1), 0.0)

    def pair_logits(self, users: UserSide, items: ItemSide, cross: jax.Array | None) -> jax.Array:
        """[U, T, K] logits, one row a task."""
        interest = jnp.einsum("uhk,uhd->ukd", self.attention(users, items), users.past)
        x = users.first[:, None] + items.first + self.interest_first(interest).astype(jnp.float32)
        if cross is not None and self.spec.cross:
            x += self.cross_first(cross).astype(jnp.float32)
        hidden = self.second(self.first_slope(x).astype(self.second.dtype))
        return jnp.moveaxis(self.output(self.second_slope(hidden)).astype(jnp.float32), -1, 1)

    def _product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        dtype = jnp.dtype(self.config.dtype)
        return jnp.matmul(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)


def _prelu(x: jax.Array, slope: jax.Array) -> jax.Array:
    return jnp.where(x >= 0, x, slope * x)
