"""Runs arms over several days in a simulated funnel that each of them shapes: serve, drift, train on the own log, test.

Day 0 is the same for all arms: the world's own pre-ranker writes the log, and every arm is trained on it. On each
later day an arm serves with what it was the evening before, its log trains it further, and the popular channel of
retrieval is estimated anew from the clicks so far. All draws are functions of world, seed, request and item, so that
arms of a seed meet the same users with the same luck.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.simulated import check_world
from experiments.trials import Context, Trial, groups, save_result
from hccp_jax.cascade import logs
from hccp_jax.cascade.days import clicks_per_item, day_log, day_metrics, drifted
from hccp_jax.cascade.logs import MAX_REQUESTS, MAX_SEED, SamplingConfig, clicked_first, open_world, training_stream
from hccp_jax.cascade.source import featurise, fresh_source
from hccp_jax.cascade.world import World, WorldConfig
from hccp_jax.config import field
from hccp_jax.data.catalogue import Catalogue
from hccp_jax.data.requests import RequestBatch
from hccp_jax.data.vocabulary import hashed
from hccp_jax.errors import Diverged, Stopped, UserError
from hccp_jax.evaluation.evaluator import member_scorer, member_scores
from hccp_jax.evaluation.octiles import OCTILES, TAIL
from hccp_jax.evaluation.online import Online, online_set
from hccp_jax.methods.base import Method
from hccp_jax.methods.hccp import HyperConfig, Layout, NegativesConfig, hccp
from hccp_jax.models.three_tower import ModelConfig
from hccp_jax.training.config import Member, TrainConfig
from hccp_jax.training.loop import train
from hccp_jax.training.program import Placement, Program

SERVED_AT_ONCE = 64  # requests; more hold all their candidates in memory without being faster


@dataclass(frozen=True)
class DaysConfig:
    """The days of the loop."""

    days: int = field(5, "D: days on which an arm serves and trains on its own log, after day 0", at_least=1)
    weight: float = field(0.5, "share of clicks in the popular channel; the rest is its start", at_least=0, at_most=1)
    memory: float = field(
        0.5, "share of the click counts behind the popular channel that stays overnight", at_least=0, at_most=1
    )
    online: int = field(512, "requests of the simulated online test after each day", at_least=1)
    open: bool = field(False, "train on the logs of the world's own pre-ranker, without drift: days without the loop")


@dataclass(frozen=True)
class DaysSettings:
    """Everything that decides the numbers; `train.steps` are those of one day."""

    world: WorldConfig = WorldConfig()
    sampling: SamplingConfig = SamplingConfig()
    model: ModelConfig = ModelConfig()
    negatives: NegativesConfig = NegativesConfig()
    hyper: HyperConfig = HyperConfig()
    train: TrainConfig = TrainConfig()
    loop: DaysConfig = DaysConfig()


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _served_day(
    method: Method | None,
    config: WorldConfig,
    samples: SamplingConfig,
    steps: int,
    size: int,
    world: World,
    catalogue: Catalogue,
    stream: jax.Array,
    day: jax.Array,
    arm: Any,
) -> RequestBatch:
    """`day_log` of an arm given as (parameters, numbers), or of the world's own pre-ranker without a method."""
    score = None if method is None else member_scorer(method, *arm, catalogue)
    scorer = None if score is None else lambda batch: score(batch)[0]
    return day_log(world, config, samples, catalogue, stream, day, steps, size, scorer)


_drifted = jax.jit(drifted, static_argnums=1)
_scores = jax.jit(member_scores, static_argnums=(0, 1))


class Loop:
    """One simulated world with all that the arms in it share.

    Attributes:
        settings: of all its trials but for `hyper`.
        start: the world on day 0.
        source: for feature sizes, features and the first impressions.
        method: of every arm.
        program: its training.
        octile: [items + 1] int8 frequency octile of each item on day 0, from 0. It stays as it is: the tail of a
            drifted world would be another set of items.
    """

    def __init__(self, settings: DaysSettings) -> None:
        _check(settings)
        config, training = settings.world, settings.train
        self.settings, self.start = settings, open_world(config)
        fresh = fresh_source(self.start, config, settings.sampling, training.batch, 1, training.chunk_steps)
        spec, catalogue = hashed(fresh.spec, fresh.catalogue, training.tables.item_rows, training.tables.user_rows)
        self.source = replace(fresh, spec=spec, catalogue=catalogue)
        layout = Layout(config.exposed, settings.sampling.sequence)
        self.method = hccp(spec, settings.model, settings.negatives, layout)
        self.program = Program(self.method, featurise, Placement("single"), training.tables, training.members)
        found = Online(self.start, config, online_set(self.start, config, fresh.frequency, settings.loop.online)).octile
        self.octile = np.where(found < 0, OCTILES - 1, found).astype(np.int8)  # nobody's candidate: as rare as any
        # of the world's own pre-ranker: day 0 of all arms, and every day of those without the loop
        self.own_log = cache(lambda seed, day: self.log(self.start, seed, day))

    @property
    def tail(self) -> np.ndarray:
        """[items + 1] bool: items of octiles 7 and 8 on day 0."""
        tail = self.octile >= TAIL
        tail[0] = False
        return tail

    def log(self, world: World, seed: int, day: int, arm: Any = None) -> RequestBatch:
        """All requests of a day [steps, requests, ...] as NumPy, with and without a click.

        Twice as many as train where training keeps those with a click; the same request numbers as
        `logs.training_batch` has.

        Args:
            world: of that day.
            seed: of the stream.
            day: 0, 1, ...
            arm: (parameters, numbers) of the arm that serves; None: the world's own pre-ranker.
        """
        settings = self.settings
        steps, requests = settings.train.steps, settings.train.batch * (1 + settings.sampling.clicked_only)
        size = math.gcd(requests, SERVED_AT_ONCE)
        everything = replace(settings.sampling, clicked_only=False)
        static = None if arm is None else self.method, settings.world, everything, steps * requests // size, size
        stream = jnp.int32(training_stream(seed))
        found = _served_day(*static, world, self.source.catalogue, stream, jnp.int32(day), arm)
        return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(steps, requests, *leaf.shape[2:]), found)

    def kept(self, log: RequestBatch) -> RequestBatch:
        """What trains of a day's log, [steps, batch, ...]: what `logs.training_batch` keeps."""
        if not self.settings.sampling.clicked_only:
            return log
        rows = np.asarray(jax.vmap(partial(clicked_first, size=self.settings.train.batch))(log))
        return jax.tree.map(lambda leaf: leaf[np.arange(len(rows))[:, None], rows], log)

    def trained(self, trial: Trial, log: RequestBatch, day: int, context: Context) -> Any:
        """Parameters after a day's training, gone on with from the checkpoint of the day before."""
        settings = self.settings.train
        steps, kept = settings.steps, self.kept(log)

        def chunk(seeds: Sequence[int], first: int, count: int, part: tuple[int, int] = (0, 1)) -> RequestBatch:
            begin = first % steps  # chunks divide a day
            return jax.tree.map(lambda leaf: leaf[None, begin : begin + count], kept)

        total = (day + 1) * steps
        rhythm = replace(settings, steps=total, chunk=settings.chunk_steps, checkpoint_every=total, validate_every=0)
        member = Member(trial.name, trial.settings.hyper, trial.seed, trial.directory)
        found = train(
            self.method,
            replace(self.source, chunk=chunk),
            [member],
            rhythm,
            Placement("single"),
            lambda step, values: None,
            context.warn,
            program=self.program,
            stop=context.stop,
        )
        if context.stop():
            raise Stopped(total)
        return jax.tree.map(lambda leaf: leaf[0], found.states.parameters)

    def online(self, world: World) -> Online:
        """The online test in a drifted world, always on the same fresh requests and with the octiles of day 0."""
        data = online_set(world, self.settings.world, self.source.frequency, self.settings.loop.online)
        octile = jnp.asarray(self.octile)[data.candidates.ids]
        return Online(world, self.settings.world, replace(data, candidates=replace(data.candidates, octile=octile)))

    def live(self, trial: Trial, context: Context) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """All days of one arm.

        Returns:
            Metrics "dayJ/NAME" of each day, those of the last day as "NAME", too; and the last online test's values by
            request.
        """
        loop, config = self.settings.loop, self.settings.world
        world, arm = self.start, None
        clicks = np.zeros(config.items + 1, np.float32)
        metrics: dict[str, float] = {}
        last: dict[str, float] = {}
        by_request: dict[str, np.ndarray] = {}
        for day in range(loop.days + 1):
            log = self.log(world, trial.seed, day, arm) if day else self.own_log(trial.seed, 0)
            last = {
                name.removeprefix("day/"): value
                for name, value in day_metrics(log, world, self.start, config, self.tail).items()
            }
            if trial.settings.loop.open:
                log = self.own_log(trial.seed, day)  # what it has served is measured, and no more
            else:
                clicks = loop.memory * clicks + clicks_per_item(log, config.items + 1)
                world = _drifted(self.start, config, clicks, loop.weight)
            online = self.online(world)
            if trial.row.reference:
                scores = online.logging_scores()
            else:
                hyper = jax.tree.map(jnp.float32, trial.settings.hyper)
                arm = self.trained(trial, log, day, context), hyper
                scores = _scores(self.method, featurise, *arm, online.data, self.source.catalogue)[0]
            earned, by_request = online.measured(scores)
            last |= earned
            metrics |= {f"day{day}/{name}": value for name, value in last.items()}
        return metrics | last, by_request


def _check(settings: DaysSettings) -> None:
    """Refuse what no field alone can see."""
    check_world(settings.world, settings.sampling, settings.train)
    days, a_day = settings.loop.days + 1, settings.train.steps * settings.train.batch
    if days * a_day > MAX_REQUESTS:
        raise UserError(f"loop.days={settings.loop.days}: expected at most {MAX_REQUESTS // a_day - 1} of such days")


def run(context: Context) -> None:
    """Live through the pending trials, one after the other; an arm's day cannot be had before its yesterday."""
    name = f"experiment={context.experiment.name}"
    if context.placement.devices > 1:
        raise UserError(f"{name}: trains each arm on one device; expected no --devices")
    if max(trial.seed for trial in context.trials) > MAX_SEED:
        raise UserError(f"seeds={1 + max(t.seed for t in context.trials)}: expected at most {MAX_SEED + 1}")
    done = 0
    for trials in groups(context.trials):
        loop = Loop(trials[0].settings)
        for trial in trials:
            # a day is a function of all days before it, so a trial that was stopped begins again
            shutil.rmtree(trial.directory / "checkpoints", ignore_errors=True)
            try:
                metrics, by_request = loop.live(trial, context)
            except Diverged as error:
                context.failed.append(str(error))
                continue
            _save(context, loop, trial, metrics, by_request)
            done += 1
            context.say(f"[{done}/{len(context.trials)}] {trial.name}: {metrics['online/clicks']:.3f} clicks a request")


def _save(context: Context, loop: Loop, trial: Trial, metrics: dict[str, float], by_request: dict[str, Any]) -> None:
    hyper, settings = trial.settings.hyper, trial.settings
    served = "click" + (" + consistency" if hyper.serve_consistency else "")
    save_result(
        context.experiment,
        trial,
        metrics,
        by_request,
        epochs=0.0 if trial.row.reference else 1.0,
        step=0 if trial.row.reference else (settings.loop.days + 1) * settings.train.steps,
        served="the world's own score" if trial.row.reference else served,
        held_out_stream=logs.STREAMS["online"],
    )
