"""Any prepared store of impressions as the data of a table of systems: exposed lists of its test part."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from experiments.kuairand import featurise as with_affinity
from experiments.systems_run import Measured
from experiments.systems_settings import TeacherConfig, TuneConfig
from experiments.teaching import taught
from experiments.trials import Context, Trial
from hccp_jax.config import field
from hccp_jax.data.catalogue import Catalogue, attach
from hccp_jax.data.requests import RequestBatch
from hccp_jax.data.source import Source, log_source
from hccp_jax.data.store import Store, open_store
from hccp_jax.data.stored import StoredLogs, read_logs
from hccp_jax.data.vocabulary import hashed
from hccp_jax.errors import UserError
from hccp_jax.evaluation.exposed_lists import ExposedLists
from hccp_jax.methods.base import Method
from hccp_jax.methods.hccp import Layout
from hccp_jax.methods.registry import SYSTEMS, HyperConfigs, SystemConfig
from hccp_jax.training.config import TrainConfig

TUNING_SEED, TEACHER_SEED = 1000, 1001


@dataclass(frozen=True)
class LogsSettings:
    """Everything that decides the numbers of a table on a store."""

    store: str = field("", "the store that hccp_jax.data.convert made")
    cutoffs: tuple[int, ...] = field((2, 5), "K of hit rates within exposed lists", at_least=1)
    system: str = field("hccp", "which system; the rows of the table set it", choices=tuple(SYSTEMS))
    models: SystemConfig = SystemConfig()
    hyper: HyperConfigs = HyperConfigs()
    tune: TuneConfig = TuneConfig()
    teacher: TeacherConfig = TeacherConfig()
    train: TrainConfig = TrainConfig()


@dataclass
class LogsGround:
    """See `systems_run.Ground`."""

    logs: StoredLogs
    source: Source
    lists: ExposedLists
    lists_before: ExposedLists
    layout: Layout
    has: frozenset[str]
    tuning_seed: int = TUNING_SEED

    @property
    def task(self) -> str:
        """What tuning compares."""
        return f"{self.logs.spec.tasks[0]} AUC on the validation part"

    def judge(self, method: Method) -> "LogsJudge":
        """An evaluator of this method."""
        return LogsJudge(self, method)

    def request(self) -> tuple[RequestBatch, dict[str, jax.Array]]:
        """The first test request, with its list as the catalogue."""
        one = jax.tree.map(lambda leaf: leaf[:1], self.lists.requests)
        batch = self.source.featurise(one, self.source.catalogue)
        return batch, jax.tree.map(lambda leaf: leaf[0], batch.items)


class LogsJudge:
    """See `systems_run.Judge`."""

    def __init__(self, ground: LogsGround, method: Method) -> None:
        self.listed: Callable[[Any], dict[str, float]] = ground.lists.measurer(method)
        self.listed_before = ground.lists_before.measurer(method)
        self.first = ground.logs.spec.tasks[0]
        facts = ground.logs.store.facts
        simulated = f"; simulated: {facts['simulated']}" if facts["simulated"] else ""
        self.told = f"Data: {facts['title']}{simulated}."

    def validate(self, parameters: Any, hyper: Any) -> float:
        """AUC of the first task."""
        return self.listed_before(parameters)[f"{self.first}/AUC"]

    def measure(self, parameters: Any, hyper: Any, trial: Trial) -> Measured:
        """Every task by its own head."""
        return Measured(self.listed(parameters), None, {"served": "each task by its own head", "data": self.told})


def featurise_of(store: Store) -> Callable[[RequestBatch, Catalogue], RequestBatch]:
    """What attaches features to the requests of a store; cross features are stored, but for KuaiRand's."""
    made = store.facts["spec"]["cross"] and "cross" not in store["train"].columns
    return with_affinity if made else attach


def opened(settings: LogsSettings) -> StoredLogs:
    """The logs that the settings name.

    Raises:
        UserError: if they name none, or a store without the parts of a table.
    """
    if not settings.store:
        raise UserError("store='': expected the store that hccp_jax.data.convert made")
    store = open_store(Path(settings.store))
    logs = read_logs(store)
    for part in ("validation", "test"):
        if part not in store or not len(store[part]):
            raise UserError(f"store={settings.store}: has no {part} part, which a table needs")
    return logs


def open_ground(context: Context, settings: LogsSettings, logs: StoredLogs, teach: bool, out: Path) -> LogsGround:
    """The ground of a store; with `teach`, a DIN of its impressions is written into the training log as the teacher."""
    store = logs.store
    featurise = featurise_of(store)
    tables = settings.train.tables
    spec, catalogue = hashed(logs.spec, logs.catalogue, tables.item_rows, tables.user_rows)
    layout = Layout(logs.exposed, logs.sequence)

    def source(log: RequestBatch) -> Source:
        return log_source(spec, catalogue, featurise, log, settings.train.batch, logs.impressions)

    train, has = logs.part("train"), logs.has | ({"cross"} if spec.cross else set())
    validation, test = store["validation"].loaded(), store["test"].loaded()
    if teach:
        train = store["train"].loaded()
        written = taught(
            context,
            source(replace(train, teacher={})),
            settings.models,
            layout,
            settings.teacher,
            settings.train,
            TEACHER_SEED,
            {"train": train, "validation": validation},
            "validation",
            out,
        )
        train, has = written["train"], has | {"teacher"}
    lists, before = (ExposedLists(part, catalogue, featurise, settings.cutoffs) for part in (test, validation))
    return LogsGround(logs, source(train), lists, before, layout, frozenset(has))
