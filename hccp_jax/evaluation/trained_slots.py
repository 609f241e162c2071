"""How many samples a request gives a method: the list slots that its loss learns from."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from hccp_jax.data.requests import RequestBatch
from hccp_jax.methods.base import Method


def trained_slots(method: Method, parameters: Any, hyper: Any, batch: RequestBatch, key: jax.Array) -> jax.Array:
    """Mean number of list slots a request whose item features have a gradient, a float32 scalar.

    Counted on the loss and not looked up in a table of rows, so that a term whose weight is 0 counts for nothing and
    negatives taken from other requests count where they lie. An item of several terms is one sample.

    Args:
        method: whose loss.
        parameters: drawn ones; any without a dead unit will do.
        hyper: its numbers.
        batch: features attached, items with "dense" [U, K, D] float32.
        key: of what the loss draws, such as the negatives of the batch.
    """

    def loss(dense: jax.Array) -> jax.Array:
        moved = replace(batch, items=batch.items | {"dense": dense})
        return method.loss(parameters, hyper, moved, key, jnp.float32(0), None)[0]

    gradient = jax.grad(loss)(batch.items["dense"])
    learned = jnp.any(gradient != 0, axis=-1) & batch.mask
    return jnp.mean(jnp.sum(learned, axis=-1, dtype=jnp.float32))
