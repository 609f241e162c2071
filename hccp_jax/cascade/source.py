"""The simulated world as a source of training batches, generated while training runs."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from hccp_jax.cascade import logs
from hccp_jax.cascade.world import World, WorldConfig
from hccp_jax.data.catalogue import Catalogue, attach, with_frequency
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.data.source import Source, reuse
from hccp_jax.data.store import open_store
from hccp_jax.data.store_writer import write_log


def featurise(batch: RequestBatch, catalogue: Catalogue) -> RequestBatch:
    """Attach the catalogue's features and compute the cross features."""
    batch = attach(batch, catalogue)
    return replace(batch, cross=logs.cross_features(batch))


@partial(jax.jit, static_argnums=(1, 2, 5, 6, 7))
def _fresh(
    world: World,
    config: WorldConfig,
    samples: logs.SamplingConfig,
    streams: jax.Array,
    steps: jax.Array,
    size: int,
    devices: int,
    part: tuple[int, int],
) -> RequestBatch:
    """Batches [n, size, ...] of (stream, step) pairs [n], or a part of each, over `devices`; n is a multiple of it."""

    def several(world: World, pairs: tuple[jax.Array, jax.Array]) -> RequestBatch:
        return jax.lax.map(
            lambda pair: logs.training_batch(world, config, samples, pair[0], pair[1], size, part), pairs
        )

    if devices == 1:
        return several(world, (streams, steps))
    mesh = jax.sharding.Mesh(np.asarray(jax.local_devices()[:devices]), ("steps",))
    spread = jax.shard_map(several, mesh=mesh, in_specs=(P(), P("steps")), out_specs=P("steps"))
    return spread(world, (streams, steps))


def _batches(
    world: World,
    config: WorldConfig,
    samples: logs.SamplingConfig,
    pairs: Sequence[tuple[int, int]],
    size: int,
    devices: int,
    part: tuple[int, int] = (0, 1),
) -> RequestBatch:
    """Batches [n, size, ...] of (stream, step) pairs, or a part of each, as NumPy; the last pair fills up the devices.

    Shards are joined on the host: joining them on the devices would be a collective, and a collective of simulated CPU
    devices can block for ever while another program runs.
    """
    filled = list(pairs) + [pairs[-1]] * (-len(pairs) % devices)
    streams, steps = (jnp.asarray(column, jnp.int32) for column in zip(*filled, strict=True))
    batches = _fresh(world, config, samples, streams, steps, size, devices, part)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[: len(pairs)], batches)


def fresh_source(
    world: World,
    config: WorldConfig,
    samples: logs.SamplingConfig,
    size: int,
    seeds: int,
    steps: int,
    devices: int = 1,
) -> Source:
    """Fresh requests at every step: one pass over a log as long as training is.

    Args:
        world: the world.
        config: its configuration.
        samples: what a list holds.
        size: requests a step.
        seeds: how many streams a chunk holds.
        steps: steps a chunk holds.
        devices: CPU devices over which generation is spread.
    """

    def chunk(streams: Sequence[int], first: int, count: int, part: tuple[int, int] = (0, 1)) -> RequestBatch:
        pairs = [(logs.training_stream(seed), first + step) for seed in streams for step in range(count)]
        batches = _batches(world, config, samples, pairs, size, devices, part)
        return jax.tree.map(lambda leaf: leaf.reshape(len(streams), count, *leaf.shape[1:]), batches)

    # one chunk shape throughout, so the item frequencies come from the program that generates training batches
    counts = np.zeros(config.items + 1, np.float32)
    for first in range(0, -(-config.frequency_requests // size), seeds * steps):
        pairs = [(logs.STREAMS["frequency"], first + step) for step in range(seeds * steps)]
        batch = _batches(world, config, samples, pairs, size, devices)
        left = config.frequency_requests - first * size  # as many as asked, however large a chunk is
        counted = jax.tree.map(lambda leaf, left=left: leaf.reshape(-1, *leaf.shape[2:])[:left], batch)
        counts += impressions(counted, config.items + 1)
    spec = logs.feature_spec(config)
    return Source(spec, with_frequency(logs.catalogue(world, config), counts), featurise, chunk, None, counts)


def impressions(batch: RequestBatch, rows: int) -> np.ndarray:
    """[rows] float32 impressions of each item id in NumPy batches with any leading axes."""
    shown = batch.items["id"][batch.stage == Stage.EXPOSED]
    return np.bincount(shown, minlength=rows).astype(np.float32)


def recorded_log(size: int, requests: int, fresh: Source, seed: int, directory: Path | None = None) -> RequestBatch:
    """The first `requests` requests of a seed's stream as NumPy, written once into a folder where one is given."""
    steps = range(-(-requests // size))
    parts = (jax.tree.map(lambda leaf: leaf[0, 0], fresh.chunk([seed], step, 1)) for step in steps)
    if directory is None:
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:requests], *parts)
    write_log(directory, requests, parts)
    return open_store(directory)["log"].requests()


def logged_source(
    size: int, requests: int, fresh: Source, seeds: Sequence[int], directory: Path | None = None
) -> Source:
    """Logs of `requests` requests that are reused epoch after epoch, in a keyed order.

    Every seed has a log of its own, so that what differs between seeds is what differs with fresh requests, too. They
    are in memory, or in a folder each of `directory`.
    """
    logs_of = {seed: recorded_log(size, requests, fresh, seed, directory and directory / str(seed)) for seed in seeds}
    return reuse(fresh, logs_of, size)
