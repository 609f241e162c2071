"""HCCP: hybrid cross-stage coordination pre-ranking (Zhao et al., WWW Companion 2025), and its ablation rows.

Equation numbers are the paper's. The rows of its Table 1 differ in numbers only (`Hyper`), so that they share one
compiled program; a term whose weight is 0 contributes neither loss nor gradient.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from hccp_jax.collectives import Axis, all_gather, first_row, global_mean
from hccp_jax.config import field
from hccp_jax.data import hashing, sampling
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.losses.contrastive import anneal_beta, anneal_scale, effective_margin, info_nce, margin_info_nce
from hccp_jax.losses.listwise import list_mle, list_net
from hccp_jax.losses.pairs import Pairs
from hccp_jax.losses.pointwise import binary_cross_entropy
from hccp_jax.losses.reduction import NEGATIVE
from hccp_jax.losses.streaming import row_log_sum_exp
from hccp_jax.methods.base import (
    Heads,
    Method,
    Parameters,
    by_task,
    inputs,
    scored_method,
    scorer,
    weighted,
    weighted_sum,
)
from hccp_jax.models.three_tower import ModelConfig, ThreeTower
from hccp_jax.numerics import safe_norm

CONSISTENCY = "consistency"
DIVERSITY = "diversity"
RANKS = 1 << 20  # larger than any downstream order


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HyperConfig:
    """The numbers of HCCP; each is traced, so changing one compiles nothing."""

    click: float = field(0.98, "lambda of the click task (Eq 6)", at_least=0)
    conversion: float = field(0.2, "lambda of the second task, purchase or long view (Eq 6)", at_least=0)
    diversity: float = field(0.1, "lambda of the diversity task (Eq 6); used with model.diversity=true", at_least=0)
    consistency: float = field(0.05, "lambda_c of global consistency (Eq 3)", at_least=0)
    local: float = field(0.05, "alpha of local consistency by ListMLE (Eq 4)", at_least=0)
    listnet: float = field(0.0, "weight of ListNet on the impressions (row Base+ListNet)", at_least=0)
    negatives: float = field(0.5, "beta of the contrastive loss (Eq 5)", at_least=0)
    hard: float = field(1.0, "1 keeps the hard negatives N2-N3, 0 drops them", at_least=0, at_most=1)
    easy: float = field(1.0, "1 keeps the easy negatives N4-N5, 0 drops them", at_least=0, at_most=1)
    final_share: float = field(0.5, "share of InfoNCE on the final score in the mean of the two", at_least=0, at_most=1)
    margin: float = field(0.9, "m of Margin InfoNCE (Eq 5)", at_least=0)
    temperature: float = field(0.1, "tau of Margin InfoNCE on dot products", above=0)
    final_temperature: float = field(1.0, "tau of InfoNCE on the final score, a logit", above=0)
    anneal: float = field(1 / 3, "share of training after which half of the margin is on; 0: on at once", at_least=0)
    log_q: float = field(0.0, "strength of the logQ correction of in-batch negatives; 1 is full", at_least=0)
    adjustment: float = field(
        0.0, "weight of log frequency in the logits of InfoNCE while training: logit adjustment", at_least=0
    )
    learning_rate: float = field(3e-3, "Adam step size", above=0)
    serve_click: float = field(1.0, "weight of the click logit in the served score", at_least=0)
    serve_conversion: float = field(0.0, "weight of the second task's logit in the served score", at_least=0)
    serve_consistency: float = field(0.0, "weight of the consistency logit in the served score", at_least=0)


@dataclass(frozen=True)
class NegativesConfig:
    """How in-batch negatives are sampled; static."""

    in_batch_rate: float = field(0.05, "share of the other users' impressions used (HCCP 4.1.4)", above=0, at_most=1)
    in_batch: str = field(
        "shared", "one sample of columns for all users, or one a user", choices=("shared", "independent")
    )


@dataclass(frozen=True)
class Layout:
    """Which leading slots hold what: impressions lie in the first `exposed`, R^c in the first `sequence`."""

    exposed: int
    sequence: int


def traced(config: HyperConfig) -> HyperConfig:
    """The same numbers as traced float32 scalars: rows that differ in them share a compiled program."""
    return jax.tree.map(jnp.float32, config)


def hccp(spec: FeatureSpec, model: ModelConfig, negatives: NegativesConfig, layout: Layout) -> Method:
    """HCCP on a three-tower model.

    Args:
        spec: feature sizes; the first task is the click.
        model: tower sizes.
        negatives: in-batch sampling.
        layout: slots of impressions and of the ranking sequence.
    """
    task_names = (*spec.tasks, DIVERSITY) if model.diversity else spec.tasks
    names = (*task_names, CONSISTENCY)
    tower = ThreeTower(model, spec, names)
    tasks = len(task_names)

    of = scorer(tower)

    def served(scores: Heads, hyper: HyperConfig) -> jax.Array:
        weights = {
            spec.tasks[0]: hyper.serve_click,
            spec.tasks[1]: hyper.serve_conversion,
            CONSISTENCY: hyper.serve_consistency,
        }
        return weighted_sum(scores, weights)

    def loss(
        parameters: Parameters, hyper: HyperConfig, batch: RequestBatch, key: jax.Array, progress: jax.Array, axis: Axis
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        mean = global_mean(axis)
        if model.id_dropout > 0:
            pair = (jax.random.bits(jax.random.fold_in(key, 1)), batch.user["id"][:, None], batch.items["id"])
            keep = hashing.uniform("id dropout", *pair) >= model.id_dropout  # the same on any number of devices
            batch = replace(batch, items=batch.items | {"keep_id": keep})
        users, items, dots, finals = of.apply(parameters, *inputs(batch), method=ThreeTower.everything)
        # task axis first, [T, U, K]: every kernel then works on all tasks at once and reduces over U
        dots, finals, users = (jnp.moveaxis(x, 1, 0) for x in (dots, finals, users))
        exposed = batch.exposed
        known = batch.labels | ({DIVERSITY: opens_category(batch)} if model.diversity else {})
        labels = jnp.stack([known[task] for task in task_names])
        shown = slice(0, layout.exposed)
        everywhere = jnp.broadcast_to(exposed[:, shown], labels[..., shown].shape)

        # Eq 1: calibration on the impressions
        calibration = binary_cross_entropy(
            finals[:tasks, :, shown], labels[..., shown], where=everywhere, reduce_fn=mean
        )
        # Eq 4: local consistency, ListMLE in the order r^t of each task
        rank = sampling.arranged_rank(batch.rank, exposed, labels, RANKS)
        local = list_mle(finals[:tasks, :, shown], rank[..., shown], where=everywhere, reduce_fn=mean)
        net = list_net(finals[:tasks, :, shown], labels[..., shown], where=everywhere, reduce_fn=mean)
        # Eq 3: global consistency, ListMLE on R^c, which is stored in its order
        sequence = slice(0, layout.sequence)
        in_sequence = (exposed | (batch.stage == Stage.RANKED))[:, sequence]
        consistency = list_mle(finals[tasks][:, sequence], where=in_sequence, reduce_fn=mean)

        # Eq 5 and 4.1.4: InfoNCE of the final score on N2-N3, Margin InfoNCE of the dot product on N2-N5
        positive = (labels > 0) & exposed
        hard = ((batch.stage == Stage.RANKED) | (batch.stage == Stage.PRERANKED)) & (hyper.hard > 0)
        easy = (batch.stage == Stage.POOL) & (hyper.easy > 0)
        hard, easy = (jnp.broadcast_to(mask, positive.shape) for mask in (hard, easy))
        # Menon et al. 2021: what training adds to the logits, serving does without
        prior = hyper.adjustment * batch.items.get("log_frequency", 0.0)
        final_logits = finals[:tasks] / hyper.final_temperature + prior
        on_final = info_nce(
            final_logits,
            final_logits,
            positive_where=positive,
            negative_where=hard,
            reduce_fn=mean,
        )
        outside = in_batch(users[:tasks], items, batch, positive, hyper, key, axis)
        user_norm, item_norm = safe_norm(users[:tasks]), safe_norm(items)
        products = jnp.ones_like(dots[:tasks]) if model.normalize else user_norm[..., None] * item_norm
        beta = anneal_beta(progress / jnp.maximum(hyper.anneal, 1e-6), anneal_scale(1.0))
        margin = effective_margin(hyper.margin, jnp.where(hyper.anneal > 0, beta, 0.0))
        on_dot = margin_info_nce(
            dots[:tasks] + hyper.temperature * prior,
            products,
            positive=positive,
            hard=hard,
            easy=easy,
            easy_log_sum_exp=jnp.where(hyper.easy > 0, outside, NEGATIVE),
            margin=margin,
            temperature=hyper.temperature,
            reduce_fn=mean,
        )
        contrast = hyper.final_share * on_final + (1.0 - hyper.final_share) * on_dot

        # Eq 6
        weights = jnp.stack([hyper.click, hyper.conversion, hyper.diversity][:tasks])
        total = weighted(hyper.consistency, consistency)
        for weight, term in (
            (1.0, calibration),
            (hyper.local, local),
            (hyper.listnet, net),
            (hyper.negatives, contrast),
        ):
            total += jnp.sum(weighted(weights * weight, term))
        terms = {"consistency": consistency, "margin": margin}
        for index, task in enumerate(task_names):
            terms[f"calibration/{task}"] = calibration[index]
            terms[f"local/{task}"] = local[index]
            terms[f"infonce_final/{task}"] = on_final[index]
            terms[f"infonce_dot/{task}"] = on_dot[index]
        clicked = positive[0].ravel()
        terms["norm/user"] = mean(user_norm[0], jnp.ones_like(user_norm[0], bool))
        terms["norm/positive"] = mean(item_norm.ravel(), clicked)
        terms["norm/item"] = mean(item_norm.ravel(), batch.mask.ravel() & ~clicked)
        return total, terms

    def in_batch(
        users: jax.Array,
        items: jax.Array,
        batch: RequestBatch,
        positive: jax.Array,
        hyper: HyperConfig,
        key: jax.Array,
        axis: Axis,
    ) -> jax.Array:
        """N4: log-sum-exp [T, U] of dot products with impressions of other users on all devices."""
        shown = slice(0, layout.exposed)
        local = {
            "vector": items[:, shown].reshape(-1, items.shape[-1]),
            "id": batch.items["id"][:, shown].ravel(),
            "where": batch.exposed[:, shown].ravel(),
        }
        if "log_frequency" in batch.items:
            local["log_frequency"] = batch.items["log_frequency"][:, shown].ravel()
        column = all_gather(local, axis)
        number = jnp.arange(len(column["id"]))
        bits = jax.random.bits(key)
        if negatives.in_batch == "shared":
            number = sampling.shared_columns(len(number), negatives.in_batch_rate, bits)
            column = jax.tree.map(lambda x: x[number], column)
        # a user's own impressions and somebody else's of an item the user liked are no negatives
        row = first_row(len(batch.mask), axis) + jnp.arange(len(batch.mask))
        own = number // layout.exposed - row[0]
        own = jnp.where((own >= 0) & (own < len(row)), own, users.size)
        liked = jnp.where(jnp.any(positive[..., shown], axis=0), batch.items["id"][:, shown], -1)
        pairs = Pairs(
            column_where=column["where"],
            own_rows=own[:, None] + len(row) * jnp.arange(len(users)),
            row_ids=jnp.tile(liked, (len(users), 1)),
            column_ids=column["id"],
            sample_bits=None if negatives.in_batch == "shared" else bits,
            row_number=jnp.tile(row, len(users)),
        )
        # relative to a uniform draw, which needs no correction
        strength = hyper.adjustment - hyper.log_q
        bias = strength * column["log_frequency"] if "log_frequency" in column else None
        rows = users.reshape(-1, users.shape[-1]) / hyper.temperature
        sums = row_log_sum_exp(rows, column["vector"], bias=bias, pairs=pairs, rate=negatives.in_batch_rate)
        return sums.reshape(users.shape[:-1])

    needs = frozenset({"ranked", "preranked", "pool"})
    return scored_method(of, spec, loss, needs, served, partial(by_task, tasks=names))


def opens_category(batch: RequestBatch) -> jax.Array:
    """[U, K] float32 label of the diversity task: an impression of a category that no better-ranked one shows.

    HCCP names the task and its weight only; the label is inferred, and the task is off by default.
    """
    category, exposed = batch.items["categorical"][..., 0], batch.exposed
    same = (category[:, :, None] == category[:, None, :]) & exposed[:, None, :]
    earlier = batch.rank[:, None, :] < batch.rank[:, :, None]
    return (exposed & ~jnp.any(same & earlier, axis=-1)).astype(jnp.float32)


_FULL: dict[str, float] = {}
_NO_CONTRAST = {"hyper.negatives": 0.0}
_IMPRESSIONS_ONLY = {**_NO_CONTRAST, "hyper.consistency": 0.0}

# The rows of Table 1 that are HCCP or its parts, as overrides of the full method (methods are described in 4.1.3).
ROWS: dict[str, dict[str, float]] = {
    "base": {**_IMPRESSIONS_ONLY, "hyper.local": 0.0},
    "base_listnet": {**_IMPRESSIONS_ONLY, "hyper.local": 0.0, "hyper.listnet": 0.05},
    "base_listmle": _IMPRESSIONS_ONLY,
    "without_up": _NO_CONTRAST,
    # one InfoNCE only, on the dot product: the final score has no cross features of N4-N5
    "without_prc": {"hyper.hard": 0.0, "hyper.final_share": 0.0, "hyper.margin": 0.0},
    "without_neg": {"hyper.easy": 0.0, "hyper.margin": 0.0},
    "without_margin": {"hyper.margin": 0.0},
    "hccp": _FULL,
}
