"""Requests of KuaiRand-1K and KuaiRand-27K from all exposures of some users, and statistics of days gone by.

Axes: U requests, K slots, H history, P periods, n users, D days of the log. A period is a training day, the validation
period or the test period, and a first one holds the days before training, where there are any. Statistics of a period
count earlier days only and do not change within it: a user's rate that is refreshed inside an evaluated period leaks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from hccp_jax.data import lists
from hccp_jax.data.kuairand import TABS, hour_of_day
from hccp_jax.data.kuairand_features import (
    ITEM_PRIOR,
    USER_PRIOR,
    USER_STATISTICS,
    WEEK,
    logit,
    request_categories,
    smoothed,
)
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.data.store import columns_of

RARE = 1  # the item that all videos share which too few exposures have shown
MEASURES = ("exposures", "clicks", "long views")  # last axis of all sums


@dataclass(frozen=True)
class Periods:
    """The time split.

    Attributes:
        starts: [P] int32 first day of each period, ascending; the last two are validation and test.
        train: the first period whose requests are trained on.
    """

    starts: np.ndarray
    train: int

    @property
    def validation(self) -> int:
        """The validation period."""
        return len(self.starts) - 2

    def of(self, day: np.ndarray) -> np.ndarray:
        """[n] int32 period of each day."""
        return (np.searchsorted(self.starts, day, side="right") - 1).astype(np.int32)

    def part(self, name: str) -> tuple[int, int]:
        """First and last period of "train", "validation" or "test"."""
        last = len(self.starts) - 1
        return {"train": (self.train, last - 2), "validation": (last - 1, last - 1), "test": (last, last)}[name]


def before(starts: np.ndarray, days: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """[P, ...] what was summed [D, ...] by day, over the days before each period."""
    return np.stack([sums[days < start].sum(axis=0) for start in starts])


def merged(rows: pl.DataFrame, first: int) -> tuple[pl.DataFrame, int, int]:
    """Exposures sorted by user, time and video, each once.

    Args:
        rows: exposures.
        first: the first day that a row states: exposures in the last minutes before are in its file and of its day.

    Returns:
        the exposures, how many exact duplicates went, and how many rows were merged that agree in user, video and time
        only: a label is 1 if it is in any of them.
    """
    distinct = rows.unique()
    labels, rest = pl.col("click", "view").max(), pl.col("tab", "day").min()
    once = distinct.group_by("user", "time", "video").agg(labels, rest).sort("user", "time", "video")
    once = once.with_columns(pl.col("day").clip(lower_bound=first)).select(rows.columns)
    return once, rows.height - distinct.height, distinct.height - once.height


@dataclass(frozen=True)
class Events:
    """Exposures sorted by user, then time, each field [n]; `period` from `Periods`."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    day: np.ndarray
    period: np.ndarray
    tab: np.ndarray
    click: np.ndarray
    view: np.ndarray


def events(rows: pl.DataFrame, item_of: np.ndarray, periods: Periods) -> Events:
    """Exposures with items in place of published ids; a video that `item_of` does not reach is rare."""
    column = {name: rows[name].to_numpy() for name in rows.columns}
    inside = column["video"] < len(item_of)
    item = np.where(inside, item_of[np.where(inside, column["video"], 0)], RARE).astype(np.int32)
    known = {name: column[name] for name in ("user", "time", "day", "tab")}
    labels = {name: column[name].astype(np.float32) for name in ("click", "view")}
    return Events(item=item, period=periods.of(column["day"]), **known, **labels)


def user_statistics(past: np.ndarray, everyone: np.ndarray) -> np.ndarray:
    """[P, n, tabs, 6] float32 `USER_STATISTICS`, log-odds relative to the rate of everybody.

    A user's rate is smoothed to that of everybody, and the rate on a tab to that of everybody there.

    Args:
        past: [P, n, tabs, 3] MEASURES of each user before the period.
        everyone: [P, tabs, 3] those of all users together.
    """
    shown, whole = past[..., 0], everyone.sum(axis=1)
    found = np.empty((*shown.shape, len(USER_STATISTICS)), np.float32)
    for column, label in ((0, 1), (1, 2)):
        rate = smoothed(whole[:, label], whole[:, 0], 0.5, 2.0)
        tab_rate = smoothed(everyone[..., label], everyone[..., 0], rate[:, None], ITEM_PRIOR)
        own = smoothed(past[..., label].sum(axis=-1), shown.sum(axis=-1), rate[:, None], USER_PRIOR)
        on_tab = smoothed(past[..., label], shown, tab_rate[:, None], USER_PRIOR)
        found[..., column] = (logit(own) - logit(rate)[:, None])[..., None]
        found[..., column + 3] = logit(on_tab) - logit(rate)[:, None, None]
    found[..., 2] = (np.log1p(shown.sum(axis=-1)) / 4.0)[..., None]
    found[..., 5] = np.log1p(shown) / 4.0
    return found


def item_statistics(
    starts: np.ndarray,
    days: np.ndarray,
    daily: Callable[[int], Iterator[pl.DataFrame]],
    everyone: np.ndarray,
    items: int,
) -> Iterator[np.ndarray]:
    """`ITEM_STATISTICS` [items, 4] float32 of one period after the other, log-odds relative to the rate of all items.

    The rates of RARE are those of all rare videos together; it has no exposures of its own.

    Args:
        starts: [P] first days of the periods.
        days: of the log, ascending.
        daily: day -> frames with columns item, exposures, clicks and views.
        everyone: [P, tabs, 3] MEASURES of everything before each period.
        items: how many, with padding.
    """
    total = np.zeros((3, items), np.int32)
    week = np.zeros(items, np.int32)
    added: list[int] = []
    for start, world in zip(starts, everyone.sum(axis=1), strict=True):
        for day in [day for day in days if day < start and day not in added]:
            for frame in daily(day):
                item = frame["item"].to_numpy()
                for number, name in enumerate(("exposures", "clicks", "views")):
                    np.add.at(total[number], item, frame[name].to_numpy())
            added.append(day)
        week[:] = 0
        for day in [day for day in days if start - WEEK <= day < start]:
            for frame in daily(day):
                np.add.at(week, frame["item"].to_numpy(), frame["exposures"].to_numpy())
        yield _of_items(total, week, world)


def _of_items(total: np.ndarray, week: np.ndarray, world: np.ndarray) -> np.ndarray:
    table = np.empty((total.shape[1], 4), np.float32)
    for column in (0, 1):
        rate = smoothed(world[1 + column], world[0], 0.5, 2.0)
        table[:, column] = logit(smoothed(total[1 + column], total[0], rate, ITEM_PRIOR)) - logit(rate)
    table[:, 2], table[:, 3] = np.log1p(total[0]) / 4.0, np.log1p(week) / 4.0
    table[RARE, 2:] = 0.0
    table[0] = 0.0  # padding
    return table


class UserGroup:
    """All exposures of some users, as requests.

    Args:
        log: their exposures.
        days: [D] of the whole log.
        periods: the split.
        everyone: [P, tabs, 3], as in `user_statistics`.
        history: H.
        exposed: K.
    """

    def __init__(
        self, log: Events, days: np.ndarray, periods: Periods, everyone: np.ndarray, history: int, exposed: int
    ) -> None:
        self.log, self.history, self.exposed, self.periods = log, history, exposed, periods
        self.users, place = np.unique(log.user, return_inverse=True)
        shape = (len(days), len(self.users), TABS)
        key = (np.searchsorted(days, log.day).astype(np.int64) * shape[1] + place) * TABS + log.tab
        size = int(np.prod(shape))
        sums = [np.bincount(key, weights=weight, minlength=size) for weight in (None, log.click, log.view)]
        daily = np.stack(sums, axis=-1).reshape(*shape, len(MEASURES))
        # the last row is of a user without a past, who may still be in the log of videos shown at random
        past = np.pad(before(periods.starts, days, daily), ((0, 0), (0, 1), (0, 0), (0, 0)))
        self.statistics = user_statistics(past, everyone)

    def requests(self, asked: Events, part: str) -> dict[str, np.ndarray]:
        """Columns of a table of requests: lists by day, user and tab, cut to K, clicked items first (r^c).

        Args:
            asked: exposures of these users, of the log itself or another.
            part: "train", "validation" or "test"; others are left out.
        """
        low, high = self.periods.part(part)
        rows = np.flatnonzero((asked.period >= low) & (asked.period <= high))
        rows = rows[np.lexsort((asked.time[rows], asked.tab[rows], asked.user[rows], asked.day[rows]))]
        slots = lists.lists_by((asked.day[rows], asked.user[rows], asked.tab[rows]), self.exposed)
        first = rows[slots.first]
        order = lists.reordered(slots, slots.slot, -asked.click[rows])

        def filled(values: np.ndarray, empty: int = 0) -> Any:
            return lists.padded(slots, self.exposed, values[order], empty)

        ids = filled(asked.item[rows])
        mask = ids > 0
        stage: Any = np.where(mask, Stage.EXPOSED, Stage.PADDING).astype(np.int8)
        user, time = asked.user[first], asked.time[first]
        found: Any = lists.earlier(self.log.user, self.log.time, user, time, self.history)
        past, real = found
        history, then = self._history(past, real)
        batch = RequestBatch(
            user=self._user(user, asked.period[first], asked.tab[first], time),
            history=history,
            history_mask=real,
            items={"id": ids},
            cross=None,
            stage=stage,
            rank=filled(slots.slot.astype(np.int32), -1),
            labels={"click": filled(asked.click[rows]), "long_view": filled(asked.view[rows])},
            teacher={},
            mask=mask,
        )
        return {**columns_of(batch), "request_time": time, "history_time": then}

    def _user(self, user: np.ndarray, period: np.ndarray, tab: np.ndarray, time: np.ndarray) -> dict[str, Any]:
        place = np.searchsorted(self.users, user)
        known = np.append(self.users, -1)[place] == user
        place = np.where(known, place, len(self.users))
        return {
            "id": user,
            "day": period,
            "categorical": request_categories(tab, hour_of_day(time)),
            "dense": self.statistics[period, place, tab],
        }

    def _history(self, past: np.ndarray, real: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
        """The history fields of a batch, and [U, H] int64 times."""

        def of(values: np.ndarray) -> np.ndarray:
            return np.where(real, np.pad(values, (0, 1))[past], 0)  # one more, for a group without any exposure

        groups = np.stack([real, of(self.log.view)], axis=-1).astype(np.float32)
        return {"id": of(self.log.item), "groups": groups}, of(self.log.time)
