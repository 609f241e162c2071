"""The fold over slots that meets all pairs of a list in O(K) memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

BLOCK = 8  # Slots a step of `fold_slots`: XLA fuses them into one loop, which reads and writes the carry once.


def fold_slots(body: Callable[[Any, tuple[jax.Array, ...]], Any], carry: Any, *columns: tuple[jax.Array, float]) -> Any:
    """Fold over the slots of lists, `BLOCK` a step: pairs of items in memory of O(K).

    `body` makes a carry of a carry and the columns of a block, each [BLOCK, ..., 1], to broadcast against whole lists.
    A column is an array [..., K] and what fills up its last block. The first carry must derive from the inputs.

    >>> total = fold_slots(lambda c, block: c + block[0].sum(0), jnp.zeros(10), (jnp.arange(10.0), 0.0))
    >>> print(total[:2])  # 0 + 1 + ... + 9
    [45. 45.]

    """
    blocks = []
    for array, fill in columns:
        slots = jnp.moveaxis(array, -1, 0)[..., None]
        tail = jnp.full_like(slots, fill, shape=(-len(slots) % BLOCK, *slots.shape[1:]))
        slots = jnp.concatenate([slots, tail])
        blocks.append(slots.reshape(-1, BLOCK, *slots.shape[1:]))
    return jax.lax.scan(lambda c, block: (body(c, block), None), carry, tuple(blocks))[0]
