"""What every architecture offers: a user side, an item side that can be computed ahead, and what joins the two."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

BLOCK = 250
"""Candidates that a CPU scores at a time for one user: what an architecture makes of them fits a second-level cache."""

FEW = 1000
"""Candidates of one user that a CPU still scores at once: so few gain little from blocks."""


class PairModel(nn.Module, ABC):
    """Base of the architectures.

    A subclass defines the three parts below; the forward pass is nothing but their composition, so that serving with
    item sides computed ahead gives the same scores.
    """

    @abstractmethod
    def user_side(self, user: dict, history: dict, history_mask: jax.Array) -> Any:
        """What runs once per request: a pytree with leading axis U.

        Args:
            user: features of users, each [U, ...].
            history: features of past items, each [U, H, ...].
            history_mask: [U, H] bool.
        """

    @abstractmethod
    def item_side(self, items: dict) -> Any:
        """What depends on the item alone: a pytree with the leading axes of `items["id"]`."""

    @abstractmethod
    def pair_logits(self, users: Any, items: Any, cross: jax.Array | None) -> jax.Array:
        """What runs per candidate.

        Args:
            users: the user side of U requests.
            items: the item side with leading axes [U, K], or [K] for candidates that all users share.
            cross: [U, K, F] float32 user-times-item features, or None.

        Returns:
            [U, T, K] float32 logits, T being the tasks, or 1 for a model with one score.
        """

    def __call__(
        self, user: dict, history: dict, history_mask: jax.Array, items: dict, cross: jax.Array | None
    ) -> jax.Array:
        """[U, T, K] float32 logits of a batch."""
        return self.pair_logits(self.user_side(user, history, history_mask), self.item_side(items), cross)


def in_blocks(score: Callable[[Any], jax.Array], candidates: Any, block: int = BLOCK) -> jax.Array:
    """[K, ...] of `score`, which maps each candidate by itself, applied to one block of candidates after the other.

    Args:
        score: pytree with leaves [B, ...] -> [B, ...].
        candidates: pytree with leaves [K, ...], K at least 1.
        block: B; fewer candidates are one block.

    >>> in_blocks(lambda x: 2 * x, jnp.arange(5), block=2).tolist()
    [0, 2, 4, 6, 8]

    """
    count = len(jax.tree.leaves(candidates)[0])
    block = min(block, count)
    steps = -(-count // block)

    def one(index: jax.Array) -> jax.Array:
        # the last block begins early: nothing is padded or copied, some candidates are scored twice
        start = jnp.minimum(index * block, count - block)
        return score(jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, block), candidates))

    found = jax.lax.map(one, jnp.arange(steps))
    return jnp.concatenate([found[:-1].reshape(-1, *found.shape[2:]), found[-1, steps * block - count :]])


def dot_products(users: jax.Array, items: jax.Array) -> jax.Array:
    """[U, K] float32 products of users [U, d] with items [U, K, d], or [K, d] that all users share.

    >>> print(dot_products(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 0.0], [0.0, 4.0]])))
    [[3. 8.]]

    """
    equation = "ud,ukd->uk" if items.ndim == 3 else "ud,kd->uk"
    return jnp.einsum(equation, users, items, preferred_element_type=jnp.float32)
