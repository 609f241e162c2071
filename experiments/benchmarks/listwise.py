"""What training on lists saves over training on single pairs (HCCP, Table 4): the user tower runs once a request.

The samples, the network (the three towers) and the loss (the log-loss of every real slot) are the same, once as
[U, K] lists and once as U x K requests of one candidate each, which repeat their user and history.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.bars import SHORTEST, Times, interleaved
from experiments.benchmarks.served_request import draw_parameters, draw_requests
from hccp_jax.data.requests import RequestBatch
from hccp_jax.losses.pointwise import binary_cross_entropy
from hccp_jax.methods.base import scorer
from hccp_jax.models.pair_model import PairModel
from hccp_jax.models.three_tower import ModelConfig, ThreeTower

REQUESTS, SLOTS, HISTORY = 64, 60, 15


def as_pairs(batch: RequestBatch) -> RequestBatch:
    """[U, K] lists as [U * K, 1] requests of one candidate, with the user and history of each repeated."""
    requests, slots = batch.mask.shape

    def repeated(leaf: Any) -> Any:
        return np.repeat(leaf, slots, axis=0)

    def apart(leaf: Any) -> Any:
        return leaf.reshape(requests * slots, 1, *leaf.shape[2:])

    of_users = {name: jax.tree.map(repeated, getattr(batch, name)) for name in ("user", "history", "history_mask")}
    of_items = ("items", "cross", "stage", "rank", "labels", "teacher", "mask")
    return RequestBatch(**of_users, **{name: jax.tree.map(apart, getattr(batch, name)) for name in of_items})


def log_loss(model: PairModel, tasks: tuple[str, ...]) -> Callable[[Any, RequestBatch], jax.Array]:
    """(parameters, batch) -> the mean over real slots of the log-loss, summed over tasks."""
    of = scorer(model)

    def loss(parameters: Any, batch: RequestBatch) -> jax.Array:
        count = jnp.maximum(jnp.sum(batch.mask), 1)
        logits = jnp.moveaxis(of.logits(parameters, batch), 1, 0)
        labels = jnp.stack([batch.labels[task] for task in tasks])
        where = jnp.broadcast_to(batch.mask, labels.shape)
        return binary_cross_entropy(logits, labels, where=where, reduce_fn=lambda x, _: jnp.sum(x) / count)

    return loss


def forms(requests: int, slots: int, config: ModelConfig) -> tuple[Callable, Any, dict[str, RequestBatch]]:
    """(loss, parameters, the same samples as "lists" and as "pairs") of the three towers."""
    served = draw_requests(requests, slots, items=20_001, history=HISTORY)
    model = ThreeTower(config, served.spec, served.spec.tasks)
    parameters = jax.device_put(draw_parameters(scorer(model).init, served.batch))
    batches = jax.device_put({"lists": served.batch, "pairs": as_pairs(served.batch)})
    return log_loss(model, served.spec.tasks), parameters, batches


def compared(rounds: int, requests: int = REQUESTS, slots: int = SLOTS) -> dict[str, Any]:
    """CPU seconds and operations of the loss and its gradients, in both forms."""
    loss, parameters, batches = forms(requests, slots, ModelConfig())
    step = jax.jit(jax.value_and_grad(loss))
    compiled = {name: step.lower(parameters, batch).compile() for name, batch in batches.items()}
    flops = {name: _flops(step.lower(parameters, batch)) for name, batch in batches.items()}
    calls = {
        name: lambda run=run, batch=batches[name]: jax.block_until_ready(run(parameters, batch))
        for name, run in compiled.items()
    }
    values = {name: float(call()[0]) for name, call in calls.items()}
    if abs(values["pairs"] - values["lists"]) > 1e-5 * abs(values["lists"]):
        raise AssertionError(f"the loss of pairs is {values['pairs']}, of lists {values['lists']}")
    times: Times = interleaved(calls, rounds, time.process_time, SHORTEST)
    ratios = [pairs / lists for pairs, lists in zip(times["pairs"], times["lists"], strict=True)]
    return {
        "requests": requests,
        "slots": slots,
        "milliseconds": {name: 1e3 * float(np.median(x)) for name, x in times.items()},
        "times_slower": float(np.median(ratios)),
        "flops": flops,
        "times_the_flops": flops["pairs"] / flops["lists"],
    }


def described(found: dict[str, Any]) -> str:
    """The comparison as two lines."""
    ms, flops = found["milliseconds"], found["flops"]
    return (
        f"list-wise against single pairs, three towers, the same {found['requests']} x {found['slots']} samples and "
        f"loss:\n  loss and gradients {ms['lists']:.1f} ms against {ms['pairs']:.1f} ms, "
        f"{found['times_slower']:.2f}x; {flops['lists'] / 1e9:.3f} GFLOP against {flops['pairs'] / 1e9:.3f}, "
        f"{found['times_the_flops']:.2f}x"
    )


def _flops(lowered: jax.stages.Lowered) -> float:
    """Operations of a program before optimization, counted by XLA."""
    counted = lowered.cost_analysis()
    return float(counted["flops"]) if counted else float("nan")
