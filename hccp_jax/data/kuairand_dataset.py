"""KuaiRand as requests: exposures grouped by user, day and tab, split by time, with simulated lower stages.

`load` is the entry; see `kuairand` for the files and requests, `kuairand_features` for the statistics and
`kuairand_cascade` for what is simulated. Everything returned is NumPy.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hccp_jax.data import kuairand_features as features
from hccp_jax.data.catalogue import Catalogue, FeatureSpec
from hccp_jax.data.catalogue_view import CatalogueView
from hccp_jax.data.kuairand import TABS, KuaiRandConfig, Lists, Periods, Tables, group, read, split
from hccp_jax.data.kuairand_cascade import Cascade, first_seen, make_world
from hccp_jax.data.requests import RequestBatch, Stage, validate
from hccp_jax.data.simulated_stages import append

TASKS = ("click", "long_view")
_USUAL_TAB, _NOON = 1, 12


@dataclass(frozen=True)
class KuaiRand:
    """The prepared data set.

    Attributes:
        catalogue: users "categorical" [users, C] and "group" [users], by activity; items "categorical" [items, 6]
            (first tag first) and "dense" [items, 2]; daily [P, items, 4].
        spec: sizes; `history_groups` are all exposures and long views, `cross` is that of `cross_features`.
        train: K = exposed + ranked + preranked + pool slots, in day order; stages below exposure are simulated.
        validation: K = exposed slots, exposures only.
        test: the same.
        item_exposures: [items] float32 exposures in the training days.
        views: "validation" and "test" -> `CatalogueView`.
        random: as `test`, of videos shown at random in the test days: no ranker chose them; None where there is no such
            log.
        times: part -> "request_time" [U] and "history_time" [U, H] int64 milliseconds, which guards look at.
        summary: the text of `describe`.
    """

    catalogue: Catalogue
    spec: FeatureSpec
    train: RequestBatch
    validation: RequestBatch
    test: RequestBatch
    item_exposures: np.ndarray
    views: dict[str, CatalogueView]
    summary: str
    random: RequestBatch | None = None
    times: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def describe(self) -> str:
        """Counts, rates and dates, and what is simulated."""
        return self.summary


def _batch(context: dict[str, Any], ids: Any, stage: Stage, rank: Any, labels: Any) -> RequestBatch:
    mask = ids > 0
    stages: Any = np.where(mask, stage, Stage.PADDING).astype(np.int8)
    fields = {"items": {"id": ids}, "stage": stages, "rank": rank, "labels": labels, "mask": mask}
    return RequestBatch(**context, **fields, cross=None, teacher={})


class _Builder:
    """Holds the statistics while parts of the log become batches."""

    def __init__(self, tables: Tables, config: KuaiRandConfig) -> None:
        self.tables, self.config, self.log = tables, config, tables.log
        self.periods: Periods = split(tables.log, config)
        self.past = features.collect(tables, self.periods)
        self.items: Any
        self.items, self.item_categories, self.tags = features.encode_items(tables.videos, int(self.periods.starts[0]))
        self.user_table: Any
        self.user_table, self.user_categories = features.encode_users(tables.users)
        self.tag = np.maximum(self.items["categorical"][:, 0] - 1, 0)
        self.daily: Any = features.item_statistics(self.past)
        self.statistics = features.user_statistics(self.past)
        self.week: Any = features.week_sums(self.past, np.ones(len(self.past.item), np.float32))
        past = self.past
        self.first_seen = first_seen(past.user, past.item, past.period, past.users, past.items)

    def rows(self, part: str) -> np.ndarray:
        """Rows of the log that belong to "train", "validation" or "test"."""
        training = self.periods.training
        wanted = {"train": self.periods.of < training, "validation": self.periods.of == training}
        return np.flatnonzero(wanted.get(part, self.periods.of == training + 1))

    def lists(self, part: str) -> Lists:
        """Requests of a part."""
        return group(self.log, self.periods.of, self.rows(part), self.config.exposed)

    def random_lists(self) -> Lists | None:
        """Requests of the test days whose videos were chosen at random."""
        log = self.tables.random
        test = self.periods.training + 1
        rows = np.flatnonzero(log.day >= self.periods.starts[test]) if log is not None else np.zeros(0, np.int64)
        if log is None or not len(rows):
            return None
        return group(log, np.full(len(log.day), test, np.int32), rows, self.config.exposed)

    def times(self, lists: Lists) -> dict[str, np.ndarray]:
        """When requests came and what is in their histories."""
        then = features.history_times(self.past, lists.user, lists.period, self.config.history)
        return {"request_time": lists.time, "history_time": then}

    def context(self, user: np.ndarray, period: np.ndarray, tab: np.ndarray, hour: np.ndarray) -> dict[str, Any]:
        """The user and history fields of a `RequestBatch`, from earlier periods."""
        history, mask = features.histories(self.past, user, period, self.config.history)
        fields = {
            "id": user.astype(np.int32),
            "day": period.astype(np.int32),
            "categorical": features.request_categories(tab, hour),
            "dense": self.statistics[period, user, tab],
            "affinity": features.affinities(self.past, user, period, self.tag, self.tags),
        }
        return {"user": fields, "history": history, "history_mask": mask}

    def batch(self, lists: Lists) -> RequestBatch:
        """Exposures with their features."""
        context = self.context(lists.user, lists.period, lists.tab, lists.hour)
        return _batch(context, lists.ids, Stage.EXPOSED, lists.rank, lists.labels)

    def train(self) -> RequestBatch:
        """Exposures and the simulated stages."""
        lists = self.lists("train")
        batch = self.batch(lists)
        world = make_world(self.tag, self.tags, self.week, self.daily, self.first_seen)
        keys = (lists.user, lists.day, lists.tab * 4096 + lists.part)
        shown = (lists.ids > 0).sum(axis=1).astype(np.int32)
        history, affinity = np.asarray(batch.history["id"]), np.asarray(batch.user["affinity"])
        staged = Cascade(world, self.config).stages(shown, lists.user, lists.period, history, affinity, keys)
        return append(batch, staged)

    def view(self, part: str) -> CatalogueView:
        """The whole catalogue for the users active in a part."""
        rows, past = self.rows(part), self.past
        period = int(self.periods.of[rows[0]])
        users = np.unique(self.log.user[rows])
        earlier = (past.period >= 0) & (past.period < period)
        keys = past.user[earlier].astype(np.int64) * TABS + past.tab[earlier]
        counts = np.bincount(keys, minlength=past.users * TABS).reshape(-1, TABS)[users]
        tab = np.where(counts.any(axis=1), counts.argmax(axis=1), _USUAL_TAB)
        context = self.context(users, np.full(len(users), period, np.int32), tab, np.full(len(users), _NOON))
        empty = np.zeros((len(users), 1), np.int32)
        labels = dict.fromkeys(TASKS, empty.astype(np.float32))
        requests = _batch(context, empty, Stage.PADDING, empty - 1, labels)
        seen = self.first_seen[users] <= period
        seen[:, 0] = True
        new = rows[self.first_seen[self.log.user[rows], self.log.item[rows]] > period]
        positives: Any = {task: self._positives(users, new[getattr(self.log, task)[new] > 0]) for task in TASKS}
        long_week = features.week_sums(past, past.long_view)[period]
        floors = {"popularity": np.exp(4.0 * self.daily[period, :, 2]) - 1.0, "popularity_7d": self.week[period]}
        return CatalogueView(
            requests=requests, positives=positives, seen=seen, popularity=floors | {"long_view_7d": long_week}
        )

    def _positives(self, users: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """[V, Q] distinct ids of the rows by user, 0 = padding."""
        pairs = np.unique(self.log.user[rows].astype(np.int64) * self.past.items + self.log.item[rows])
        row = np.searchsorted(users, pairs // self.past.items)
        begins = np.searchsorted(row, np.arange(len(users)))
        slot = np.arange(len(pairs)) - begins[row]
        table = np.zeros((len(users), int(slot.max(initial=0)) + 1), np.int32)
        table[row, slot] = pairs % self.past.items
        return table


def _summary(
    tables: Tables, periods: Periods, parts: dict[str, Any], views: dict[str, Any], random: RequestBatch | None
) -> str:
    lines = [
        f"KuaiRand-Pure: {tables.users.height} users, {tables.videos.height} videos; days in Asia/Shanghai; removed "
        f"{tables.duplicates} exact duplicates, merged {tables.conflicts} conflicting rows; "
        f"{len(tables.earlier.user)} earlier exposures from {tables.earlier_source}"
    ]
    for name, batch in parts.items():
        exposed = batch.stage == Stage.EXPOSED
        rates = ", ".join(f"{task} {label[exposed].mean():.3f}" for task, label in batch.labels.items())
        lines.append(f"{name} {periods.text[name]}: {len(exposed)} requests, {exposed.sum()} exposures ({rates})")
    kinds = {stage.name: (parts["train"].stage == stage).sum(axis=1).mean() for stage in Stage if stage > Stage.EXPOSED}
    lines.append("SIMULATED, items a training request: " + ", ".join(f"{name} {n:.1f}" for name, n in kinds.items()))
    if random is not None:
        lines.append(f"test, videos shown at random: {len(random.mask)} requests, {random.exposed.sum()} exposures")
    for name, view in views.items():
        counts = ", ".join(f"{(ids > 0).any(axis=1).sum()} with {task}" for task, ids in view.positives.items())
        lines.append(
            f"whole catalogue, {name}: {len(view.seen)} users, {counts}; unexposed is not known to be unwanted"
        )
    return "\n".join(lines)


def load(data_dir: str | Path, config: KuaiRandConfig = KuaiRandConfig()) -> KuaiRand:
    """Read, check, split and prepare everything; a pure function of the files and the configuration.

    Raises:
        UserError: one line naming the file and row, or the field, and what is accepted.

    """
    tables = read(data_dir)
    builder = _Builder(tables, config)
    parts = {"train": builder.train()}
    lists = {name: builder.lists(name) for name in ("validation", "test")}
    parts |= {name: builder.batch(found) for name, found in lists.items()}
    times = {name: builder.times(found) for name, found in (lists | {"train": builder.lists("train")}).items()}
    drawn = builder.random_lists()
    random = None if drawn is None else builder.batch(drawn)
    views = {name: builder.view(name) for name in ("validation", "test")}
    past, spec_items = builder.past, builder.past.items
    vocabulary = {"items.id": spec_items, "history.id": spec_items, "user.id": past.users}
    vocabulary |= {"user.categorical": builder.user_categories, "user.day": builder.periods.count}
    for batch in (*parts.values(), *([] if random is None else [random]), *(view.requests for view in views.values())):
        validate(batch, vocabulary)
    shown = np.bincount(tables.log.item[builder.rows("train")], minlength=spec_items).astype(np.float32)
    return KuaiRand(
        catalogue=Catalogue(
            users={"categorical": builder.user_table, "group": features.activity_groups(tables.users)},
            items=builder.items,
            daily=builder.daily,
        ),
        spec=FeatureSpec(
            users=past.users,
            items=spec_items,
            user_categories=builder.user_categories,
            item_categories=builder.item_categories,
            tasks=TASKS,
            history_groups=2,
            cross=features.CROSS,
        ),
        **parts,
        item_exposures=shown,
        views=views,
        summary=_summary(tables, builder.periods, parts, views, random),
        random=random,
        times=times,
    )
