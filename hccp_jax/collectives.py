"""Collectives that are identities without a device axis, so that one step serves one device and many.

The order that is right under every wrapper: the loss is global (`global_mean`), and only then the gradients are
averaged over the axis (`pmean`); see training/step.py.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Axis = str | tuple[str, ...] | None


def psum(x: Any, axis: Axis) -> Any:
    """Sum over the device axis."""
    return x if axis is None else jax.lax.psum(x, axis)


def pmean(x: Any, axis: Axis) -> Any:
    """Mean over the device axis."""
    return x if axis is None else jax.lax.pmean(x, axis)


def own_copy(x: Any, axis: Axis) -> Any:
    """Arrays that are equal on all devices, as each device's own: a gradient with respect to them is its part only.

    Only a mesh tells the two apart by type (its axes come as a tuple); without this its gradients would be summed over
    the devices once for each use of a parameter.
    """
    return jax.lax.pcast(x, axis, to="varying") if isinstance(axis, tuple) else x


def joined_gradient(gradients: Any, axis: Axis) -> Any:
    """The gradient of a global loss from the devices' gradients of it, with respect to `own_copy`.

    On a mesh those are parts, which are summed. Elsewhere the sum inside the loss has been transposed into another sum
    over the devices, so that each has the whole times their number: the mean.
    """
    return psum(gradients, axis) if isinstance(axis, tuple) else pmean(gradients, axis)


def all_gather(x: Any, axis: Axis) -> Any:
    """Concatenate the rows (leading axis) of all devices, in device order."""
    return x if axis is None else jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, axis, axis=0, tiled=True), x)


def known_everywhere(x: jax.Array, axis: Axis) -> jax.Array:
    """`all_gather` of integers [n] as a sum, which a checked shard_map types as equal on all devices.

    So is then what follows from it, such as which rows of a replicated table change.
    """
    if axis is None:
        return x
    everywhere = jnp.zeros(len(x) * axis_size(axis), x.dtype)
    return psum(jax.lax.dynamic_update_slice_in_dim(everywhere, x, first_row(len(x), axis), 0), axis)


def axis_size(axis: Axis) -> int:
    """How many devices a device axis has; 1 without one."""
    return 1 if axis is None else jax.lax.axis_size(axis)


def first_row(rows: int, axis: Axis) -> jax.Array | int:
    """Global number of this device's first row, each device holding `rows`."""
    return 0 if axis is None else rows * jax.lax.axis_index(axis)


def global_mean(axis: Axis) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A `reduce_fn` for kernels: mean over the valid lists (last axis) of all devices; 0 where there are none.

    Sum and count are summed over the devices separately: means of means would be wrong for unequal counts.
    """

    def reduce(values: jax.Array, valid: jax.Array) -> jax.Array:
        total = psum(jnp.sum(jnp.where(valid, values, 0.0), axis=-1), axis)
        count = psum(jnp.sum(valid, axis=-1, dtype=jnp.float32), axis)
        return total / jnp.maximum(count, 1.0)

    return reduce
