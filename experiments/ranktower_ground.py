"""KuaiRand-Pure as RankTower measures it: recall and NDCG at 100 of one list a user, beside the systems' views."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.kuairand import featurise, prepared
from experiments.kuairand_ground import KuaiRandGround, KuaiRandJudge, KuaiRandSystemsSettings
from experiments.kuairand_ground import open_ground as open_kuairand
from experiments.systems_run import Measured, run_rows
from experiments.trials import Context, Trial, save_result
from hccp_jax.config import field
from hccp_jax.data.catalogue_view import with_items
from hccp_jax.data.kuairand_lists import user_lists
from hccp_jax.evaluation.sampled_lists import SampledLists
from hccp_jax.methods.base import Method

SERVED = "its final score in the lists, each task by its own head in the whole catalogue"


@dataclass(frozen=True)
class RankTowerSettings(KuaiRandSystemsSettings):
    """Everything that decides the numbers of RankTower's tables."""

    list_users: int = field(2000, "test users whose lists are ranked, evenly chosen; 0: all", at_least=0)
    every: int = field(1, "train on every so many-th request of the log, the teacher as well", at_least=1)


@dataclass
class RankTowerGround(KuaiRandGround):
    """See `systems_run.Ground`; with the lists of the test days and of the validation day."""

    lists_of_users: SampledLists | None = None
    lists_of_users_before: SampledLists | None = None

    @property
    def task(self) -> str:
        """What tuning compares."""
        return "recall@100 in the users' lists of the validation day"

    def judge(self, method: Method) -> "RankTowerJudge":
        """An evaluator of this method."""
        return RankTowerJudge(self, method)


class RankTowerJudge(KuaiRandJudge):
    """See `systems_run.Judge`."""

    def __init__(self, ground: RankTowerGround, method: Method) -> None:
        super().__init__(ground, method)
        self.own, self.own_before = (
            lists.ranker(method) for lists in (ground.lists_of_users, ground.lists_of_users_before) if lists
        )
        self.told = told(ground)

    def validate(self, parameters: Any, hyper: Any) -> float:
        """Recall at 100 in the lists, which is what the tables compare."""
        return self.own_before(parameters, jax.tree.map(np.float32, hyper))["recall@100"]

    def measure(self, parameters: Any, hyper: Any, trial: Trial) -> Measured:
        """The lists, exposed lists, and the whole catalogue."""
        found = super().measure(parameters, hyper, trial)
        own = self.own(parameters, jax.tree.map(np.float32, hyper))
        return Measured(named(own) | found.metrics, None, found.more | {"served": SERVED, "data": self.told})


def named(metrics: dict[str, float]) -> dict[str, float]:
    """Metrics of the lists under the names of the tables."""
    return {f"lists/{name}": value for name, value in metrics.items()}


def told(ground: RankTowerGround) -> str:
    """How long the lists are, which recall at 100 hangs on."""
    lists = ground.lists_of_users
    assert lists is not None
    ids, feedback = np.asarray(lists.lists.ids), np.asarray(lists.lists.feedback)
    users = (feedback > 0).any(axis=-1)
    relevant = (feedback > 0).sum(axis=-1)[users].mean()
    length = (ids > 0).sum(axis=-1)[users]
    return (
        f"Lists: {users.sum():,} test users with feedback, {length.mean():.0f} videos each ({length.min()} to "
        f"{length.max()}), {relevant:.2f} with feedback; what was not shown are simulated candidates."
    )


def run(context: Context) -> None:
    """Train and evaluate the pending trials."""
    settings: RankTowerSettings = context.trials[0].settings
    ground = open_ground(context, settings, Path(context.trials[0].directory.parent.parent))
    _floors(context, ground, [trial for trial in context.trials if trial.row.reference])
    trained = [trial for trial in context.trials if not trial.row.reference]
    if trained:
        run_rows(context, ground, trained)


def open_ground(context: Context, settings: RankTowerSettings, out: Path) -> RankTowerGround:
    """The ground of the systems on KuaiRand with the users' lists.

    Raises:
        UserError: if the files are missing or damaged.
    """
    data = prepared(settings)
    data = replace(data, train=jax.tree.map(lambda leaf: np.asarray(leaf[:: settings.every]), data.train))
    found = open_kuairand(context, settings, out, data)
    known = {item.name: getattr(found, item.name) for item in fields(found)}
    sizes = {"test": settings.list_users, "validation": settings.list_users // 4}
    both = []
    for period, users in sizes.items():
        lists = user_lists(found.data, period, settings, users)
        parts = (lists.requests, lists.ids, lists.feedback)
        both.append(SampledLists.of(*parts, found.catalogue, with_items, featurise, settings.cutoffs))
    return RankTowerGround(**known, lists_of_users=both[0], lists_of_users_before=both[1])


def _floors(context: Context, ground: RankTowerGround, trials: Sequence[Trial]) -> None:
    lists = ground.lists_of_users
    assert lists is not None
    for trial in trials:
        name = trial.row.name
        found = lists.random() if name == "random" else lists.by_item(ground.data.views["test"].popularity[name])
        save_result(context.experiment, trial, named(found), served="its own score", data=told(ground))
