"""A simulated online test: another pre-ranker in the funnel, everything else and all luck as it was.

Arms that answer the same requests share retrieval, ranker, re-ranking and every random draw, which are keyed by request
and item (common random numbers). Arms that hand the same items to the ranker therefore have identical outcomes.

Axes: U requests, P candidate slots, R impressions of a request, N items.
"""

import jax
import jax.numpy as jnp
from flax import struct

from hccp_jax.cascade import funnel
from hccp_jax.cascade.world import World, WorldConfig


@struct.dataclass
class Shown:
    """What one arm shows and how it is answered, [U, R] in the order shown.

    Attributes:
        ids: int32 item ids, 0 where there was nothing left to show.
        click_chance, purchase_chance: float32 true probabilities of a click at this place, and of a purchase given a
            click; 0 for padding.
        click, purchase: bool, the realised feedback: the draws of `funnel.expose`.
    """

    ids: jax.Array
    click_chance: jax.Array
    purchase_chance: jax.Array
    click: jax.Array
    purchase: jax.Array


@struct.dataclass
class Arm:
    """Outcomes of one arm, one value a request: [U] float32 unless said.

    Attributes:
        expected_clicks: sum over impressions of the true click probability, position decay included: the expectation
            of `clicks` given what is shown (Rao-Blackwell), with a fraction of its variance.
        expected_purchases: sum of click probability times the probability of a purchase given a click.
        clicks, purchases: the realised ones.
        exposures: impressions, fewer than R only where candidates run out.
        tail_exposures: impressions of tail items.
        shown: [U, R] int32 item ids, 0 is padding.
        click_chance, purchase_chance: [U, R] true probabilities of a click and of a click with a purchase.
    """

    expected_clicks: jax.Array
    expected_purchases: jax.Array
    clicks: jax.Array
    purchases: jax.Array
    exposures: jax.Array
    tail_exposures: jax.Array
    shown: jax.Array
    click_chance: jax.Array
    purchase_chance: jax.Array


def _delivered(
    world: World,
    config: WorldConfig,
    context: funnel.Context,
    ids: jax.Array,
    mask: jax.Array,
    scores: jax.Array,
) -> jax.Array:
    """[U, ranked] int32: the items that the arm hands to the ranker, in the order of the logging pre-ranker.

    The ranker breaks its ties by the order in which items come; an order of its own would let two arms differ that
    deliver the same items. Sorted by id first, equal sets are equal arrays and round alike in all that follows.
    """
    comparable = jnp.where(mask & ~jnp.isnan(scores), jnp.where(scores == 0, 0.0, scores), -jnp.inf)  # -0 equals 0
    _, slots = jax.lax.top_k(comparable, config.ranked)  # equal scores: the earlier slot
    chosen = jnp.sort(jnp.take_along_axis(jnp.where(mask, ids, 0), slots, axis=-1), axis=-1)
    logged = jnp.where(chosen > 0, funnel.logging_scores(world, config, context, chosen), -funnel.SCORE_RANGE)
    return funnel.distinct_best_first(chosen, logged, config.items)[0]


def shown_by(
    world: World, config: WorldConfig, request: jax.Array, ids: jax.Array, mask: jax.Array, scores: jax.Array
) -> Shown:
    """Serve requests with an arm's pre-ranking scores: the best `config.ranked` go to the ranker and on to the user.

    Args:
        world: tables.
        config: knobs; static under jit.
        request: [U] int32 request numbers, which make user, intent and history (`funnel.contexts`).
        ids: [U, P] int32 distinct candidates in any slot order, 0 is padding; P >= config.ranked.
        mask: [U, P] bool, real candidates.
        scores: [U, P] float, best highest; equal scores are ordered by slot, NaN counts as minus infinity.
    """
    context = funnel.contexts(world, config, request)
    delivered = _delivered(world, config, context, ids, mask, jnp.asarray(scores, jnp.float32))
    real = delivered > 0
    truth = jnp.where(real, funnel.click_logits(world, config, context.user, context.intent, delivered), -16.0)
    scored = jnp.where(real, funnel.ranker_scores(world, config, context, delivered, truth), -16.0)
    ranked, order = funnel.rank(delivered, scored)
    seen = funnel.expose(world, config, context, ranked, jnp.take_along_axis(truth, order, axis=-1))
    items = jnp.take_along_axis(ranked.ids, seen.position, axis=-1)
    real = items > 0
    return Shown(
        ids=items,
        click_chance=jnp.where(real, seen.click_chance, 0.0),
        purchase_chance=jnp.where(real, seen.purchase_chance, 0.0),
        click=seen.click & real,
        purchase=seen.purchase & real,
    )


def outcomes(
    world: World,
    config: WorldConfig,
    request: jax.Array,
    ids: jax.Array,
    mask: jax.Array,
    scores: jax.Array,
    tail: jax.Array,
) -> Arm:
    """The outcomes of one arm.

    Args:
        world: see `shown_by`, as for all up to the scores.
        config: knobs; static under jit.
        request: [U] int32.
        ids: [U, P] int32.
        mask: [U, P] bool.
        scores: [U, P] float.
        tail: [N + 1] bool, the items whose impressions count as the tail's.
    """
    seen = shown_by(world, config, request, ids, mask, scores)
    real = seen.ids > 0

    def total(values: jax.Array) -> jax.Array:
        return values.astype(jnp.float32).sum(axis=-1)

    bought = seen.click_chance * seen.purchase_chance
    return Arm(
        expected_clicks=total(seen.click_chance),
        expected_purchases=total(bought),
        clicks=total(seen.click),
        purchases=total(seen.purchase),
        exposures=total(real),
        tail_exposures=total(tail[seen.ids] & real),
        shown=seen.ids,
        click_chance=seen.click_chance,
        purchase_chance=bought,
    )


def logging_arm(world: World, config: WorldConfig, request: jax.Array, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """[U, P] float32 scores that repeat the logging pre-ranker: minus the place of a candidate in its order.

    Its own scores would not do: the log compares them packed (`funnel.packed_keys`), at a coarser resolution.
    """
    context = funnel.contexts(world, config, request)
    keys = funnel.packed_keys(ids, funnel.logging_scores(world, config, context, ids), config.items)
    order = jnp.argsort(jnp.where(mask, keys, jnp.uint32(0xFFFFFFFF)), axis=-1)
    return -jnp.argsort(order, axis=-1).astype(jnp.float32)
