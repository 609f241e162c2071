"""What every loss kernel shares: the mask of a list, its log-sum-exp, and how per-list values become one number."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hccp_jax.numerics import accumulated

ReduceFn = Callable[[jax.Array, jax.Array], jax.Array]
"""`(values [...], valid [...] bool) -> array`: the last step of every kernel.

A caller that trains on several devices passes its own, `psum(sum) / psum(count)`, and no kernel knows of devices.
"""

NEGATIVE = -1e30
"""Stands for -inf where a list is empty: finite, so that differences with it give 0 and never NaN."""


def list_mask(scores: jax.Array, where: jax.Array | None) -> jax.Array:
    """`where` as a bool array of the shape of `scores`; all true for None.

    >>> print(list_mask(jnp.zeros(2), None))
    [ True  True]

    """
    return jnp.broadcast_to(True if where is None else jnp.asarray(where, bool), scores.shape)


def log_sum_exp(x: jax.Array, where: jax.Array, axis: int = -1) -> jax.Array:
    """Log of the sum of exp(x) over the unmasked entries of an axis.

    Args:
        x: [..., K] floats; bfloat16 is summed in float32. Masked entries may hold anything, NaN included.
        where: bool, broadcastable to `x`; the entries that count.
        axis: the axis summed over; it may have length 0.

    Returns:
        `x` without `axis`, float32 or wider. `NEGATIVE` (-1e30) with zero gradient where everything is masked; NaN
        where an unmasked entry is NaN.

    >>> print(f"{log_sum_exp(jnp.log(jnp.array([1.0, 2.0, 5.0])), jnp.array([True, True, False])):.4f}")
    1.0986

    """
    where = list_mask(x, where)
    x = jnp.where(where, accumulated(x), NEGATIVE)
    peak = jax.lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True, initial=NEGATIVE))
    total = jnp.sum(jnp.exp(x - peak), axis=axis)
    # An empty axis sums to 0; the log of a 1 in its place keeps value and gradient finite.
    some = jnp.any(where, axis=axis)
    return jnp.where(some, jnp.squeeze(peak, axis) + jnp.log(jnp.where(some, total, 1.0)), NEGATIVE)


def mean_valid(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean of the values of the valid lists; a scalar.

    sum(values over valid) / max(count(valid), 1): 0 with zero gradient if nothing is valid, whatever the values there
    are; NaN if a valid value is NaN.

    >>> print(mean_valid(jnp.array([1.0, jnp.nan, 4.0]), jnp.array([True, False, True])))
    2.5

    """
    return sum_valid(values, valid) / jnp.maximum(jnp.sum(valid), 1)


def sum_valid(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Sum of the values of the valid lists; a scalar, 0 if nothing is valid.

    >>> print(sum_valid(jnp.array([1.0, jnp.nan, 4.0]), jnp.array([True, False, True])))
    5.0

    """
    return jnp.sum(no_reduction(values, valid))


def no_reduction(values: jax.Array, valid: jax.Array) -> jax.Array:
    """The values themselves, 0 where a list is not valid.

    >>> print(no_reduction(jnp.array([1.0, jnp.nan, 4.0]), jnp.array([True, False, True])))
    [1. 0. 4.]

    """
    return jnp.where(valid, values, 0.0)
