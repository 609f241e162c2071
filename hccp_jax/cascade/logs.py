"""What the simulated cascade writes: list-wise training requests, and held-out requests with every candidate."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from hccp_jax.cascade import funnel, ranker
from hccp_jax.cascade.world import CONTENT, RECENT, World, WorldConfig, build_world
from hccp_jax.config import field
from hccp_jax.data import hashing, sampling
from hccp_jax.data.catalogue import Catalogue, FeatureSpec
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.data.source import rows_of_part
from hccp_jax.errors import UserError

TASKS = ("click", "purchase")
# Streams of request numbers never overlap: what is held out stays held out.
STREAMS = {"frequency": 0, "evaluation": 1, "bootstrap": 2, "validation": 3, "online": 4, "sessions": 5}
_FIRST_TRAINING_STREAM = 8
_STREAM_BITS = 25
MAX_REQUESTS = 1 << (_STREAM_BITS - 1)  # of a stream; keeping the clicked ones runs twice as many
MAX_SEED = (1 << (31 - _STREAM_BITS)) - 1 - _FIRST_TRAINING_STREAM

# Scores [U, P] of the candidates of a batch, which are its items: stage PRERANKED, ids only, best logged first.
Preranker = Callable[[RequestBatch], jax.Array]


@dataclass(frozen=True)
class SamplingConfig:
    """How many samples of each level a list holds (HCCP 4.1.4)."""

    sequence: int = field(35, "M: items of the ranking sequence, impressions included", at_least=10)
    borders: tuple[int, ...] = field((), "chunk borders in ranking positions; empty: the paper's, scaled", at_least=1)
    rates: tuple[float, ...] = field(
        (), "share drawn from each chunk; empty: five items a chunk", at_least=0, at_most=1
    )
    preranked: int = field(15, "N3 items of the pre-ranking sequence", at_least=1)
    pool: int = field(10, "N5 items of the pool", at_least=1)
    clicked_only: bool = field(True, "train on requests with a click, as a click-keyed log would hold")

    def chunks(self, n_ranked: int) -> sampling.Chunks:
        """The chunks of the ranking order for a ranker that scores n_ranked items."""
        if self.rates and not self.borders:
            raise UserError(f"sampling.rates={self.rates}: expected sampling.borders as well")
        if not self.borders:
            return sampling.scaled_chunks(n_ranked, self.sequence // 7)
        if not self.rates:
            raise UserError(f"sampling.rates='': expected one rate for each border in sampling.borders={self.borders}")
        return sampling.chunks_from_rates(self.borders, self.rates)


def request_ids(stream: int, first: jax.Array | int, count: int) -> jax.Array:
    """[count] int32 request numbers of a stream."""
    return (stream << _STREAM_BITS) + first + jnp.arange(count, dtype=jnp.int32)


def training_stream(seed: int) -> int:
    """The stream of fresh requests that one training seed sees."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"training seed {seed} outside 0..{MAX_SEED}")
    return _FIRST_TRAINING_STREAM + seed


def catalogue(world: World, config: WorldConfig) -> Catalogue:
    """The observable part of the world."""
    statistics = [world.appeal[:, None], world.price[:, None]]
    if config.observe_popularity:
        statistics.append(world.popularity[:, None])
    # category 0 is the padding row's, so real categories begin at 1
    category = jnp.where(jnp.arange(config.items + 1) > 0, world.category + 1, 0)
    return Catalogue(
        users={"dense": world.observed_budget[:, None]},
        items={"categorical": category[:, None], "dense": jnp.concatenate([world.content, *statistics], axis=-1)},
    )


def feature_spec(config: WorldConfig) -> FeatureSpec:
    """Sizes of the simulated features."""
    return FeatureSpec(config.users + 1, config.items + 1, 1, config.categories + 1, TASKS, history_groups=2, cross=4)


def cross_features(batch: RequestBatch) -> jax.Array:
    """[U, K, 4] float32: category match with all and with recent history, price gap, signed price difference.

    Pool items have none (their cross features are hard to come by at serving time, HCCP 4.1.4): zeros.
    """
    seen, category = batch.history["categorical"][..., 0], batch.items["categorical"][..., 0]
    match = category[:, :, None] == seen[:, None, :]
    price = batch.items["dense"][..., CONTENT + 1] - batch.user["dense"][:, None, 0]
    parts = [match.mean(-1), match[..., -RECENT:].mean(-1), jnp.abs(price), price]
    known = (batch.stage != Stage.POOL) & batch.mask
    return jnp.stack(parts, axis=-1) * known[..., None]


def history_groups(history: jax.Array) -> jax.Array:
    """[U, H, 2] pooling weights: every item, and the recent ones that reveal the intent."""
    recent = jnp.arange(history.shape[1]) >= history.shape[1] - RECENT
    weights = jnp.stack([jnp.ones_like(recent), recent], axis=-1).astype(jnp.float32)
    return jnp.broadcast_to(weights, (*history.shape, 2))


def _retrieved(world: World, config: WorldConfig, context: funnel.Context) -> tuple[jax.Array, jax.Array]:
    """[U, P] distinct candidates in the order of the logging pre-ranker, and their number [U]."""
    slots = funnel.retrieve(world, config, context)
    scores = funnel.logging_scores(world, config, context, slots)
    return funnel.distinct_best_first(slots, scores, config.items)


def _candidates(context: funnel.Context, ids: jax.Array) -> RequestBatch:
    """Requests with their candidates [U, P] as items, nothing told about them."""
    mask = ids > 0
    return RequestBatch(
        user={"id": context.user, "request": context.request},
        history={"id": context.history, "groups": history_groups(context.history)},
        history_mask=context.history > 0,
        items={"id": ids},
        cross=None,
        stage=jnp.where(mask, Stage.PRERANKED, Stage.PADDING).astype(jnp.int8),
        rank=jnp.full(ids.shape, -1, jnp.int32),
        labels={},
        teacher={},
        mask=mask,
    )


def log_requests(
    world: World,
    config: WorldConfig,
    samples: SamplingConfig,
    request: jax.Array,
    preranker: Preranker | None = None,
) -> RequestBatch:
    """Run the funnel for requests [U] and write them as lists in the arranged order.

    Slots: the ranking sequence R^c (impressions first), then N3, then N5. The pre-ranker that writes the log is the
    world's own (`funnel.logging_scores`) where none is given.
    """
    context = funnel.contexts(world, config, request)
    retrieved, count = _retrieved(world, config, context)
    if preranker is not None:
        scores = preranker(_candidates(context, retrieved))
        retrieved = funnel.preranked_by(config, request, retrieved, scores)
    delivered = retrieved[:, : config.ranked]
    truth = funnel.click_logits(world, config, context.user, context.intent, delivered)
    truth = jnp.where(delivered > 0, truth, -16.0)
    scores = jnp.where(delivered > 0, funnel.ranker_scores(world, config, context, delivered, truth), -16.0)
    ranked, order = funnel.rank(delivered, scores)
    truth = jnp.take_along_axis(truth, order, axis=-1)
    shown = funnel.expose(world, config, context, ranked, truth)

    keys = (config.seed, request)
    sampled = sampling.chunk_positions(samples.chunks(config.ranked), *keys)
    n_ranked = jnp.minimum(count, config.ranked)
    sequence = sampling.ranking_sequence(sampled, shown.position, shown.click, n_ranked, length=samples.sequence)
    latter, latter_valid = sampling.latter_positions(config.ranked, count, samples.preranked, *keys)
    pool, pool_valid = sampling.pool_negatives(config.items, retrieved, samples.pool, *keys)

    ids = jnp.concatenate(
        [
            jnp.where(sequence.valid, jnp.take_along_axis(ranked.ids, sequence.position, axis=-1), 0),
            jnp.where(latter_valid, jnp.take_along_axis(retrieved, latter, axis=-1), 0),
            pool,
        ],
        axis=-1,
    )
    exposed = sequence.exposure >= 0
    valid = jnp.concatenate([sequence.valid, latter_valid, pool_valid], axis=-1)
    ranking = jnp.where(exposed, Stage.EXPOSED, Stage.RANKED)
    rest = jnp.full(latter.shape, Stage.PRERANKED), jnp.full(pool.shape, Stage.POOL)
    stages = jnp.concatenate([ranking, *rest], axis=-1)
    unranked = jnp.full((len(request), samples.preranked + samples.pool), -1, jnp.int32)

    def label(flags: jax.Array) -> jax.Array:
        of_exposures = jnp.take_along_axis(flags, jnp.maximum(sequence.exposure, 0), axis=-1) & exposed
        return jnp.pad(of_exposures.astype(jnp.float32), ((0, 0), (0, unranked.shape[1])))

    return RequestBatch(
        user={"id": context.user, "request": request},
        history={"id": context.history, "groups": history_groups(context.history)},
        history_mask=context.history > 0,
        items={"id": ids},
        cross=None,
        stage=jnp.where(valid, stages, Stage.PADDING).astype(jnp.int8),
        rank=jnp.concatenate([jnp.where(sequence.valid, sequence.position, -1), unranked], axis=-1),
        labels={"click": label(shown.click), "purchase": label(shown.purchase)},
        teacher={},
        mask=valid,
    )


def training_batch(
    world: World,
    config: WorldConfig,
    samples: SamplingConfig,
    stream: jax.Array | int,
    step: jax.Array,
    size: int,
    part: tuple[int, int] = (0, 1),
    preranker: Preranker | None = None,
) -> RequestBatch:
    """The fresh requests of one step: a pure function of (stream, step), so any step can be had at once.

    Of several equal parts only one with `part` = (index, parts); logged as `log_requests` does.

    With `clicked_only`, twice as many requests are run and the first `size` with a click are kept, in order; if there
    are fewer, requests without a click fill the batch.
    """
    raw = 2 * size if samples.clicked_only else size
    request = (jnp.asarray(stream, jnp.int32) << _STREAM_BITS) + step * raw + jnp.arange(raw, dtype=jnp.int32)
    own = rows_of_part(part, size)
    if not samples.clicked_only:
        return log_requests(world, config, samples, request[own], preranker)
    batch = log_requests(world, config, samples, request, preranker)  # which are kept hangs on all of them
    rows = clicked_first(batch, size)[own]
    return jax.tree.map(lambda x: x[rows], batch)


def clicked_first(batch: RequestBatch, size: int) -> jax.Array:
    """[size] int32 rows of the first requests with a click, in order; the first without one fill up where they lack."""
    clicked = jnp.any(batch.labels["click"] > 0, axis=-1)
    count = len(clicked)
    return jnp.sort(jnp.where(clicked, 0, count) + jnp.arange(count))[:size] % count


@struct.dataclass
class HeldOut:
    """Held-out requests with everything known about all of their candidates; [U, P] unless said, best logged first.

    Attributes:
        requests: users and histories, with the candidates as items (stage PRERANKED, no labels).
        exposed, clicked, purchased: bool, in this scenario.
        clicked_elsewhere, purchased_elsewhere: bool, the same user's feedback in other scenarios.
        ranker_scores: float32.
        truth: float32 true click probability, 0 for padding.
    """

    requests: RequestBatch
    exposed: jax.Array
    clicked: jax.Array
    purchased: jax.Array
    clicked_elsewhere: jax.Array
    purchased_elsewhere: jax.Array
    ranker_scores: jax.Array
    truth: jax.Array


def held_out(world: World, config: WorldConfig, request: jax.Array) -> HeldOut:
    """Run the funnel for requests [U] and keep all candidates, with the truth."""
    context = funnel.contexts(world, config, request)
    ids, _ = _retrieved(world, config, context)
    mask = ids > 0
    truth = jnp.where(mask, funnel.click_logits(world, config, context.user, context.intent, ids), -16.0)
    scores = jnp.where(mask, funnel.ranker_scores(world, config, context, ids, truth), -16.0)
    ranked, order = funnel.rank(ids[:, : config.ranked], scores[:, : config.ranked])
    shown = funnel.expose(world, config, context, ranked, jnp.take_along_axis(truth, order, axis=-1))
    slot = jnp.take_along_axis(order, shown.position, axis=-1)
    rows = jnp.arange(len(request))[:, None]

    def spread(flags: jax.Array) -> jax.Array:
        return jnp.zeros(ids.shape, bool).at[rows, slot].set(flags)

    shift = 1 + hashing.integers("other", config.seed, request, below=max(1, config.interests - 1))
    other = (context.intent + shift) % config.interests
    keys = (config.seed, request[:, None], ids)
    seen = hashing.uniform("elsewhere", *keys) < config.elsewhere
    chance = jax.nn.sigmoid(funnel.click_logits(world, config, context.user, other, ids))
    clicked = seen & mask & (hashing.uniform("elsewhere click", *keys) < chance)
    wanted = jax.nn.sigmoid(funnel.purchase_logits(world, config, context.user, ids))
    return HeldOut(
        requests=_candidates(context, ids),
        exposed=spread(jnp.ones_like(shown.click)),
        clicked=spread(shown.click),
        purchased=spread(shown.purchase),
        clicked_elsewhere=clicked,
        purchased_elsewhere=clicked & (hashing.uniform("elsewhere purchase", *keys) < wanted),
        ranker_scores=scores,
        truth=jnp.where(mask, jax.nn.sigmoid(truth), 0.0),
    )


def open_world(config: WorldConfig) -> World:
    """Build the world, with its trained ranker if the configuration asks for one."""
    world = build_world(config)
    if config.ranker != "trained":
        return world
    return dataclasses.replace(world, ranker=jax.jit(_bootstrap, static_argnums=1)(world, config))


def _bootstrap(world: World, config: WorldConfig) -> dict:
    """Fit the ranker to the log that the shrunk ranker would have written."""
    config = dataclasses.replace(config, ranker="shrunk")
    samples = SamplingConfig(clicked_only=False)
    blocks = -(-config.ranker_requests // 256)
    request = request_ids(STREAMS["bootstrap"], 0, 256 * blocks)
    batches = jax.lax.map(lambda r: log_requests(world, config, samples, r), request.reshape(blocks, 256))
    shown = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)
    ids = shown.items["id"][:, : config.exposed]
    features = ranker.observables(world, shown.user["id"], shown.history["id"], ids)
    clicks = shown.labels["click"][:, : config.exposed] > 0
    return ranker.fit(features.reshape(-1, features.shape[-1]), clicks.ravel(), jax.random.key(config.seed))
