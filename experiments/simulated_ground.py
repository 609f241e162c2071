"""The simulated cascade as the data of a table of systems: recorded logs with a teacher, and two evaluation sets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import gcd
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.simulated import curves_of, open_evaluator
from experiments.systems_run import Measured
from experiments.systems_settings import SystemsSettings
from experiments.teaching import taught
from experiments.trials import Context, Trial
from hccp_jax.cascade.logs import MAX_SEED, STREAMS, open_world
from hccp_jax.cascade.source import featurise, fresh_source
from hccp_jax.data.catalogue import every_item
from hccp_jax.data.requests import RequestBatch, first_slots
from hccp_jax.data.source import Source, record, replay, reuse
from hccp_jax.data.vocabulary import hashed
from hccp_jax.errors import UserError
from hccp_jax.evaluation.evaluator import EvaluationSet, Evaluator, member_scores
from hccp_jax.evaluation.online import Online, online_set
from hccp_jax.methods.base import Method
from hccp_jax.methods.hccp import Layout

TUNING_SEED, TEACHER_SEED = MAX_SEED, MAX_SEED - 1
MOST_SEEDS = MAX_SEED - 1
SERVED = 1000  # candidates of the request that serving is timed with


@dataclass
class SimulatedGround:
    """See `systems_run.Ground`.

    Attributes:
        settings: of the table.
        source: recorded logs of the tuning seed and the training seeds.
        evaluator: of the table.
        held_out: of tuning.
        layout: impressions first, then the ranking sequence.
        online: the simulated online test, if the settings ask for one.
    """

    settings: SystemsSettings
    source: Source
    evaluator: Evaluator
    held_out: Evaluator
    layout: Layout
    online: Online | None = None
    tuning_seed: int = TUNING_SEED
    has: frozenset[str] = frozenset({"cross", "history", "ranked", "preranked", "pool", "teacher"})

    @property
    def task(self) -> str:
        """What tuning compares."""
        return f"ISH@{self.held_out.octile_cutoff} on {self.settings.tune.requests} validation requests"

    def judge(self, method: Method) -> "SimulatedJudge":
        """An evaluator of this method."""
        return SimulatedJudge(self, method)

    def request(self) -> tuple[RequestBatch, dict[str, jax.Array]]:
        """The first held-out request, with `SERVED` of its candidates at most."""
        stored = jax.tree.map(lambda leaf: leaf[0, :1], self.evaluator.data.requests)
        catalogue = self.source.catalogue
        return featurise(first_slots(stored, SERVED), catalogue), every_item(catalogue)


def fused(hyper: Any) -> list[Any]:
    """The numbers that serve the click logit plus that of the downstream order, if the row trains such a head."""
    if getattr(hyper, "consistency", 0) > 0 and hasattr(hyper, "serve_consistency"):
        return [replace(hyper, serve_consistency=1.0)]
    return [replace(hyper, serve_exposure=1.0)] if hasattr(hyper, "serve_exposure") else []


class SimulatedJudge:
    """See `systems_run.Judge`: both sets are scored by one program, a few blocks at a time."""

    def __init__(self, ground: SimulatedGround, method: Method) -> None:
        self.ground, self.method = ground, method
        self.score = jax.jit(partial(member_scores, method, featurise))
        sets = [ground.evaluator.data, ground.held_out.data, *([ground.online.data] if ground.online else [])]
        self.blocks = gcd(*(len(data.candidates.ids) for data in sets))

    def _scores(self, evaluator: Evaluator | Online, parameters: Any, *hypers: Any) -> list[np.ndarray]:
        """Served scores by the first numbers, click logits, and served scores by the other numbers."""
        catalogue = self.ground.source.catalogue
        first, *others = (jax.tree.map(jnp.float32, hyper) for hyper in hypers)
        parts = []
        for begin in range(0, len(evaluator.data.candidates.ids), self.blocks):
            data: EvaluationSet = jax.tree.map(lambda leaf, f=begin: leaf[f : f + self.blocks], evaluator.data)
            parts.append(jax.device_get(self.score(parameters, first, data, catalogue, *others)))
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def validate(self, parameters: Any, hyper: Any) -> float:
        """Hit rate of clicks at the middle cutoff."""
        held_out = self.ground.held_out
        served, click = self._scores(held_out, parameters, hyper)
        return held_out.measured([(served, click)])[0].metrics[f"ISH@{held_out.octile_cutoff}"]

    def measure(self, parameters: Any, hyper: Any, trial: Trial) -> Measured:
        """All metrics, with the spread of the octiles' hit rates; of the fused score, too, where there is one."""
        evaluator = self.ground.evaluator
        other = fused(hyper) if self.ground.settings.evaluate.fused else []
        served, click, *more_served = self._scores(evaluator, parameters, hyper, *other)
        found, *others = evaluator.measured([(served, click), *((s, click) for s in more_served)])
        octiles = [found.metrics[f"ISH@{evaluator.octile_cutoff}/octile{index}"] for index in range(1, 9)]
        metrics = found.metrics | {"octile_spread": octiles[0] - float(np.nanmean(octiles[4:]))}
        metrics |= {f"fused/{name}": value for result in others for name, value in result.metrics.items()}
        per_request = found.per_request
        if online := self.ground.online:
            served, _, *more_served = self._scores(online, parameters, hyper, *other)
            earned, of_requests = online.measured(served)
            metrics |= earned
            per_request = per_request | of_requests
            for scores in more_served:
                metrics |= {f"fused/{name}": value for name, value in online.measured(scores)[0].items()}
        more = {
            "curves": curves_of(evaluator, found),
            "left_out": found.left_out,
            "held_out_stream": STREAMS["evaluation"],
            "served": "each system's own served score",
        }
        return Measured(metrics, per_request, more)


def open_ground(
    context: Context, settings: SystemsSettings, seeds: Sequence[int], out: Path, teacher: bool = True
) -> SimulatedGround:
    """Build the world, record the logs and write the teacher into them.

    Args:
        context: for devices and warnings.
        settings: of the table.
        seeds: training seeds.
        out: where the teacher's checkpoints go.
        teacher: False where no row needs one.

    Raises:
        UserError: for more seeds than there are streams.
    """
    if max(seeds, default=0) >= MOST_SEEDS - 1:
        raise UserError(f"seeds={max(seeds) + 1}: expected at most {MOST_SEEDS - 1}")
    train, world = settings.train, open_world(settings.world)
    block = train.chunk_steps
    devices = context.placement.population
    fresh = fresh_source(world, settings.world, settings.sampling, train.batch, 1, block, devices)
    size = settings.log.size(train.steps * train.batch)
    steps = -(-(size // train.batch) // block) * block if size else train.steps
    logs = {seed: record(fresh, seed, steps, block) for seed in (TUNING_SEED, *seeds)}
    layout = Layout(settings.world.exposed, settings.sampling.sequence)
    if teacher:
        logs = taught(
            context, fresh, settings.models, layout, settings.teacher, train, TEACHER_SEED, logs, TUNING_SEED, out
        )
    spec, catalogue = hashed(fresh.spec, fresh.catalogue, train.tables.item_rows, train.tables.user_rows)
    source = reuse(fresh, logs, train.batch) if size else replay(fresh, logs, train.batch)
    source = replace(source, spec=spec, catalogue=catalogue)

    def held_out(requests: int, stream: str) -> Evaluator:
        return open_evaluator(settings.world, settings.evaluate.cutoffs, world, source, requests, stream)

    table, tuning = (settings.evaluate.requests, "evaluation"), (settings.tune.requests, "validation")
    asked = settings.evaluate.online
    data = online_set(world, settings.world, source.frequency, asked) if asked else None
    online = Online(world, settings.world, data) if data is not None else None
    has = SimulatedGround.has if teacher else SimulatedGround.has - {"teacher"}
    return SimulatedGround(settings, source, held_out(*table), held_out(*tuning), layout, online, has=has)
