"""What a method is: pure functions over parameters and batches, and a served score."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.requests import RequestBatch
from hccp_jax.models.pair_model import PairModel

Parameters = Any
Heads = dict[str, jax.Array]


def _unrouted(heads: Heads, hyper: Any, where: jax.Array) -> Heads:
    return heads


def all_train(hyper: Any) -> Any:
    """Every number may matter in training."""
    return hyper


class Method(NamedTuple):
    """A published system as pure functions; batches have their catalogue features attached.

    Attributes:
        init: (key, batch) -> parameters.
        loss: (parameters, hyper, batch, key, progress, axis) -> (global loss, terms); `progress` is the share of
            training done, `axis` names the device axis or is None.
        heads: (parameters, batch) -> {head: [U, K] logits}; one head a task at least.
        served: (heads, hyper) -> [U, K], the score that ranks at serving time.
        user_side: (parameters, batch) -> what runs once per request, a pytree with leading axis U.
        item_side: (parameters, item features) -> what can be computed ahead for a whole catalogue, a pytree with the
            leading axes of the ids.
        pair_scores: (parameters, user side, item side with leading axes [U, K] or [K], cross or None) -> heads.
        needs: what the data must have: "cross", "history", "ranked", "preranked", "pool" or "teacher".
        route: (heads, hyper, real candidates [U, K]) -> heads; for a system whose last score of a candidate depends on
            the other candidates, such as two models in series.
        serve: (parameters, hyper, user side, item side [U, K], cross, real candidates [U, K]) -> [U, K]; how a server
            computes the final score where that is cheaper than `pair_scores` and `route`, else None. `hyper` holds
            Python numbers: shapes may depend on them.
        objectives: (parameters, hyper, batch, key, progress, axis) -> [G] global losses that add up to `loss`, where
            their gradients are combined otherwise than by their sum; else None.
        combine: how; "sum", "pcgrad" or "cagrad".
        trains: (hyper) -> hyper with what matters in serving alone at fixed values; numbers that are then equal train
            the same parameters.
    """

    init: Callable[[jax.Array, RequestBatch], Parameters]
    loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    heads: Callable[[Parameters, RequestBatch], Heads]
    served: Callable[[Heads, Any], jax.Array]
    user_side: Callable[[Parameters, RequestBatch], Any]
    item_side: Callable[[Parameters, dict[str, jax.Array]], Any]
    pair_scores: Callable[..., Heads]
    needs: frozenset[str] = frozenset()
    route: Callable[[Heads, Any, jax.Array], Heads] = _unrouted
    serve: Callable[..., jax.Array] | None = None
    objectives: Callable[..., jax.Array] | None = None
    combine: str = "sum"
    trains: Callable[[Any], Any] = all_train


class Scorer(NamedTuple):
    """An architecture as pure functions.

    Attributes:
        init: (key, batch) -> parameters.
        logits: (parameters, batch, rngs=None) -> [U, T, K] float32; `rngs` are the keys of stochastic layers, without
            which a model runs as it is served.
        user_side: (parameters, batch) -> pytree.
        item_side: (parameters, item features) -> pytree.
        pair_logits: (parameters, user side, item side, cross) -> [U, T, K].
        apply: the module's own, (parameters, *args, method=, rngs=).
    """

    init: Callable[[jax.Array, RequestBatch], Parameters]
    logits: Callable[..., jax.Array]
    user_side: Callable[[Parameters, RequestBatch], Any]
    item_side: Callable[[Parameters, dict[str, jax.Array]], Any]
    pair_logits: Callable[..., jax.Array]
    apply: Callable[..., Any]


def scorer(model: PairModel) -> Scorer:
    """The pure functions of a Flax model."""

    def apply(parameters: Parameters, *args: Any, method: Any = None, rngs: dict[str, jax.Array] | None = None):
        return model.apply({"params": parameters}, *args, method=method, rngs=rngs)

    def init(key: jax.Array, batch: RequestBatch) -> Parameters:
        return model.init(key, *jax.tree.map(lambda x: x[:1], inputs(batch)))["params"]

    def logits(parameters: Parameters, batch: RequestBatch, rngs: dict[str, jax.Array] | None = None) -> jax.Array:
        return apply(parameters, *inputs(batch), rngs=rngs)

    def user_side(parameters: Parameters, batch: RequestBatch) -> Any:
        return apply(parameters, batch.user, batch.history, batch.history_mask, method="user_side")

    def item_side(parameters: Parameters, items: dict[str, jax.Array]) -> Any:
        return apply(parameters, items, method="item_side")

    def pair_logits(parameters: Parameters, users: Any, items: Any, cross: jax.Array | None) -> jax.Array:
        return apply(parameters, users, items, cross, method="pair_logits")

    return Scorer(init, logits, user_side, item_side, pair_logits, apply)


def inputs(batch: RequestBatch) -> tuple:
    """The arguments of a model's forward pass."""
    return batch.user, batch.history, batch.history_mask, batch.items, batch.cross


def by_task(logits: jax.Array, tasks: tuple[str, ...]) -> Heads:
    """{task: [U, K]} of logits [U, T, K]; a model with one score serves every task with it.

    >>> print({task: x.tolist() for task, x in by_task(jnp.ones((1, 1, 2)), ("click", "purchase")).items()})
    {'click': [[1.0, 1.0]], 'purchase': [[1.0, 1.0]]}

    """
    return {task: logits[:, min(index, logits.shape[1] - 1)] for index, task in enumerate(tasks)}


def scored_method(
    of: Scorer,
    spec: FeatureSpec,
    loss: Callable[..., Any],
    needs: frozenset[str] = frozenset(),
    served: Callable[[Heads, Any], jax.Array] | None = None,
    named: Callable[[jax.Array], Heads] | None = None,
) -> Method:
    """A method whose heads are the logits of an architecture.

    Args:
        of: the architecture.
        spec: names of the tasks, the click first.
        loss: of `Method`.
        needs: of `Method`.
        served: of `Method`; None for the click head.
        named: logits [U, T, K] -> heads; None for one head a task.
    """
    to_heads = named or partial(by_task, tasks=spec.tasks)

    def heads(parameters: Parameters, batch: RequestBatch) -> Heads:
        return to_heads(of.logits(parameters, batch))

    def pair_scores(parameters: Parameters, users: Any, items: Any, cross: jax.Array | None) -> Heads:
        return to_heads(of.pair_logits(parameters, users, items, cross))

    def click(scores: Heads, hyper: Any) -> jax.Array:
        return scores[spec.tasks[0]]

    return Method(of.init, loss, heads, served or click, of.user_side, of.item_side, pair_scores, needs)


def weighted_sum(scores: Heads, weights: Mapping[str, ArrayLike]) -> jax.Array:
    """Sum of heads times their weights, [U, K]."""
    return jnp.sum(jnp.stack([weight * scores[name] for name, weight in weights.items()]), axis=0)


def weighted(weight: ArrayLike, term: jax.Array) -> jax.Array:
    """A term times its weight; a weight of 0 removes the term even where it is not finite."""
    return jnp.where(jnp.asarray(weight) > 0, weight * term, 0.0)
