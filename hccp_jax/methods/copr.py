"""COPR-style: consistency-oriented pre-ranking (Zhao et al., CIKM 2023, Taobao display ads), partly inferred.

Sure, from the abstract and from HCCP's account: the ranking stage's list is cut into chunks and one candidate of each
is drawn; only the order between chunks is supervised, by a pairwise loss weighted with Delta-NDCG; a relaxation net;
and three losses, for the click rate, the ranks and the relaxation. The equations could not be read. Inferred: the
argument log e_i - log e_j with e = alpha * click rate * bid, the linear gain (K - k) / K of chunk k, ranks in the
student's own order, and the penalty (log alpha)^2. Outside of advertising all bids are 1.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from hccp_jax.collectives import Axis, global_mean
from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.losses.pairwise import delta_ndcg_logistic
from hccp_jax.methods.base import Heads, Method, Parameters, by_task, scored_method, scorer
from hccp_jax.methods.pointwise import pointwise_loss
from hccp_jax.models.relaxed import RelaxedThreeTower
from hccp_jax.models.three_tower import ModelConfig

RELAXATION = "log_alpha"


@dataclass(frozen=True)
class CoprConfig:
    """Chunks of the sampled ranking list; static."""

    chunk: int = field(5, "items of a chunk, in the list that training holds", at_least=1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CoprHyper:
    """The numbers of COPR-style; the original's are unknown."""

    consistency: float = field(1.0, "weight of the rank alignment", at_least=0)
    regularization: float = field(0.01, "weight of the penalty on the relaxation", at_least=0)
    learning_rate: float = field(3e-3, "Adam step size", above=0)


def copr(spec: FeatureSpec, model: ModelConfig, config: CoprConfig, sequence: int) -> Method:
    """COPR-style on the three-tower model.

    Args:
        spec: feature sizes.
        model: tower sizes.
        config: chunks.
        sequence: how many leading slots hold the ranking stage's list.
    """
    of = scorer(RelaxedThreeTower(model, spec))

    def named(logits: jax.Array) -> Heads:
        return by_task(logits[:, :-1], spec.tasks) | {RELAXATION: logits[:, -1]}

    def served(scores: Heads, hyper: Any) -> jax.Array:
        return log_value(scores[spec.tasks[0]], scores[RELAXATION])

    def loss(
        parameters: Parameters, hyper: Any, batch: RequestBatch, key: jax.Array, progress: jax.Array, axis: Axis
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        mean = global_mean(axis)
        logits = of.logits(parameters, batch)
        calibration, terms = pointwise_loss(logits[:, :-1], spec, batch, jnp.float32(0.0), axis)
        shown = slice(0, sequence)
        ranked = (batch.exposed | (batch.stage == Stage.RANKED))[:, shown]
        drawn, gain = chunk_sample(key, batch.rank[:, shown], ranked, config.chunk)
        values = log_value(logits[:, 0, shown], logits[:, -1, shown])
        alignment = delta_ndcg_logistic(values, gain, where=drawn, reduce_fn=mean)
        strain = mean(jnp.square(logits[:, -1]).ravel(), batch.mask.ravel())
        total = calibration + hyper.consistency * alignment + hyper.regularization * strain
        return total, terms | {"alignment": alignment, "relaxation": strain}

    return scored_method(of, spec, loss, frozenset({"ranked"}), served, named)


def log_value(logits: jax.Array, log_alpha: jax.Array) -> jax.Array:
    """Log e = log alpha + log of the click rate, with bids of 1."""
    return log_alpha + jax.nn.log_sigmoid(logits)


def chunk_sample(key: jax.Array, rank: jax.Array, where: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """One item of each chunk of the ranker's order, drawn anew in each step.

    Args:
        key: PRNG key.
        rank: [U, M] downstream order, smaller is better.
        where: [U, M] bool, the ranked items.
        size: items of a chunk, static; the last may be shorter.

    Returns:
        [U, M] bool, the drawn ones; and [U, M] float32, the gain (K - k) / K of the chunk k that an item lies in.

    >>> drawn, gain = chunk_sample(jax.random.key(0), jnp.array([[3, 0, 2, 1]]), jnp.ones((1, 4), bool), 2)
    >>> print(gain, drawn.sum())
    [[0.5 1.  0.5 1. ]] 2

    """
    rank = jnp.where(where, rank, jnp.iinfo(rank.dtype).max)
    position = jnp.argsort(jnp.argsort(rank, axis=-1), axis=-1)
    chunks = -(-rank.shape[-1] // size)
    chunk = position // size
    # the largest draw of a chunk
    draw = jnp.where(where, jax.random.uniform(key, rank.shape, minval=1e-6), 0.0)
    inside = chunk[:, None, :] == jnp.arange(chunks)[:, None]
    best = jnp.max(jnp.where(inside, draw[:, None, :], 0.0), axis=-1)
    drawn = where & (draw == jnp.take_along_axis(best, chunk, axis=-1))
    return drawn, (chunks - chunk) / chunks
