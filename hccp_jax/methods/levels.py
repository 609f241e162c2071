"""Graded relevance from how far down the funnel an item got: what losses over all stages are trained towards."""

import jax
import jax.numpy as jnp

from hccp_jax.data.requests import RequestBatch, Stage

POOL, PRERANKED, RANKED, EXPOSED = range(4)


def stage_levels(batch: RequestBatch) -> jax.Array:
    """[U, K] int32: pool 0, cut by the pre-ranker 1, cut by the ranker 2, exposed 3, and one more for each feedback.

    With two tasks an exposure is worth 3, 4 or 5. Padding is 0 as well; mask it.
    """
    stages = jnp.array([0, EXPOSED, RANKED, PRERANKED, POOL], jnp.int32)  # in the order of `Stage`
    return stages[batch.stage] + feedback(batch)


def feedback(batch: RequestBatch) -> jax.Array:
    """[U, K] int32: how many tasks gave a positive label; 0 where not exposed."""
    positive = [((label > 0) & batch.exposed).astype(jnp.int32) for label in batch.labels.values()]
    return sum(positive, jnp.zeros_like(batch.mask, jnp.int32))


def aggregated_labels(batch: RequestBatch) -> jax.Array:
    """[U, K] int32: RankTower's hard label, 1 for an exposure plus the sum of its feedback, 0 for any other item."""
    return batch.exposed.astype(jnp.int32) + feedback(batch)


def downstream_order(batch: RequestBatch) -> jax.Array:
    """[U, K] float32, larger is better: the ranker's order, below it the pre-ranked as one tie, below it the pool.

    The ground truth of ARF and LCRON: position in the ranking stage first, what never got there tied by stage.
    """
    ranked = batch.exposed | (batch.stage == Stage.RANKED)
    unranked = jnp.where(batch.stage == Stage.PRERANKED, -1.0e6, -2.0e6)
    return jnp.where(ranked, -batch.rank.astype(jnp.float32), unranked)
