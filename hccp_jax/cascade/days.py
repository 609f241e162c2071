"""Day after day on a pre-ranker's own log: the feedback loop of a recommender, simulated at the level of the cascade.

Each day an arm pre-ranks the requests, the log it writes trains its successor, and retrieval drifts: the popular
channel is estimated anew from the clicks of the arm's own impressions. All else, users, items, the other channels,
ranker and luck, stays fixed, so that two arms differ on a day only by what they and their past have shown.

Axes: N items, Q slots of the popular channel's table.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from hccp_jax.cascade import logs
from hccp_jax.cascade.concentration import gini
from hccp_jax.cascade.source import featurise, impressions
from hccp_jax.cascade.world import World, WorldConfig, quantile_table, zipf_law
from hccp_jax.data.catalogue import Catalogue
from hccp_jax.data.requests import RequestBatch
from hccp_jax.errors import UserError

HEAD = 0.01  # share of the catalogue that counts as the head


def day_log(
    world: World,
    config: WorldConfig,
    samples: logs.SamplingConfig,
    catalogue: Catalogue,
    stream: jax.Array | int,
    day: jax.Array | int,
    steps: int,
    size: int,
    scorer: Callable[[RequestBatch], jax.Array] | None = None,
) -> RequestBatch:
    """What the cascade logs on one day with an arm's own pre-ranker in it.

    Pure and traceable; one step's requests are held at a time. Build the scorer inside the function that is jitted, so
    that its parameters are arguments of the program and not constants in it.

    Args:
        world: as retrieval stands on that day (`drifted`).
        config: knobs; static under jit, as are `samples`, `steps` and `size`.
        samples: what a list holds.
        catalogue: what is known of users and items, for the features that the scorer sees.
        stream: of request numbers, such as `logs.training_stream(seed)`. Day d has its steps d * steps and following,
            so days are disjoint; (d + 1) * steps * size must not exceed `logs.MAX_REQUESTS`.
        day: 0, 1, ...
        steps: batches a day.
        size: requests a batch.
        scorer: from all candidates of requests [U, P] as items with features attached, to finite scores [U, P];
            None: the world's logging pre-ranker. Candidates come in logging order, which a scorer must not look at.

    Returns:
        Batches [steps, size, ...] without features, as `logs.training_batch` gives them.
    """

    def scores(batch: RequestBatch) -> jax.Array:
        assert scorer is not None
        return scorer(featurise(batch, catalogue))

    preranker = None if scorer is None else scores

    def step(index: jax.Array) -> RequestBatch:
        return logs.training_batch(world, config, samples, stream, index, size, preranker=preranker)

    return jax.lax.map(step, jnp.asarray(day, jnp.int32) * steps + jnp.arange(steps, dtype=jnp.int32))


def drifted(world: World, config: WorldConfig, clicks: jax.Array, weight: float | jax.Array) -> World:
    """The world with its popular channel estimated anew.

    An item's weight in the channel is (1 - weight) times its share under the catalogue's Zipf law, the state of day 0,
    plus `weight` times its share of the clicks. Hidden and observable popularity of the items is not touched. Few
    clicks make a noisy channel: they should be many more than the items that get any, or be added up over days.

    Args:
        world: any day's.
        config: its configuration.
        clicks: [N + 1] clicks of each item, row 0 is padding; of one day, or of several, discounted or not. Without
            any the channel is that of day 0.
        weight: of what was clicked, in [0, 1]; 0 gives back the channel of day 0, bit for bit.

    Raises:
        UserError: for a number outside [0, 1]; a traced weight is not looked at.
    """
    if isinstance(weight, int | float) and not 0 <= weight <= 1:
        raise UserError(f"weight={weight} of the clicks in the popular channel: expected a value in [0, 1]")
    law = zipf_law(config)
    clicked = jnp.asarray(clicks, jnp.float32)[1:]
    total = clicked.sum()
    weight = jnp.where(total > 0, weight, 0.0)
    mixed = (1 - weight) * law + weight * law.sum() / jnp.maximum(total, 1e-30) * clicked
    everything = jnp.zeros(config.items, jnp.int32)
    return replace(world, popular=quantile_table(mixed, everything, 1, len(world.popular))[0])


def clicks_per_item(log: RequestBatch, rows: int) -> np.ndarray:
    """[rows] float32 clicks of each item id in batches with any leading axes (host)."""
    clicked = np.asarray(log.labels["click"]) > 0
    return np.bincount(np.asarray(log.items["id"])[clicked], minlength=rows).astype(np.float32)


def day_metrics(
    log: RequestBatch, world: World, start: World, config: WorldConfig, tail: np.ndarray
) -> dict[str, float]:
    """What a day did to the variety of what is shown and retrieved (host, float64).

    "day/click_rate" is clicks an impression, "day/tail_share" the share of impressions that are of tail items,
    "day/gini" the Gini coefficient of impressions over the catalogue. Of the popular channel's table,
    "day/popular_head" is the mass on its own most frequent HEAD of the catalogue, whichever items these are, and
    "day/popular_overlap" the mass it shares with the start, sum_i min(p_i, q_i), one minus their total variation
    distance: how far retrieval has drifted. With `SamplingConfig.clicked_only` the log holds clicked requests only: the
    first three then are of these.

    Args:
        log: of one day, [..., U, K].
        world: of that day.
        start: of day 0.
        config: knobs.
        tail: [N + 1] bool, the tail items, such as `evaluation.online.Online.tail`.
    """
    rows = config.items + 1
    shown = impressions(jax.tree.map(np.asarray, log), rows).astype(np.float64)
    return {
        "day/click_rate": float(clicks_per_item(log, rows).sum(dtype=np.float64) / shown.sum()),
        "day/tail_share": float(shown[np.asarray(tail)].sum() / shown.sum()),
        "day/gini": gini(shown[1:]),
        "day/popular_head": popular_head(world.popular, config.items),
        "day/popular_overlap": popular_overlap(world.popular, start.popular),
    }


def popular_head(table: jax.Array | np.ndarray, items: int) -> float:
    """Share of a channel's table [Q] that its own most frequent HEAD of `items` items take, at least one item.

    >>> popular_head(np.array([7, 7, 7, 1]), items=50)
    0.75
    """
    counts = np.sort(np.bincount(np.asarray(table)))[::-1]
    return float(counts[: max(1, round(HEAD * items))].sum() / counts.sum())


def popular_overlap(table: jax.Array | np.ndarray, start: jax.Array | np.ndarray) -> float:
    """Mass that two tables of a channel share, sum_i min(p_i, q_i): 1 for the same shares, 0 for no common item.

    >>> popular_overlap(np.array([1, 1, 2, 3]), np.array([3, 1, 4, 4]))
    0.5
    """
    length = 1 + max(np.max(table), np.max(start))
    now, before = (np.bincount(np.asarray(x), minlength=length) / len(x) for x in (table, start))
    return float(np.minimum(now, before).sum())
