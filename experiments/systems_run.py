"""Tunes, trains, evaluates and prices the rows of a table of systems; what data they run on is a `Ground`."""

import json
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from experiments.atomic import write_atomically
from experiments.locks import alone
from experiments.systems_settings import search_space
from experiments.trials import Context, Trial, groups, save_result, validated
from hccp_jax import config
from hccp_jax.data.requests import RequestBatch
from hccp_jax.data.source import Source
from hccp_jax.errors import Diverged, UserError
from hccp_jax.evaluation.latency import ServingCost, serving_cost
from hccp_jax.methods.base import Method, all_train
from hccp_jax.methods.hccp import Layout
from hccp_jax.methods.registry import SYSTEMS, build
from hccp_jax.training import hosts
from hccp_jax.training.config import Member, TrainConfig
from hccp_jax.training.loop import Trained, train
from hccp_jax.training.program import Placement, Program
from hccp_jax.training.state import TrainState

SMALLEST_GAIN = 1e-9
DIVERGED = -1.0  # of a tuning trial; below every metric that is compared
Asked = tuple[RequestBatch, dict[str, jax.Array]]  # one request with its candidates, and the items of the catalogue


class Measured(NamedTuple):
    """One evaluated member: metrics, per-request values, curves and what else a result keeps."""

    metrics: dict[str, float]
    per_request: dict[str, np.ndarray] | None
    more: dict[str, Any]


class Judge(Protocol):
    """Evaluates members of one method with what is compiled for it."""

    def validate(self, parameters: Any, hyper: Any) -> float:
        """What tuning compares, larger is better; on requests that no table shows."""

    def measure(self, parameters: Any, hyper: Any, trial: Trial) -> Measured:
        """The metrics of the table."""


class Ground(Protocol):
    """Data that systems are compared on.

    Attributes:
        has: what the data has, in the words of `Method.needs`.
        source: training batches of the tuning seed and of all training seeds, with the teacher if anyone needs it.
        tuning_seed: the stream that tuning trains on.
        layout: which leading slots hold what.
        task: what validation is by, for the table's notes.
    """

    has: frozenset[str]
    source: Source
    tuning_seed: int
    layout: Layout

    @property
    def task(self) -> str:
        """See above."""

    def judge(self, method: Method) -> Judge:
        """An evaluator of this method."""

    def request(self) -> Asked:
        """One request with its candidates, features attached, and the items of the whole catalogue."""


def run_rows(context: Context, ground: Ground, trials: Sequence[Trial]) -> None:
    """Run the trained rows, as many systems side by side as there are devices.

    Rows of one system share its programs. Each is compiled for one member on one device, and members follow one
    another: tuning and training are then the same program.
    """
    if not hosts.is_alone() or context.placement.devices > 1:
        raise UserError(
            f"experiment={context.experiment.name}: trains each system on one device; expected no --devices, and "
            "--engine=print or ray for several hosts"
        )
    together = groups(trials)
    for some in together:  # a row that the data cannot feed stops everything before anything is trained
        build(some[0].settings.system, ground.source.spec, some[0].settings.models, ground.layout, ground.has)
    devices = jax.devices()[: max(1, context.placement.population)]
    free = list(devices)
    lock = threading.Lock()
    progress = _Progress(context, sum(len({t.row.name for t in some}) for some in together))
    asked = ground.request()

    def one(some: list[Trial]) -> None:
        with lock:
            device = free.pop()
        try:
            with jax.default_device(device):
                _run_group(context, ground, some, asked, progress)
        finally:
            with lock:
                free.append(device)

    with ThreadPoolExecutor(len(devices)) as pool:
        # the largest first, so that the devices end together
        pending = [pool.submit(one, some) for some in sorted(together, key=len, reverse=True)]
        try:
            for job in pending:
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Bench(NamedTuple):
    """What members of one method are trained and compared with.

    `before` holds those that were trained in this process, by all that decided them, and their directories.
    """

    context: Context
    ground: Ground
    method: Method
    program: Program
    judge: Judge
    before: dict[str, tuple[Trained, Path]]


class _Progress:
    """One line a finished row."""

    def __init__(self, context: Context, rows: int) -> None:
        self.context, self.rows, self.done = context, rows, 0
        self.started, self.lock = time.monotonic(), threading.Lock()

    def row(self, text: str) -> None:
        with self.lock:
            self.done += 1
            spent = time.monotonic() - self.started
            left = spent / self.done * (self.rows - self.done)
            self.context.say(f"[{self.done}/{self.rows}] {text}; {spent:.0f} s so far, about {left:.0f} s left")


def _run_group(context: Context, ground: Ground, trials: list[Trial], asked: Asked, progress: _Progress) -> None:
    """The rows of one program."""
    settings = trials[0].settings
    method = build(settings.system, ground.source.spec, settings.models, ground.layout, ground.has)
    placement = Placement("single")
    program = Program(method, ground.source.featurise, placement, settings.train.tables, settings.train.members)
    judge = ground.judge(method)
    bench = _Bench(context, ground, method, program, judge, {})
    cost: ServingCost | None = None
    for row in {trial.row.name: trial.row for trial in trials}.values():
        own = [trial for trial in trials if trial.row.name == row.name]
        tuned = _tune(bench, own[0])
        line = ""
        cost = cost if method.serve is None else None  # then what serving costs depends on the row's numbers
        for trial in own:
            hyper = _numbers(trial.settings, tuned["changes"])
            member = Member(trial.name, hyper, trial.seed, trial.directory)
            try:
                trained = _train(bench, member, _rhythm(trial.settings))
            except Diverged as error:
                context.failed.append(str(error))
                line = "its loss is not finite"
                continue
            parameters = jax.tree.map(lambda leaf: leaf[0], trained.states.parameters)
            measured = judge.measure(parameters, hyper, trial)
            validation = judge.validate(parameters, hyper) if context.validated else None
            if cost is None:
                cost = serving_cost(method, parameters, hyper, *asked)
            step = trained.steps[0]
            metrics = measured.metrics | _cost_metrics(cost, trained.requests_per_second)
            save_result(
                context.experiment,
                trial,
                metrics,
                measured.per_request,
                epochs=ground.source.epochs(step),
                step=step,
                tuning=tuned,
                **validated(validation, ground.task),
                **measured.more,
            )
            line = f"{trained.requests_per_second:,.0f} requests/s"
        changes = ", ".join(f"{name}={value:g}" for name, value in tuned["changes"].items()) or "defaults"
        progress.row(f"{row.label}: {changes}; {line}")


def _cost_metrics(cost: ServingCost, requests_per_second: float) -> dict[str, float]:
    return {
        "parameters": float(cost.parameters),
        "kflops_per_candidate": cost.flops_per_candidate / 1e3,
        "p50_ms": cost.p50_ms,
        "p99_ms": cost.p99_ms,
        "train_requests_per_second": requests_per_second,
    }


def _numbers(settings: Any, changes: dict[str, float]) -> Any:
    """The traced numbers of a row's system, some of them changed."""
    field = SYSTEMS[settings.system].hyper
    changed = config.override(settings, {f"hyper.{field}.{name}": value for name, value in changes.items()})
    return getattr(changed.hyper, field)


def _rhythm(settings: Any) -> TrainConfig:
    """Of training a row; only the simulated cascade has a log of a chosen size."""
    return settings.log.rhythm(settings.train) if hasattr(settings, "log") else settings.train


def _train(bench: _Bench, member: Member, settings: TrainConfig) -> Trained:
    """Train one member; it keeps its last step, unless the settings validate.

    A best step by validation is one more thing to tune, so it is off unless a log is reused. A member that differs in
    serving alone from one that was trained before is that one, and has its log.
    """
    method, before = bench.method, bench.before
    known = repr((member.seed, settings, method.trains(member.hyper)))
    if known in before:
        trained, directory = before[known]
        if (directory / "metrics.jsonl").exists():
            member.directory.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(directory / "metrics.jsonl", member.directory / "metrics.jsonl")
        return trained

    def silent(step: int, values: dict[str, float]) -> None:
        pass

    def validate(states: TrainState) -> np.ndarray:
        parameters = jax.tree.map(lambda leaf: leaf[0], states.parameters)
        return np.array([bench.judge.validate(parameters, member.hyper)])

    trained = train(
        method,
        bench.ground.source,
        [member],
        settings,
        Placement("single"),
        silent,
        bench.context.warn,
        validate,
        bench.program,
        bench.context.stop,
    )
    if method.trains is not all_train and not settings.validate_every:  # the best step hangs on what is served
        before[known] = trained, member.directory
    return trained


def _tune(bench: _Bench, trial: Trial) -> dict[str, Any]:
    """Choose a row's numbers on validation requests; kept on disk, so that a stopped run does not tune again."""
    settings = trial.settings
    directory = trial.directory.parent.parent / "tuning" / config.digest(trial.row.name, config.to_json(settings))
    path = Path(f"{directory}.json")
    space = search_space(settings.system, settings.hyper, settings.tune.trials)
    if len(space) == 1:
        return {"changes": {}, "trials": [], "by": "not tuned"}

    def waiting() -> None:
        bench.context.say(f"another process tunes row {trial.row.name}; waiting for it")

    with alone(Path(f"{directory}.lock"), waiting):  # the seeds of a row may be several workers'
        if not path.exists():
            result = _tuned(bench, trial, space, directory)
            write_atomically(path, json.dumps(result, indent=1) + "\n")
            shutil.rmtree(directory, ignore_errors=True)
    return json.loads(path.read_text(encoding="utf-8"))


def _tuned(bench: _Bench, trial: Trial, space: Sequence[dict[str, float]], directory: Path) -> dict[str, Any]:
    """Train with each of the changes, on the tuning seed, and choose the best."""
    settings = trial.settings
    tune, full = settings.tune, settings.train
    steps = max(1, round(tune.share * full.steps / full.chunk_steps)) * full.chunk_steps
    short = replace(full, steps=steps, chunk=full.chunk_steps, checkpoint_every=steps, validate_every=0)
    found: list[dict[str, Any]] = []
    for index, changes in enumerate(space):
        hyper = _numbers(settings, changes)
        name = f"row {trial.row.name}, tuning {index + 1} of {len(space)}"
        member = Member(name, hyper, bench.ground.tuning_seed, directory / str(index))
        try:
            trained = _train(bench, member, short)
            value = bench.judge.validate(jax.tree.map(lambda leaf: leaf[0], trained.states.parameters), hyper)
        except Diverged:
            value = DIVERGED
        found.append({"changes": changes, "value": value})
    best = max(found, key=lambda entry: entry["value"])
    # the defaults win a tie
    chosen = found[0] if best["value"] - found[0]["value"] < SMALLEST_GAIN else best
    return {"changes": chosen["changes"], "trials": found, "steps": steps, "by": bench.ground.task}
