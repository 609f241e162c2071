"""Casts and norms whose gradient is finite everywhere."""

import jax
import jax.numpy as jnp

_SMALLEST = 1e-12


def accumulated(x: jax.Array) -> jax.Array:
    """`x` in the type sums are taken in: float32 for bfloat16, float16, integers and booleans; float64 as it is."""
    return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))


def safe_norm(x: jax.Array, axis: int = -1) -> jax.Array:
    """Euclidean norm sqrt(sum x^2 + 1e-12), float32 or wider; its gradient at a zero vector is zero, not NaN.

    1e-6 at zero, and equal to the norm to float32 accuracy from 0.01 on.

    >>> print(f"{safe_norm(jnp.array([3.0, 4.0])):.4f}")
    5.0000

    """
    return jnp.sqrt(jnp.sum(jnp.square(accumulated(x)), axis=axis) + _SMALLEST)


def normalize(x: jax.Array, axis: int = -1) -> jax.Array:
    """`x` over its norm, so that dot products are cosines; float32 or wider.

    A vector of norm at most 1e-6 becomes zero with zero gradient: the gradient of a direction grows as 1 / norm.

    >>> print(normalize(jnp.array([3.0, 4.0])))
    [0.6 0.8]

    """
    x = accumulated(x)
    square = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    large = ~(square <= _SMALLEST)  # Not `>`: a NaN is to stay one.
    return jnp.where(large, x * jax.lax.rsqrt(jnp.where(large, square, 1.0)), 0.0)
