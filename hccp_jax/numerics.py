"""Norms whose gradient is finite everywhere."""

import jax
import jax.numpy as jnp

_TINY = 1e-12


def safe_norm(x: jax.Array, axis: int = -1) -> jax.Array:
    """Euclidean norm sqrt(sum x^2 + 1e-12), float32; its gradient at a zero vector is 0, not NaN.

    >>> import jax.numpy as jnp
    >>> float(safe_norm(jnp.array([3.0, 4.0])))
    5.0
    """
    return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.promote_types(x.dtype, jnp.float32))), axis=axis) + _TINY)


def normalize(x: jax.Array, axis: int = -1) -> jax.Array:
    """Vectors over their norm; a zero vector stays zero."""
    return x / jnp.expand_dims(safe_norm(x, axis), axis)
