"""Base, HCCP and the rows between on the real logs of KuaiRand-Pure, in two views.

    python launch.py --experiment=kuairand --data_dir=DIR [--test_from=YYYYMMDD]
    python -m hccp_jax.data.convert --source=kuairand --input=DIR --output=STORE
    python launch.py --experiment=kuairand --store=STORE

DIR holds the published files under their own names, gzipped or not; a store is made from them once. Exposures, clicks
and long views are real; the unexposed stages of the training lists come from a cascade over the real catalogue that
uses the past only, and are simulated. Exposed lists: AUC, AUC by user, log-loss; where the log of videos shown at
random is there, AUC on those of the test days as well, which no ranker chose. Whole catalogue without the videos a user
has seen: recall, hit rate and NDCG, each task ranked by its own head. Reachable figures: click AUC about .75; all
neural models lie within .003 of each other there. A row keeps the step that is best on the validation day, by the sum
of click AUC and whole-catalogue long-view recall, so that neither view is favoured.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.experiment import Claim, Column, Data, Experiment, Kind, Row
from experiments.hccp_ladder import LABELS
from experiments.quickstart import PAPER
from experiments.trials import Context, Trial, groups, save_result, validated
from hccp_jax.config import field
from hccp_jax.data.catalogue import Catalogue, FeatureSpec, attach, with_frequency
from hccp_jax.data.catalogue_view import with_items
from hccp_jax.data.kuairand import KuaiRandConfig
from hccp_jax.data.kuairand_dataset import KuaiRand, load
from hccp_jax.data.kuairand_features import cross_features
from hccp_jax.data.requests import RequestBatch
from hccp_jax.data.source import log_source
from hccp_jax.data.sources.kuairand import stored
from hccp_jax.data.store import open_store
from hccp_jax.data.vocabulary import hashed
from hccp_jax.errors import UserError
from hccp_jax.evaluation.exposed_lists import ExposedLists
from hccp_jax.evaluation.octiles import assign_octiles
from hccp_jax.evaluation.whole_catalogue import CURVE, Ranked, WholeCatalogue, in_blocks
from hccp_jax.methods.base import Method
from hccp_jax.methods.hccp import ROWS, HyperConfig, Layout, NegativesConfig, hccp
from hccp_jax.models.three_tower import ModelConfig
from hccp_jax.training.config import Member, TrainConfig
from hccp_jax.training.loop import train
from hccp_jax.training.state import TrainState, stack_numbers

DATA = Data(
    Kind.STAGED,
    "Real logs (KuaiRand-Pure, Kuaishou): exposures, clicks and long views are real; the unexposed stages of the "
    "training lists come from a simulated cascade over the real catalogue.",
)


@dataclass(frozen=True)
class KuaiRandRun(KuaiRandConfig):
    """What all experiments on KuaiRand share."""

    data_dir: str = field("", "directory with the KuaiRand-Pure files, gzipped or not")
    store: str = field("", "the store that hccp_jax.data.convert made of them, instead")
    cutoffs: tuple[int, ...] = field((20, 100, 500), "K of the whole-catalogue view", at_least=1)
    view_users: int = field(0, "users of the whole-catalogue view, evenly chosen; 0: all", at_least=0)
    train: TrainConfig = TrainConfig()


@dataclass(frozen=True)
class KuaiRandSettings(KuaiRandRun):
    """Everything that decides the numbers of the experiment."""

    model: ModelConfig = ModelConfig()
    negatives: NegativesConfig = NegativesConfig(in_batch_rate=1.0)
    hyper: HyperConfig = HyperConfig(learning_rate=1e-3, log_q=1.0)


def featurise(batch: RequestBatch, catalogue: Catalogue) -> RequestBatch:
    """Attach the catalogue's features and compute the cross features."""
    batch = attach(batch, catalogue)
    return replace(batch, cross=cross_features(batch))


def run(context: Context) -> None:
    """Train and evaluate the pending trials."""
    for trials in groups(context.trials):
        _run_group(context, trials)


def prepared(settings: KuaiRandRun) -> KuaiRand:
    """The data that the settings name.

    Raises:
        UserError: if they name none or both, or it cannot be read.
    """
    if bool(settings.data_dir) == bool(settings.store):
        given = f"data_dir={settings.data_dir!r}, store={settings.store!r}"
        raise UserError(f"{given}: expected the directory with the KuaiRand-Pure files, or a store of them")
    if settings.store:
        return stored(open_store(Path(settings.store)), settings)
    return load(Path(settings.data_dir), settings)


def _run_group(context: Context, trials: list[Trial]) -> None:
    settings: KuaiRandSettings = trials[0].settings
    data = prepared(settings)
    context.say(data.describe())
    catalogue = with_frequency(jax.tree.map(jnp.asarray, data.catalogue), data.item_exposures)
    tables = settings.train.tables
    spec, catalogue = hashed(data.spec, catalogue, tables.item_rows, tables.user_rows)
    lists = ExposedLists(data.test, catalogue, featurise)
    view = whole_catalogue(data, catalogue, settings, "test", settings.view_users)
    for trial in trials:
        if trial.row.reference:
            metrics, curves = reference(data, lists, view, trial.row.name)
            save_result(context.experiment, trial, metrics, served="its own score", curves=curves)
    trained = [trial for trial in trials if not trial.row.reference]
    if trained:
        _train(context, settings, data, spec, catalogue, trained, lists, view)


def whole_catalogue(
    data: KuaiRand, catalogue: Catalogue, settings: KuaiRandRun, period: str, users: int
) -> WholeCatalogue:
    """The whole-catalogue view of a period for about so many users, evenly chosen; 0: all."""
    every = max(1, len(data.views[period].seen) // users) if users else 1
    found = jax.tree.map(lambda leaf: leaf[::every], replace(data.views[period], popularity={}))
    order = np.argsort(np.argsort(-data.item_exposures, kind="stable"), kind="stable")
    octile = np.zeros(len(order), np.int8)
    octile[1:] = assign_octiles(data.item_exposures[1:], order[1:], data.item_exposures[1:])
    chosen = in_blocks(found.requests, found.positives, found.seen)
    return WholeCatalogue(chosen, catalogue, with_items, featurise, settings.cutoffs, octile)


def reference(data: KuaiRand, lists: ExposedLists, view: WholeCatalogue, name: str) -> tuple[dict, dict]:
    """Metrics of a floor in both views, and its recall curves."""
    tasks = tuple(data.test.labels)
    if name == "random":
        draw = np.random.default_rng(0).random(data.test.mask.shape)
        found = view.random()
        return lists.measure(dict.fromkeys(tasks, draw), probabilistic=False) | found.metrics, curves_of(found)
    score = np.asarray(data.views["test"].popularity[name])
    exposed = score[data.test.items["id"]]
    listed = lists.measure(dict.fromkeys(tasks, exposed), probabilistic=False)
    found = view.scores(dict.fromkeys(tasks, jnp.asarray(score)))
    return listed | found.metrics, curves_of(found)


def curves_of(found: Ranked) -> dict[str, dict]:
    """Recall over K of the whole catalogue, for the picture."""
    return {
        f"{task.replace('_', ' ')} recall": {"cutoffs": list(CURVE), "values": values}
        for task, values in found.curves.items()
    }


def _train(
    context: Context,
    settings: KuaiRandSettings,
    data: KuaiRand,
    spec: FeatureSpec,
    catalogue: Catalogue,
    trials: list[Trial],
    lists: ExposedLists,
    view: WholeCatalogue,
) -> None:
    layout = Layout(settings.exposed, settings.exposed + settings.ranked)
    method = hccp(spec, settings.model, settings.negatives, layout)
    size = settings.train.batch
    source = log_source(spec, catalogue, featurise, data.train, size, data.item_exposures)
    members = [Member(trial.name, trial.settings.hyper, trial.seed, trial.directory) for trial in trials]
    placement = replace(context.placement, population=min(context.placement.population, len(trials)))
    report = context.report(f"{len(trials)} trials", settings.train.steps)
    held_out = ExposedLists(data.validation, catalogue, featurise)
    hypers = stack_numbers([trial.settings.hyper for trial in trials])
    before = settings.view_users or len(data.views["validation"].seen) // 4
    validate = partial(
        _validate, method, hypers, held_out, whole_catalogue(data, catalogue, settings, "validation", before)
    )
    trained = train(
        method, source, members, settings.train, placement, report, context.warn, validate, stop=context.stop
    )
    context.failed.extend(trained.failed.values())
    exposed = lists.population(method, trained.states.parameters)
    if data.random is not None:
        drawn = ExposedLists(data.random, catalogue, featurise).population(method, trained.states.parameters)
        unbiased = [{f"random/{name}": value for name, value in found.items()} for found in drawn]
        exposed = [one | more for one, more in zip(exposed, unbiased, strict=True)]
    everything = view.population(method, trained.states.parameters, hypers)
    validation: Any = validate(trained.states) if context.validated else [None] * len(trials)
    found = zip(trials, trained.steps, exposed, everything, validation, strict=True)
    for index, (trial, step, first, second, value) in enumerate(found):
        if index in trained.failed:
            continue
        metrics, epochs = first | second.metrics, source.epochs(step)
        more: dict[str, Any] = {
            "epochs": epochs,
            "step": step,
            "served": "each task by its own head",
            "curves": curves_of(second),
            **validated(value, "click AUC plus long-view recall on the validation day"),
        }
        save_result(context.experiment, trial, metrics, None, **more)


def _validate(
    method: Method, hypers: HyperConfig, lists: ExposedLists, view: WholeCatalogue, states: TrainState
) -> np.ndarray:
    """What a row's best step is chosen by, on the validation day: click AUC plus long-view recall, one a view."""
    exposed = lists.population(method, states.parameters)
    everything = view.population(method, states.parameters, hypers)
    pairs = zip(exposed, everything, strict=True)
    k = sorted(view.cutoffs)[len(view.cutoffs) // 2]
    return np.array([first["click/AUC"] + second.metrics[f"long_view/recall@{k}"] for first, second in pairs])


FLOORS = (
    Row("long_view_7d", "long views of the last 7 days", reference=True),
    Row("popularity_7d", "popularity of the last 7 days", reference=True),
    Row("popularity", "popularity", reference=True),
    Row("random", "random", reference=True),
)

RECALLS = tuple(
    Column(f"{task}/recall@{k}", f"{task.replace('_', ' ')} recall@{k}")
    for task in ("click", "long_view")
    for k in (20, 100, 500)
)

EXPERIMENT = Experiment(
    name="kuairand",
    title="HCCP on the real logs of KuaiRand-Pure",
    paper=PAPER,
    table="the rows of Table 1 on real exposures; the paper's public data set has no unexposed items either",
    minutes=10,
    data=DATA,
    settings=KuaiRandSettings(
        train=TrainConfig(steps=720, batch=128, chunk=30, checkpoint_every=360, validate_every=180)
    ),
    smoke={"train.steps": 20, "train.chunk": 10, "train.validate_every": 20, "train.batch": 32, "view_users": 200},
    rows=(
        *(Row(name, label, ROWS[name]) for name, label in LABELS.items()),
        *FLOORS,
    ),
    columns=(
        Column("click/AUC", "click AUC"),
        Column("click/GAUC", "click GAUC"),
        Column("click/log_loss", "click log-loss", percent=False),
        Column("long_view/AUC", "long view AUC"),
        Column("long_view/GAUC", "long view GAUC"),
        Column("random/click/AUC", "click AUC, shown at random"),
        *RECALLS,
        Column("long_view/hit_rate@100", "long view hit rate@100"),
        Column("long_view/ndcg@100", "long view NDCG@100"),
    ),
    claims=(
        Claim("HCCP-8", "HCCP Table 2", "HCCP has a higher click AUC than Base.", "click/AUC", "hccp", "base", 0.001),
        Claim(
            "SSB-1",
            "HCCP 3.2",
            "Unexposed negatives lift whole-catalogue long-view recall@100 over Base.",
            "long_view/recall@100",
            "hccp",
            "base",
        ),
        Claim(
            "SSB-2",
            "ours",
            "Without the simulated hard negatives N2-N3, whole-catalogue long-view recall@100 is higher still.",
            "long_view/recall@100",
            "without_prc",
            "hccp",
        ),
    ),
    seeds=3,
    run=run,
)
