"""Exact ranking with ties, padding and undefined scores; one definition for every metric.

Best first: higher scores; among equal scores (-0 equals 0) the smaller tie key, then the smaller slot. A NaN score is
worse than any number, minus infinity included, and a masked slot is worse than NaN. The tie key is needed: many
published top-K metrics are wrong under ties, as a stable sort rewards the order in which the data was stored.

Axes: U requests, P candidate slots, Q queried slots.
"""

import jax
import jax.numpy as jnp
from jax import lax

from hccp_jax.losses.sort import LARGEST, argsort, ascending_key


def _descending_key(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """[U, P] int32 that ascends where scores descend. The largest two values are kept for NaN and for masked slots."""
    scores = jnp.asarray(scores, jnp.float32)
    key = jnp.where(jnp.isnan(scores), jnp.int32(LARGEST - 1), ~ascending_key(scores))
    return jnp.where(mask, key, jnp.int32(LARGEST))


def tie_order(ties: jax.Array) -> jax.Array:
    """[U, P] int32: the slots by ascending tie key (uint32), then by slot."""
    signed = lax.bitcast_convert_type(jnp.asarray(ties, jnp.uint32), jnp.int32)
    return argsort(signed ^ jnp.int32(-LARGEST - 1))


def order(scores: jax.Array, mask: jax.Array, ties: jax.Array | None = None) -> jax.Array:
    """Slots from best to worst.

    Args:
        scores: [U, P] float, taken as float32.
        mask: [U, P] bool, real slots.
        ties: [U, P] uint32 tie keys; None where the slots are in tie order already (half the work).

    Returns:
        [U, P] int32, a permutation of the slots of each request, masked slots last.

    >>> import jax.numpy as jnp
    >>> scores, mask = jnp.array([[1.0, 3.0, 1.0, 9.0]]), jnp.array([[True, True, True, False]])
    >>> order(scores, mask, ties=jnp.array([[8, 0, 2, 5]], jnp.uint32)).tolist()
    [[1, 2, 0, 3]]

    """
    key = _descending_key(scores, mask)
    if ties is None:
        return argsort(key)
    by_tie = tie_order(ties)
    return jnp.take_along_axis(by_tie, argsort(jnp.take_along_axis(key, by_tie, axis=-1)), axis=-1)


def ranks_of(
    scores: jax.Array, mask: jax.Array, ties: jax.Array | None, slots: jax.Array, where: jax.Array
) -> jax.Array:
    """Ranks of a few candidates, by counting those before them: O(Q P) comparisons and no sort.

    Args:
        scores: [U, P] float, taken as float32.
        mask: [U, P] bool, real slots.
        ties: [U, P] uint32 tie keys, or None where the slots are in tie order already.
        slots: [U, Q] int32, the slots asked for, each in [0, P).
        where: [U, Q] bool, real questions.

    Returns:
        [U, Q] int32, 0 the best; P where the question or the slot is masked.

    >>> import jax.numpy as jnp
    >>> scores, mask = jnp.array([[1.0, 3.0, 1.0, 9.0]]), jnp.array([[True, True, True, False]])
    >>> slots, where = jnp.array([[0, 1, 2, 3]]), jnp.array([[True, True, False, True]])
    >>> ranks_of(scores, mask, None, slots, where).tolist()
    [[1, 0, 4, 4]]

    """
    key = _descending_key(scores, mask)
    slot = lax.broadcasted_iota(jnp.int32, key.shape, 1)
    tie = slot.astype(jnp.uint32) if ties is None else jnp.asarray(ties, jnp.uint32)

    def asked(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, slots, axis=-1)[..., :, None]

    key_p, tie_p, slot_p = (x[..., None, :] for x in (key, tie, slot))
    earlier = (tie_p < asked(tie)) | ((tie_p == asked(tie)) & (slot_p < slots[..., :, None]))
    before = (key_p < asked(key)) | ((key_p == asked(key)) & earlier)
    known = where & jnp.take_along_axis(mask, slots, axis=-1)
    return jnp.where(known, before.sum(axis=-1, dtype=jnp.int32), jnp.int32(scores.shape[-1]))


def count_not_finite(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """[] int32: real candidates whose score is NaN or infinite. An evaluation should report it and expect 0."""
    return (mask & ~jnp.isfinite(scores)).sum(dtype=jnp.int32)
