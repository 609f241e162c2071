"""The stages of the simulated cascade: retrieval, logging pre-ranker, ranker, diversity re-rank, feedback.

Every draw is keyed by (world seed, request, ...), so two funnels that differ in one stage share all other randomness.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hccp_jax.cascade.ranker import trained_score
from hccp_jax.cascade.world import RECENT, World, WorldConfig, chosen_items
from hccp_jax.data import hashing
from hccp_jax.errors import UserError

INACTIVE = 0.3  # affinity lost by an interest that is not the intent of the request
SCORE_RANGE = 8.0  # pre-ranker scores are clipped to +-8 before they are packed


class Context(NamedTuple):
    """Who asks: request [U] int32, user [U] int32, intent [U] int32, history [U, H] int32 (most recent last)."""

    request: jax.Array
    user: jax.Array
    intent: jax.Array
    history: jax.Array


def user_of(config: WorldConfig, request: jax.Array) -> jax.Array:
    """[...] int32 user who makes a request, 1..users."""
    return 1 + hashing.integers("user", config.seed, request, below=config.users)


def contexts(world: World, config: WorldConfig, request: jax.Array) -> Context:
    """The user, the active intent and the history of each request."""
    user = user_of(config, request)
    intent = hashing.integers("intent", config.seed, request, below=config.interests)
    wanted = world.interests[user, intent]
    slots = jnp.arange(RECENT)
    recent = chosen_items(
        config.seed,
        world.taste,
        world.by_category,
        jnp.broadcast_to(wanted[:, None], (len(request), RECENT, wanted.shape[-1])),
        jnp.broadcast_to(world.interest_category[user, intent][:, None], (len(request), RECENT)),
        "recent",
        request[:, None],
        slots[None, :],
    )
    return Context(request, user, intent, jnp.concatenate([world.long_history[user], recent], axis=-1))


def retrieve(world: World, config: WorldConfig, context: Context) -> jax.Array:
    """[U, P] item ids of four channels, duplicates included: history categories, embedding cells, popular, uniform."""
    slots = config.candidates
    by_history, by_cell, popular = int(slots * 0.40), int(slots * 0.25), int(slots * 0.15)
    request = context.request[:, None]
    slot = jnp.arange(slots)

    def pick(purpose: str, where: jax.Array, below: int) -> jax.Array:
        return hashing.integers(purpose, config.seed, request, where, below=below)

    part = slot[:by_history]
    categories = world.category[context.history]
    category = jnp.take_along_axis(categories, pick("channel 1", part, config.history), axis=1)
    first = world.by_category[category, pick("item 1", part, world.by_category.shape[1])]

    part = slot[by_history : by_history + by_cell]
    wish = world.content[context.history[:, -RECENT:]].mean(axis=1)
    distance = jnp.sum(world.centroids**2, -1) - 2 * wish @ world.centroids.T
    near = best_first(-distance)[:, :12]
    cell = jnp.take_along_axis(near, pick("channel 2", part, near.shape[1]), axis=1)
    second = world.by_cluster[cell, pick("item 2", part, world.by_cluster.shape[1])]

    part = slot[by_history + by_cell : by_history + by_cell + popular]
    third = world.popular[pick("item 3", part, len(world.popular))]
    fourth = 1 + pick("item 4", slot[by_history + by_cell + popular :], config.items)
    return jnp.concatenate([first, second, third, fourth], axis=-1)


def logging_scores(world: World, config: WorldConfig, context: Context, ids: jax.Array) -> jax.Array:
    """[U, P] scores of the pre-ranker that produced the log: content match, appeal and some popularity."""
    history = world.content[context.history]
    wish = 0.5 * history.mean(axis=1) + 0.5 * history[:, -RECENT:].mean(axis=1)
    prior = 0.3 * world.appeal + config.preranker_popularity * world.popularity
    return jnp.einsum("upc,uc->up", world.content[ids], wish) * 2.0 + prior[ids]


def packed_keys(ids: jax.Array, scores: jax.Array, n_items: int) -> jax.Array:
    """[U, P] uint32 keys that ascend from the best candidate to the worst, equal scores by id.

    Score and id share one uint32: the id takes the bits it needs and the score, clipped to +-SCORE_RANGE, the rest
    (17 bits for 20,000 items, a resolution of 1.2e-4).
    """
    bits = (n_items + 1).bit_length()
    levels = (1 << (32 - bits)) - 2
    worst_first = (SCORE_RANGE - jnp.clip(scores, -SCORE_RANGE, SCORE_RANGE)) * (levels / (2 * SCORE_RANGE))
    return (jnp.minimum(worst_first, levels).astype(jnp.uint32) << bits) | ids.astype(jnp.uint32)


def distinct_best_first(ids: jax.Array, scores: jax.Array, n_items: int) -> tuple[jax.Array, jax.Array]:
    """Order candidates by score and drop duplicates with single-operand sorts, the only cheap ones on a CPU.

    The same id has the same score, so duplicates are neighbours.

    Returns:
        [U, P] ids, best first, 0 for padding at the end; [U] int32 number of distinct candidates.
    """
    bits = (n_items + 1).bit_length()
    keys = jnp.sort(packed_keys(ids, scores, n_items), axis=-1)
    repeated = jnp.concatenate([jnp.zeros_like(keys[:, :1], bool), keys[:, 1:] == keys[:, :-1]], axis=-1)
    last = jnp.uint32(0xFFFFFFFF)
    keys = jnp.sort(jnp.where(repeated, last, keys), axis=-1)
    ids = jnp.where(keys == last, 0, keys & jnp.uint32((1 << bits) - 1)).astype(jnp.int32)
    return ids, jnp.sum(~repeated, axis=-1, dtype=jnp.int32)


def preranked_by(config: WorldConfig, request: jax.Array, ids: jax.Array, scores: jax.Array) -> jax.Array:
    """Reorder candidates by the scores of a pre-ranker that replaces the logging one.

    Equal scores go by a random key of request and item, so that the logging order decides nothing about who is
    delivered. Those delivered keep it among themselves: the ranker breaks its own ties by it, whoever delivers.

    Args:
        config: knobs.
        request: [U] int32.
        ids: [U, P] int32 distinct candidates in logging order, 0 is padding.
        scores: [U, P] float, finite where there is a candidate.

    Returns:
        [U, P] int32 ids: the best `config.ranked` in logging order, the others best first, then padding.
    """
    ties = hashing.hash_bits("tie", config.seed, request[:, None], ids)
    order = jnp.lexsort((ties, jnp.where(ids > 0, -scores, jnp.inf)), axis=-1)
    slots = jnp.concatenate([jnp.sort(order[:, : config.ranked], axis=-1), order[:, config.ranked :]], axis=-1)
    return jnp.take_along_axis(ids, slots, axis=-1)


def affinity(world: World, config: WorldConfig, user: jax.Array, intent: jax.Array, ids: jax.Array) -> jax.Array:
    """[U, P] fit of items to users, a cosine: that of the best interest, the inactive ones at a loss."""
    fit = jnp.einsum("upd,ukd->upk", world.taste[ids], world.interests[user])
    active = jax.nn.one_hot(intent, config.interests, dtype=bool)
    return jnp.max(fit - jnp.where(active, 0.0, INACTIVE)[:, None, :], axis=-1)


def click_logits(world: World, config: WorldConfig, user: jax.Array, intent: jax.Array, ids: jax.Array) -> jax.Array:
    """[U, P] true click logits: affinity plus quality minus the price gap."""
    best = affinity(world, config, user, intent, ids)
    gap = jnp.abs(world.price[ids] - world.budget[user][:, None])
    return config.click_bias + config.affinity * best + 0.8 * world.quality[ids] - 0.4 * gap


def purchase_logits(world: World, config: WorldConfig, user: jax.Array, ids: jax.Array) -> jax.Array:
    """[U, P] true logits of a purchase given a click: another quality, and twice the price gap."""
    gap = jnp.abs(world.price[ids] - world.budget[user][:, None])
    return config.purchase_bias + 0.8 * world.value[ids] + 0.4 * world.quality[ids] - 0.8 * gap


def ranker_scores(world: World, config: WorldConfig, context: Context, ids: jax.Array, truth: jax.Array) -> jax.Array:
    """[U, P] scores of the ranker for candidates whose true click logits are `truth`.

    "shrunk": the posterior mean under a persistent error (three quarters item-keyed, the rest user-and-item-keyed)
    that grows from head to tail. Per-request noise would average out in a student; an error that is not shrunk makes
    a winner's curse. "perfect": the truth. "trained": a network fitted to a bootstrap log, observables only.
    """
    if config.ranker == "perfect":
        return truth
    if config.ranker == "trained":
        return trained_score(world, context.user, context.history, ids)
    spread = config.ranker_error_head + (config.ranker_error_tail - config.ranker_error_head) * world.rarity[ids]
    both = hashing.normal("ranker pair", config.seed, context.user[:, None], ids)
    own = hashing.normal("ranker item", config.seed, ids)
    noisy = truth + spread * (0.75 * own + 0.66 * both)
    trust = config.ranker_prior_std**2 / (config.ranker_prior_std**2 + spread**2)
    prior = config.click_bias + RANKED_MEAN
    return prior + trust * (noisy - prior)


RANKED_MEAN = 3.1  # mean true click logit above the bias among ranked items: what the shrunk ranker shrinks to


def best_first(scores: jax.Array) -> jax.Array:
    """[U, N] int32 order of scores within +-16, best first, by one single-operand sort.

    Score and index share a uint32, so scores are compared at a resolution of 32 / 2^(32 - log2 N); ties keep the order
    of their index.
    """
    bits = max(1, (scores.shape[-1] - 1).bit_length())
    levels = (1 << (32 - bits)) - 1
    worst_first = (16.0 - jnp.clip(scores, -16.0, 16.0)) * (levels / 32.0)
    coarse = jnp.minimum(worst_first, levels - 256).astype(jnp.uint32)  # float32 rounds near the top of the range
    keys = jnp.sort((coarse << bits) | jnp.arange(scores.shape[-1], dtype=jnp.uint32), axis=-1)
    return (keys & jnp.uint32((1 << bits) - 1)).astype(jnp.int32)


class Ranking(NamedTuple):
    """ids [U, N] int32 in the ranker's order and its scores [U, N] float32."""

    ids: jax.Array
    scores: jax.Array


def rank(ids: jax.Array, scores: jax.Array) -> tuple[Ranking, jax.Array]:
    """The ranking of scored items, and the order [U, N] that made it."""
    order = best_first(scores)
    return Ranking(jnp.take_along_axis(ids, order, axis=-1), jnp.take_along_axis(scores, order, axis=-1)), order


class Impressions(NamedTuple):
    """What is shown and how it is answered, [U, R] in the order shown.

    Attributes:
        position: int32, the place among the ranked items.
        click, purchase: bool, the feedback drawn.
        click_chance: float32, true probability of a click at this place.
        purchase_chance: float32, true probability of a purchase given a click.
    """

    position: jax.Array
    click: jax.Array
    purchase: jax.Array
    click_chance: jax.Array
    purchase_chance: jax.Array


def expose(world: World, config: WorldConfig, context: Context, ranked: Ranking, truth: jax.Array) -> Impressions:
    """Re-rank the top of the ranking for diversity, show the first items and draw the feedback.

    An item loses `diversity` logits for each better-ranked item of its category: a soft, one-shot re-rank.

    Args:
        world: tables.
        config: knobs.
        context: requests.
        ranked: what the ranker ordered, [U, N].
        truth: [U, N] true click logits in the ranker's order.
    """
    depth = min(config.rerank, ranked.ids.shape[1])
    category = world.category[ranked.ids[:, :depth]]
    same = category[:, :, None] == category[:, None, :]
    crowd = jnp.sum(same & jnp.tril(jnp.ones((depth, depth), bool), -1), axis=-1)
    position = best_first(ranked.scores[:, :depth] - config.diversity * crowd)[:, : config.exposed]
    if config.exploration > 0:
        slots = jnp.arange(config.exposed)
        keys = (config.seed, context.request[:, None], slots)
        width = (ranked.ids.shape[1] - depth) // config.exposed  # disjoint ranges: an item is never shown twice
        if width < 1:
            raise UserError("world.exploration: expected 0 unless world.ranked >= world.rerank + world.exposed")
        explored = depth + slots * width + hashing.integers("explored", *keys, below=width)
        known = jnp.take_along_axis(ranked.ids, explored, axis=-1) > 0  # short lists end in padding
        chosen = known & (hashing.uniform("explore", *keys) < config.exploration)
        position = jnp.where(chosen, explored, position)
    shown = jnp.take_along_axis(ranked.ids, position, axis=-1)
    chance = jax.nn.sigmoid(jnp.take_along_axis(truth, position, axis=-1))
    chance *= 1.0 - config.position_decay * jnp.arange(config.exposed)
    draw = (config.seed, context.request[:, None], shown)
    click = hashing.uniform("click", *draw) < chance
    wanted = jax.nn.sigmoid(purchase_logits(world, config, context.user, shown))
    purchase = click & (hashing.uniform("purchase", *draw) < wanted)
    return Impressions(position, click, purchase, chance, wanted)
