"""Recurrences along the leading axis: a scan of steps on the CPU, a scan of logarithmic depth on accelerators.

On an accelerator each step of a sequential scan is a launch of its own, so that 500 steps cost milliseconds whatever
they compute; the associative form does about twice the arithmetic in log K launches. Neither is the oracle of the
other: both are tested against loops in float64.
"""

import jax
import jax.numpy as jnp
from jax import lax

UNROLL = 8


def linear_recurrence(decay: jax.Array, increment: jax.Array, *, reverse: bool = False) -> jax.Array:
    """h_k = decay_k * h_(k-1) + increment_k along the first axis, h before the first being 0.

    Time O(K), memory O(K) for the result.

    Args:
        decay: [K, ...] floats; all ones make a running sum.
        increment: [K, ...] floats of the same shape.
        reverse: run from the last element to the first.

    Returns:
        [K, ...] all h.

    >>> print(linear_recurrence(jnp.array([9.0, 0.5, 0.5]), jnp.array([1.0, 1.0, 1.0])))
    [1.   1.5  1.75]

    """
    return lax.platform_dependent(
        decay,
        increment,
        cpu=lambda a, b: _stepwise(a, b, reverse),
        default=lambda a, b: _doubling(a, b, reverse),
    )


def _stepwise(decay: jax.Array, increment: jax.Array, reverse: bool) -> jax.Array:
    def step(carry, now):
        carry = carry * now[0] + now[1]
        return carry, carry

    # zeros_like and not a constant: inside shard_map the carry varies over the devices as the input does.
    init = jnp.zeros_like(decay[0] * increment[0])
    return lax.scan(step, init, (decay, increment), reverse=reverse, unroll=UNROLL)[1]


def _doubling(decay: jax.Array, increment: jax.Array, reverse: bool) -> jax.Array:
    def join(first, then):
        return first[0] * then[0], first[1] * then[0] + then[1]

    return lax.associative_scan(join, (decay, increment), reverse=reverse)[1]


def suffix_exponential_sums(x: jax.Array, lowest: float) -> tuple[jax.Array, jax.Array]:
    """Peak p_k and total a_k of every suffix along the first axis: the sum of exp(x[k:]) is a_k exp(p_k).

    They stay apart because their rounding errors are relative to 1. Those of a running log-sum-exp are relative to the
    values, and an error of 1e-5 in an exponent of 400 shows in a gradient. Time O(K), memory O(K).

    Args:
        x: [K, ...] floats, none below `lowest`.
        lowest: a finite number that stands for minus infinity.

    >>> peak, total = suffix_exponential_sums(jnp.log(jnp.array([1.0, 4.0, 2.0])), -1e30)
    >>> print(total * jnp.exp(peak))
    [7. 6. 2.]

    """
    return lax.platform_dependent(
        x,
        cpu=lambda values: _suffixes_stepwise(values, lowest),
        default=lambda values: _suffixes_doubling(values),
    )


def _suffixes_stepwise(x: jax.Array, lowest: float) -> tuple[jax.Array, jax.Array]:
    def step(carry, score):
        peak, total = carry
        shrink = jnp.exp(-jnp.abs(score - peak))
        total = jnp.where(score > peak, total * shrink + 1.0, total + shrink)
        carry = jnp.maximum(peak, score), total
        return carry, carry

    init = jnp.full_like(x[0], lowest), jnp.zeros_like(x[0])
    return lax.scan(step, init, x, reverse=True, unroll=UNROLL)[1]


def _suffixes_doubling(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    def join(later, earlier):
        peak = jnp.maximum(later[0], earlier[0])
        return peak, later[1] * jnp.exp(later[0] - peak) + earlier[1] * jnp.exp(earlier[0] - peak)

    return lax.associative_scan(join, (x, jnp.ones_like(x)), reverse=True)
