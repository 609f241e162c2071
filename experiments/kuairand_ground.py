"""The real logs of KuaiRand-Pure as the data of a table of systems."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.kuairand import KuaiRandRun, curves_of, featurise, prepared, whole_catalogue
from experiments.systems_run import Measured
from experiments.systems_settings import TeacherConfig, TuneConfig
from experiments.teaching import taught
from experiments.trials import Context, Trial
from hccp_jax.config import field
from hccp_jax.data.catalogue import Catalogue, with_frequency
from hccp_jax.data.catalogue_view import with_items
from hccp_jax.data.kuairand_dataset import KuaiRand
from hccp_jax.data.requests import RequestBatch
from hccp_jax.data.source import Source, log_source
from hccp_jax.data.vocabulary import hashed
from hccp_jax.evaluation.exposed_lists import ExposedLists
from hccp_jax.evaluation.whole_catalogue import Ranked, WholeCatalogue
from hccp_jax.methods.base import Method
from hccp_jax.methods.hccp import Layout
from hccp_jax.methods.registry import SYSTEMS, HyperConfigs, SystemConfig

TUNING_SEED, TEACHER_SEED = 1000, 1001
SERVED = 1000


@dataclass(frozen=True)
class KuaiRandSystemsSettings(KuaiRandRun):
    """Everything that decides the numbers of the table on KuaiRand."""

    view_users: int = field(2000, "users of the whole-catalogue view, evenly chosen; 0: all", at_least=0)
    system: str = field("hccp", "which system; the rows of the table set it", choices=tuple(SYSTEMS))
    models: SystemConfig = SystemConfig()
    hyper: HyperConfigs = HyperConfigs()
    tune: TuneConfig = TuneConfig()
    teacher: TeacherConfig = TeacherConfig()


@dataclass
class KuaiRandGround:
    """See `systems_run.Ground`.

    Attributes:
        settings: of the table.
        data: the prepared logs.
        catalogue: on the device.
        source: the training log, with the teacher in it.
        lists: exposed lists of the test days.
        view: the whole catalogue in the test days.
        lists_before: the validation day, for tuning.
        view_before: the same.
        layout: impressions first, then the simulated ranking stage.
    """

    settings: KuaiRandSystemsSettings
    data: KuaiRand
    catalogue: Catalogue
    source: Source
    lists: ExposedLists
    view: WholeCatalogue
    lists_before: ExposedLists
    view_before: WholeCatalogue
    layout: Layout
    tuning_seed: int = TUNING_SEED
    has: frozenset[str] = frozenset({"cross", "history", "ranked", "preranked", "pool", "teacher"})

    @property
    def task(self) -> str:
        """What tuning compares."""
        users = self.settings.view_users // 2
        return f"click AUC plus whole-catalogue long-view recall of {users} users, on the validation day"

    def judge(self, method: Method) -> "KuaiRandJudge":
        """An evaluator of this method."""
        return KuaiRandJudge(self, method)

    def request(self) -> tuple[RequestBatch, dict[str, jax.Array]]:
        """The first test user, with the first `SERVED` videos."""
        one = jax.tree.map(lambda leaf: leaf[0, :1], self.view.users.requests)
        everything = jnp.arange(self.view.users.seen.shape[-1], dtype=jnp.int32)
        items = featurise(with_items(one, everything), self.catalogue).items
        batch = featurise(with_items(one, everything[1 : SERVED + 1]), self.catalogue)
        return batch, jax.tree.map(lambda leaf: leaf[0], items)


class KuaiRandJudge:
    """See `systems_run.Judge`."""

    def __init__(self, ground: KuaiRandGround, method: Method) -> None:
        self.listed: Callable[[Any], dict[str, float]] = ground.lists.measurer(method)
        self.ranked: Callable[[Any, Any], Ranked] = ground.view.ranker(method)
        self.listed_before = ground.lists_before.measurer(method)
        self.ranked_before = ground.view_before.ranker(method)
        self.middle = sorted(ground.settings.cutoffs)[len(ground.settings.cutoffs) // 2]

    def validate(self, parameters: Any, hyper: Any) -> float:
        """Click AUC plus long-view recall, so that neither view is favoured."""
        hyper = jax.tree.map(jnp.float32, hyper)
        recall = self.ranked_before(parameters, hyper).metrics[f"long_view/recall@{self.middle}"]
        return self.listed_before(parameters)["click/AUC"] + recall

    def measure(self, parameters: Any, hyper: Any, trial: Trial) -> Measured:
        """Both views."""
        found = self.ranked(parameters, jax.tree.map(jnp.float32, hyper))
        more = {"curves": curves_of(found), "served": "each task by its own head, or by the one that a system has"}
        return Measured(self.listed(parameters) | found.metrics, None, more)


def open_ground(
    context: Context, settings: KuaiRandSystemsSettings, out: Path, data: KuaiRand | None = None
) -> KuaiRandGround:
    """Read the logs, unless they are given, and write the teacher into the training log.

    Raises:
        UserError: if the files are missing or damaged.
    """
    data = data or prepared(settings)
    context.say(data.describe())
    catalogue = with_frequency(jax.tree.map(jnp.asarray, data.catalogue), data.item_exposures)
    tables = settings.train.tables
    spec, catalogue = hashed(data.spec, catalogue, tables.item_rows, tables.user_rows)
    size = settings.train.batch

    def source(log: RequestBatch) -> Source:
        return log_source(spec, catalogue, featurise, log, size, data.item_exposures)

    layout = Layout(settings.exposed, settings.exposed + settings.ranked)
    logs = taught(
        context,
        source(data.train),
        settings.models,
        layout,
        settings.teacher,
        settings.train,
        TEACHER_SEED,
        {"train": data.train, "validation": data.validation},
        "validation",
        out,
    )
    return KuaiRandGround(
        settings,
        data,
        catalogue,
        source(logs["train"]),
        ExposedLists(data.test, catalogue, featurise),
        whole_catalogue(data, catalogue, settings, "test", settings.view_users),
        ExposedLists(data.validation, catalogue, featurise),
        whole_catalogue(data, catalogue, settings, "validation", settings.view_users // 2),
        layout,
    )
