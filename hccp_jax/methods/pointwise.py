"""Pointwise baselines: an architecture trained by log-loss on impressions (LR, Two-Tower, COLD, the teacher DIN).

What the tables of RankTower and HCCP call LR, Two-Tower (DSSM) and COLD is an architecture with this loss. Sampled
negatives may count as items without feedback; the papers do not say that they do, so they count with weight 0.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from hccp_jax.collectives import Axis, global_mean
from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.requests import RequestBatch
from hccp_jax.losses.pointwise import binary_cross_entropy
from hccp_jax.methods.base import Method, Parameters, scored_method, scorer, weighted
from hccp_jax.models.pair_model import PairModel


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PointwiseHyper:
    """The numbers of a pointwise baseline."""

    negatives: float = field(0.0, "weight of the log-loss of unexposed items, as items without feedback", at_least=0)
    learning_rate: float = field(3e-3, "Adam step size", above=0)


def pointwise(spec: FeatureSpec, model: PairModel, needs: frozenset[str] = frozenset()) -> Method:
    """Log-loss of each task on the impressions.

    Args:
        spec: names of the tasks.
        model: with one score, trained on the first task, or one a task.
        needs: what the architecture reads.
    """
    of = scorer(model)

    def loss(
        parameters: Parameters, hyper: Any, batch: RequestBatch, key: jax.Array, progress: jax.Array, axis: Axis
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        return pointwise_loss(of.logits(parameters, batch), spec, batch, hyper.negatives, axis)

    return scored_method(of, spec, loss, needs)


def pointwise_loss(
    logits: jax.Array, spec: FeatureSpec, batch: RequestBatch, negatives: jax.Array, axis: Axis
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Log-loss of [U, T, K] logits on impressions plus `negatives` times that on unexposed items, and its terms."""
    mean = global_mean(axis)
    names = spec.tasks[: logits.shape[1]]
    scores = jnp.moveaxis(logits, 1, 0)
    labels = jnp.stack([batch.labels[name] for name in names])
    shown = jnp.broadcast_to(batch.exposed, labels.shape)
    calibration = binary_cross_entropy(scores, labels, where=shown, reduce_fn=mean)
    others = jnp.broadcast_to(batch.mask & ~batch.exposed, labels.shape)
    unexposed = binary_cross_entropy(scores, jnp.zeros_like(labels), where=others, reduce_fn=mean)
    terms = {f"calibration/{name}": calibration[index] for index, name in enumerate(names)}
    terms |= {f"unexposed/{name}": unexposed[index] for index, name in enumerate(names)}
    return jnp.sum(calibration + weighted(negatives, unexposed)), terms
