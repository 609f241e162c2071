"""Trains CROLoss's rows on real sequences and evaluates them: what its Tables 2-4 and Figures 3-5 share.

The protocol is the paper's (4.1): a training sample is a random user and position, and ten uniform negatives a sample
are shared in the batch. Where the paper is silent it is that of its released code: held-out users are asked for the
last 20 % of their sequence among all items, recall is a mean over users, and a row keeps the step that is best by
recall@100 of the validation users. Rows share one network and, where they differ in alpha only, one program. The step
size is the one that the paper prints; it is not tuned a row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.experiment import Data, Kind
from experiments.trials import Context, Trial, groups, save_result, validated
from hccp_jax.config import field
from hccp_jax.data import describe
from hccp_jax.data.catalogue import Catalogue, FeatureSpec
from hccp_jax.data.next_item import TASK, feature_spec, next_item_source, questions
from hccp_jax.data.sequences import Sequences, items_of, sequences
from hccp_jax.data.source import Source
from hccp_jax.data.store import Store, open_store
from hccp_jax.data.vocabulary import hashed
from hccp_jax.errors import Diverged, UserError
from hccp_jax.evaluation.next_item import CURVE, NextItem
from hccp_jax.evaluation.whole_catalogue import Ranked
from hccp_jax.methods.croloss import HyperConfig, KernelConfig, croloss_system
from hccp_jax.models.mean_history import MeanHistoryConfig
from hccp_jax.training.config import Member, TrainConfig
from hccp_jax.training.loop import train
from hccp_jax.training.program import Program
from hccp_jax.training.state import TrainState

DATA = Data(
    Kind.REAL,
    "Real sequences, users split at random; the negatives of training are random items, and nothing is simulated.",
)
CHOSEN_BY = 100  # N of the recall that chooses a row's step
Rank = Callable[[Any], Ranked]


@dataclass(frozen=True)
class CROLossSettings:
    """Everything that decides the numbers of the experiment."""

    store: str = field("", "store of sequences, made by python -m hccp_jax.data.convert")
    history: int = field(0, "items of a history; 0: as the store says", at_least=0)
    users: int = field(0, "held-out users of validation and of test, evenly chosen; 0: all", at_least=0)
    cutoffs: tuple[int, ...] = field((20, 50, 100, 200, 500), "N of the tables", at_least=1)
    model: MeanHistoryConfig = MeanHistoryConfig()
    kernels: KernelConfig = KernelConfig()
    hyper: HyperConfig = HyperConfig(learning_rate=0.02)
    train: TrainConfig = TrainConfig()


@dataclass(frozen=True)
class Ground:
    """The data of all rows.

    Attributes:
        spec: sizes.
        source: training batches.
        before: validation users, by whom a row's step is chosen; None where the store has none.
        after: test users.
        told: what the data is, in a sentence.
        described: the description of the store.
    """

    spec: FeatureSpec
    source: Source
    before: NextItem | None
    after: NextItem
    told: str
    described: str


def open_ground(settings: CROLossSettings, warn: Callable[[str], None]) -> Ground:
    """Open the store.

    Raises:
        UserError: if it is none, or lacks what is needed.
    """
    if not settings.store:
        raise UserError("store='': expected the folder of a store of sequences; see python -m hccp_jax.data.sources")
    store = open_store(Path(settings.store))
    training = sequences(store, "train")
    validation, test, told = held_out(store, warn)
    history = settings.history or int(store.facts["more"]["history"])
    items = items_of(store)
    tables = settings.train.tables
    spec, catalogue = hashed(feature_spec(items), Catalogue({}, {}), tables.item_rows)
    source = next_item_source(spec, catalogue, training, settings.train.batch, history, settings.kernels.negatives)

    def asked(part: Any) -> NextItem:
        cutoffs = tuple(sorted({*settings.cutoffs, CHOSEN_BY}))
        return NextItem(questions(part, history, settings.users), items, catalogue, cutoffs)

    before = None if validation is None else asked(validation)
    return Ground(spec, source, before, asked(test), f"{_told(store)}{told}", describe.text(store.manifest))


def held_out(store: Store, warn: Callable[[str], None]) -> tuple[Sequences | None, Sequences, str]:
    """Validation and test users, and what is to be said of them; excerpts may lack one of the two."""
    if "sequences_validation" not in store:
        warn(f"store={store.directory}: no validation part; rows keep their last step")
        return None, sequences(store, "test"), ""
    validation = sequences(store, "validation")
    if "sequences_test" in store:
        return validation, sequences(store, "test"), ""
    told = " No test part: every second user of the validation part is the test."
    warn(f"store={store.directory}:{told.lower()}")
    first, second = (
        replace(validation, user=validation.user[k::2], begin=validation.begin[k::2], length=validation.length[k::2])
        for k in (0, 1)
    )
    return first, second, told


def _told(store: Store) -> str:
    users = sum(len(store[name]) for name in store.manifest["tables"] if name.startswith("sequences_"))
    name, items = store.facts["more"]["name"], store.facts["more"]["items"] - 1
    return f"Data: {store.facts['title']}, {name}: {users:,} users, {items:,} items."


def run(context: Context) -> None:
    """Train and evaluate the pending trials."""
    opened = cache(partial(_opened, context))
    for trial in context.trials:
        if trial.row.reference:
            ground = opened(_of_data(trial.settings))
            found = ground.after.scores(ground.source.frequency)
            save_result(context.experiment, trial, found.metrics, served="its own score", **_more(ground, found))

    @cache
    def judge(settings: CROLossSettings, model: MeanHistoryConfig) -> tuple[Rank, Rank | None]:
        """Rankings of the test and the validation users by parameters; kernels have no part in a score."""
        ground = opened(settings)
        method = croloss_system(ground.spec, model, KernelConfig(), 1)
        return ground.after.ranker(method), ground.before.ranker(method) if ground.before else None

    for trials in groups(trial for trial in context.trials if not trial.row.reference):
        settings = _of_data(trials[0].settings)
        _run_program(context, opened(settings), trials, *judge(settings, trials[0].settings.model))


def _opened(context: Context, settings: CROLossSettings) -> Ground:
    ground = open_ground(settings, context.warn)
    context.say(ground.described)
    return ground


def _of_data(settings: CROLossSettings) -> CROLossSettings:
    """The settings with defaults where they do not decide the data, which a sweep may change as well."""
    kernels = KernelConfig(negatives=settings.kernels.negatives)
    return replace(settings, model=MeanHistoryConfig(), kernels=kernels, hyper=HyperConfig())


def _more(ground: Ground, found: Ranked) -> dict[str, Any]:
    """What a result says beside its metrics."""
    return {"data": ground.told, "curves": {"recall": {"cutoffs": list(CURVE), "values": found.curves[TASK]}}}


def _run_program(
    context: Context, ground: Ground, trials: Sequence[Trial], rank: Rank, rank_before: Rank | None
) -> None:
    """The rows of one program, a row with all its seeds at a time."""
    settings: CROLossSettings = trials[0].settings
    method = croloss_system(ground.spec, settings.model, settings.kernels, 1)
    rows = list({trial.row.name: trial.row for trial in trials}.values())
    largest = max(sum(trial.row == row for trial in trials) for row in rows)
    placement = replace(context.placement, population=min(context.placement.population, largest))
    program = Program(method, ground.source.featurise, placement, settings.train.tables, settings.train.members)

    def validate(states: TrainState) -> np.ndarray:
        assert rank_before is not None
        return np.array([rank_before(own).metrics[f"recall@{CHOSEN_BY}"] for own in _each(states.parameters)])

    for row in rows:
        own = [trial for trial in trials if trial.row == row]
        members = [Member(trial.name, trial.settings.hyper, trial.seed, trial.directory) for trial in own]
        report = context.report(row.label, settings.train.steps)
        try:
            trained = train(
                method,
                ground.source,
                members,
                settings.train,
                placement,
                report,
                context.warn,
                validate if rank_before else None,
                program,
                context.stop,
            )
        except Diverged as error:
            context.failed.append(str(error))
            continue
        context.failed.extend(trained.failed.values())
        values: Any = validate(trained.states) if context.validated and rank_before else [None] * len(own)
        found = zip(own, _each(trained.states.parameters), trained.steps, values, strict=True)
        for index, (trial, parameters, step, score) in enumerate(found):
            if index in trained.failed:
                continue
            result = rank(parameters)
            save_result(
                context.experiment,
                trial,
                result.metrics,
                epochs=ground.source.epochs(step),
                step=step,
                served="the cosine",
                **validated(score, f"recall@{CHOSEN_BY} of the validation users"),
                **_more(ground, result),
            )


def _each(parameters: Any) -> list[Any]:
    """The parameters of each member."""
    count = len(jax.tree.leaves(parameters)[0])
    return [jax.tree.map(lambda leaf, m=member: leaf[m], parameters) for member in range(count)]
