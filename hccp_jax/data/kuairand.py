"""KuaiRand-Pure (Gao et al., CIKM 2022; CC BY-SA 4.0): read the published files, check every value, split by time.

Facts of the files that decide what is done here:

* `date` and `hourmin` are those of the hourly log file, up to three hours after the exposure; only `time_ms` orders
  exposures. Days are therefore taken from `time_ms` in Asia/Shanghai, and `date` is only checked to agree within a day.
* About 2 % of the rows are exact duplicates; a few more repeat (user, video, time) and differ elsewhere.
* There is no request id and no item below exposure.
"""

import itertools
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from hccp_jax.config import field
from hccp_jax.data.kuairand_files import find, integers, read_text, refuse, required
from hccp_jax.errors import UserError

LOG = "log_standard_4_22_to_5_08_pure.csv"
EARLIER_LOG = "log_standard_4_08_to_4_21_pure.csv"
RANDOM_LOG = "log_random_4_22_to_5_08_pure.csv"
EARLIER_DERIVED = "history_0408_0424.csv"
USERS = "user_features_pure.csv"
VIDEOS = "video_features_basic_pure.csv"
DERIVED_END = date(2022, 4, 24)  # the last day that the derived history covers
TABS = 15
USER_FIELDS = (
    *("user_active_degree", "is_live_streamer", "is_video_author", "follow_user_num_range", "fans_user_num_range"),
    *("friend_user_num_range", "register_days_range"),
    *(f"onehot_feat{i}" for i in range(18)),
)
_LOG_INTEGERS = ("user_id", "video_id", "date", "time_ms", "is_click", "long_view", "tab")
_SHANGHAI_MS = 8 * 3_600_000  # no daylight saving time in 2022
_DAY_MS = 24 * 3_600_000


@dataclass(frozen=True)
class KuaiRandConfig:
    """How the log becomes requests. Stages below exposure are simulated: see `kuairand_cascade`."""

    test_from: str = field("20220505", "first day of the test period, YYYYMMDD in Asia/Shanghai")
    validation_days: int = field(1, "days before the test period that form the validation period", at_least=1)
    history: int = field(30, "earlier exposures kept as history", at_least=1)
    exposed: int = field(8, "exposures in one request; longer lists are split", at_least=1)
    ranked: int = field(10, "simulated N2 items in a training request", at_least=1)
    preranked: int = field(10, "simulated N3 items in a training request", at_least=1)
    pool: int = field(10, "simulated N5 items in a training request", at_least=1)
    candidates: int = field(800, "simulated retrieval draws; about 3 in 4 are distinct and unseen", at_least=1)
    to_ranking: int = field(120, "simulated candidates that the pre-ranker lets through", at_least=35)
    seed: int = field(0, "seed of the simulated cascade", at_least=0)


@dataclass(frozen=True)
class Exposures:
    """Distinct exposures in time order, each field [n]. Ids are the published ones plus 1; day is days since 1970."""

    user: np.ndarray  # int32
    item: np.ndarray  # int32
    time: np.ndarray  # int64 milliseconds; 0 in earlier exposures, whose day is unknown
    day: np.ndarray  # int32
    tab: np.ndarray  # int32, 0..14
    click: np.ndarray  # float32
    long_view: np.ndarray  # float32


@dataclass(frozen=True)
class Tables:
    """The checked files: `users` and `videos` sorted by id, the log, and exposures before it (in order, undated).

    `random` are the exposures of videos chosen at random, which a ranker did not choose; None where the file is absent.
    """

    users: pl.DataFrame
    videos: pl.DataFrame
    log: Exposures
    earlier: Exposures
    earlier_source: str
    duplicates: int
    conflicts: int
    random: Exposures | None = None


@dataclass(frozen=True)
class Periods:
    """The time split: training days, then one validation and one test period, for each of which features are frozen.

    Attributes:
        of: [n] int32 period of each exposure of the log; 0..training-1 are training days.
        training: number of training days; the validation period is `training`, the test period `training + 1`.
        starts: [periods] int32 first day of each period.
        text: "first..last" dates of the three parts.
    """

    of: np.ndarray
    training: int
    starts: np.ndarray
    text: dict[str, str]

    @property
    def count(self) -> int:
        """Periods in all."""
        return self.training + 2


def _dense_ids(path: Path, frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """Sort by id; the published ids are 0..n-1, once each."""
    ids = integers(path, frame, {name: (0, frame.height - 1)})[name]
    refuse(path, frame[name], ids.is_duplicated(), "each id once")
    return frame.with_columns(ids).sort(name)


def read_users(data_dir: str | Path) -> pl.DataFrame:
    """User table sorted by id, categorical fields as text with null where missing."""
    path = required(data_dir, USERS)
    return _dense_ids(path, read_text(path, ("user_id", *USER_FIELDS)), "user_id")


def read_videos(data_dir: str | Path) -> pl.DataFrame:
    """Video table sorted by id: `author_id` Int64, `upload_dt` Date, `video_duration` Float64 (null where missing)."""
    path = required(data_dir, VIDEOS)
    names = ("video_id", "author_id", "video_type", "upload_dt", "upload_type", "video_duration", "music_type", "tag")
    text = read_text(path, names)
    uploaded = text["upload_dt"].str.to_date("%Y-%m-%d", strict=False)
    refuse(path, text["upload_dt"], uploaded.is_null(), "a date YYYY-MM-DD")
    duration = text["video_duration"].cast(pl.Float64, strict=False)
    good = duration.is_between(1.0, 1e9).fill_null(False) | text["video_duration"].is_null()
    refuse(path, text["video_duration"], ~good, "milliseconds in [1, 1e9] or nothing")
    author = integers(path, text, {"author_id": (0, 2**62)})
    return _dense_ids(path, text.with_columns(uploaded, duration, *author), "video_id")


def _read_log(path: Path, users: int, videos: int) -> tuple[pl.DataFrame, int, int]:
    text = read_text(path, _LOG_INTEGERS)
    ids = {"user_id": (0, users - 1), "video_id": (0, videos - 1)}
    limits = ids | {"date": (20000101, 20991231), "time_ms": (10**11, 10**13), "is_click": (0, 1), "long_view": (0, 1)}
    log = integers(path, text, limits | {"tab": (0, TABS - 1)})
    stated = text["date"].str.to_date("%Y%m%d", strict=False)
    refuse(path, text["date"], stated.is_null(), "a date YYYYMMDD")
    local = ((log["time_ms"] + _SHANGHAI_MS) // _DAY_MS).cast(pl.Int32)
    apart = (stated.cast(pl.Int32) - local).abs() > 1
    refuse(path, text["date"], apart, "at most a day from time_ms in Asia/Shanghai")
    # exposures in the last minutes before the first hourly file belong to its day, not to a day of their own
    first = stated.cast(pl.Int32).to_numpy().min()
    day = pl.Series("day", np.maximum(local.to_numpy(), first))
    distinct = text.with_columns(*log, day).unique()
    merged = distinct.group_by("user_id", "video_id", "time_ms").agg(
        pl.col("is_click", "long_view").max(), pl.col("tab", "day").min()
    )
    merged = merged.sort("time_ms", "user_id", "video_id")
    return merged, text.height - distinct.height, distinct.height - merged.height


def _exposures(frame: pl.DataFrame) -> Exposures:
    def column(name: str, kind: type) -> np.ndarray:
        return frame[name].to_numpy().astype(kind)

    return Exposures(
        user=column("user_id", np.int32) + 1,
        item=column("video_id", np.int32) + 1,
        time=column("time_ms", np.int64),
        day=column("day", np.int32),
        tab=column("tab", np.int32),
        click=column("is_click", np.float32),
        long_view=column("long_view", np.float32),
    )


def _read_earlier(data_dir: str | Path, users: int, videos: int, log: Exposures) -> tuple[Exposures, str]:
    """Exposures before the log, in order; both sources are used for their order and long-view flag only."""
    path = find(data_dir, EARLIER_LOG)
    if path is not None:
        frame, _, _ = _read_log(path, users, videos)
        if frame["time_ms"].max() >= log.time.min():
            raise UserError(f"{path.name}: row {frame.height}: not earlier than the first row of {LOG}")
    else:
        path = find(data_dir, EARLIER_DERIVED)
        if path is None:
            columns = ("user_id", "video_id", "time_ms", "long_view")
            frame = pl.DataFrame({name: np.zeros(0, np.int64) for name in columns})
        else:
            text = read_text(path, ("user_id", "video_id", "pos", "long_watch"))
            limits = {"user_id": (0, users - 1), "video_id": (0, videos - 1), "pos": (0, 10**9), "long_watch": (0, 1)}
            frame = integers(path, text, limits).sort("user_id", "pos").rename({"long_watch": "long_view"})
            if log.day.min() <= (DERIVED_END - date(1970, 1, 1)).days:
                raise UserError(f"{path.name}: row 1: covers days to {DERIVED_END}, which {LOG} holds as well")
    undated = pl.lit(0).alias
    frame = frame.with_columns(undated("time_ms"), undated("day"), undated("tab"), undated("is_click"))
    return _exposures(frame), "none" if path is None else path.name


def read(data_dir: str | Path) -> Tables:
    """Read and check all files.

    Raises:
        UserError: one line naming the file, the row (1 is the first after the header) and what is accepted.

    """
    users, videos = read_users(data_dir), read_videos(data_dir)
    frame, duplicates, conflicts = _read_log(required(data_dir, LOG), users.height, videos.height)
    log = _exposures(frame)
    earlier, source = _read_earlier(data_dir, users.height, videos.height, log)
    path = find(data_dir, RANDOM_LOG)
    random = None if path is None else _exposures(_read_log(path, users.height, videos.height)[0])
    return Tables(users, videos, log, earlier, source, duplicates, conflicts, random)


def check_order(parts: dict[str, np.ndarray]) -> None:
    """Raise unless every timestamp of a part is smaller than every timestamp of the next part."""
    names = list(parts)
    for before, after in itertools.pairwise(names):
        if parts[before].max() >= parts[after].min():
            raise UserError(f"{before} has time_ms={parts[before].max()}, not before {after}: {parts[after].min()}")


def split(log: Exposures, config: KuaiRandConfig) -> Periods:
    """Training days, validation period and test period by date, with the order of their timestamps asserted."""
    days = np.unique(log.day)
    dates = [date.fromordinal(date(1970, 1, 1).toordinal() + int(day)) for day in days]
    last_start = dates[-1].strftime("%Y%m%d")
    need = config.validation_days + 1
    try:
        test_from = datetime.strptime(config.test_from, "%Y%m%d").date()
    except ValueError:
        raise UserError(f"test_from={config.test_from!r}: expected a date YYYYMMDD") from None
    first_test = sum(day < test_from for day in dates)
    if first_test < need or first_test == len(dates):
        bounds = f"{dates[need].strftime('%Y%m%d')} to {last_start}" if need < len(dates) else "a longer log"
        raise UserError(f"test_from={config.test_from}, validation_days={need - 1}: expected {bounds}")
    training = first_test - config.validation_days
    firsts = [*range(training), training, first_test]
    starts = days[firsts].astype(np.int32)
    of = (np.searchsorted(starts, log.day, side="right") - 1).astype(np.int32)
    ends = {"train": (0, training - 1), "validation": (training, first_test - 1), "test": (first_test, len(dates) - 1)}
    groups = {"train": of < training, "validation": of == training, "test": of == training + 1}
    check_order({name: log.time[rows] for name, rows in groups.items()})
    return Periods(of, training, starts, {name: f"{dates[a]}..{dates[b]}" for name, (a, b) in ends.items()})


def hour_of_day(time_ms: np.ndarray) -> np.ndarray:
    """Hour in Asia/Shanghai."""
    return (time_ms + _SHANGHAI_MS) % _DAY_MS // 3_600_000


class Lists(NamedTuple):
    """Exposures as requests in day order: [U] user, period, day, tab, part (of a split list), hour; [U, R] the rest.

    `time` [U] is that of the first exposure, in milliseconds.
    """

    user: np.ndarray
    period: np.ndarray
    day: np.ndarray
    tab: np.ndarray
    part: np.ndarray
    hour: np.ndarray
    time: np.ndarray
    ids: np.ndarray
    rank: np.ndarray
    labels: dict[str, np.ndarray]


def group(log: Exposures, period: np.ndarray, rows: np.ndarray, exposed: int) -> Lists:
    """Lists by (day, user, tab), in time order cut into parts of `exposed`, stored clicked first (r^c)."""
    order = rows[np.lexsort((log.item[rows], log.time[rows], log.tab[rows], log.user[rows], log.day[rows]))]
    key = (log.day[order].astype(np.int64) * (1 << 32) + log.user[order]) * TABS + log.tab[order]
    begins = np.flatnonzero(np.diff(key, prepend=-1))
    position = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
    shown = position % exposed
    request = np.cumsum(shown == 0) - 1
    heads = np.flatnonzero(shown == 0)
    # within a request: clicked exposures first, each part in the order shown
    arranged = np.lexsort((shown, -log.click[order], request))
    slot = np.arange(len(order)) - heads[request]
    where = (request, slot)  # `request` is ascending, so it is also the request of each arranged row

    def fill(values: np.ndarray, empty: float) -> np.ndarray:
        table = np.full((len(heads), exposed), empty, values.dtype)
        table[where] = values[arranged]
        return table

    first = order[heads]
    labels = {"click": fill(log.click[order], 0.0), "long_view": fill(log.long_view[order], 0.0)}
    return Lists(
        user=log.user[first],
        period=period[first],
        day=log.day[first],
        tab=log.tab[first],
        part=(position[heads] // exposed).astype(np.int32),
        hour=hour_of_day(log.time[first]),
        time=log.time[first],
        ids=fill(log.item[order], 0),
        rank=fill(shown.astype(np.int32), -1),
        labels=labels,
    )
