"""RankTower (Credit Karma 2024): full-stage samples, aggregated labels, and a hybrid of three losses.

The hard label of an item is 1 for an exposure plus the sum of its feedback, 0 for candidates and random samples. The
architecture is in `models.ranktower`, the losses with the paper's errors in `losses.softsort` and `losses.rankmax`.
Any architecture may be trained so: the paper never separates its network from its loss and sampling.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from hccp_jax.collectives import Axis, global_mean
from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.losses.approx_ndcg import approx_ndcg
from hccp_jax.losses.distillation import pairwise_log_loss, softmax_distillation, weighted_log_loss
from hccp_jax.losses.pairwise import pairwise_logistic
from hccp_jax.losses.rankmax import am_rankmax, rankmax
from hccp_jax.losses.reduction import ReduceFn
from hccp_jax.losses.softmax import softmax_cross_entropy
from hccp_jax.losses.softsort import soft_sort_cross_entropy
from hccp_jax.methods.base import Method, Parameters, scored_method, scorer, weighted
from hccp_jax.methods.levels import aggregated_labels
from hccp_jax.methods.pointwise import pointwise_loss
from hccp_jax.models.pair_model import PairModel

RANKING = ("hybrid", "sorting", "am_rankmax", "softmax", "rankmax", "ranknet", "approx_ndcg", "log_loss")
DISTILLATION = ("softmax", "weighted_log_loss", "pairwise_log_loss", "none")


@dataclass(frozen=True)
class RankTowerLossConfig:
    """Which losses; static. The defaults are Eq 15; the others are the rows of Tables 3 and 4."""

    ranking: str = field("hybrid", "ranking loss (Table 3); log_loss: of clicks, as the baselines", choices=RANKING)
    distillation: str = field("softmax", "distillation of the ranker's scores (Table 4)", choices=DISTILLATION)
    sorting_mode: str = field(
        "literal", "SoftSort targets of tied labels: as printed, or block membership", choices=("literal", "block")
    )
    candidates: bool = field(True, "train on ranking and pre-ranking candidates (Table 2)")
    random: bool = field(True, "train on random samples (Table 2)")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RankTowerHyper:
    """The numbers of RankTower; the paper gives none of them."""

    sorting: float = field(1.0, "lambda_2, of the sorting loss (Eq 15)", at_least=0)
    am_rankmax: float = field(1.0, "lambda_3, of AM-Rankmax (Eq 15)", at_least=0)
    distillation: float = field(1.0, "lambda_1, of the distillation (Eq 15)", at_least=0)
    sort_temperature: float = field(1.0, "tau of SoftSort on the logits", above=0)
    label_temperature: float = field(0.05, "tau of SoftSort on the labels", above=0)
    margin_zero: float = field(1.0, "alpha, extra margin over items of label 0 (Eq 13)", at_least=0)
    margin_gap: float = field(1.0, "margin per gap of the labels (Eq 13)", at_least=0)
    learning_rate: float = field(3e-3, "Adam step size", above=0)


def ranktower(spec: FeatureSpec, model: PairModel, config: RankTowerLossConfig) -> Method:
    """RankTower's training of a model with one score (the first logit).

    Args:
        spec: feature sizes.
        model: `models.ranktower.RankTower`, or another architecture for the comparison of networks.
        config: which losses and samples.
    """
    of = scorer(model)
    levels = 2 + len(spec.tasks)

    def loss(
        parameters: Parameters, hyper: Any, batch: RequestBatch, key: jax.Array, progress: jax.Array, axis: Axis
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        mean = global_mean(axis)
        scores = of.logits(parameters, batch)[:, 0]
        labels = jnp.where(batch.mask, aggregated_labels(batch), 0)
        listed = _listed(batch, config)
        if config.ranking == "log_loss":  # of impressions: the loss of the baselines, for the comparison of networks
            ranking, terms = pointwise_loss(scores[:, None], spec, batch, jnp.zeros(()), axis)
        else:
            ranking, terms = _ranking(config, hyper, levels, scores, labels, listed, mean)
        if config.distillation == "none":
            return ranking, terms
        # Eq 9: over the impressions, with the first task's predictions
        teacher = batch.teacher[spec.tasks[0]]
        distilled = _distillation(config.distillation)(scores, teacher, where=batch.exposed, reduce_fn=mean)
        return ranking + weighted(hyper.distillation, distilled), terms | {"distillation": distilled}

    needs = {"ranked", "preranked"} if config.candidates else set()
    needs |= {"pool"} if config.random else set()
    needs |= {"teacher"} if config.distillation != "none" else set()
    return scored_method(of, spec, loss, frozenset(needs))


def _listed(batch: RequestBatch, config: RankTowerLossConfig) -> jax.Array:
    """[U, K] bool: the samples of the full-stage sampling that a row keeps."""
    candidate = (batch.stage == Stage.RANKED) | (batch.stage == Stage.PRERANKED)
    kept = batch.exposed
    kept = kept | candidate if config.candidates else kept
    return kept | (batch.stage == Stage.POOL) if config.random else kept


def _ranking(
    config: RankTowerLossConfig,
    hyper: Any,
    levels: int,
    scores: jax.Array,
    labels: jax.Array,
    listed: jax.Array,
    mean: ReduceFn,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The ranking loss of a row. Each sum over a list is divided by its positives, which the paper leaves open."""
    positives = jnp.maximum(jnp.sum((labels > 0) & listed, axis=-1), 1)

    def by_positives(values: jax.Array, valid: jax.Array) -> jax.Array:
        return mean(values / positives, valid)

    grades = labels.astype(scores.dtype)

    def sorting() -> jax.Array:  # Eq 10 and 11
        return soft_sort_cross_entropy(
            scores,
            labels,
            where=listed,
            mode=config.sorting_mode,
            levels=levels,
            temperature=hyper.sort_temperature,
            label_temperature=hyper.label_temperature,
            reduce_fn=by_positives,
        )

    def adaptive() -> jax.Array:  # Eq 13 and 14
        return am_rankmax(
            scores,
            labels,
            where=listed,
            levels=levels,
            alpha=hyper.margin_zero,
            beta=hyper.margin_gap,
            reduce_fn=by_positives,
        )

    if config.ranking == "hybrid":  # Eq 15
        terms = {"sorting": sorting(), "am_rankmax": adaptive()}
        return weighted(hyper.sorting, terms["sorting"]) + weighted(hyper.am_rankmax, terms["am_rankmax"]), terms
    others: dict[str, Callable[[], jax.Array]] = {
        "sorting": sorting,
        "am_rankmax": adaptive,
        "softmax": lambda: softmax_cross_entropy(scores, grades, where=listed, reduce_fn=by_positives),
        "rankmax": lambda: rankmax(scores, grades, where=listed, reduce_fn=by_positives),  # Eq 12
        "ranknet": lambda: pairwise_logistic(scores, labels, where=listed, reduce_fn=by_positives),
        "approx_ndcg": lambda: approx_ndcg(scores, grades, where=listed, reduce_fn=mean),
    }
    value = others[config.ranking]()
    return value, {config.ranking: value}


def _distillation(name: str) -> Callable[..., jax.Array]:
    return {
        "softmax": softmax_distillation,
        "weighted_log_loss": weighted_log_loss,
        "pairwise_log_loss": pairwise_log_loss,
    }[name]
