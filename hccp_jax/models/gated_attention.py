"""RankTower's attention between one user and many candidates (Eq 3-8), as a server computes it.

The layers of `ranktower` make every array of all candidates before the next one; here a block of candidates goes
through all of them while it stays in the cache. Two identities spare work. A layer norm does not see the mean of what
it is given, so heads and output kernels are centred and no mean is taken of attended heads. And a cosine is a product
of plain vectors times two reciprocal norms, which are applied to H_u x H_i products and not to the vectors.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from hccp_jax.models.pair_model import in_blocks


class Side(NamedTuple):
    """One side of the attention: heads e [..., H, k], and what Eq 5 makes of them [..., H, w] for both directions.

    `query` and `gate` serve the direction in which this side asks, `key` and `value` the one in which it is asked.
    """

    heads: jax.Array
    query: jax.Array
    gate: jax.Array
    key: jax.Array
    value: jax.Array


class Output(NamedTuple):
    """What makes attended heads of a side: W_o [w, k] of Eq 6, scale and bias [k] of the layer norm of Eq 3 and 4."""

    kernel: jax.Array
    scale: jax.Array
    bias: jax.Array


def best_cosines(users: Side, items: Side, of_users: Output, of_items: Output) -> jax.Array:
    """Largest cosine of each attended head of a user over the attended heads of a candidate.

    Args:
        users: of one user, [H_u, ...] float32.
        items: of K candidates, [K, H_i, ...] float32.
        of_users: layers of the user's heads.
        of_items: layers of the items' heads.

    Returns:
        [K, H_u] float32; equal to the forward pass of `RankTower` up to rounding.
    """
    return in_blocks(lambda block: _of_block(users, block, of_users, of_items), items)


def _of_block(users: Side, items: Side, of_users: Output, of_items: Output) -> jax.Array:
    """[B, H_u] of candidates [B, H_i, ...]."""
    width = jnp.sqrt(float(users.query.shape[-1]))
    seen_weights = nn.softmax(jnp.einsum("pw,bqw->bpq", users.query / width, items.key))  # Eq 7
    told_weights = nn.softmax(jnp.einsum("bqw,pw->bqp", items.query, users.key / width))
    seen = users.gate * jnp.einsum("bpq,bqw->bpw", seen_weights, items.value)  # Eq 6
    told = items.gate * jnp.einsum("bqp,pw->bqw", told_weights, users.value)
    asking, per_asking = _layer_norm(_centred(users.heads) + seen @ _centred(of_users.kernel), of_users)  # Eq 3
    asked, per_asked = _layer_norm(_centred(items.heads) + told @ _centred(of_items.kernel), of_items)  # Eq 4
    cosines = jnp.einsum("bpk,bqk->bpq", asking, asked) * per_asked[:, None]
    return jnp.max(cosines, axis=-1) * per_asking


def _centred(x: jax.Array) -> jax.Array:
    return x - jnp.mean(x, axis=-1, keepdims=True)


def _layer_norm(x: jax.Array, output: Output) -> tuple[jax.Array, jax.Array]:
    """Layer norm [B, H, k] of vectors whose mean is 0, and [B, H] one over its length, as in `numerics.normalize`."""
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    y = x * (jax.lax.rsqrt(variance + 1e-6) * output.scale) + output.bias
    square = jnp.sum(jnp.square(y), axis=-1)
    large = ~(square <= 1e-12)
    return y, jnp.where(large, jax.lax.rsqrt(jnp.where(large, square, 1.0)), 0.0)
