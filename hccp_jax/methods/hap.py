"""HAP-style: losses apart for negatives of different difficulty, and a heavy model for the candidates that need it.

After Heterogeneity-Aware Adaptive Pre-ranking (Tong et al., WWW 2026). Its abstract and its public figure were at
hand, its equations, sizes and tables were not; so there are no equation numbers below, and no row is HAP itself.

Known. Hard and easy negatives in one loss give gradients that conflict, the hard ones dominating, so easy and hard
samples get optimisation paths of their own; light models score all candidates, stronger ones the hard ones (abstract).
Positives are exposed items with feedback; the light model sees four boxes, the positives with each kind of negative
(exposed, ranked, pre-ranked, pool), the heavy model the first two; each is labelled InfoNCE and cross entropy; towers,
product, concatenation, MLP and attention (figure). The heavy model serves the best 30 % of the light model's order, by
a second-hand note.

Inferred. That each box is a softmax with a denominator of its own, averaged over the positives (`losses.grouped`); one
temperature, equal weights; cross entropy on impressions only; joint training, the two models touching in the embedding
tables alone, without distillation; that routed candidates stand above all others. The models have one task, the
click, whose logit serves every task.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hccp_jax.collectives import Axis, global_mean
from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.errors import UserError
from hccp_jax.losses.grouped import grouped_info_nce
from hccp_jax.losses.pointwise import binary_cross_entropy
from hccp_jax.losses.reduction import ReduceFn
from hccp_jax.losses.sort import positions
from hccp_jax.methods.base import Heads, Method, Parameters, Scorer, scored_method, scorer, weighted
from hccp_jax.models.light_heavy import HEAVY, LIGHT, HapConfig, LightHeavy

LIGHT_HEAD, HEAVY_HEAD = "light", "heavy"
GROUPS = ("exposed", "ranked", "preranked", "pool")  # from the hardest to the easiest
HEAVY_GROUPS = 2
OBJECTIVES = (*GROUPS, "rest")
COMBINERS = ("sum", "pcgrad", "cagrad")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HyperConfig:
    """The numbers of the HAP-style system; each is traced, so changing one compiles nothing."""

    exposed: float = field(1.0, "weight of the negatives exposed without feedback", at_least=0)
    ranked: float = field(1.0, "weight of the ranked negatives, not exposed", at_least=0)
    preranked: float = field(1.0, "weight of the negatives cut by the pre-ranker", at_least=0)
    pool: float = field(1.0, "weight of the pool negatives", at_least=0)
    temperature: float = field(1.0, "tau of InfoNCE, on free logits", above=0)
    grouped: float = field(1.0, "1: a denominator a group; 0: one for all groups", at_least=0, at_most=1)
    cross_entropy: float = field(1.0, "weight of the cross entropy on impressions, both models", at_least=0)
    unexposed: float = field(0.0, "weight of the light model's cross entropy on unexposed items as 0", at_least=0)
    heavy: float = field(1.0, "weight of the heavy model's loss", at_least=0)
    routed: float = field(0.3, "share of the candidates that the heavy model scores", above=0, at_most=1)
    on_policy: float = field(0.0, "1: heavy negatives are what the light one routes now", at_least=0, at_most=1)
    light_only: float = field(0.0, "1 serves the light model's order", at_least=0, at_most=1)
    learning_rate: float = field(3e-3, "Adam step size", above=0)

    def groups(self) -> jax.Array:
        """[4] weights, in the order of `GROUPS`."""
        return jnp.stack([jnp.asarray(getattr(self, name), jnp.float32) for name in GROUPS])


def hap(spec: FeatureSpec, model: HapConfig, exposed: int, combine: str = "sum") -> Method:
    """The HAP-style system.

    Before routing the heads are the light and the heavy logit, and the heavy one for each task; `route` turns the
    tasks' into the final score.

    Args:
        spec: feature sizes; the first task is the click.
        model: sizes of the two models.
        exposed: impressions lie in this many leading slots.
        combine: how the gradients of `hap_objectives` become one; "sum", which is the gradient of the loss, or
            "pcgrad" or "cagrad", what one would do about conflicting gradients without groups of their own.

    Raises:
        UserError: where the heavy MLP is not deeper than the light one, or for an unknown `combine`.
    """
    if combine not in COMBINERS:
        raise UserError(f"combine={combine!r}: expected one of {', '.join(COMBINERS)}")
    of = scorer(_architecture(spec, model))
    needs = {"history", "ranked", "preranked", "pool"} | ({"cross"} if model.cross else set())

    def loss(
        parameters: Parameters, hyper: HyperConfig, batch: RequestBatch, key: jax.Array, progress: jax.Array, axis: Axis
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        parts = _parts(of, spec, exposed, parameters, hyper, batch, axis)
        return parts.contrast + parts.rest, parts.terms

    def named(logits: jax.Array) -> Heads:
        light, heavy = logits[:, LIGHT], logits[:, HEAVY]
        return dict.fromkeys(spec.tasks, heavy) | {LIGHT_HEAD: light, HEAVY_HEAD: heavy}

    def route(scores: Heads, hyper: HyperConfig, where: jax.Array) -> Heads:
        final = routed_scores(scores[LIGHT_HEAD], scores[HEAVY_HEAD], hyper.routed, where)
        final = jnp.where(jnp.asarray(hyper.light_only) > 0, scores[LIGHT_HEAD], final)
        return scores | dict.fromkeys(spec.tasks, final)

    def serve(
        parameters: Parameters, hyper: HyperConfig, users: Any, items: Any, cross: jax.Array | None, where: jax.Array
    ) -> jax.Array:
        """What `route` gives, with the heavy model run on the share of the slots that can be routed, and no others."""
        light = of.apply(parameters, users, items, method=LightHeavy.light_logits)
        if hyper.light_only > 0:
            return light
        most = min(light.shape[1], math.ceil(hyper.routed * light.shape[1]))
        if most == light.shape[1]:
            return route(named(of.pair_logits(parameters, users, items, cross)), hyper, where)[spec.tasks[0]]
        _, slots = jax.lax.top_k(jnp.where(where, light, -jnp.inf), most)
        rows = jnp.arange(len(slots))[:, None]
        own = jax.tree.map(lambda leaf: leaf[rows, slots], items)
        crossed = None if cross is None else cross[rows, slots]
        routed = of.apply(parameters, users, own, crossed, method=LightHeavy.heavy_logits)
        heavy = jnp.full_like(light, jnp.inf).at[rows, slots].set(routed)  # the others are read by nobody
        return routed_scores(light, heavy, hyper.routed, where)

    made = scored_method(of, spec, loss, frozenset(needs), named=named)._replace(
        route=route, serve=serve, trains=in_training
    )
    if combine == "sum":
        return made
    return made._replace(objectives=hap_objectives(spec, model, exposed), combine=combine)


def hap_objectives(spec: FeatureSpec, model: HapConfig, exposed: int) -> Callable[..., jax.Array]:
    """What PCGrad and CAGrad combine, and what gradient norms and angles are measured on.

    Args:
        spec: as in `hap`, likewise the next two.
        model: sizes.
        exposed: slots of impressions.

    Returns:
        (parameters, hyper, batch, key, progress, axis) -> [5] global losses named by `OBJECTIVES`: the light model's
        weighted InfoNCE of each group, and the rest, which is all cross entropy and the heavy model's loss. They sum
        to the loss of `hap` with `grouped` at 1; `grouped` moves the heavy model's share only.
    """
    of = scorer(_architecture(spec, model))

    def group_losses(
        parameters: Parameters, hyper: HyperConfig, batch: RequestBatch, key: jax.Array, progress: jax.Array, axis: Axis
    ) -> jax.Array:
        parts = _parts(of, spec, exposed, parameters, hyper, batch, axis)
        return jnp.append(parts.groups, parts.rest)

    return group_losses


def in_training(hyper: HyperConfig) -> HyperConfig:
    """The numbers, with 0 for `light_only` and 1 for `routed` where they only serve.

    The share that is routed trains where the heavy model's negatives are what is routed now.
    """
    return replace(hyper, light_only=0.0, routed=hyper.routed if hyper.on_policy > 0 else 1.0)


def _architecture(spec: FeatureSpec, model: HapConfig) -> LightHeavy:
    light, heavy = model.light.layers, model.heavy.layers
    if heavy <= light:
        raise UserError(f"model.heavy.layers={heavy}: expected more than model.light.layers={light}")
    return LightHeavy(model, spec)


class _Parts(NamedTuple):
    """The loss in parts: light contrast as it counts and by group [4], everything else, terms to log."""

    contrast: jax.Array
    groups: jax.Array
    rest: jax.Array
    terms: dict[str, jax.Array]


def _parts(
    of: Scorer,
    spec: FeatureSpec,
    exposed: int,
    parameters: Parameters,
    hyper: HyperConfig,
    batch: RequestBatch,
    axis: Axis,
) -> _Parts:
    mean = global_mean(axis)
    logits = of.logits(parameters, batch)
    light, heavy = logits[:, LIGHT], logits[:, HEAVY]
    label = batch.labels[spec.tasks[0]]
    positive = (label > 0) & batch.exposed
    groups = negatives(batch, positive)
    weights = hyper.groups()

    def contrast(scores: jax.Array, of: jax.Array, by: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return _contrast(scores, positive, of, by, hyper, mean)

    light_sum, light_groups, light_found = contrast(light, groups, weights)
    of_heavy = heavy_negatives(groups, light, hyper, batch.mask)
    heavy_sum, _, heavy_found = contrast(heavy, of_heavy, weights[:HEAVY_GROUPS])
    shown = slice(0, exposed)
    on_light, on_heavy = (
        binary_cross_entropy(x[:, shown], label[:, shown], where=batch.exposed[:, shown], reduce_fn=mean)
        for x in (light, heavy)
    )
    unexposed = batch.mask & ~batch.exposed
    on_unexposed = binary_cross_entropy(light, jnp.zeros_like(light), where=unexposed, reduce_fn=mean)

    heavy_total = weighted(hyper.cross_entropy, on_heavy) + heavy_sum
    rest = weighted(hyper.cross_entropy, on_light) + weighted(hyper.unexposed, on_unexposed)
    rest += weighted(hyper.heavy, heavy_total)
    terms = {"cross_entropy/light": on_light, "cross_entropy/heavy": on_heavy, "cross_entropy/unexposed": on_unexposed}
    for index, name in enumerate(GROUPS):
        terms[f"infonce/light/{name}"] = light_found[index]
        terms[f"logit/light/{name}"] = mean(light.ravel(), groups[index].ravel())
    for index, name in enumerate(GROUPS[:HEAVY_GROUPS]):
        terms[f"infonce/heavy/{name}"] = heavy_found[index]
    return _Parts(light_sum, light_groups, rest, terms)


def negatives(batch: RequestBatch, positive: jax.Array) -> jax.Array:
    """[4, U, K] bool: the negatives of each group, in the order of `GROUPS`."""
    others = [batch.stage == stage for stage in (Stage.RANKED, Stage.PRERANKED, Stage.POOL)]
    return jnp.stack([batch.exposed & ~positive, *others])


def heavy_negatives(groups: jax.Array, light: jax.Array, hyper: HyperConfig, where: jax.Array) -> jax.Array:
    """[2, U, K] bool: the heavy model's negatives, those exposed and those ranked.

    On policy they are what the heavy model would be given to score now, the light model's best `hyper.routed` of the
    list: those exposed, and those of all other stages. The difference measures the gap of training and serving.

    Args:
        groups: [4, U, K] bool, of `negatives`.
        light: [U, K] light scores.
        hyper: `on_policy` and `routed`.
        where: [U, K] bool, real items.
    """
    chosen = routed_places(light, hyper.routed, where)[0]
    reached = jnp.stack([groups[0], jnp.any(groups[1:], axis=0)]) & chosen
    return jnp.where(jnp.asarray(hyper.on_policy) > 0, reached, groups[:HEAVY_GROUPS])


def _contrast(
    scores: jax.Array,
    positive: jax.Array,
    groups: jax.Array,
    weights: jax.Array,
    hyper: HyperConfig,
    mean: ReduceFn,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """InfoNCE over groups [G, U, K]: as it counts, by group with weights [G], by group without [G].

    Grouped, it is the sum of w_g L_g. Mixed, it is one InfoNCE over the groups whose weight is not 0, times the mean
    of those weights: within one denominator groups cannot be weighted apart.
    """
    used = weights > 0
    every = jnp.concatenate([groups, jnp.any(groups & used[:, None, None], axis=0, keepdims=True)])
    shape = (len(every), *scores.shape)
    found = grouped_info_nce(
        jnp.broadcast_to(scores, shape),
        positive=jnp.broadcast_to(positive, shape),
        groups=every[:, :, None, :],
        temperature=hyper.temperature,
        average_positives=True,
        reduce_fn=mean,
    )
    by_group = weighted(weights, found[:-1])
    mixed = weighted(jnp.sum(weights) / jnp.maximum(jnp.sum(used), 1), found[-1])
    total = jnp.where(jnp.asarray(hyper.grouped) > 0, jnp.sum(by_group), mixed)
    return total, by_group, found[:-1]


def routed_places(
    light: jax.Array, routed: jax.Array | float, where: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The best ceil(routed * n) of n candidates by light score [U, K] bool, all places [U, K], how many [U, 1]."""
    count = jnp.sum(where, axis=-1, keepdims=True)
    # a product that is whole in decimals may come out a rounding above it
    border = jnp.ceil(jnp.asarray(routed, jnp.float32) * count * (1.0 - 1e-6)).astype(jnp.int32)
    place = positions(jnp.where(where, -light, jnp.inf))
    return where & (place < border), place, border


def routed_scores(light: jax.Array, heavy: jax.Array, routed: jax.Array | float, where: jax.Array) -> jax.Array:
    """The final score of two models in series.

    The best ceil(routed * n) of n candidates by the light score have the heavy score, and all others stand below them
    in the light order. Those get whole numbers below the worst heavy score, and not their light score less a constant,
    whose rounding would tie neighbours. Equal light scores are in slot order, at the border too.

    Args:
        light: [U, K] light scores.
        heavy: [U, K] heavy scores.
        routed: share of the candidates, in (0, 1], possibly traced.
        where: [U, K] bool, real candidates; the rest end last.

    Returns:
        [U, K] float32, finite where the scores are.

    >>> light, heavy = jnp.array([[3.0, 9.0, 5.0, 4.0]]), jnp.array([[9.0, 1.0, 2.0, 9.0]])
    >>> print(routed_scores(light, heavy, 0.5, jnp.ones((1, 4), bool)))
    [[-1.  1.  2.  0.]]

    """
    chosen, place, border = routed_places(light, routed, where)
    floor = jnp.min(jnp.where(chosen, heavy, jnp.inf), axis=-1, keepdims=True)
    floor = jnp.where(border > 0, floor, 0.0)
    return jnp.where(chosen, heavy, floor - (place - border + 1))


# Rows of an ablation, as changes of the numbers; gradient surgery is `combine`.
ROWS: dict[str, dict[str, float]] = {
    "cross_entropy": dict.fromkeys(GROUPS, 0.0),
    "cross_entropy_all": dict.fromkeys(GROUPS, 0.0) | {"unexposed": 1.0},
    "mixed": {"grouped": 0.0, "light_only": 1.0},
    "light_only": {"light_only": 1.0},
    "heavy_only": {"routed": 1.0},
    "on_policy": {"on_policy": 1.0},
    "hap": {},
}
