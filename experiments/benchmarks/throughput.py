"""Requests per second of CPU time: log generation, and training of HCCP at two batch sizes.

    python -m experiments.benchmarks.throughput

CPU time of the process (all threads) is measured, not wall time, so a busy machine changes little. The two batch sizes
are timed in turn within one process and their ratio is the figure to trust.
"""

import resource
import statistics
from functools import partial

import jax
import jax.numpy as jnp

from experiments.settings import SimulatedSettings
from hccp_jax.cascade.logs import feature_spec, open_world
from hccp_jax.cascade.source import featurise, fresh_source
from hccp_jax.methods.hccp import Layout, hccp
from hccp_jax.training.parallel import wrap
from hccp_jax.training.state import initial_state
from hccp_jax.training.step import train_chunk

STEPS = 10
ROUNDS = 7


def cpu_seconds() -> float:
    """CPU time of this process, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Training:
    """HCCP at one batch size, ready to be timed."""

    def __init__(self, settings: SimulatedSettings, size: int) -> None:
        """Compile generation and training at this size."""
        self.size = size
        world = open_world(settings.world)
        self.source = fresh_source(world, settings.world, settings.sampling, size, 1, STEPS)
        layout = Layout(settings.world.exposed, settings.sampling.sequence)
        method = hccp(feature_spec(settings.world), settings.model, settings.negatives, layout)
        self.run = wrap(partial(train_chunk, method, featurise), "single").run
        self.batches = self.source.chunk([0], 0, STEPS)
        one = jax.tree.map(lambda leaf: jnp.asarray(leaf[0, 0, :1]), self.batches)
        start = jax.jit(lambda key, batch, tables: initial_state(method, key, featurise(batch, tables)))
        state = start(jax.random.key(0), one, self.source.catalogue)
        self.states = jax.tree.map(lambda leaf: leaf[None], state)
        self.hypers = jax.tree.map(lambda value: jnp.float32(value)[None], settings.hyper)
        self.train()

    def train(self) -> float:
        """CPU seconds of one chunk."""
        before = cpu_seconds()
        stream = jnp.zeros(1, jnp.int32)
        total = jnp.float32(400)
        self.states, metrics = self.run(self.states, self.hypers, stream, self.batches, self.source.catalogue, total)
        jax.block_until_ready(metrics)
        return cpu_seconds() - before

    def generate(self, first: int) -> float:
        """CPU seconds of generating one chunk."""
        before = cpu_seconds()
        self.source.chunk([0], first, STEPS)
        return cpu_seconds() - before


def main() -> None:
    """Print the figures."""
    settings = SimulatedSettings()
    small, large = Training(settings, 128), Training(settings, 512)
    rounds = [(small.generate(STEPS * i), small.train(), large.train()) for i in range(1, ROUNDS + 1)]
    generate, narrow, wide = (statistics.median(column) for column in zip(*rounds, strict=True))
    raw = 2 * STEPS * small.size if settings.sampling.clicked_only else STEPS * small.size
    print(f"log generation, list-wise, 2048 slots: {raw / generate:,.0f} requests/s of CPU time")
    print(f"training HCCP, B=128: {STEPS * 128 / narrow:,.0f} requests/s of CPU time")
    print(f"training HCCP, B=512: {STEPS * 512 / wide:,.0f} requests/s of CPU time")
    print(f"cost of a request at B=512 over B=128: {statistics.median(w / 4 / n for _, n, w in rounds):.2f}")


if __name__ == "__main__":
    main()
