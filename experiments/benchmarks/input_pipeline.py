"""Training from a log on disk against training on one chunk that lies in memory: what the input pipeline costs.

Both go through the package's `train`, with HCCP at its default sizes. A chunk's time is that between two reports of
the loop, so that waiting for the next chunk counts. The log is in the system's page cache, as what is read often is.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from experiments.benchmarks.bars import Outcome, outcome, times_slower
from experiments.quickstart import EXPERIMENT, SMOKE
from hccp_jax import config
from hccp_jax.cascade.logs import open_world
from hccp_jax.cascade.source import fresh_source
from hccp_jax.data.requests import RequestBatch
from hccp_jax.data.source import Source, log_chunk
from hccp_jax.data.store import open_store
from hccp_jax.data.store_writer import write_log
from hccp_jax.methods.hccp import Layout, hccp
from hccp_jax.training.config import Member
from hccp_jax.training.loop import train
from hccp_jax.training.program import Placement, Program

DRAWN, COPIES = 2048, 64
"""Requests that are generated, and how often the log holds them: a long log at little cost."""
STEPS, CHUNK, BATCH = 250, 25, 128


def from_disk(rounds: int) -> list[Outcome]:
    """Time over training on a constant chunk, the median over the rounds of each round's median chunk."""
    settings = config.override(EXPERIMENT.settings, {k: v for k, v in SMOKE.items() if k.startswith("world")})
    fresh = fresh_source(open_world(settings.world), settings.world, settings.sampling, BATCH, 1, 1)
    layout = Layout(settings.world.exposed, settings.sampling.sequence)
    method = hccp(fresh.spec, settings.model, settings.negatives, layout)
    length = replace(settings.train, steps=STEPS, batch=BATCH, chunk=CHUNK, checkpoint_every=STEPS)
    program = Program(method, fresh.featurise, Placement(), length.tables)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_log(folder / "log", DRAWN * COPIES, _parts(fresh))
        log = open_store(folder / "log")["log"].requests()
        sources = {"ours": _source(fresh, log_chunk(log, BATCH)), "one chunk in memory": _constant(fresh, log)}

        def seconds(source: Source, number: int) -> float:
            """Of the median chunk of one run."""
            ends: list[float] = []

            def report(step: int, values: dict[str, float]) -> None:
                ends.append(time.perf_counter())

            member = Member("benchmark", settings.hyper, 0, folder / str(number))
            train(method, source, [member], length, Placement(), report, print, program=program)
            return statistics.median(b - a for a, b in itertools.pairwise(ends))

        times: dict[str, list[float]] = {name: [] for name in sources}
        for number in range(rounds + 1):  # the first round compiles
            for index, (name, source) in enumerate(sources.items()):
                found = seconds(source, number * len(sources) + index)
                if number:
                    times[name].append(found)
    ratio = times_slower(times, "ours", "one chunk in memory")
    rate = BATCH * CHUNK / statistics.median(times["ours"])
    what = f"time over one chunk in memory; {rate:,.0f} requests/s"
    shape = f"{DRAWN * COPIES // 1000}k requests, B={BATCH}"
    return [outcome("input pipeline", shape, what, "", ratio, 1.1, "at most", times)]


def _source(like: Source, chunk: Callable[..., RequestBatch]) -> Source:
    return replace(like, chunk=chunk)


def _constant(like: Source, log: RequestBatch) -> Source:
    """A source that always returns the same chunk."""
    made: list[Any] = []

    def chunk(seeds: Sequence[int], first: int, steps: int, part: tuple[int, int] = (0, 1)) -> RequestBatch:
        if not made:
            made.append(log_chunk(log, BATCH)(seeds, 0, steps))
        return made[0]

    return _source(like, chunk)


def _parts(fresh: Source) -> Iterator[RequestBatch]:
    """The requests of the log, drawn once and repeated."""
    drawn = [jax.tree.map(lambda leaf: leaf[0, 0], fresh.chunk([0], step, 1)) for step in range(DRAWN // BATCH)]
    for _ in range(COPIES):
        yield from drawn
