"""The simulated cascade as the data of a table of systems: recorded logs with a teacher, and two evaluation sets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import gcd
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.systems_run import Measured
from experiments.systems_settings import SystemsSettings
from experiments.trials import Context
from hccp_jax.cascade.logs import MAX_SEED, STREAMS, open_world
from hccp_jax.cascade.source import featurise, fresh_source
from hccp_jax.cascade.world import World
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.data.source import Source, record, replay
from hccp_jax.errors import UserError
from hccp_jax.evaluation.evaluator import EvaluationSet, Evaluator, Result, member_scores
from hccp_jax.evaluation.metrics import log_cutoffs
from hccp_jax.evaluation.simulated import evaluation_set
from hccp_jax.methods.base import Method
from hccp_jax.methods.hccp import Layout
from hccp_jax.methods.pointwise import PointwiseHyper
from hccp_jax.methods.registry import build
from hccp_jax.training.loop import Member, train
from hccp_jax.training.program import Placement
from hccp_jax.training.teacher import calibrate, head_logits, write_teacher

TUNING_SEED, TEACHER_SEED = MAX_SEED, MAX_SEED - 1
MOST_SEEDS = MAX_SEED - 1
SERVED = 1000  # candidates of the request that serving is timed with


@dataclass
class SimulatedGround:
    """See `systems_run.Ground`.

    Attributes:
        settings: of the table.
        world: its world.
        source: recorded logs of the tuning seed and the training seeds.
    """

    settings: SystemsSettings
    world: World
    source: Source
    tuning_seed: int = TUNING_SEED
    has: frozenset[str] = frozenset({"cross", "history", "ranked", "preranked", "pool", "teacher"})

    @property
    def layout(self) -> Layout:
        """Impressions first, then the ranking sequence."""
        return Layout(self.settings.world.exposed, self.settings.sampling.sequence)

    @property
    def task(self) -> str:
        """What tuning compares."""
        return f"ISH@{self.held_out.octile_cutoff} on {self.settings.tune.requests} validation requests"

    @cached_property
    def evaluator(self) -> Evaluator:
        """Of the table."""
        return self._evaluator(self.settings.evaluate.requests, "evaluation")

    @cached_property
    def held_out(self) -> Evaluator:
        """Of tuning."""
        return self._evaluator(self.settings.tune.requests, "validation")

    def _evaluator(self, requests: int, stream: str) -> Evaluator:
        world, evaluate = self.settings.world, self.settings.evaluate
        data = evaluation_set(self.world, world, self.source.frequency, requests, stream)
        cutoffs = tuple(min(k, world.candidates) for k in evaluate.cutoffs)
        curve = log_cutoffs(world.candidates, 30)
        return Evaluator(data, self.source.catalogue, featurise, cutoffs, curve, min(100, world.candidates))

    def judge(self, method: Method) -> "SimulatedJudge":
        """An evaluator of this method."""
        return SimulatedJudge(self, method)

    def request(self) -> tuple[RequestBatch, dict[str, jax.Array]]:
        """The first held-out request, with `SERVED` of its candidates at most."""
        stored = jax.tree.map(lambda leaf: leaf[0, :1], self.evaluator.data.requests)
        cut = slice(0, SERVED)
        items, stage, rank, mask = jax.tree.map(
            lambda leaf: leaf[:, cut], (stored.items, stored.stage, stored.rank, stored.mask)
        )
        catalogue = self.source.catalogue
        ids = jnp.arange(len(next(iter(catalogue.items.values()))), dtype=jnp.int32)
        batch = featurise(replace(stored, items=items, stage=stage, rank=rank, mask=mask), catalogue)
        return batch, catalogue.items | {"id": ids}


class SimulatedJudge:
    """See `systems_run.Judge`: both sets are scored by one program, a few blocks at a time."""

    def __init__(self, ground: SimulatedGround, method: Method) -> None:
        self.ground, self.method = ground, method
        self.score = jax.jit(partial(member_scores, method, featurise))
        self.blocks = gcd(*(len(part.data.candidates.ids) for part in (ground.evaluator, ground.held_out)))

    def _result(self, evaluator: Evaluator, parameters: Any, hyper: Any) -> Result:
        catalogue = self.ground.source.catalogue
        hyper = jax.tree.map(jnp.float32, hyper)
        parts = []
        for first in range(0, len(evaluator.data.candidates.ids), self.blocks):
            data: EvaluationSet = jax.tree.map(lambda leaf, f=first: leaf[f : f + self.blocks], evaluator.data)
            parts.append(jax.device_get(self.score(parameters, hyper, data, catalogue)))
        served, click = (np.concatenate(column) for column in zip(*parts, strict=True))
        return evaluator.measured([(served, click)])[0]

    def validate(self, parameters: Any, hyper: Any) -> float:
        """Hit rate of clicks at the middle cutoff."""
        held_out = self.ground.held_out
        return self._result(held_out, parameters, hyper).metrics[f"ISH@{held_out.octile_cutoff}"]

    def measure(self, parameters: Any, hyper: Any) -> Measured:
        """All metrics, with the spread of the octiles' hit rates."""
        evaluator = self.ground.evaluator
        found = self._result(evaluator, parameters, hyper)
        octiles = [found.metrics[f"ISH@{evaluator.octile_cutoff}/octile{index}"] for index in range(1, 9)]
        metrics = found.metrics | {"octile_spread": octiles[0] - float(np.nanmean(octiles[4:]))}
        curves = {
            name: {"cutoffs": list(evaluator.curve_cutoffs), "values": [float(v) for v in values]}
            for name, values in found.curves.items()
        }
        more = {
            "curves": curves,
            "left_out": found.left_out,
            "held_out_stream": STREAMS["evaluation"],
            "served": "each system's own served score",
        }
        return Measured(metrics, found.per_request, more)


def open_ground(context: Context, settings: SystemsSettings, seeds: Sequence[int], out: Path) -> SimulatedGround:
    """Build the world, record the logs and write the teacher into them.

    Args:
        context: for devices and warnings.
        settings: of the table.
        seeds: training seeds.
        out: where the teacher's checkpoints go.

    Raises:
        UserError: for more seeds than there are streams.
    """
    if max(seeds, default=0) >= MOST_SEEDS - 1:
        raise UserError(f"seeds={max(seeds) + 1}: expected at most {MOST_SEEDS - 1}")
    train_config, world = settings.train, open_world(settings.world)
    size, block = train_config.batch, train_config.chunk_steps
    fresh = fresh_source(world, settings.world, settings.sampling, size, 1, block, context.placement.population)
    steps = train_config.steps
    logs = {seed: record(fresh, seed, steps, block) for seed in (TUNING_SEED, *seeds)}
    teach = replace(train_config, steps=settings.teacher.steps or steps, validate_every=0)
    logs = _taught(context, settings, fresh, replace(teach, chunk=block), logs, out)
    return SimulatedGround(settings, world, replay(fresh, logs, size))


def _taught(
    context: Context, settings: SystemsSettings, fresh: Source, config: Any, logs: dict[int, RequestBatch], out: Path
) -> dict[int, RequestBatch]:
    """Train the teacher on a stream of its own, calibrate it on the tuning log, and write it into every log."""
    layout = Layout(settings.world.exposed, settings.sampling.sequence)
    method = build("din", fresh.spec, settings.models, layout, frozenset({"history"}))
    hyper = PointwiseHyper(learning_rate=settings.teacher.learning_rate)
    member = Member("the teacher", hyper, TEACHER_SEED, out / "teacher")
    report = context.report("the teacher", config.steps)
    trained = train(method, fresh, [member], config, Placement("single"), report, context.warn)
    parameters = jax.tree.map(lambda leaf: leaf[0], trained.states.parameters)
    found = {
        seed: head_logits(method, parameters, featurise, fresh.catalogue, log, layout.sequence)
        for seed, log in logs.items()
    }
    held_out, shown = found[TUNING_SEED], slice(0, layout.sequence)
    of: Any = logs[TUNING_SEED]
    calibrations = {
        task: calibrate(held_out[task], of.labels[task][:, shown], (of.stage == Stage.EXPOSED)[:, shown])
        for task in fresh.spec.tasks
    }
    taught = {}
    for seed, log in logs.items():
        stage: Any = log.stage
        ranked = (stage == Stage.EXPOSED) | (stage == Stage.RANKED)
        taught[seed] = write_teacher(log, found[seed], calibrations, ranked)
    return taught
