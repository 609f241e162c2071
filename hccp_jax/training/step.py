"""One step on one device, and a chunk of steps for a population of runs.

The order of reductions is the one that is right under every wrapper: the loss is the GLOBAL loss (sums and counts are
summed over the devices inside it), and the gradients are averaged over the devices after differentiation. The mean of
gradients of local losses, or the gradient of the global loss alone, is silently wrong under some wrapper.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hccp_jax.collectives import Axis, pmean
from hccp_jax.data.catalogue import Catalogue
from hccp_jax.data.requests import RequestBatch
from hccp_jax.methods.base import Method
from hccp_jax.training.gradients import cagrad, group_gradients, pcgrad
from hccp_jax.training.state import TrainState, optimizer

Featurise = Callable[[RequestBatch, Catalogue], RequestBatch]
Metrics = dict[str, jax.Array]


def train_step(
    method: Method, state: TrainState, hyper: Any, batch: RequestBatch, total_steps: jax.Array, axis: Axis
) -> tuple[TrainState, Metrics]:
    """One update from this device's rows of the batch.

    Args:
        method: static.
        state: the same on all devices.
        hyper: traced numbers with a `learning_rate`.
        batch: features attached, [U / devices, ...].
        total_steps: length of training, for schedules.
        axis: name of the device axis or None.

    Returns:
        The next state and the loss with its terms. Where the loss or the gradient is not finite the state is kept
        and `alive` drops.
    """
    key = jax.random.fold_in(state.key, state.step)
    progress = state.step.astype(jnp.float32) / total_steps

    def loss(parameters: Any) -> tuple[jax.Array, Metrics]:
        return method.loss(parameters, hyper, batch, key, progress, axis)

    if method.objectives is None:
        (value, terms), gradients = jax.value_and_grad(loss, has_aux=True)(state.parameters)
        gradients = pmean(gradients, axis)
    else:
        value, terms = loss(state.parameters)
        gradients = _combined(method, state.parameters, hyper, batch, key, progress, axis)
    updates, moments = optimizer(hyper.learning_rate).update(gradients, state.moments, state.parameters)
    norm = optax.tree.norm(gradients)
    alive = state.alive & jnp.isfinite(value) & jnp.isfinite(norm)
    changed = (optax.apply_updates(state.parameters, updates), moments, state.step + 1)
    parameters, moments, step = jax.tree.map(
        lambda new, old: jnp.where(alive, new, old), changed, (state.parameters, state.moments, state.step)
    )
    return TrainState(step, parameters, moments, state.key, alive), {"loss": value, "gradient_norm": norm, **terms}


def _combined(
    method: Method, parameters: Any, hyper: Any, batch: RequestBatch, key: jax.Array, progress: jax.Array, axis: Axis
) -> Any:
    """The gradients of a method's objectives in one, by gradient surgery, at the scale of their sum."""
    objectives = method.objectives
    assert objectives is not None
    stack = group_gradients(lambda p: objectives(p, hyper, batch, key, progress, axis), parameters)
    stack = pmean(stack, axis)
    if method.combine == "pcgrad":
        mean = pcgrad(stack, jax.random.fold_in(key, 1))
    elif method.combine == "cagrad":
        mean = cagrad(stack)
    else:
        raise ValueError(f"combine={method.combine!r}: expected pcgrad or cagrad")
    groups = len(jax.tree.leaves(stack)[0])
    return jax.tree.map(lambda leaf: groups * leaf, mean)


def train_chunk(
    method: Method,
    featurise: Featurise,
    states: TrainState,
    hypers: Any,
    streams: jax.Array,
    batches: RequestBatch,
    catalogue: Catalogue,
    total_steps: jax.Array,
    axis: Axis,
) -> tuple[TrainState, Metrics]:
    """Several steps of several runs (members) in one program, one member after the other.

    Members are mapped, not vmapped: on a CPU a batched gather and scatter of embedding tables costs more than it saves.

    Args:
        method: static.
        featurise: static.
        states: leaves [M, ...].
        hypers: leaves [M].
        streams: [M] int32, which of the G request streams a member sees.
        batches: leaves [G, S, U / devices, ...].
        catalogue: tables shared by all members.
        total_steps: scalar float32.
        axis: name of the device axis or None.

    Returns:
        States after S steps, and metrics with leaves [M, S].
    """

    def member(inputs: tuple[TrainState, Any, jax.Array]) -> tuple[TrainState, Metrics]:
        state, hyper, stream = inputs
        own = jax.tree.map(lambda leaf: leaf[stream], batches)

        def one(state: TrainState, batch: RequestBatch) -> tuple[TrainState, Metrics]:
            return train_step(method, state, hyper, featurise(batch, catalogue), total_steps, axis)

        return jax.lax.scan(one, state, own)

    return jax.lax.map(member, (states, hypers, streams))
