"""Counter-based randomness: every draw is a pure function of what it is for and of integer keys.

A draw keyed by (purpose, request, item) needs no state, so common random numbers between two arms, resumption at any
step and independence from the device count all come for free.
"""

import zlib

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

_GOLDEN = 0x9E3779B9


def _mix(x: jax.Array) -> jax.Array:
    """The 32-bit finaliser `lowbias32` (two multiplications, three shifts): a bijection with low avalanche bias."""
    x = x ^ (x >> 16)
    x = x * jnp.uint32(0x7FEB352D)
    x = x ^ (x >> 15)
    x = x * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def hash_bits(purpose: str, *keys: ArrayLike) -> jax.Array:
    """32 random bits for a purpose and integer keys.

    Args:
        purpose: a name for the draw, such as "click"; two purposes give independent draws.
        *keys: integer arrays that broadcast together (world seed, request, item, ...).

    Returns:
        uint32 array of the broadcast shape of the keys.

    >>> int(hash_bits("click", 0, 7)) == int(hash_bits("click", 0, 7))
    True
    """
    state = jnp.uint32(zlib.crc32(purpose.encode()))
    for key in keys:
        state = _mix(state + jnp.asarray(key).astype(jnp.uint32) * jnp.uint32(_GOLDEN) + jnp.uint32(1))
    return state


def uniform(purpose: str, *keys: ArrayLike) -> jax.Array:
    """Uniform float32 in [0, 1).

    Only the top 23 bits are used: a full 32-bit integer rounds to exactly 1.0 about once in 2^24 draws, and
    `floor(1.0 * n)` would be one past the end.
    """
    return (hash_bits(purpose, *keys) >> 9).astype(jnp.float32) * jnp.float32(2.0**-23)


def integers(purpose: str, *keys: ArrayLike, below: ArrayLike) -> jax.Array:
    """Uniform int32 in [0, below); `below` is a positive integer array (or number) that broadcasts with the keys."""
    below = jnp.asarray(below, jnp.int32)
    scaled = jnp.floor(uniform(purpose, *keys) * below.astype(jnp.float32)).astype(jnp.int32)
    return jnp.minimum(scaled, below - 1)  # (1 - 2^-23) * below may round up to below


def normal(purpose: str, *keys: ArrayLike) -> jax.Array:
    """Standard normal float32, by the inverse distribution function of a uniform draw."""
    centred = uniform(purpose, *keys) + jnp.float32(2.0**-24)  # the middle of the cell: never 0 or 1, so never infinite
    return jax.scipy.special.ndtri(centred)
