"""Runs rows of HCCP on the simulated cascade: world -> source -> population -> evaluation -> results."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from experiments.experiment import Data, Kind, Row
from experiments.settings import SimulatedSettings
from experiments.trials import Context, Trial, groups, save_result, validated
from hccp_jax.cascade import logs
from hccp_jax.cascade.logs import STREAMS, open_world
from hccp_jax.cascade.source import featurise, fresh_source, logged_source
from hccp_jax.cascade.world import World, WorldConfig
from hccp_jax.data.source import Source
from hccp_jax.data.vocabulary import hashed
from hccp_jax.errors import Diverged, UserError
from hccp_jax.evaluation.evaluator import Evaluator, Result
from hccp_jax.evaluation.metrics import log_cutoffs
from hccp_jax.evaluation.online import Measurement, Online, online_set, scores_of
from hccp_jax.evaluation.simulated import evaluation_set, references
from hccp_jax.methods.hccp import Layout, hccp
from hccp_jax.training.config import Member, TrainConfig
from hccp_jax.training.loop import Trained, train
from hccp_jax.training.run import Validate
from hccp_jax.training.state import TrainState, stack_numbers

NOTHING: Measurement = ({}, {})  # what is earned without an online test
DATA = Data(
    Kind.SIMULATED,
    "Simulated data: users, items, funnel and feedback come from the package's own world; the truth row scores by the "
    "true click probability, which no real log can give.",
)


def run(context: Context) -> None:
    """Train and evaluate the pending trials, one population for each set that shares a program."""
    populations = groups(context.trials)
    for trials in populations:
        settings: SimulatedSettings = trials[0].settings
        check_world(settings.world, settings.sampling, settings.train)
        if settings.evaluate.sessions:
            name = context.experiment.name
            raise UserError(f"evaluate.sessions={settings.evaluate.sessions}: expected 0, as {name} serves no sessions")
    for trials in populations:
        try:
            _run_group(context, trials)
        except Diverged as error:  # the other programs go on
            context.failed.append(str(error))


def _run_group(context: Context, trials: list[Trial]) -> None:
    settings: SimulatedSettings = trials[0].settings
    trained = [trial for trial in trials if not trial.row.reference]
    world = open_world(settings.world)
    source = _source(context, settings, world, sorted({trial.seed for trial in trained}) or [0])
    with ThreadPoolExecutor(1) as beside:  # compiles on the other core while training compiles
        pending = beside.submit(_references, context, settings, world, source, trials)
        if context.placement.devices > 1:  # collectives of CPU devices and another program may wait for each other
            pending.result()
        validate = _validation(context, settings, world, source, trained) if trained else None
        states = _train(context, settings, source, trained, validate) if trained else None
        evaluator, online = pending.result()
    if states is not None:
        _evaluate(context, settings, source, evaluator, online, trained, states, validate)


def _references(
    context: Context, settings: SimulatedSettings, world: World, source: Source, trials: list[Trial]
) -> tuple[Evaluator, Online | None]:
    """Build the evaluators and finish the rows that need no training."""
    evaluator = open_evaluator(
        settings.world, settings.evaluate.cutoffs, world, source, settings.evaluate.requests, "evaluation"
    )
    asked = [trial for trial in trials if trial.row.reference]
    online = open_online(settings.world, world, source.frequency, settings.evaluate.online)
    known = references(source.frequency)
    scores = {trial.row.name: known[kind(trial.row)] for trial in asked}
    found = evaluator.scores(scores, context.placement.population)
    for trial in asked:
        earned = online.measured(scores_of(online.data, scores[trial.row.name])) if online else NOTHING
        _save(context, trial, evaluator, {"": found[trial.row.name]}, source, 0, None, earned)
    return evaluator, online


def kind(row: Row) -> str:
    """Which reference a row is: its name, or what follows the setting it stands for, as in "perfect/ranker"."""
    return row.name.rpartition("/")[2]


def check_world(world: WorldConfig, sampling: logs.SamplingConfig, train: TrainConfig) -> None:
    """Refuse what no field alone can see."""
    if world.ranked >= world.candidates:
        raise UserError(f"world.ranked={world.ranked}: expected fewer than world.candidates={world.candidates}")
    if not world.exposed <= world.rerank <= world.ranked:
        raise UserError(f"world.rerank={world.rerank}: expected {world.exposed} (exposed) to {world.ranked} (ranked)")
    if world.exposed > sampling.sequence:
        raise UserError(f"sampling.sequence={sampling.sequence}: expected at least {world.exposed} (exposed)")
    sampling.chunks(world.ranked)
    if train.steps * train.batch > logs.MAX_REQUESTS:
        raise UserError(f"train.steps={train.steps}: expected at most {logs.MAX_REQUESTS // train.batch} fresh batches")


def _source(context: Context, settings: SimulatedSettings, world: World, seeds: list[int]) -> Source:
    train = settings.train
    devices = context.placement.population
    fresh = fresh_source(world, settings.world, settings.sampling, train.batch, len(seeds), train.chunk_steps, devices)
    if requests := settings.log.size(train.steps * train.batch):
        directory = context.trials[0].directory.parent.parent / "log" if settings.log.on_disk else None
        fresh = logged_source(train.batch, requests, fresh, seeds, directory)
    spec, catalogue = hashed(fresh.spec, fresh.catalogue, train.tables.item_rows, train.tables.user_rows)
    return replace(fresh, spec=spec, catalogue=catalogue)


def open_evaluator(
    config: WorldConfig, cutoffs: Sequence[int], world: World, source: Source, requests: int, stream: str
) -> Evaluator:
    """An evaluator over held-out requests of a stream; cutoffs beyond the candidates mean all of them."""
    data = evaluation_set(world, config, source.frequency, requests, stream)
    most = config.candidates
    table = tuple(min(k, most) for k in cutoffs)
    return Evaluator(data, source.catalogue, featurise, table, log_cutoffs(most, 30), min(100, most))


def open_online(config: WorldConfig, world: World, counts: np.ndarray, requests: int) -> Online | None:
    """The simulated online test with so many requests, or None for none; `counts` are impressions of the log."""
    return Online(world, config, online_set(world, config, counts, requests)) if requests else None


def curves_of(evaluator: Evaluator, found: Result) -> dict[str, dict[str, list]]:
    """The hit-rate curves as a result file holds them."""
    cutoffs = list(evaluator.curve_cutoffs)
    return {name: {"cutoffs": cutoffs, "values": [float(v) for v in values]} for name, values in found.curves.items()}


def _method(settings: SimulatedSettings, source: Source) -> Any:
    layout = Layout(settings.world.exposed, settings.sampling.sequence)
    return hccp(source.spec, settings.model, settings.negatives, layout)


def _validation(
    context: Context, settings: SimulatedSettings, world: World, source: Source, trials: list[Trial]
) -> Validate | None:
    """ISH at the middle cutoff of each member on requests of their own, if anything is chosen by it."""
    if not (settings.log.rhythm(settings.train).validate_every or context.validated):
        return None
    evaluate = settings.evaluate
    held_out = open_evaluator(settings.world, evaluate.cutoffs, world, source, evaluate.requests, "validation")
    method, hypers = _method(settings, source), stack_numbers([trial.settings.hyper for trial in trials])

    def validate(states: TrainState) -> np.ndarray:
        found = held_out.population(method, states.parameters, hypers, _shards(context, trials))
        return np.array([result.metrics[f"ISH@{held_out.octile_cutoff}"] for result in found])

    return validate


def _train(
    context: Context, settings: SimulatedSettings, source: Source, trials: list[Trial], validate: Validate | None
) -> Trained:
    method = _method(settings, source)
    config: TrainConfig = settings.log.rhythm(settings.train)
    members = [Member(trial.name, trial.settings.hyper, trial.seed, trial.directory) for trial in trials]
    placement = replace(context.placement, population=_shards(context, trials))
    report = context.report(
        f"{len({t.row.name for t in trials})} rows x {len({t.seed for t in trials})} seeds", config.steps
    )
    return train(method, source, members, config, placement, report, context.warn, validate, stop=context.stop)


def _shards(context: Context, trials: list[Trial]) -> int:
    return min(context.placement.population, len(trials))


def _evaluate(
    context: Context,
    settings: SimulatedSettings,
    source: Source,
    evaluator: Evaluator,
    online: Online | None,
    trials: list[Trial],
    trained: Trained,
    validate: Validate | None,
) -> None:
    method = _method(settings, source)
    hypers = [trial.settings.hyper for trial in trials]
    shards = _shards(context, trials)
    heads = {"": hypers}
    if settings.evaluate.fused:
        # a row that does not train the consistency head has nothing to fuse
        heads["fused/"] = [replace(h, serve_consistency=float(h.consistency > 0)) for h in hypers]
    found = {
        prefix: evaluator.population(method, trained.states.parameters, stack_numbers(numbers), shards)
        for prefix, numbers in heads.items()
    }
    earned = {
        prefix: online.population(method, trained.states.parameters, numbers, featurise, source.catalogue)
        if online
        else [NOTHING] * len(trials)
        for prefix, numbers in heads.items()
    }
    validation: Any = validate(trained.states) if context.validated and validate else [None] * len(trials)
    context.failed.extend(trained.failed.values())
    for index, (trial, step) in enumerate(zip(trials, trained.steps, strict=True)):
        if index in trained.failed:
            continue
        results = {prefix: of_members[index] for prefix, of_members in found.items()}
        metrics = {prefix + name: v for prefix, rows in earned.items() for name, v in rows[index][0].items()}
        own = (metrics, earned[""][index][1])
        _save(context, trial, evaluator, results, source, step, validation[index], own)


def _save(
    context: Context,
    trial: Trial,
    evaluator: Evaluator,
    results: dict[str, Result],
    source: Source,
    step: int,
    validation: float | None,
    earned: Measurement,
) -> None:
    metrics = {prefix + name: value for prefix, result in results.items() for name, value in result.metrics.items()}
    main = results[""]
    hyper = trial.settings.hyper
    served = {"click": hyper.serve_click, "purchase": hyper.serve_conversion, "consistency": hyper.serve_consistency}
    text = " + ".join(f"{weight:g} {name}" if weight != 1 else name for name, weight in served.items() if weight)
    save_result(
        context.experiment,
        trial,
        metrics | earned[0],
        main.per_request | earned[1],
        curves=curves_of(evaluator, main),
        epochs=source.epochs(step),
        step=step,
        served=text,
        left_out=main.left_out,
        held_out_stream=STREAMS["evaluation"],
        **validated(validation, f"ISH@{evaluator.octile_cutoff} on as many validation requests"),
    )
