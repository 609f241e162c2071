"""Runs SDCL's rows on the simulated cascade: user groups by activity, learned weights, AUC on lists with negatives.

The user groups are simulated: a fifth of all users each, by how many requests a user has in the training log of the
seed, as the paper sorts users by how often they came in 30 days. That number differs by chance alone, but a model does
learn more about a user with more requests, which is what the paper explains its groups by. Users with the same number
are parted by their ids.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.simulated import check_world
from experiments.simulated_ground import SimulatedGround, SimulatedJudge, open_ground
from experiments.systems import run_on, training_seeds
from experiments.systems_run import Measured
from experiments.systems_settings import SystemsSettings
from experiments.trials import Context, Trial, by_world
from hccp_jax import config
from hccp_jax.cascade import logs
from hccp_jax.cascade.logs import SamplingConfig, open_world
from hccp_jax.config import field as setting
from hccp_jax.data.requests import RequestBatch
from hccp_jax.data.source import Source
from hccp_jax.evaluation.simulated import BLOCK
from hccp_jax.evaluation.staged_lists import STAGES, StagedLists
from hccp_jax.methods.base import Method

GROUPS = ("Low", "Mid-Low", "Mid-High", "High", "Full")
GROUPED = ("reverse", "ISH@100", "precision@100")
THIRDS = ("/first", "/middle", "")
"""Suffixes of the learned weights' means over the first, the middle and the last third of training."""


@dataclass(frozen=True)
class SdclSettings(SystemsSettings):
    """Everything that decides the numbers of SDCL's tables on the simulated cascade."""

    lists: int = setting(0, "held-out lists with sampled negatives, for AUC by kind of negatives; 0: none", at_least=0)


@dataclass
class SdclGround(SimulatedGround):
    """The simulated cascade, with what SDCL's tables add.

    Attributes:
        groups: training seed -> [users + 1] int32, the place in `GROUPS` of each user.
        lists: "own" sampled as the rows' training lists, "common" the same for all rows; empty without lists.
    """

    groups: Mapping[int, np.ndarray] = field(default_factory=dict)
    lists: Mapping[str, StagedLists] = field(default_factory=dict)

    def judge(self, method: Method) -> "SdclJudge":
        """An evaluator of this method."""
        return SdclJudge(self, method)


class SdclJudge(SimulatedJudge):
    """See `systems_run.Judge`."""

    ground: SdclGround

    def __init__(self, ground: SdclGround, method: Method) -> None:
        super().__init__(ground, method)
        self.scorers = {name: lists.scorer(method) for name, lists in ground.lists.items()}

    def measure(self, parameters: Any, hyper: Any, trial: Trial) -> Measured:
        """All metrics, those of `GROUPED` by user group, AUC on lists, and the learned weights over training."""
        found = super().measure(parameters, hyper, trial)
        users = np.ravel(self.ground.evaluator.data.requests.user["id"])
        metrics = found.metrics | by_group(found.per_request or {}, self.ground.groups[trial.seed][users])
        kept = {"own": [kind for kind in STAGES if getattr(hyper, kind) > 0], "common": list(STAGES)}
        for name, score in self.scorers.items():
            areas = self.ground.lists[name].measure(score(parameters), kept[name])
            metrics |= {f"{name}/{metric}": value for metric, value in areas.items()}
        return found._replace(metrics=metrics | learned_weights(trial.directory / "metrics.jsonl"))


def by_group(per_request: Mapping[str, np.ndarray], groups: np.ndarray) -> dict[str, float]:
    """Means of the metrics of `GROUPED` over the requests of each user group, such as "reverse/group_0".

    Args:
        per_request: metric -> [requests], NaN where a request has none.
        groups: [requests] places in `GROUPS`.
    """
    found = {}
    for name in GROUPED:
        for group in range(len(GROUPS)):
            values = per_request.get(name, np.empty(0))[: len(groups)]
            known = values[(groups[: len(values)] == group) & np.isfinite(values)]
            found[f"{name}/group_{group}"] = float(known.mean(dtype=np.float64)) if len(known) else float("nan")
    return found


def learned_weights(path: Path) -> dict[str, float]:
    """Mean of each "weight_..." of a training log over its last third; of those without a group, over all thirds."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = {}
    for part, suffix in zip(np.array_split(np.arange(len(lines)), 3), THIRDS, strict=True):
        for name in lines[0]:
            if name.startswith("weight_") and (not suffix or "_group_" not in name) and len(part):
                found[name + suffix] = float(np.mean([lines[index][name] for index in part]))
    return found


def activity_groups(users: np.ndarray, count: int) -> np.ndarray:
    """[count + 1] int32: the fifth of each user by the number of requests, 0 the fewest; user 0 is padding.

    Args:
        users: [...] user ids of the requests of a log, 1 to count.
        count: users in all.

    >>> activity_groups(np.array([1, 1, 3, 4, 4, 4, 5, 5]), 5).tolist()
    [0, 2, 0, 1, 4, 3]

    """
    requests = np.bincount(users.ravel(), minlength=count + 1)[1:]
    groups = np.zeros(count + 1, np.int32)
    groups[1 + np.argsort(requests, kind="stable")] = np.arange(count) * len(GROUPS) // count
    return groups


def run(context: Context) -> None:
    """Train and evaluate the pending trials, world after world; rows that sample alike share their logs."""
    for world in by_world(context):
        kinds: dict[str, list[Trial]] = {}
        for trial in world.trials:
            kinds.setdefault(config.digest(repr(trial.settings.sampling)), []).append(trial)
        for trials in kinds.values():
            one = replace(world, trials=tuple(trials))
            run_on(one, _opened(one))


def _opened(context: Context) -> SdclGround:
    settings: SdclSettings = context.trials[0].settings
    check_world(settings.world, settings.sampling, settings.train)
    out = context.trials[0].directory.parent.parent
    ground = open_ground(context, settings, seeds := training_seeds(context), Path(out), teacher=False)
    source, steps = ground.source, settings.train.steps
    groups = {}
    for seed in (ground.tuning_seed, *seeds):
        log = source.chunk([seed], 0, steps)
        groups[seed] = activity_groups(np.asarray(log.user["id"]), settings.world.users)
    lists = {}
    if settings.lists:
        lists = {
            "own": _lists(settings, source, settings.sampling),
            "common": _lists(settings, source, SamplingConfig()),
        }
    return SdclGround(**vars(ground) | {"source": _with_groups(source, groups)}, groups=groups, lists=lists)


def _with_groups(source: Source, groups: Mapping[int, np.ndarray]) -> Source:
    """The source with the group of each request's user, by which the method logs its weights."""

    def chunk(seeds: Sequence[int], first: int, steps: int, part: tuple[int, int] = (0, 1)) -> RequestBatch:
        batch = source.chunk(seeds, first, steps, part)
        found = [groups[seed][ids] for seed, ids in zip(seeds, np.asarray(batch.user["id"]), strict=True)]
        return replace(batch, user=batch.user | {"group": np.stack(found)})

    return replace(source, chunk=chunk)


def _lists(settings: SdclSettings, source: Source, sampling: SamplingConfig) -> StagedLists:
    """Held-out lists in blocks, drawn as training lists are, but of all requests: with and without a click."""
    world, blocks = open_world(settings.world), -(-settings.lists // BLOCK)

    @partial(jax.jit, static_argnums=0)
    def draw(count: int, world: Any) -> RequestBatch:
        def block(index: jax.Array) -> RequestBatch:
            request = logs.request_ids(logs.STREAMS["evaluation"], index * BLOCK, BLOCK)
            return logs.log_requests(world, settings.world, sampling, request)

        return jax.lax.map(block, jax.numpy.arange(count))

    return StagedLists(jax.device_get(draw(blocks, world)), source.catalogue, source.featurise)
