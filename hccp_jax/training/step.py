"""One step on one device, and a chunk of steps for a population of runs.

The order of reductions is the one that is right under every wrapper: the loss is the GLOBAL loss (sums and counts are
summed over the devices inside it), and the gradients are joined over the devices after differentiation. The mean of
gradients of local losses, or the gradient of the global loss alone, is silently wrong under some wrapper.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hccp_jax.collectives import Axis, joined_gradient, own_copy
from hccp_jax.data.catalogue import Catalogue
from hccp_jax.data.requests import RequestBatch
from hccp_jax.methods.base import Method
from hccp_jax.training.gradients import combined, group_gradients
from hccp_jax.training.state import Moments, TrainState, optimizer
from hccp_jax.training.tables import (
    DENSE,
    TablesConfig,
    distinct_rows,
    join,
    rate_of,
    read,
    row_optimizer,
    split,
    write,
)

Featurise = Callable[[RequestBatch, Catalogue], RequestBatch]
Metrics = dict[str, jax.Array]
ROUNDING = 2  # the use of a step's key beside the method's own


def train_step(
    method: Method,
    state: TrainState,
    hyper: Any,
    batch: RequestBatch,
    total_steps: jax.Array,
    axis: Axis,
    tables: TablesConfig = DENSE,
    model: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One update from this device's rows of the batch.

    Args:
        method: static.
        state: the same on all devices.
        hyper: traced numbers with a `learning_rate`.
        batch: features attached, [U / devices, ...].
        total_steps: length of training, for schedules.
        axis: name(s) of the device axes that split the batch, or None.
        tables: static; how tables of users and items are updated.
        model: the one of those axes that tables are sharded over by rows, or None.

    Returns:
        The next state and the loss with its terms. Where the loss or the gradient is not finite the state is kept
        and `alive` drops.
    """
    if tables.update != "dense":
        return _by_rows(method, tables, state, hyper, batch, total_steps, axis, model)
    gradients, alive, metrics = _gradients(method, state, state.parameters, hyper, batch, total_steps, axis)
    parameters, moments = _updated(state.parameters, state.moments, gradients, hyper, alive)
    return TrainState(state.step + alive, parameters, moments, state.key, alive), metrics


def _by_rows(
    method: Method,
    config: TablesConfig,
    state: TrainState,
    hyper: Any,
    batch: RequestBatch,
    total_steps: jax.Array,
    axis: Axis,
    model: str | None,
) -> tuple[TrainState, Metrics]:
    """`train_step` where only the rows that the batch names are read and written."""
    rows = row_optimizer(config)
    rate = rate_of(config, hyper.learning_rate)
    tables, rest = split(state.parameters)
    names, batch = distinct_rows(batch, axis)
    found, small = read(rows, tables, state.moments.tables, names, state.step, rate, model)
    gradients, alive, metrics = _gradients(method, state, join(small, rest), hyper, batch, total_steps, axis)
    of_rows, of_rest = split(gradients)
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), ROUNDING)
    tables, by_row = write(rows, tables, state.moments.tables, found, of_rows, state.step + 1, rate, alive, key)
    rest, moments = _updated(rest, state.moments.rest, of_rest, hyper, alive)
    return TrainState(state.step + alive, join(tables, rest), Moments(by_row, moments), state.key, alive), metrics


def _updated(parameters: Any, moments: Any, gradients: Any, hyper: Any, alive: jax.Array) -> tuple[Any, Any]:
    """Parameters and moments after an update by Adam; the same as before where `alive` is False."""
    updates, after = optimizer(hyper.learning_rate).update(gradients, moments, parameters)
    changed = (optax.apply_updates(parameters, updates), after)
    return jax.tree.map(lambda new, old: jnp.where(alive, new, old), changed, (parameters, moments))


def _gradients(
    method: Method,
    state: TrainState,
    parameters: Any,
    hyper: Any,
    batch: RequestBatch,
    total_steps: jax.Array,
    axis: Axis,
) -> tuple[Any, jax.Array, Metrics]:
    """The gradient of the parameters, whether the state is still alive, and the loss with its terms; over the devices.

    A method with several objectives has their gradients combined by gradient surgery.
    """
    key = jax.random.fold_in(state.key, state.step)
    arguments = (hyper, batch, key, state.step.astype(jnp.float32) / total_steps, axis)
    own = own_copy(parameters, axis)
    objectives = method.objectives
    if objectives is None:
        (value, terms), gradients = jax.value_and_grad(method.loss, has_aux=True)(own, *arguments)
        gradients = joined_gradient(gradients, axis)
    else:
        value, terms = method.loss(parameters, *arguments)
        stack = joined_gradient(group_gradients(lambda p: objectives(p, *arguments), own), axis)
        gradients = combined(stack, method.combine, jax.random.fold_in(key, 1))
    norm = optax.tree.norm(gradients)
    alive = state.alive & jnp.isfinite(value) & jnp.isfinite(norm)
    return gradients, alive, {"loss": value, "gradient_norm": norm, **terms}


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
    tables: TablesConfig = DENSE,
    model: str | None = None,
    together: bool = False,
) -> tuple[TrainState, Metrics]:
    """Several steps of several runs (members) in one program, one member after the other or all together.

    One after the other on a CPU: there a batched gather and scatter of embedding tables costs more than it saves.

    Args:
        method: static.
        featurise: static.
        states: leaves [M, ...].
        hypers: leaves [M].
        streams: [M] int32, which of the G request streams a member sees.
        batches: leaves [G, S, U / devices, ...].
        catalogue: tables shared by all members.
        total_steps: scalar float32.
        axis: as in `train_step`.
        tables: likewise.
        model: likewise.
        together: static; vmap over members, where one alone would leave an accelerator idle.

    Returns:
        States after S steps, and metrics with leaves [M, S].
    """

    def member(inputs: tuple[TrainState, Any, jax.Array]) -> tuple[TrainState, Metrics]:
        state, hyper, stream = inputs
        own = jax.tree.map(lambda leaf: leaf[stream], batches)

        def one(state: TrainState, batch: RequestBatch) -> tuple[TrainState, Metrics]:
            return train_step(method, state, hyper, featurise(batch, catalogue), total_steps, axis, tables, model)

        return jax.lax.scan(one, state, own)

    if len(streams) == 1:  # a loop over one member would copy its tables
        alone = member(jax.tree.map(lambda leaf: leaf[0], (states, hypers, streams)))
        return jax.tree.map(lambda leaf: leaf[None], alone)
    over = jax.vmap(member) if together else partial(jax.lax.map, member)
    return over((states, hypers, streams))
