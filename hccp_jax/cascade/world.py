"""The simulated world: items, users, what they like, and what a model may observe of them.

Everything here is simulated. Item ids run from 1 by falling popularity; row 0 of every table is padding.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from hccp_jax.config import field
from hccp_jax.data import hashing

RECENT = 3  # the last history items, which reveal the intent of the request
CONTENT = 8  # width of the observable item content


@dataclass(frozen=True)
class WorldConfig:
    """Knobs of the simulated world and of the funnel that logs it; the defaults are the recommended world 6."""

    seed: int = field(0, "world seed: items, users and everything that happens", at_least=0)
    items: int = field(20_000, "catalogue size", at_least=64, at_most=1 << 20)
    users: int = field(20_000, "number of users", at_least=2)
    categories: int = field(40, "item categories", at_least=2)
    interests: int = field(3, "interests of a user; one is active in a request", at_least=1)
    latent: int = field(16, "width of the hidden taste vectors", at_least=2)
    clusters: int = field(256, "cells of the embedding index of one retrieval channel", at_least=8)
    history: int = field(15, "history items of a request; the last 3 reveal its intent", at_least=4)
    zipf: float = field(0.8, "skew of item popularity: p is proportional to rank ** -zipf", at_least=0.0, at_most=0.99)
    candidates: int = field(2048, "retrieval slots; about a tenth are duplicates", at_least=64)
    ranked: int = field(150, "items the pre-ranker hands to the ranker: the width of the bottleneck", at_least=35)
    rerank: int = field(60, "top of the ranking that the diversity re-rank may expose", at_least=10)
    exposed: int = field(10, "impressions of a request", at_least=1, at_most=16)
    exploration: float = field(0.0, "share of impressions drawn at random from the candidates", at_least=0, at_most=1)
    diversity: float = field(0.4, "ranker logits lost by each better item of the same category", at_least=0.0)
    position_decay: float = field(0.03, "share of clicks lost by each position", at_least=0.0, at_most=0.05)
    ranker: str = field("shrunk", "what orders the ranked items", choices=("shrunk", "perfect", "trained"))
    ranker_prior_std: float = field(1.5, "prior standard deviation that the shrunk ranker assumes", above=0.0)
    ranker_error_head: float = field(0.3, "ranker error (logits) on the most popular item", at_least=0.0)
    ranker_error_tail: float = field(1.0, "ranker error (logits) on the rarest item", at_least=0.0)
    ranker_requests: int = field(8192, "bootstrap requests that the trained ranker learns from", at_least=256)
    preranker_popularity: float = field(0.05, "weight of popularity in the logging pre-ranker", at_least=0.0)
    quality_popularity: float = field(0.1, "correlation of an item's quality with its popularity", at_most=0.99)
    affinity: float = field(9.0, "click logits per unit of affinity", above=0.0)
    click_bias: float = field(-10.0, "click logit of an item without affinity, quality or price gap")
    purchase_bias: float = field(-1.6, "logit of a purchase, given a click")
    elsewhere: float = field(0.45, "chance that a candidate is also seen in another scenario", at_least=0, at_most=1)
    observe_popularity: bool = field(False, "show popularity to the models (worsens the tail)")
    frequency_requests: int = field(16_000, "logged requests whose impressions give the item frequencies", at_least=1)


@struct.dataclass
class World:
    """Hidden and observable tables, [items + 1, ...] and [users + 1, ...].

    Attributes:
        taste: [items + 1, latent] hidden unit vectors.
        quality, value, price: [items + 1] hidden click quality, hidden purchase quality, observable price.
        popularity: [items + 1] normal quantile of the popularity rank, about +4 the head, -4 the rarest.
        rarity: [items + 1] popularity rank over catalogue size, 0 the head.
        category, cluster: [items + 1] int32.
        content: [items + 1, CONTENT] observable, noisier for rare items.
        appeal: [items + 1] observable smoothed historical click logit, noisier for rare items.
        interests: [users + 1, interests, latent] hidden unit vectors; interest_category [users + 1, interests].
        budget: [users + 1] hidden; observed_budget noisy.
        long_history: [users + 1, history - RECENT] int32.
        popular: [Q] items at the quantiles of popularity; by_category [categories, Q]; by_cluster [clusters, Q].
        centroids: [clusters, CONTENT].
        ranker: parameters of a ranker trained on the log, or None.
    """

    taste: jax.Array
    quality: jax.Array
    value: jax.Array
    price: jax.Array
    popularity: jax.Array
    rarity: jax.Array
    category: jax.Array
    cluster: jax.Array
    content: jax.Array
    appeal: jax.Array
    interests: jax.Array
    interest_category: jax.Array
    budget: jax.Array
    observed_budget: jax.Array
    long_history: jax.Array
    popular: jax.Array
    by_category: jax.Array
    by_cluster: jax.Array
    centroids: jax.Array
    ranker: dict | None = None


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)


def quantile_table(weights: jax.Array, group: jax.Array, groups: int, width: int) -> jax.Array:
    """[groups, width] item ids at the mid-quantiles of the weights inside each group: sampling becomes one gather.

    Items are laid out group after group; a quantile of a group is found by one search in the running sum.
    """
    by_group = jnp.argsort(group, stable=True)
    mass = jax.ops.segment_sum(weights, group, groups)
    end = jnp.cumsum(mass)
    start = end - mass
    goal = start[:, None] + mass[:, None] * ((jnp.arange(width) + 0.5) / width)
    slot = jnp.searchsorted(jnp.cumsum(weights[by_group]), goal.ravel()).reshape(groups, width)
    return (by_group[jnp.minimum(slot, len(weights) - 1)] + 1).astype(jnp.int32)


def chosen_items(
    world_seed: int,
    taste: jax.Array,
    by_category: jax.Array,
    wanted: jax.Array,
    category: jax.Array,
    purpose: str,
    *keys,
) -> jax.Array:
    """The best of four popular items of a category for a taste vector: what a user consumed in the past."""
    width = by_category.shape[1]
    draws = hashing.integers(purpose, world_seed, *(k[..., None] for k in keys), jnp.arange(4), below=width)
    options = by_category[category[..., None], draws]
    fit = jnp.einsum("...od,...d->...o", taste[options], wanted)
    return jnp.take_along_axis(options, jnp.argmax(fit, axis=-1)[..., None], axis=-1)[..., 0]


def _pad(x: jax.Array) -> jax.Array:
    return jnp.concatenate([jnp.zeros_like(x[:1]), x])


def zipf_law(config: WorldConfig) -> jax.Array:
    """[items] float32 popularity of the items by rank, not normalised."""
    return (jnp.arange(config.items) + 1.0) ** -config.zipf


def build_world(config: WorldConfig) -> World:
    """Make the world of a configuration; the same configuration gives the same world on any machine."""
    return jax.jit(_build, static_argnums=0)(config)


def _build(config: WorldConfig) -> World:
    seed, n = config.seed, config.items
    item, user = jnp.arange(n), jnp.arange(1, config.users + 1)

    def draw(purpose: str, rows: jax.Array, *widths: int) -> jax.Array:
        keys = [rows.reshape(-1, *[1] * len(widths))]
        keys += [jnp.arange(w).reshape(-1, *[1] * (len(widths) - i - 1)) for i, w in enumerate(widths)]
        return hashing.normal(purpose, seed, *keys)

    rarity = item / n
    popularity = zipf_law(config)
    standard = jax.scipy.special.ndtri(1.0 - (item + 0.5) / n)  # the head of a zipf law would be nine deviations out
    # categories of unequal size: the square of a uniform draw favours the first ones
    category = jnp.floor(hashing.uniform("category", seed, item) ** 1.5 * config.categories).astype(jnp.int32)
    centres = _unit(draw("centre", jnp.arange(config.categories), config.latent))
    taste = _unit(centres[category] + 0.8 * draw("taste", item, config.latent) / config.latent**0.5)
    share = config.quality_popularity
    quality = share * standard + (1 - share**2) ** 0.5 * draw("quality", item)
    price = draw("price", item)
    projection = draw("projection", jnp.arange(config.latent), CONTENT) / config.latent**0.5
    noise = 0.08 + 0.22 * rarity
    content = taste @ projection + noise[:, None] * draw("content", item, CONTENT)
    error = 0.3 + 0.9 * rarity  # of the historical click rate, in logits
    shrink = 0.64 / (0.64 + error**2)
    appeal = shrink * (0.8 * quality + error * draw("appeal", item))

    everything = jnp.zeros(n, jnp.int32)
    by_category = quantile_table(popularity**0.5, category, config.categories, 1024)
    centroids = content[hashing.integers("centroid", seed, jnp.arange(config.clusters), below=n)]
    distance = jnp.sum(centroids**2, -1) - 2 * content @ centroids.T
    cluster = jnp.argmin(distance, axis=-1).astype(jnp.int32)
    by_cluster = quantile_table(jnp.ones(n), cluster, config.clusters, 256)

    kinds = jnp.arange(config.interests)
    interest_category = category[hashing.integers("interest", seed, user[:, None], kinds, below=n)]
    interests = _unit(
        centres[interest_category] + 0.7 * draw("wish", user, config.interests, config.latent) / config.latent**0.5
    )
    budget = draw("budget", user)
    slot = jnp.arange(config.history - RECENT)
    kind = hashing.integers("long kind", seed, user[:, None], slot, below=config.interests)
    wanted = jnp.take_along_axis(interests, kind[..., None], axis=1)
    long_history = chosen_items(
        seed,
        _pad(taste),
        by_category,
        wanted,
        jnp.take_along_axis(interest_category, kind, axis=1),
        "long",
        user[:, None],
        slot[None, :],
    )
    return World(
        taste=_pad(taste),
        quality=_pad(quality),
        value=_pad(draw("value", item)),
        price=_pad(price),
        popularity=_pad(standard),
        rarity=_pad(rarity),
        category=_pad(category),
        cluster=_pad(cluster),
        content=_pad(content),
        appeal=_pad(appeal),
        interests=_pad(interests),
        interest_category=_pad(interest_category),
        budget=_pad(budget),
        observed_budget=_pad(budget + 0.5 * draw("budget noise", user)),
        long_history=_pad(long_history),
        popular=quantile_table(popularity, everything, 1, 4096)[0],
        by_category=by_category,
        by_cluster=by_cluster,
        centroids=centroids,
    )
