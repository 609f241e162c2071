"""Features of KuaiRand: static tables, and statistics that look at earlier periods only.

A period is a training day, the validation period or the test period (`kuairand.Periods`). Every statistic of a period
counts rows of earlier periods: a rate that is refreshed inside the evaluated period leaks (GAUC by user falls to .36).
Axes: U requests, H history, A slots of first tags, P periods, S item statistics, D dense user features.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from hccp_jax.data.fields import codes, side_by_side
from hccp_jax.data.kuairand import TABS, USER_FIELDS, Exposures, Periods, Tables
from hccp_jax.data.requests import RequestBatch

ITEM_PRIOR = 20.0  # exposures that the global rate counts for in an item's or a tab's rate
USER_PRIOR = 10.0  # the same for a user's rate, and for the tab's rate in a user's rate on that tab
TAG_PRIOR = 5.0  # the same for a user's taste for a tag
WEEK = 7
ITEM_STATISTICS = ("click rate", "long-view rate", "log exposures", "log exposures of 7 days")
USER_STATISTICS = ("click rate", "long-view rate", "log count", "tab click rate", "tab long-view rate", "tab log count")
ACTIVITY = ("full_active", "high_active", "middle_active", "low_active")  # user groups 0-3; 4 is anything else
CROSS = 2  # F of `cross_features`
_TAB, _HOUR, _STATIC = 1, 1 + TABS, 1 + TABS + 24  # first ids of the fields of the user vocabulary
_DURATION_SECONDS = (7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300)


def encode_users(users: pl.DataFrame) -> tuple[np.ndarray, int]:
    """Static user fields, the 64 most frequent values of each: [users, C] int32, and the vocabulary size.

    The vocabulary begins with the request's own fields, tab and hour: see `request_categories`.
    """
    return side_by_side([codes(users[name]) for name in USER_FIELDS], _STATIC)


def activity_groups(users: pl.DataFrame) -> Any:
    """[users] int32 group of each user by how often the user comes, 0 the most often; row 0 is padding."""
    known = users["user_active_degree"].cast(pl.String)
    groups = known.replace_strict(ACTIVITY, range(len(ACTIVITY)), default=len(ACTIVITY), return_dtype=pl.Int32)
    return np.pad(groups.to_numpy(), (1, 0), constant_values=len(ACTIVITY))


def request_categories(tab: np.ndarray, hour: np.ndarray) -> np.ndarray:
    """[U, 2] int32 ids of tab and hour of day in the user vocabulary."""
    return np.stack([_TAB + tab, _HOUR + hour], axis=1).astype(np.int32)


def encode_items(videos: pl.DataFrame, first_day: int) -> tuple[dict[str, np.ndarray], int, int]:
    """Item tables, vocabulary size, and A: the number of first-tag ids, which are 1..A in categorical column 0.

    "categorical" [items, 6]: first tag, author (own id from three videos on, one id for the rest), video type, upload
    type, music type, duration bucket. "dense" [items, 2]: log seconds, age in days at `first_day`; both about O(1).
    """
    seconds = videos["video_duration"].to_numpy() / 1000.0
    bucket = np.where(np.isnan(seconds), 0, 1 + np.searchsorted(_DURATION_SECONDS, seconds)).astype(np.int32)
    tags = codes(videos["tag"].str.split(",").list.first(), keep=254, at_least=5)
    columns = [tags, codes(videos["author_id"], keep=1022, at_least=3)]
    columns += [codes(videos[name]) for name in ("video_type", "upload_type", "music_type")]
    categorical, size = side_by_side([*columns, (bucket, 2 + len(_DURATION_SECONDS))], 1)
    age = np.clip(first_day - videos["upload_dt"].cast(pl.Int32).to_numpy(), 0, 60) / 30.0
    log_seconds = np.where(np.isnan(seconds), 0.0, np.log(np.fmax(seconds, 1.0)) - 3.5)
    dense = np.pad(np.stack([log_seconds, age], axis=1), ((1, 0), (0, 0))).astype(np.float32)
    return {"categorical": categorical, "dense": dense}, size, tags[1]


def logit(rate: np.ndarray) -> np.ndarray:
    """Log-odds of rates, cut at 1 % and 99 %."""
    clipped = np.clip(rate, 0.01, 0.99)
    return np.log(clipped) - np.log1p(-clipped)


def smoothed(total: np.ndarray, count: np.ndarray, prior: np.ndarray | float, strength: float) -> np.ndarray:
    """Rates of so many among so many, as if `strength` more had been seen at the prior rate."""
    return (total + strength * prior) / (count + strength)


@dataclass(frozen=True)
class Past:
    """Every exposure sorted by user, then time; earlier ones have period -1 and no click label or tab.

    Attributes:
        user, item: [n] int32 ids.
        period: [n] int32.
        tab, click, long_view: [n], as in `Exposures`.
        ends: [users + 1, P + 1] int64, `ends[u, p]` is the end of the events of user u with period < p.
        begins: [users + 1] int64.
        day: [n] int32, 0 in earlier exposures.
        time: [n] int64 milliseconds, 0 in earlier exposures.
        starts: [P] int32, first day of each period.
        users, items: table sizes with the padding row.
    """

    user: np.ndarray
    item: np.ndarray
    period: np.ndarray
    tab: np.ndarray
    click: np.ndarray
    long_view: np.ndarray
    day: np.ndarray
    time: np.ndarray
    starts: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    users: int
    items: int

    @property
    def periods(self) -> int:
        """P."""
        return len(self.starts)


def collect(tables: Tables, periods: Periods) -> Past:
    """Join the earlier exposures and the log."""
    users, items, count = tables.users.height + 1, tables.videos.height + 1, periods.count
    earlier, log = tables.earlier, tables.log

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(earlier, name), getattr(log, name)])

    period = np.concatenate([np.full(len(earlier.user), -1, np.int32), periods.of])
    user = joined("user")
    order = np.argsort(user, kind="stable")
    per_period = np.bincount(user.astype(np.int64) * (count + 1) + period + 1, minlength=users * (count + 1))
    ends = np.cumsum(per_period).reshape(users, count + 1)
    begins = np.concatenate([[0], ends[:-1, -1]])
    fields: dict[str, Any] = {name: joined(name)[order] for name in Exposures.__dataclass_fields__}
    return Past(
        period=period[order], starts=periods.starts, begins=begins, ends=ends, users=users, items=items, **fields
    )


def past_sums(past: Past, key: np.ndarray, size: int, weight: np.ndarray, *, log_only: bool = False) -> np.ndarray:
    """[P, size] float32 sums of `weight` by `key` over the rows of earlier periods."""
    weight = np.where(past.period >= 0, weight, 0.0) if log_only else weight
    flat = (past.period.astype(np.int64) + 1) * size + key
    table = np.bincount(flat, weights=weight, minlength=(past.periods + 1) * size).reshape(past.periods + 1, size)
    return np.cumsum(table, axis=0)[: past.periods].astype(np.float32)


def week_sums(past: Past, weight: np.ndarray) -> np.ndarray:
    """[P, items] float32 sums by item over the log's last seven days before each period (earlier rows have no day)."""
    sums = []
    for period, start in enumerate(past.starts):
        rows = (past.period >= 0) & (past.period < period) & (past.day >= start - WEEK)
        sums.append(np.bincount(past.item[rows], weights=weight[rows], minlength=past.items))
    return np.stack(sums).astype(np.float32)


def _global_rate(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """[P, 1] float32 rate of earlier periods, .5 where there is nothing yet."""
    return smoothed(total.sum(axis=1, keepdims=True), count.sum(axis=1, keepdims=True), 0.5, 2.0)


def item_statistics(past: Past) -> np.ndarray:
    """[P, items, S] float32: `ITEM_STATISTICS`; rates as log-odds relative to the global rate, smoothed by 20."""
    one = np.ones(len(past.item), np.float32)
    seen = past_sums(past, past.item, past.items, one)
    labelled = past_sums(past, past.item, past.items, one, log_only=True)
    columns = []
    for label, count in ((past.click, labelled), (past.long_view, seen)):
        total = past_sums(past, past.item, past.items, label)
        rate = _global_rate(total, count)
        columns.append(logit(smoothed(total, count, rate, ITEM_PRIOR)) - logit(rate))
    columns += [np.log1p(seen) / 4.0, np.log1p(week_sums(past, one)) / 4.0]
    table = np.stack(columns, axis=-1).astype(np.float32)
    table[:, 0] = 0.0  # padding
    return table


def user_statistics(past: Past) -> np.ndarray:
    """[P, users, tabs, D] float32: `USER_STATISTICS`, log-odds relative to the global rate; the tab's rate is shrunk.

    A user's rate is smoothed to the global one, the rate on a tab to that tab's rate over all users. Clicks and tabs
    are known in the log only; long views of earlier exposures count for the user, not for the tab.
    """
    periods, users = past.periods, past.users
    one = np.ones(len(past.user), np.float32)
    by_tab = past.user.astype(np.int64) * TABS + past.tab

    def sums(weight: np.ndarray) -> np.ndarray:
        return past_sums(past, by_tab, users * TABS, weight, log_only=True).reshape(periods, users, TABS)

    tab_count = sums(one)
    seen = past_sums(past, past.user, users, one)
    out = np.empty((periods, users, TABS, len(USER_STATISTICS)), np.float32)
    for column, label, count in ((0, past.click, tab_count.sum(axis=-1)), (1, past.long_view, seen)):
        total = past_sums(past, past.user, users, label)
        rate = _global_rate(total, count)
        out[..., column] = (logit(smoothed(total, count, rate, USER_PRIOR)) - logit(rate))[..., None]
        tab_total = sums(label)
        tab_rate = smoothed(tab_total.sum(axis=1), tab_count.sum(axis=1), rate, ITEM_PRIOR)[:, None]
        own = smoothed(tab_total, tab_count, tab_rate, USER_PRIOR)
        out[..., column + 3] = logit(own) - logit(rate)[..., None]
    out[..., 2] = (np.log1p(seen) / 4.0)[..., None]
    out[..., 5] = np.log1p(tab_count) / 4.0
    return out


def histories(
    past: Past, user: np.ndarray, period: np.ndarray, length: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The last `length` exposures before the period, oldest first, real ones at the end.

    Returns:
        {"id": [U, H] int32, "groups": [U, H, 2] float32 (1 for a real item, its long-view flag)}, mask [U, H] bool.
    """
    where, mask = _last(past, user, period, length)
    groups = np.stack([mask, np.where(mask, past.long_view[where], 0.0)], axis=-1).astype(np.float32)
    return {"id": np.where(mask, past.item[where], 0).astype(np.int32), "groups": groups}, mask


def history_times(past: Past, user: np.ndarray, period: np.ndarray, length: int) -> np.ndarray:
    """[U, H] int64 times of `histories`, 0 where there is none or it is not known."""
    where, mask = _last(past, user, period, length)
    return np.where(mask, past.time[where], 0)


def _last(past: Past, user: np.ndarray, period: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [U, H] of the last exposures before the period, 0 where there is none, and whether there is one."""
    where = past.ends[user, period][:, None] - length + np.arange(length)
    mask = where >= past.begins[user][:, None]
    return np.where(mask, where, 0), mask


def affinities(past: Past, user: np.ndarray, period: np.ndarray, tag: np.ndarray, tags: int) -> np.ndarray:
    """[U, A, 2] float32 taste for each first tag from all exposures before the period.

    Column 0: log of the tag's smoothed share of the user's exposures over its share for everybody; column 1: log-odds
    of the smoothed long-view rate within the tag minus those of the user's own rate. A user without a past gets zeros.

    Args:
        past: all exposures.
        user: [U] int32.
        period: [U] int32.
        tag: [items] int32 slot of each item in [0, A); anything for padding.
        tags: A.
    """
    pairs, inverse = np.unique(user.astype(np.int64) * past.periods + period, return_inverse=True)
    begin, end = past.begins[pairs // past.periods], past.ends[pairs // past.periods, pairs % past.periods]
    count = end - begin
    pair = np.repeat(np.arange(len(pairs)), count)
    event = np.arange(len(pair)) + np.repeat(begin - (np.cumsum(count) - count), count)
    key, size = pair * tags + tag[past.item[event]], len(pairs) * tags
    shown = np.bincount(key, minlength=size).reshape(-1, tags).astype(np.float32)
    viewed = np.bincount(key, weights=past.long_view[event], minlength=size).reshape(-1, tags).astype(np.float32)
    tag_counts = past_sums(past, tag[past.item], tags, np.ones(len(past.item), np.float32))
    share = ((tag_counts + 1.0) / (tag_counts + 1.0).sum(axis=1, keepdims=True))[pairs % past.periods]
    total = count[:, None].astype(np.float32)
    lift = np.log(smoothed(shown, total, share, TAG_PRIOR) / share)
    # (n p + strength p) / (n + strength) is p only up to rounding, so say it for users without a past
    lift = np.where(total > 0, lift, 0.0)
    own = smoothed(viewed.sum(axis=1, keepdims=True), total, 0.35, USER_PRIOR)
    taste = logit(smoothed(viewed, shown, own, TAG_PRIOR)) - logit(own)
    return np.stack([lift, taste], axis=-1).astype(np.float32)[inverse]


def cross_features(batch: RequestBatch) -> jax.Array:
    """[U, K, `CROSS`] float32: the user's affinity to each item's first tag, 0 for padding; for a batch after `attach`.

    Whether the item or its author was seen before is left out: the simulated stages never hold a seen item, so such a
    flag would give exposures away, and nearly every author has one video.
    """
    slot = batch.items["categorical"][..., 0] - 1
    gathered = jnp.take_along_axis(batch.user["affinity"], jnp.maximum(slot, 0)[..., None], axis=1)
    return jnp.where(slot[..., None] >= 0, gathered, 0.0)
