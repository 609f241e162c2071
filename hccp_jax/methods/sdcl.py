"""SDCL: sample debias and ranking consistency joint learning (Gao et al., Weibo), and the rows of its Table 3.

Equation numbers are the paper's. The rows differ in numbers only (`HyperConfig`), so that they share one compiled
program. Sums over the items of D are sums over a request's list, averaged over requests.

The mask of Eq 4 is chosen beforehand and then fixed. To learn one as in FSCD, train with `learned_pruning`: the log has
each field's keep probability as `keep/<field>`. Then train with the others as `pruned`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from hccp_jax.collectives import Axis, global_mean, psum
from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.losses.distillation import weighted_log_loss
from hccp_jax.losses.gates import fscd_complexity, fscd_penalty, hard_concrete_l0
from hccp_jax.losses.pointwise import binary_cross_entropy
from hccp_jax.losses.sdcl import adaptive_weights, weighted_info_nce
from hccp_jax.methods.base import Heads, Method, Parameters, inputs, scored_method, scorer, weighted, weighted_sum
from hccp_jax.models.sdcl import KINDS, Outputs, Sdcl, SdclConfig
from hccp_jax.models.snr import GATES

ONLINE_COST = {"user": 0.4, "item": 1.5, "cross": 3.0}
"""What a field of each kind costs to serve, in a re-implementation of FSCD; SDCL gives no numbers."""

STAGES = {"ranked": Stage.RANKED, "preranked": Stage.PRERANKED, "pool": Stage.POOL}
"""The Ranking, Pre-ranking and Matching negatives of the paper, D2 - D4, D1 - D2 and D0 - D1."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HyperConfig:
    """The numbers of SDCL; each is traced, so changing one compiles nothing. The paper states none of them."""

    rank: float = field(1.0, "alpha_r of the ranking loss (Eq 2)", at_least=0)
    distill: float = field(1.0, "alpha_d of multi-task distillation (Eq 2)", at_least=0)
    contrast: float = field(0.1, "alpha_w of the weighted contrastive loss (Eq 2)", at_least=0)
    rank_click: float = field(1.0, "beta_r of the click (Eq 3)", at_least=0)
    rank_conversion: float = field(1.0, "beta_r of the second task (Eq 3)", at_least=0)
    distill_click: float = field(1.0, "beta_d of the click (Eq 5)", at_least=0)
    distill_conversion: float = field(1.0, "beta_d of the second task (Eq 5)", at_least=0)
    contrast_click: float = field(1.0, "beta_w of the click (Eq 7)", at_least=0)
    contrast_conversion: float = field(1.0, "beta_w of the second task (Eq 7)", at_least=0)
    ranker: float = field(1.0, "weight of the ranking net in Eq 3 against the pre-ranking net", at_least=0)
    sampled: float = field(1.0, "weight in Eq 3 of sampled negatives, as y = 0; 0: impressions only", at_least=0)
    ranked: float = field(1.0, "1 keeps the Ranking negatives, 0 drops them", at_least=0, at_most=1)
    preranked: float = field(1.0, "1 keeps the Pre-ranking negatives, 0 drops them", at_least=0, at_most=1)
    pool: float = field(1.0, "1 keeps the Matching negatives, 0 drops them", at_least=0, at_most=1)
    adaptive: float = field(1.0, "share of the weights of Eq 8 in Eq 7; the rest is w = 1", at_least=0, at_most=1)
    delta: float = field(1.0, "delta of Eq 8", above=0)
    temperature: float = field(1.0, "tau of Eq 7, for logits", above=0)
    similarity_temperature: float = field(1.0, "temperature of the cosines in Eq 8; 1 is the paper's", above=0)
    l0: float = field(1e-4, "lambda of the expected number of open SNR gates", at_least=0)
    fields: float = field(1e-4, "weight of FSCD's price of open fields; used with learned_pruning", at_least=0)
    learning_rate: float = field(3e-3, "Adam step size", above=0)
    serve_click: float = field(1.0, "weight of the click probability in the served score", at_least=0)
    serve_conversion: float = field(0.0, "weight of the second task's probability in the served score", at_least=0)


def sdcl(spec: FeatureSpec, model: SdclConfig, exposed: int) -> Method:
    """SDCL on its pre-ranking net, with the ranking net trained along.

    Args:
        spec: feature sizes; two tasks, the click first.
        model: sizes and static choices.
        exposed: how many leading slots of a list can hold impressions.
    """
    of = scorer(Sdcl(model, spec))

    def served(scores: Heads, hyper: HyperConfig) -> jax.Array:
        """Weighted sum of the tasks' probabilities; of one task alone its logit, whose order is the same and exact."""
        weights = dict(zip(spec.tasks, (hyper.serve_click, hyper.serve_conversion), strict=True))
        used = sum((jnp.asarray(weight) > 0).astype(jnp.int32) for weight in weights.values())
        probabilities = {task: jax.nn.sigmoid(scores[task]) for task in spec.tasks}
        return jnp.where(used > 1, weighted_sum(probabilities, weights), weighted_sum(scores, weights))

    def loss(
        parameters: Parameters, hyper: HyperConfig, batch: RequestBatch, key: jax.Array, progress: jax.Array, axis: Axis
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        mean = global_mean(axis)
        found = of.apply(parameters, *inputs(batch), exposed, method=Sdcl.everything, rngs={GATES: key})
        # task axis first, [T, U, K]: every kernel then works on all tasks at once and reduces over U
        logits, teacher = (jnp.moveaxis(x, 1, 0) for x in (found.logits, found.teacher))
        labels = jnp.stack([jnp.where(batch.exposed, batch.labels[task], 0.0) for task in spec.tasks])
        negative = sampled(batch, hyper)
        shown = slice(0, exposed)
        impressions = jnp.broadcast_to(batch.exposed[:, shown], teacher.shape)

        # Eq 3: the pre-ranking net on D_tr, the ranking net on D4
        trained = jnp.broadcast_to(batch.exposed | (negative & (hyper.sampled > 0)), logits.shape)
        weights = jnp.broadcast_to(jnp.where(batch.exposed, 1.0, hyper.sampled), logits.shape)
        preranking = binary_cross_entropy(logits, labels, where=trained, weights=weights, reduce_fn=mean)
        ranking = binary_cross_entropy(teacher, labels[..., shown], where=impressions, reduce_fn=mean)
        # Eq 5: cross entropy of the two predictions on D4
        distilled = weighted_log_loss(logits[..., shown], jax.nn.sigmoid(teacher), where=impressions, reduce_fn=mean)
        # Eq 7-8
        contrast, terms = contrasted(logits, labels, found.compared, negative, hyper, batch, axis)

        # penalties of parameters, the same on all devices: there is nothing to reduce
        open_gates = hard_concrete_l0(found.log_alpha)
        price = prices(found)

        # Eq 2
        total = weighted(hyper.l0, open_gates) + weighted(hyper.fields, price)
        for weight, of_task, term in (
            (hyper.rank, (hyper.rank_click, hyper.rank_conversion), preranking),
            (hyper.rank * hyper.ranker, (hyper.rank_click, hyper.rank_conversion), ranking),
            (hyper.distill, (hyper.distill_click, hyper.distill_conversion), distilled),
            (hyper.contrast, (hyper.contrast_click, hyper.contrast_conversion), contrast),
        ):
            total += jnp.sum(weighted(weight * jnp.stack(of_task), term))
        terms |= {"open_gates": open_gates} | ({"field_price": price} if found.fields else {})
        terms |= {f"keep/{name}": gate.keep for name, gate in found.fields.items()}
        for index, task in enumerate(spec.tasks):
            terms[f"preranking/{task}"] = preranking[index]
            terms[f"ranking/{task}"] = ranking[index]
            terms[f"distillation/{task}"] = distilled[index]
            terms[f"contrast/{task}"] = contrast[index]
        return total, terms

    def contrasted(
        logits: jax.Array,
        labels: jax.Array,
        compared: jax.Array,
        negative: jax.Array,
        hyper: HyperConfig,
        batch: RequestBatch,
        axis: Axis,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """L_wcl of each task [T], and the mean weights: positives are impressions with feedback, negatives sampled."""
        shown = slice(0, exposed)
        positive = labels[..., shown] > 0

        def of_task(scores: jax.Array, vectors: jax.Array) -> jax.Array:
            return adaptive_weights(
                scores,
                vectors[:, shown],
                vectors,
                negative_where=negative,
                similarity_temperature=hyper.similarity_temperature,
                delta=hyper.delta,
            )

        # the cosines are those of all tasks; without gradient nothing of them is kept for the backward pass
        arguments = (logits, compared) if model.weight_gradient else jax.lax.stop_gradient((logits, compared))
        learned = jax.vmap(of_task, in_axes=(0, None))(*arguments)
        contrast = weighted_info_nce(
            logits[..., shown] / hyper.temperature,
            logits / hyper.temperature,
            hyper.adaptive * learned + (1.0 - hyper.adaptive),
            positive_where=positive,
            negative_where=jnp.broadcast_to(negative, logits.shape),
            reduce_fn=global_mean(axis),
        )
        pairs = positive[..., :, None] & negative[:, None, :]
        return contrast, mean_weights(jax.lax.stop_gradient(learned), pairs, batch, axis)

    def mean_weights(weights: jax.Array, pairs: jax.Array, batch: RequestBatch, axis: Axis) -> dict[str, jax.Array]:
        """Mean of the weights of Eq 8 [T, U, P, N] over pairs, by task and stage, and by user group and day if any.

        By stage and group it is Table 7. Groups and days that a batch has not are 0.
        """
        powers = jnp.stack([jnp.ones_like(weights), weights, jnp.square(weights)])
        sums = jnp.sum(jnp.where(pairs, powers, 0.0), axis=3)  # [3, T, U, N] of each negative
        at_stage = jnp.stack([batch.stage == number for number in STAGES.values()], axis=-1)
        sums = jnp.einsum("mtun,uns->mtsu", sums, at_stage.astype(sums.dtype))

        def means(of: jax.Array) -> jax.Array:
            """Sums [3, ...] of one device to means of the first two powers over all devices [2, ...]."""
            of = psum(of, axis)
            return of[1:] / jnp.maximum(of[0], 1.0)

        first, second = means(sums.sum((2, 3)))
        # not the variance of means by request: of single weights around the mean of all
        found = {"weight_spread": jnp.sqrt(jnp.maximum(second - jnp.square(first), 0.0))}
        by_stage = means(sums.sum(3))[0]
        found |= {f"weight_{stage}": by_stage[:, index] for index, stage in enumerate(STAGES)}
        for name, count in (("group", model.groups), ("day", model.days)):
            if name not in batch.user:
                continue
            member = (batch.user[name][:, None] == jnp.arange(count)).astype(sums.dtype)
            parts = means(jnp.einsum("mtsu,ug->mtsg", sums, member))[0]
            for part in range(count):
                found |= {f"weight_{stage}_{name}_{part}": parts[:, s, part] for s, stage in enumerate(STAGES)}
        return {f"{name}/{task}": found[name][t] for name in found for t, task in enumerate(spec.tasks)}

    needs = frozenset({"ranked", "preranked", "pool"})
    return scored_method(of, spec, loss, needs, served)


def sampled(batch: RequestBatch, hyper: HyperConfig) -> jax.Array:
    """[U, K] bool: D_tr^-, the negatives sampled from the stages that `hyper` keeps."""
    kept = {"ranked": hyper.ranked, "preranked": hyper.preranked, "pool": hyper.pool}
    found = [(batch.stage == number) & (kept[stage] > 0) for stage, number in STAGES.items()]
    return batch.mask & jnp.any(jnp.stack(found), axis=0)


def prices(found: Outputs) -> jax.Array:
    """FSCD's penalty of the open fields; 0 where no field has a learned gate."""
    if not found.fields:
        return jnp.zeros(())
    cost = jnp.array([ONLINE_COST[KINDS[name.split("_")[0]]] for name in found.fields])
    widths = jnp.array([gate.width for gate in found.fields.values()])
    # one "list" of fields, so the mean over valid lists is that list's sum
    return fscd_penalty(jnp.stack([gate.value for gate in found.fields.values()]), fscd_complexity(cost, widths))


_IMPRESSIONS = {"contrast": 0.0, "sampled": 0.0}

# Table 3, as overrides of the full method. The base is trained alone, on impressions: no ranking net, no negatives.
ROWS: dict[str, dict[str, float]] = {
    "snr": {**_IMPRESSIONS, "distill": 0.0, "ranker": 0.0},
    "snr_mtd": _IMPRESSIONS,
    "snr_mtd_fixed": {"adaptive": 0.0},
    "sdcl": {},
}
