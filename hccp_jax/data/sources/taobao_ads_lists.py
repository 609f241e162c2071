"""Lists of Taobao's display ads: what a bucket of users becomes, a pure function of its rows.

Axes: n impressions of the bucket, U lists, K slots, H history.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from hccp_jax.data import lists
from hccp_jax.data.guards import HISTORY_TIME, TIME
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.data.sources.bucket_shards import Made
from hccp_jax.data.store import columns_of
from hccp_jax.errors import UserError

ZONE, HOURS, BEHAVIOUR_DAYS = 8, 24, 22
CROSS = ("category views", "category intents", "brand views", "brand intents")
_DAY, _EPOCH = 24 * 3600, date(1970, 1, 1)
_TIME_BITS = 21  # seconds of BEHAVIOUR_DAYS


@dataclass(frozen=True)
class Period:
    """The days of the parts, in UTC+8, as days since 1970; each part ends where the next begins."""

    first: int
    validation: int
    test: int

    @classmethod
    def of(cls, config: Any) -> "Period":
        """The days that a `TaobaoAdsConfig` names."""
        found = {name: _day(name, getattr(config, name)) for name in ("first_day", "test_day")}
        validation = found["test_day"] - config.validation_days
        if validation <= found["first_day"]:
            raise UserError(
                f"test_day={config.test_day}: expected at least {config.validation_days + 1} days after "
                f"first_day={config.first_day}, for training and validation"
            )
        return cls(found["first_day"], validation, found["test_day"])

    @property
    def begin(self) -> int:
        """First second of training."""
        return self.first * _DAY - ZONE * 3600

    @property
    def end(self) -> int:
        """The second after the test."""
        return (self.test + 1) * _DAY - ZONE * 3600

    @property
    def behaviours_begin(self) -> int:
        """First second of the behaviours that count."""
        return self.end - BEHAVIOUR_DAYS * _DAY

    def parts(self, day: np.ndarray) -> dict[str, np.ndarray]:
        """Part -> [U] bool, of days."""
        return {
            "train": day < self.validation,
            "validation": (day >= self.validation) & (day < self.test),
            "test": day == self.test,
        }

    def words(self, part: str) -> str:
        """The days of a part."""
        begin, end = {
            "train": (self.first, self.validation),
            "validation": (self.validation, self.test),
            "test": (self.test, self.test + 1),
        }[part]
        return f"from {_EPOCH + timedelta(begin)} to {_EPOCH + timedelta(end - 1)} (UTC+{ZONE}), the {part} part"


@dataclass(frozen=True)
class Known:
    """What all buckets share.

    Attributes:
        users: [users] int32 published ids, ascending; the id in a store is the place, from 1.
        ads: [ads] int32 likewise.
        category: [ads] int32 published category, -1 unknown.
        brand: [ads] int32 likewise.
        pids: positions, in the order of their codes.
        context: first of a list's own codes in the vocabulary of users: hours, then positions.
        user_categories: size of that vocabulary.
        item_categories: size of the vocabulary of ads' fields.
    """

    users: np.ndarray
    ads: np.ndarray
    category: np.ndarray
    brand: np.ndarray
    pids: tuple[str, ...]
    context: int
    user_categories: int
    item_categories: int


def _day(name: str, text: str) -> int:
    try:
        return (datetime.strptime(text, "%Y%m%d").date() - _EPOCH).days
    except ValueError:
        raise UserError(f"{name}={text!r}: expected a date YYYYMMDD") from None


def _distinct(rows: pl.DataFrame, pids: tuple[str, ...]) -> tuple[pl.DataFrame, dict[str, int]]:
    """Each impression once, by user and time, with codes of positions."""
    keys = ["user", "time_stamp", "adgroup_id", "pid"]
    click = pl.col("click")
    code = pl.col("pid").replace_strict(list(pids), list(range(len(pids))), return_dtype=pl.Int8)
    rows = rows.with_columns(code)
    impressions = rows.group_by(keys).agg(click.max(), both=click.min() < click.max()).sort(keys)
    conflicts = int(impressions["both"].sum())
    counts = {"duplicates": rows.height - impressions.height - conflicts, "conflicts": conflicts}
    return impressions, counts


def requests(rows: pl.DataFrame, past: pl.DataFrame | None, known: Known, period: Period, config: Any) -> Made:
    """Lists of the users of a bucket.

    Args:
        rows: "user", "adgroup_id", "time_stamp" in seconds, "pid", "click", in any order.
        past: behaviours of these users and perhaps others; None where there are none or none are wanted.
        known: the vocabularies.
        period: days of the parts.
        config: a `TaobaoAdsConfig`.
    """
    frame, counts = _distinct(rows, known.pids)
    user = np.searchsorted(known.users, frame["user"].to_numpy()) + 1
    ad = np.searchsorted(known.ads, frame["adgroup_id"].to_numpy()) + 1
    seconds, click = frame["time_stamp"].to_numpy(), frame["click"].to_numpy()
    time = seconds * 1000
    day = lists.local_day(time, ZONE)
    # a list within a day also where it ends by a pause: parts are days, and a list is in one part
    gap = (time, config.gap_minutes * 60_000) if config.lists == "gap" else None
    slots = lists.lists_by((user, day), config.width, gap)
    first, order = slots.first, lists.reordered(slots, slots.slot, -click)
    history, real, history_time = _history(user, ad, time, click, first, config)
    before = seconds[first][slots.row]
    cross = _cross(past, known, period, user, ad, before) if config.behaviours else None
    hour, pid = (seconds[first] // 3600 + ZONE) % HOURS, frame["pid"].to_numpy()[first]
    context = known.context + np.stack([hour, HOURS + pid], axis=1).astype(np.int32)

    def padded(values: np.ndarray, empty: int = 0) -> Any:
        return lists.padded(slots, config.width, values[order], empty)

    batch_fields: dict[str, Any] = {
        "user": {"id": user[first].astype(np.int32), "categorical": context},
        "history": {"id": history, "groups": real[..., None].astype(np.float32)},
        "history_mask": real,
        "items": {"id": padded(ad.astype(np.int32))},
        "cross": None if cross is None else padded(cross),
        "stage": padded(np.full(len(user), Stage.EXPOSED, np.int8)),
        "rank": padded(slots.slot.astype(np.int32), -1),
        "labels": {"click": padded(click.astype(np.float32))},
        "mask": padded(np.ones(len(user), bool)),
    }
    batch = RequestBatch(**batch_fields, teacher={})
    columns = {**columns_of(batch), TIME: time[first], HISTORY_TIME: history_time}
    parts = {
        part: {name: column[chosen] for name, column in columns.items()}
        for part, chosen in period.parts(day[first]).items()
    }
    pairs = np.sort(slots.row * (len(known.ads) + 1) + ad)
    return Made(parts, counts | {"repeated": int((np.diff(pairs) == 0).sum())})


def _history(
    user: np.ndarray, ad: np.ndarray, time: np.ndarray, click: np.ndarray, first: np.ndarray, config: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids [U, H] int32 of the last ads strictly before a list begins, which are real, and their times."""
    kept = click > 0 if config.history_of == "clicks" else np.ones(len(user), bool)
    events, real = lists.earlier(user[kept], time[kept], user[first], time[first], config.history)
    # one more event, so that a bucket without any can be asked
    ids, times = np.append(ad[kept], 0)[events], np.append(time[kept], 0)[events]
    return np.where(real, ids, 0).astype(np.int32), real, np.where(real, times, 0)


def _cross(
    past: pl.DataFrame | None, known: Known, period: Period, user: np.ndarray, ad: np.ndarray, before: np.ndarray
) -> np.ndarray:
    """[n, CROSS] float32: log of one plus a user's behaviours in an ad's category and brand before a second.

    Views are "pv", intents "cart", "fav" and "buy".
    """
    out = np.zeros((len(user), len(CROSS)), np.float32)
    if past is None:
        return out
    people = np.unique(user)  # of this bucket: numbers small enough to lie with a category and a time in 63 bits
    who = np.searchsorted(people, user)
    owner = np.searchsorted(known.users[people - 1], past["user"].to_numpy())
    owner_known = known.users[people - 1][np.minimum(owner, len(people) - 1)] == past["user"].to_numpy()
    until = np.maximum(before - period.behaviours_begin, 0)
    for number, (column, wanted) in enumerate((("cate", known.category[ad - 1]), ("brand", known.brand[ad - 1]))):
        values = np.unique(wanted)
        theirs = past[column].to_numpy()
        code = np.minimum(np.searchsorted(values, theirs), len(values) - 1)
        counts = owner_known & (values[code] == theirs) & (theirs >= 0)
        event = ((owner * len(values) + code) << _TIME_BITS) + past["time"].to_numpy()
        begin = (who * len(values) + np.searchsorted(values, wanted)) << _TIME_BITS
        for place, intent in enumerate((False, True)):
            chosen = np.sort(event[counts & (past["intent"].to_numpy() == intent)])
            found = np.searchsorted(chosen, begin + until) - np.searchsorted(chosen, begin)
            out[:, 2 * number + place] = np.log1p(found)
    return out
