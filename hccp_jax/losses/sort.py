"""Stable sorting of the last axis, in the fastest exact form of the platform.

XLA on the CPU compares several operands indirectly, and its sort is most of the cost of a sorting loss. One int64
operand, an order-preserving key above the slot, is sorted five to nine times faster; accelerators sort a 32-bit key
with its slot. The choice is made where the program is compiled for, not where it is traced.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

LARGEST = 0x7FFFFFFF

COUNTED = 200
"""Lists up to this length are ranked by counting."""


def ascending_key(x: jax.Array) -> jax.Array:
    """int32 that ascends as `x` does; -0 equals 0, and NaN is larger than any number.

    Args:
        x: floats or integers of at most 32 bits.

    >>> print(ascending_key(jnp.array([-1.0, -0.0, 0.0, 1.0])) - ascending_key(jnp.float32(0.0)))
    [-1065353216           0           0  1065353216]

    """
    if x.dtype == jnp.uint32:
        return lax.bitcast_convert_type(x ^ jnp.uint32(LARGEST + 1), jnp.int32)
    if jnp.issubdtype(x.dtype, jnp.integer):
        return x.astype(jnp.int32)
    x = x.astype(jnp.float32)
    bits = lax.bitcast_convert_type(x, jnp.int32)
    # Sign and magnitude to two's complement, in which -0 is 0.
    ascending = jnp.where(bits < 0, ~(bits & LARGEST) + 1, bits)
    return jnp.where(jnp.isnan(x), jnp.int32(LARGEST), ascending)


def _values(key: jax.Array) -> jax.Array:
    """float32 numbers of ascending keys, the inverse of `ascending_key`."""
    bits = jnp.where(key < 0, ~(key - 1) | jnp.int32(-LARGEST - 1), key)
    return lax.bitcast_convert_type(bits, jnp.float32)


def argsort(x: jax.Array) -> jax.Array:
    """Stable ascending argsort of the last axis; equal values stay in slot order.

    Time O(K log K), memory O(K) a list.

    Args:
        x: [..., K] floats or integers. Of 64 bits they are sorted exactly, but not fast.

    Returns:
        [..., K] int32 slots.

    >>> print(argsort(jnp.array([2.0, -1.0, 2.0, 0.0])))
    [1 3 0 2]

    """
    if x.dtype.itemsize > 4:
        return jnp.argsort(x, axis=-1, stable=True).astype(jnp.int32)
    key = ascending_key(x)
    return _sort_pairs(key, _slots(key), key.ndim - 1)[1]


def positions(x: jax.Array) -> jax.Array:
    """Where each element stands in the stable ascending order of its list: the inverse of `argsort`.

    Time O(K^2) up to `COUNTED` elements, where counting the smaller ones is two to three times faster than a sort on
    the CPU; O(K log K) above. Memory O(K) a list.

    Args:
        x: [..., K] floats or integers.

    >>> print(positions(jnp.array([2.0, -1.0, 2.0, 0.0])))
    [2 0 3 1]

    """
    size = x.shape[-1]
    if not size:
        return jnp.zeros_like(x, jnp.int32)
    if size > COUNTED or x.dtype.itemsize > 4:
        order = argsort(x).reshape(-1, size)
        row = lax.broadcasted_iota(jnp.int32, order.shape, 0)
        place = jnp.zeros_like(order).at[row, order].set(_slots(order), unique_indices=True, mode="promise_in_bounds")
        return place.reshape(x.shape)
    key = ascending_key(x).reshape(-1, size).T
    slot = lax.broadcasted_iota(jnp.int32, key.shape, 0)

    def count(place, other):
        other_key, other_slot = other[0][None], other[1]
        # Among equal keys the earlier slot is the smaller.
        return place + ((other_key < key) | ((other_key == key) & (other_slot < slot))), None

    return lax.scan(count, jnp.zeros_like(key), (key, jnp.arange(size, dtype=jnp.int32)))[0].T.reshape(x.shape)


def sort_descending(x: jax.Array, code: jax.Array, mask: jax.Array, codes: int) -> tuple[jax.Array, jax.Array]:
    """Lists sorted from the largest to the smallest, each item with its code, positions first.

    The code travels in the key, and the values are read back from it: gathers by the order would cost XLA on the CPU
    as much as the sort, since it repeats them for each use.

    Time O(K log K), memory O(K) a list.

    Args:
        x: [B, K] floats; finite where `mask`. Gradients flow to them.
        code: [B, K] integers or whole floats in [0, codes).
        mask: [B, K] bool; masked items come last, whatever they hold.
        codes: static; K * codes must be below 2^31.

    Returns:
        values [K, B], 0 after the masked began, and codes [K, B] int32. Equal values are in slot order.

    Raises:
        ValueError: for too many codes.

    >>> values, code = sort_descending(
    ...     jnp.array([[2.0, -1.0, 5.0]]), jnp.array([[0, 1, 2]]), jnp.array([[True, True, True]]), 3
    ... )
    >>> print(values[:, 0], code[:, 0])
    [ 5.  2. -1.] [2 0 1]

    """
    if x.shape[-1] * codes >= LARGEST:
        raise ValueError(f"codes={codes}: expected less than {LARGEST // x.shape[-1]} for lists of {x.shape[-1]}")
    return _sort_descending(codes, x, code.astype(jnp.int32), mask)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sort_descending(codes, x, code, mask):
    return _sort_descending_fwd(codes, x, code, mask)[0]


def _sort_descending_fwd(codes, x, code, mask):
    payload = _slots(code) * codes + code
    real = lax.broadcasted_iota(jnp.int32, mask.shape[::-1], 0) < jnp.sum(mask, axis=-1, dtype=jnp.int32)[None]
    # Transposed before the sort and not after it: what reads the result would stride over memory each time.
    if x.dtype.itemsize > 4:
        order = argsort(jnp.where(mask, -x, jnp.inf))
        values, payload = (jnp.take_along_axis(leaf, order, axis=-1).T for leaf in (x, payload))
    else:
        key, payload = _sort_pairs(jnp.where(mask, ascending_key(-x), LARGEST).T, payload.T, 0)
        values = -_values(key)
    values = jnp.where(real, values, 0.0).astype(x.dtype)
    return (values, payload % codes), (payload // codes, real)


def _sort_descending_bwd(codes, residuals, cotangents):
    slot, real = residuals
    slope = jnp.where(real, cotangents[0], 0.0)
    row = lax.broadcasted_iota(jnp.int32, slope.shape, 1)
    back = jnp.zeros_like(slope.T).at[row, slot].set(slope, unique_indices=True, mode="promise_in_bounds")
    return back, None, None


_sort_descending.defvjp(_sort_descending_fwd, _sort_descending_bwd)


def _slots(key: jax.Array) -> jax.Array:
    return lax.broadcasted_iota(jnp.int32, key.shape, key.ndim - 1)


def _sort_pairs(key: jax.Array, payload: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Ascending by int32 key, then by int32 payload, which is not negative; both sorted."""
    forms = {"cpu": partial(_packed, axis), "default": partial(_paired, axis)}
    return lax.platform_dependent(key, payload, **forms)


def _packed(axis: int, key: jax.Array, payload: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One int64 operand, the key above the payload."""
    with jax.enable_x64(True):
        packed = (key.astype(jnp.int64) << 32) | payload.astype(jnp.int64)
        packed = lax.sort(packed, dimension=axis, is_stable=False)
        return (packed >> 32).astype(jnp.int32), (packed & 0xFFFFFFFF).astype(jnp.int32)


def _paired(axis: int, key: jax.Array, payload: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two operands of 32 bits."""
    key, payload = lax.sort((key, payload), dimension=axis, is_stable=False, num_keys=2)
    return key, payload
