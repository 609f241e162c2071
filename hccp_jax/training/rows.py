"""Optimizers of single rows of a table: what they keep, and the update of the rows that a batch reads.

A dense optimizer reads and writes a whole table at every step, whatever the batch reads. These touch the rows of the
batch only. Adam is made to equal the dense one all the same: a row that was not read for n steps has still moved under
dense Adam, by its decaying first moment. Both moments then decay by the n steps, and the movement is a sum that has a
closed form, so that catching up costs the same for any n.

The sum. A row last updated at step l, with moments m and v, has moved after n more steps without a gradient by

    -rate sum_j b1^j m / (1 - b1^(l+j)) / (sqrt(b2^j v / (1 - b2^(l+j))) + eps),   j = 1..n

Write A = sum_j b1^j / (1 - b1^(l+j)) and B = the same terms times sqrt((1 - b2^(l+j)) / b2^j). The movement is then
-rate m B / (sqrt(v) + eps B / A): exact where eps is nothing beside sqrt(v) or all of it, and within two
thousandths of what the table moves in between. A and B are differences of sums to infinity, which are tables by step.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

B1, B2, EPSILON = 0.9, 0.999, 1e-8  # of optax.adam
LAST_STEP = 1 << 14  # from here on 1 - b2^step is 1 in float32
_TERMS = 400  # b1^400 = 5e-19


def _tails() -> tuple[np.ndarray, np.ndarray]:
    """Sums to infinity of the terms of A and B after each step 0..LAST_STEP, float64 accumulated."""
    step = np.arange(LAST_STEP + _TERMS + 2, dtype=np.float64)[1:]
    first, second = 1 / (1 - B1**step), np.sqrt(1 - B2**step) / (1 - B1**step)
    ratio = B1 / np.sqrt(B2)
    a, b = np.zeros(len(step) + 1), np.zeros(len(step) + 1)
    a[-1], b[-1] = B1 / (1 - B1), ratio / (1 - ratio)
    for s in range(len(step) - 1, -1, -1):
        a[s], b[s] = B1 * (first[s] + a[s + 1]), ratio * (second[s] + b[s + 1])
    return a[: LAST_STEP + 1].astype(np.float32), b[: LAST_STEP + 1].astype(np.float32)


_A, _B = _tails()


class AdamRows(NamedTuple):
    """Both moments [V, 2, w] float32, side by side as they are read together, and the step [V] int32 they count to."""

    moments: jax.Array
    last: jax.Array


class AdagradRows(NamedTuple):
    """Sum [V] float32 of the mean squares of a row's gradients: one number a row."""

    square: jax.Array


class RowOptimizer(Protocol):
    """Pure functions over rows; leaves of a state begin with the axis of the rows."""

    def start(self, table: jax.Array) -> Any:
        """The state of a table [V, w]."""

    def catch_up(self, rows: jax.Array, state: Any, step: jax.Array, rate: jax.Array) -> tuple[jax.Array, Any]:
        """Rows [n, w] float32 and their state as they are after `step`, had no gradient reached them since."""

    def update(
        self, rows: jax.Array, state: Any, gradients: jax.Array, step: jax.Array, rate: jax.Array
    ) -> tuple[jax.Array, Any]:
        """The update that is number `step` (from 1) of rows that are caught up to the step before."""


class LazyAdam:
    """Adam on the rows that are read, equal to dense Adam by catching up."""

    def start(self, table: jax.Array) -> AdamRows:
        """Zero moments."""
        rows, width = table.shape
        return AdamRows(jnp.zeros((rows, 2, width), jnp.float32), jnp.zeros(rows, jnp.int32))

    def catch_up(
        self, rows: jax.Array, state: AdamRows, step: jax.Array, rate: jax.Array
    ) -> tuple[jax.Array, AdamRows]:
        """See the module."""
        first, second = state.moments[:, 0], state.moments[:, 1]
        missed = (step - state.last).astype(jnp.float32)
        decay, root = B1**missed, (B1 / np.sqrt(B2)) ** missed
        a = _at(_A, state.last) - decay * _at(_A, step)
        b = _at(_B, state.last) - root * _at(_B, step)
        ratio = b / jnp.where(missed > 0, a, 1.0)
        moved = first * b[:, None] / (jnp.sqrt(second) + (EPSILON * ratio)[:, None])
        moved = jnp.where((missed > 0)[:, None] & (first != 0), moved, 0.0)
        return rows - rate * moved, _adam(first * decay[:, None], second * (B2**missed)[:, None], step)

    def update(
        self, rows: jax.Array, state: AdamRows, gradients: jax.Array, step: jax.Array, rate: jax.Array
    ) -> tuple[jax.Array, AdamRows]:
        """One step of Adam."""
        first = B1 * state.moments[:, 0] + (1 - B1) * gradients
        second = B2 * state.moments[:, 1] + (1 - B2) * jnp.square(gradients)
        count = step.astype(jnp.float32)
        mean, square = first / (1 - B1**count), second / (1 - B2**count)
        return rows - rate * mean / (jnp.sqrt(square) + EPSILON), _adam(first, second, step)


class RowAdagrad:
    """Adagrad with one accumulator a row, the mean of the squares over its width; absent rows do not move.

    Attributes:
        start_at: what the accumulators begin with.
    """

    def __init__(self, start_at: float = 0.1) -> None:
        self.start_at = start_at

    def start(self, table: jax.Array) -> AdagradRows:
        """Equal accumulators."""
        return AdagradRows(jnp.full(len(table), self.start_at, jnp.float32))

    def catch_up(
        self, rows: jax.Array, state: AdagradRows, step: jax.Array, rate: jax.Array
    ) -> tuple[jax.Array, AdagradRows]:
        """Nothing to do."""
        return rows, state

    def update(
        self, rows: jax.Array, state: AdagradRows, gradients: jax.Array, step: jax.Array, rate: jax.Array
    ) -> tuple[jax.Array, AdagradRows]:
        """One step of Adagrad."""
        square = state.square + jnp.mean(jnp.square(gradients), axis=-1)
        # a row without any gradient may have an accumulator of 0
        return rows - rate * gradients * jax.lax.rsqrt(jnp.maximum(square, 1e-30))[:, None], AdagradRows(square)


def _adam(first: jax.Array, second: jax.Array, step: jax.Array) -> AdamRows:
    """Moments [n, w] that count to one step."""
    return AdamRows(jnp.stack([first, second], axis=1), jnp.broadcast_to(step, len(first)).astype(jnp.int32))


def _at(table: np.ndarray, step: jax.Array) -> jax.Array:
    return jnp.asarray(table)[jnp.minimum(step, LAST_STEP)]


def rounded(values: jax.Array, dtype: jnp.dtype, key: jax.Array) -> jax.Array:
    """Values in another type; to bfloat16 up or down at random, so that small updates count on average.

    Args:
        values: float32.
        dtype: float32 or bfloat16.
        key: of the draws.
    """
    if dtype != jnp.bfloat16:
        return values.astype(dtype)
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    noise = jax.random.bits(key, values.shape, jnp.uint16).astype(jnp.uint32)
    kept = jax.lax.bitcast_convert_type((bits + noise) & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(values), kept, values).astype(jnp.bfloat16)
