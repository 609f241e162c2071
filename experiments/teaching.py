"""The teacher of a table of systems: a DIN trained on impressions, calibrated, and written into logs."""

from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from experiments.locks import alone
from experiments.systems_settings import TeacherConfig
from experiments.trials import Context
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.data.source import Source
from hccp_jax.methods.hccp import Layout
from hccp_jax.methods.pointwise import PointwiseHyper
from hccp_jax.methods.registry import SystemConfig, build
from hccp_jax.training.config import Member, TrainConfig
from hccp_jax.training.loop import train
from hccp_jax.training.program import Placement
from hccp_jax.training.teacher import calibrate, predictor, write_teacher

Name = TypeVar("Name", bound=Hashable)


def taught(
    context: Context,
    source: Source,
    models: SystemConfig,
    layout: Layout,
    teacher: TeacherConfig,
    config: TrainConfig,
    seed: int,
    logs: dict[Name, RequestBatch],
    held_out: Name,
    out: Path,
) -> dict[Name, RequestBatch]:
    """The logs with the teacher's predictions where the ranking stage would have scored.

    Args:
        context: for progress and warnings.
        source: what the teacher trains on.
        models: sizes of the DIN.
        layout: which leading slots hold the ranking stage.
        teacher: length and step size.
        config: of the table's training; its length counts where the teacher has none of its own.
        seed: of the teacher.
        logs: name -> log with NumPy leaves.
        held_out: name of the log whose impressions calibrate it; none that it trains on.
        out: where its checkpoints go.
    """
    method = build("din", source.spec, models, layout, frozenset({"history"}))
    config = replace(config, steps=teacher.steps or config.steps, chunk=config.chunk_steps, validate_every=0)
    hyper = PointwiseHyper(learning_rate=teacher.learning_rate)
    member = Member("the teacher", hyper, seed, out / "teacher")
    # workers share it: one trains it while the others wait, and find it trained
    with alone(out / "teacher" / "lock", lambda: context.say("another process trains the teacher; waiting for it")):
        report = context.report("the teacher", config.steps)
        trained = train(method, source, [member], config, Placement("single"), report, context.warn, stop=context.stop)
    parameters = jax.tree.map(lambda leaf: leaf[0], trained.states.parameters)
    predict = predictor(method, parameters, source.featurise, source.catalogue, layout.sequence)
    found = {name: predict(log) for name, log in logs.items()}
    of: Any = logs[held_out]
    calibrations = {}
    for task in source.spec.tasks:
        shown = slice(0, found[held_out][task].shape[1])
        exposed = of.stage[:, shown] == Stage.EXPOSED
        calibrations[task] = calibrate(found[held_out][task], of.labels[task][:, shown], exposed)
    return {name: write_teacher(log, found[name], calibrations, _ranked(log.stage)) for name, log in logs.items()}


def _ranked(stage: Any) -> np.ndarray:
    """Items that the ranking stage scored."""
    return (stage == Stage.EXPOSED) | (stage == Stage.RANKED)
