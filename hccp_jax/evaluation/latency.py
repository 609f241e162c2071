"""What serving costs: parameters, operations per candidate, and the time of a request with its candidates."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from hccp_jax.data.requests import RequestBatch
from hccp_jax.methods.base import Method


class ServingCost(NamedTuple):
    """What one member costs.

    Attributes:
        parameters: numbers held.
        flops_per_candidate: operations of what runs per pair.
        p50_ms: median time of one request.
        p99_ms: time that 99 of 100 requests do not exceed; on a shared machine it tells of the neighbours.
    """

    parameters: int
    flops_per_candidate: float
    p50_ms: float
    p99_ms: float


def serving_cost(
    method: Method, parameters: Any, hyper: Any, batch: RequestBatch, items: dict[str, jax.Array], repeats: int = 100
) -> ServingCost:
    """Measure one member of a population.

    Args:
        method: the system.
        parameters: without the population axis.
        hyper: its numbers, Python floats.
        batch: one request with features attached, [1, K].
        items: item features of the whole catalogue; their sides are computed ahead and not timed.
        repeats: requests timed, after one that is not; below 100 the p99 is all but the slowest of them.

    Returns:
        Operations are those of the program before optimization, counted by XLA, over K. The time is of the user side,
        a gather of item sides and the candidates' scores, on the device at hand.
    """
    sides = jax.jit(method.item_side)(parameters, items)
    ids = batch.items["id"]

    def users(parameters: Any, batch: RequestBatch) -> Any:
        return method.user_side(parameters, batch)

    def candidates(parameters: Any, user: Any, sides: Any, batch: RequestBatch) -> jax.Array:
        own = jax.tree.map(lambda leaf: leaf[batch.items["id"]], sides)
        if method.serve is not None:
            return method.serve(parameters, hyper, user, own, batch.cross, batch.mask)
        heads = method.route(method.pair_scores(parameters, user, own, batch.cross), hyper, batch.mask)
        return method.served(heads, hyper)

    def request(parameters: Any, sides: Any, batch: RequestBatch) -> jax.Array:
        return candidates(parameters, users(parameters, batch), sides, batch)

    # counted on two requests: one alone may be scored in blocks of candidates, and XLA counts a loop's body once
    two = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape[1:]), leaf.dtype), batch)
    user = jax.eval_shape(users, parameters, two)
    counted = jax.jit(candidates).lower(parameters, user, sides, two).cost_analysis()
    run = jax.jit(request)
    jax.block_until_ready(run(parameters, sides, batch))
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(run(parameters, sides, batch))
        seconds.append(time.perf_counter() - begun)
    flops = float(counted["flops"]) / (2 * ids.shape[1]) if counted else float("nan")
    median, late = 1e3 * np.percentile(seconds, (50, 99))
    return ServingCost(int(optax.tree.size(parameters)), flops, float(median), float(late))
