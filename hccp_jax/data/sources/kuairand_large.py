"""KuaiRand-1K and KuaiRand-27K (Gao et al., CIKM 2022): all exposures of their users, of millions of videos, streamed.

The rows are those of KuaiRand-Pure (`hccp_jax.data.kuairand` has their facts), without its filter to 7,583 videos:
lists are long, so that a list of impressions is worth ranking, and most videos are shown once. Logs are spread over
files by user and every user is then seen whole; nothing but arrays by video is held in memory. Stages below exposure
are not simulated.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import polars as pl

from hccp_jax.config import field
from hccp_jax.data import describe, guards, kuairand_features
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.sources import kuairand_large_files as files
from hccp_jax.data.sources import kuairand_large_requests as large
from hccp_jax.data.sources.dataset import DataSet, Facts, PublishedFile
from hccp_jax.data.sources.kuairand_large_passes import BLOCK, Passes
from hccp_jax.data.store import Table
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

TASKS = ("click", "long_view")
RANDOM = "test_random"
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class KuaiRand27KConfig:
    """How the log becomes requests."""

    train_from: str = field("20220422", "first day of training, YYYYMMDD; earlier ones are past: history, statistics")
    test_from: str = field("20220505", "first day of the test period, YYYYMMDD in Asia/Shanghai")
    validation_days: int = field(1, "days before the test period that form the validation period", at_least=1)
    history: int = field(30, "exposures before a request kept as history", at_least=1)
    exposed: int = field(8, "exposures in one request; longer lists are split", at_least=1)
    video_min_exposures: int = field(
        20, "videos shown less often before the validation period share one id; 300 bytes of memory each", at_least=1
    )


@dataclass(frozen=True)
class KuaiRand1KConfig(KuaiRand27KConfig):
    """The same for KuaiRand-1K."""

    video_min_exposures: int = field(
        5, "videos shown less often before the validation period share one id; 300 bytes of memory each", at_least=1
    )


def split(days: np.ndarray, config: KuaiRand27KConfig) -> large.Periods:
    """The periods of a log.

    Args:
        days: [D] int32 of its exposures, ascending.
        config: the protocol.

    Raises:
        UserError: unless training, validation and test have a day each.
    """
    known: dict[str, int] = {}
    for name in ("train_from", "test_from"):
        value = getattr(config, name)
        try:
            known[name] = (datetime.strptime(value, "%Y%m%d").date() - _EPOCH).days
        except ValueError:
            raise UserError(f"{name}={value!r}: expected a date YYYYMMDD") from None
    tests = days[days >= known["test_from"]]
    validation = days[days < known["test_from"]][-config.validation_days :]
    past = days[days < validation[0]] if len(validation) == config.validation_days else days[:0]
    training = past[past >= known["train_from"]]
    if not len(tests) or not len(training):
        span = f"{_day(days[0])} to {_day(days[-1])}"
        told = ", ".join(f"{name}={getattr(config, name)}" for name in ("train_from", "test_from", "validation_days"))
        raise UserError(f"{told}: the log has {span}; expected days of it for training, validation and test each")
    earlier = past[past < training[0]][:1]
    starts = np.concatenate([earlier, training, validation[:1], tests[:1]]).astype(np.int32)
    return large.Periods(starts, len(earlier))


class _Store:
    """One conversion after its passes: what is known of the whole log, and the tables that are made of it."""

    def __init__(self, passes: Passes, config: KuaiRand27KConfig) -> None:
        self.passes, self.config = passes, config
        self.read = passes.read("raw")
        self.drawn = passes.read("random") if passes.paths["random"] else None
        first = self.read["first"]
        self.merged = passes.merge(first)
        self.days = np.unique(np.maximum(self.read["days"], first)).astype(np.int32)
        self.periods = split(self.days, config)
        sums = passes.count(self.days)
        self.everyone = large.before(self.periods.starts, self.days, sums)
        self.kept = passes.keep(self.days, self.periods, self.read["videos"], config.video_min_exposures)
        self.item_of, self.items = passes.array("item_of"), self.kept["items"]

    def requests(self, writer: StoreWriter) -> None:
        """Write the tables of requests, one file of users after the other."""
        for group in range(self.passes.groups):
            users = _Group(self, group)
            for part in ("train", "validation", "test", *([RANDOM] if self.drawn else [])):
                writer.shard(part, f"{group:05}", partial(users.requests, part))

    def daily(self, writer: StoreWriter) -> None:
        """Write the statistics of items, a period after the other."""
        periods = large.item_statistics(self.periods.starts, self.days, self._of_day, self.everyone, self.items)
        for period, table in enumerate(periods):
            for begin in range(0, self.items, BLOCK):
                part = {"statistics": table[begin : begin + BLOCK]}
                writer.shard("daily", f"{period:03}-{begin // BLOCK:03}", partial(dict, part))

    def _of_day(self, day: int) -> Iterator[pl.DataFrame]:
        for frame in self.passes.of_day(int(day - self.days[0])):
            yield frame.with_columns(pl.Series("item", self.item_of[frame["video"].to_numpy()]))


class _Group:
    """One file of users; it is read when the first of its shards is made."""

    def __init__(self, store: _Store, number: int) -> None:
        self.store, self.number = store, number

    @cached_property
    def users(self) -> large.UserGroup:
        store = self.store
        log = large.events(store.passes.rows("log", self.number), store.item_of, store.periods)
        config = store.config
        return large.UserGroup(log, store.days, store.periods, store.everyone, config.history, config.exposed)

    def requests(self, part: str) -> dict[str, np.ndarray]:
        """Columns of a table of requests."""
        if part != RANDOM:
            return self.users.requests(self.users.log, part)
        store = self.store
        drawn, _, _ = large.merged(store.passes.rows("random", self.number), store.read["first"])
        return self.users.requests(large.events(drawn, store.item_of, store.periods), "test")


def convert(
    size: str, folder: Path, config: KuaiRand27KConfig, writer: StoreWriter, say: Callable[[str], None]
) -> Facts:
    """Write requests, statistics by day, and features of users and items."""
    early = files.published(folder, f"log_standard_4_08_to_4_21_{size}")
    logs = [*early, *files.required(folder, f"log_standard_4_22_to_5_08_{size}")]
    drawn = files.published(folder, f"log_random_4_22_to_5_08_{size}")
    described = files.required(folder, f"video_features_basic_{size}")
    people = files.read_users(folder, size)
    request_bytes = 21 * config.history + 18 * config.exposed + 64
    passes = Passes(logs, drawn, people["user_id"].to_numpy(), request_bytes, writer)
    say(f"reading {', '.join(path.name for path in (*logs, *drawn))}")
    store = _Store(passes, config)
    say(f"{store.merged['rows']:,} exposures of {people.height:,} users; {store.items - 2:,} videos kept")
    store.requests(writer)
    store.daily(writer)
    users, user_size = kuairand_features.encode_users(people)
    writer.table("users", {"categorical": users, "group": kuairand_features.activity_groups(people)})
    writer.table("user_ids", {"published": np.concatenate([[-1], people["user_id"].to_numpy()]).astype(np.int32)})
    say(f"reading {', '.join(path.name for path in described)}")
    videos, unknown = files.read_videos(described, store.item_of, store.items)
    items, item_size, _ = kuairand_features.encode_items(videos, int(store.periods.starts[store.periods.train]))
    writer.table("items", {**items, "exposures": passes.array("exposures")}, BLOCK)
    writer.table("item_ids", {"published": passes.array("published")}, BLOCK)
    vocabulary = {"items.id": store.items, "history.id": store.items, "user.id": people.height + 1}
    vocabulary |= {"user.categorical": user_size, "user.day": len(store.periods.starts)}
    if store.drawn:
        guards.check({RANDOM: writer.opened(RANDOM)}, vocabulary)
    return Facts(
        spec=FeatureSpec(
            users=people.height + 1,
            items=store.items,
            user_categories=user_size,
            item_categories=item_size,
            tasks=TASKS,
            history_groups=2,
            cross=0,
        ),
        vocabulary=vocabulary,
        zone=files.ZONE,
        lines=_lines(store, writer),
        warnings=_warnings(store, bool(early), unknown),
        more={"periods": len(store.periods.starts), "rare": large.RARE, "train_period": store.periods.train},
    )


def _lines(store: _Store, writer: StoreWriter) -> list[str]:
    found, config = store.merged, store.config
    kept = store.items - 2
    lines = [
        f"{store.read['rows']:,} rows; removed {found['duplicates']:,} exact duplicates (of what is read), merged "
        f"{found['conflicts']:,} rows of the same user, video and time; {found['rows']:,} exposures are left",
        f"{kept:,} of the {store.kept['seen']:,} videos shown before the validation period have at least "
        f"{config.video_min_exposures} exposures and an id of their own; the others are item {large.RARE}",
        "lists: exposures of a user, day and tab in order, "
        f"at most {config.exposed}; statistics: days before the request's, frozen within validation and test",
    ]
    if store.periods.train:
        days = store.days[store.days < store.periods.starts[store.periods.train]]
        lines.append(f"{_day(days[0])} to {_day(days[-1])}: history and statistics only")
    lines += [_rare(part, writer.opened(part)) for part in writer.tables if part in ("train", "validation", "test")]
    if store.drawn:
        table = writer.opened(RANDOM)
        lines += [*describe.measured(RANDOM, table, files.ZONE), _rare(RANDOM, table)]
    return lines


def _rare(part: str, table: Table) -> str:
    """How many impressions of a table are of rare videos."""
    shown = rare = 0
    for begin in range(0, len(table), BLOCK):
        ids = np.asarray(table["items.id"][begin : begin + BLOCK])
        shown, rare = shown + int((ids > 0).sum()), rare + int((ids == large.RARE).sum())
    return f"{part}: {rare / max(shown, 1):.1%} of the impressions are of rare videos"


def _warnings(store: _Store, early: bool, unknown: int) -> list[str]:
    warnings = [
        f"item {large.RARE} stands for all rare videos: a metric over the catalogue has to leave it out",
        "which videos are rare is known at the end of the training period only, as with any vocabulary",
        "histories go on within validation and test, up to the request; statistics do not",
        "no request ids and no items below exposure: a list is what a user saw of a tab on a day, not a response",
        "the table of users is of one unknown day, as published",
    ]
    if not early:
        warnings.append("no log of 8 to 21 April: the first days have no past")
    if not store.drawn:
        warnings.append("no log of videos shown at random: no unbiased test")
    if unknown:
        warnings.append(f"{unknown:,} videos with an id of their own are not in the table of videos")
    return warnings


def _day(day: int) -> str:
    return str(_EPOCH + timedelta(days=int(day)))


def _dataset(size: str, config: type, title: str, papers: str, published: tuple[PublishedFile, ...]) -> DataSet:
    return DataSet(
        name=f"kuairand_{size}",
        title=title,
        papers=papers,
        where="https://kuairand.com, https://zenodo.org/records/10439422",
        licence="CC BY-SA 4.0",
        files=published,
        config=config,
        convert=partial(convert, size),
        note="video_features_statistic is never read: its means of the whole month know the future. The log of 8 to 21 "
        "April and the random log may be left out. A conversion takes one and a half times the disk of the logs.",
    )


DATASETS = (
    _dataset(
        "1k",
        KuaiRand1KConfig,
        "KuaiRand-1K",
        "all exposures of 1,000 users: 11.7 M of 4.4 M videos",
        (
            PublishedFile("log_standard_4_08_to_4_21_1k.csv", "368 MB; 5,055,984 rows"),
            PublishedFile("log_standard_4_22_to_5_08_1k.csv", "481 MB; 6,657,061 rows"),
            PublishedFile("log_random_4_22_to_5_08_1k.csv", "2.9 MB; the unbiased test"),
            PublishedFile("user_features_1k.csv"),
            PublishedFile("video_features_basic_1k.csv", "368 MB"),
        ),
    ),
    _dataset(
        "27k",
        KuaiRand27KConfig,
        "KuaiRand-27K",
        "all exposures of 27,285 users: 322 M of 32 M videos; RankTower uses KuaiRand",
        (
            PublishedFile("log_standard_4_08_to_4_21_27k_part1.csv", "4.8 GB"),
            PublishedFile("log_standard_4_08_to_4_21_27k_part2.csv", "4.8 GB"),
            PublishedFile("log_standard_4_22_to_5_08_27k_part1.csv", "6.6 GB"),
            PublishedFile("log_standard_4_22_to_5_08_27k_part2.csv", "6.6 GB"),
            PublishedFile("log_random_4_22_to_5_08_27k.csv", "83 MB; the unbiased test"),
            PublishedFile("user_features_27k.csv"),
            PublishedFile("video_features_basic_27k.csv", "2.6 GB"),
        ),
    ),
)
