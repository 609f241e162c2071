"""Recurrences along the leading axis: a scan of steps on the CPU, a scan of logarithmic depth on accelerators.

On an accelerator each step of a sequential scan is a launch of its own, so that 500 steps cost milliseconds whatever
they compute; the associative form does about twice the arithmetic in log K launches. Neither is the oracle of the
other: both are tested against loops in float64. Scans are not unrolled: XLA compiles one step to a tight loop, and
eight of them to code that is three to six times slower.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


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
    return lax.scan(step, init, (decay, increment), reverse=reverse)[1]


def _doubling(decay: jax.Array, increment: jax.Array, reverse: bool) -> jax.Array:
    def join(first, then):
        return first[0] * then[0], first[1] * then[0] + then[1]

    return lax.associative_scan(join, (decay, increment), reverse=reverse)[1]


def suffix_maxima(x: jax.Array) -> jax.Array:
    """Largest of x[k:] at k, along the first axis.

    >>> print(suffix_maxima(jnp.array([1.0, 3.0, 2.0])))
    [3. 3. 2.]

    """

    def stepwise(x):
        def step(peak, now):
            peak = jnp.maximum(peak, now)
            return peak, peak

        return lax.scan(step, x[-1], x, reverse=True)[1]

    return lax.platform_dependent(x, cpu=stepwise, default=lambda x: lax.cummax(x, axis=0, reverse=True))


class SuffixSums(NamedTuple):
    """Sums of exponentials of all suffixes, each as total * exp(peak); all [K, ...].

    Attributes:
        peak: largest element p_k of the suffix.
        total: a_k >= 1, the sum of exp(x[k:] - p_k).
        own: the share exp(x_k - p_k) of the first element.
        shrink: exp(p_(k+1) - p_k), the factor from the suffix before; 0 at the last.
    """

    peak: jax.Array
    total: jax.Array
    own: jax.Array
    shrink: jax.Array


def suffix_exponential_sums(x: jax.Array) -> SuffixSums:
    """Sums of exp(x[k:]) along the first axis, without overflow.

    Peak and total stay apart because their rounding errors are relative to 1. Those of a running log-sum-exp are
    relative to the values, and an error of 1e-5 in an exponent of 400 shows in a gradient. Time O(K), memory O(K).

    Args:
        x: [K, ...] finite floats.

    >>> sums = suffix_exponential_sums(jnp.log(jnp.array([1.0, 4.0, 2.0])))
    >>> print(sums.total * jnp.exp(sums.peak))
    [7. 6. 2.]

    """
    peak = suffix_maxima(x)
    own = jnp.exp(x - peak)
    shrink = jnp.concatenate([jnp.exp(peak[1:] - peak[:-1]), jnp.zeros_like(peak[:1])])
    return SuffixSums(peak, linear_recurrence(shrink, own, reverse=True), own, shrink)
