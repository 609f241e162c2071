"""Ali_Display_Ad_Click (Tianchi 56): Taobao's display ads of eight days of May 2017, the public data of HCCP's Table 2.

Facts of the files that decide what is done here:

* There is no request: an impression is a user, a second, an ad, a position and whether it was clicked. Lists are a
  user's impressions of a day (or without a long pause), cut at a width; see `taobao_ads_lists`.
* Days are those of UTC+8: the log begins at 1494000000, which is midnight there.
* There are only impressions. HCCP distils a DIN that it trains on them first; here the experiments train that teacher
  (`experiments.teaching`), the data set has none. IntTower reads the same files.
* The last name of the header of user_profile.csv ends with a space, brand may be NULL, two profile fields may be empty,
  some users have no profile, and users are called `user` in two files and `userid` in the third.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hccp_jax.config import field
from hccp_jax.data import buckets, csv_stream, fields
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.csv_stream import Column
from hccp_jax.data.guards import PARTS
from hccp_jax.data.sources import bucket_shards
from hccp_jax.data.sources import taobao_ads_lists as ad_lists
from hccp_jax.data.sources.dataset import DataSet, Facts, PublishedFile
from hccp_jax.data.sources.taobao_ads_lists import BEHAVIOUR_DAYS, CROSS, HOURS, ZONE, Known, Period
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

LOG, ADS, PROFILES, BEHAVIOUR = "raw_sample.csv", "ad_feature.csv", "user_profile.csv", "behavior_log.csv"
AD_FIELDS = ("cate_id", "brand", "campaign_id", "customer")
PROFILE_FIELDS = (
    *("cms_segid", "cms_group_id", "final_gender_code", "age_level", "pvalue_level"),
    *("shopping_level", "occupation", "new_user_class_level"),
)
_ID = Column(low=0, high=2**31 - 1)
_LOG = {
    "user": _ID,
    "time_stamp": Column(low=0, high=2**40),
    "adgroup_id": _ID,
    "pid": Column("text"),
    "nonclk": Column(low=0, high=1),
    "clk": Column(low=0, high=1),
}
_ADS = {
    **dict.fromkeys(("adgroup_id", "cate_id", "campaign_id", "customer"), _ID),
    "brand": Column(low=0, high=2**31 - 1, missing=True),
    "price": Column("float", low=0),
}
_PROFILES = {"userid": _ID, **{name: Column(missing=True) for name in PROFILE_FIELDS}}
_BEHAVIOUR = {
    "user": _ID,
    "time_stamp": Column(),  # some are far outside of the three weeks; they are counted and left out
    "btag": Column("text", choices=("pv", "ipv", "cart", "fav", "buy")),
    "cate": _ID,
    "brand": Column(low=0, high=2**31 - 1, missing=True),
}
_ROW_BYTES = 32  # of a row's text, at least
_LOG_WEIGHT = 4  # an impression may become a list of its own
_PIDS = 64  # positions, at most; there are two


@dataclass(frozen=True)
class TaobaoAdsConfig:
    """How the log becomes requests."""

    first_day: str = field("20170506", "first day of training, YYYYMMDD in UTC+8; what is earlier is left out")
    test_day: str = field("20170513", "the day of the test, YYYYMMDD in UTC+8; what is later is left out")
    validation_days: int = field(1, "days before the test that form the validation part", at_least=1)
    lists: str = field("day", "impressions of a user that form a list: day, or gap", choices=("day", "gap"))
    gap_minutes: int = field(60, "with lists=gap a list ends where nothing follows for so long", at_least=1)
    width: int = field(20, "longest list; a longer one goes on as another", at_least=1)
    history: int = field(30, "a user's last ads before a request that are its history", at_least=1)
    history_of: str = field("clicks", "which earlier ads: clicked ones, or all", choices=("clicks", "impressions"))
    behaviours: bool = field(False, "count earlier behaviours in an ad's category and brand (reads behavior_log.csv)")
    rare: int = field(1, "ads that a brand, campaign or customer needs to have its own id", at_least=1)


def _impressions(path: Path, period: Period, counted: dict[str, int]) -> Iterator[pl.DataFrame]:
    """Rows of the log within the period; counts all rows and those outside."""
    rows = outside = 0
    for frame in csv_stream.stream(path, _LOG):
        bad = (frame["nonclk"] + frame["clk"] != 1).arg_true()
        if len(bad):
            row, shown = rows + bad[0] + 1, frame["nonclk"][bad[0]]
            raise UserError(f"{path.name}: row {row}: nonclk={shown}, expected {1 - frame['clk'][bad[0]]}, 1 - clk")
        rows += frame.height
        kept = frame.filter(pl.col("time_stamp").is_between(period.begin, period.end, closed="left"))
        outside += frame.height - kept.height
        yield kept.select(
            pl.col("user", "adgroup_id").cast(pl.Int32), "time_stamp", "pid", click=pl.col("clk").cast(pl.Int8)
        )
    counted |= {"rows": rows, "outside": outside}


def _past_behaviours(path: Path, period: Period, counted: dict[str, int]) -> Iterator[pl.DataFrame]:
    """Behaviours of the weeks up to the test day: seconds since they begin, and whether more than a page view."""
    rows = outside = 0
    for frame in csv_stream.stream(path, _BEHAVIOUR):
        rows += frame.height
        inside = pl.col("time_stamp").is_between(period.behaviours_begin, period.end, closed="left")
        kept = frame.filter(inside)
        outside += frame.height - kept.height
        yield kept.select(
            pl.col("user", "cate").cast(pl.Int32),
            pl.col("brand").fill_null(-1).cast(pl.Int32),
            time=(pl.col("time_stamp") - period.behaviours_begin).cast(pl.Int32),
            intent=pl.col("btag").is_in(["cart", "fav", "buy"]),
        )
    counted |= {"rows": rows, "outside": outside}


def _spread(frames: Callable[..., Any], path: Path, period: Period, count: int, folder: Path) -> dict[str, int]:
    """Rows of a file spread by user; how many there are."""
    counted: dict[str, int] = {}
    buckets.scatter(frames(path, period, counted), lambda n: buckets.of_key("user", n), count, folder)
    return counted


def _found(folder: Path, count: int, work: Path) -> dict[str, Any]:
    """The users and ads of the log, ascending, as files; and its positions."""
    users, ads, pids = [np.zeros(0, np.int32)], np.zeros(0, np.int32), set[str]()
    for number in range(count):
        rows = buckets.bucket_rows(folder, number)
        if rows is not None:
            users.append(rows["user"].unique().to_numpy())
            ads = np.union1d(ads, rows["adgroup_id"].unique().to_numpy())
            pids |= set(rows["pid"].unique())
    if len(pids) > _PIDS:
        raise UserError(f"{LOG}: {len(pids)} different pid, such as {min(pids)!r}; expected at most {_PIDS}")
    np.save(work / "users.npy", np.sort(np.concatenate(users)))
    np.save(work / "ads.npy", ads)
    return {"pids": sorted(pids)}


def _whole(path: Path, columns: dict[str, Column], key: str) -> pl.DataFrame:
    """A file of features, each id once."""
    frame = pl.concat(list(csv_stream.stream(path, columns)))
    twice = frame[key].is_duplicated().arg_true()
    if len(twice):
        raise UserError(f"{path.name}: row {twice[0] + 1}: {key}={frame[key][twice[0]]}, expected each id once")
    return frame.with_columns(pl.col(key).cast(pl.Int32))


def _joined(ids: np.ndarray, frame: pl.DataFrame, key: str) -> pl.DataFrame:
    return pl.DataFrame({key: ids}).join(frame, on=key, how="left", maintain_order="left")


def _coded(frame: pl.DataFrame, names: tuple[str, ...], at_least: int) -> tuple[np.ndarray, int]:
    every = frame.height + 1
    return fields.side_by_side([fields.codes(frame[name], keep=every, at_least=at_least) for name in names], 1)


def _catalogue(folder: Path, config: TaobaoAdsConfig, writer: StoreWriter, pids: list[str]) -> tuple[Known, list[str]]:
    """Write the tables of ads and users; what all buckets need to know of them."""
    users = np.load(writer.work / "users.npy")
    listed = _whole(csv_stream.find(folder, ADS), _ADS, "adgroup_id")
    profiles = _whole(csv_stream.find(folder, PROFILES), _PROFILES, "userid")
    ids = np.union1d(listed["adgroup_id"].to_numpy(), np.load(writer.work / "ads.npy"))
    ads, people = _joined(ids, listed, "adgroup_id"), _joined(users, profiles, "userid")
    item_table, item_end = _coded(ads, AD_FIELDS, config.rare)
    user_table, user_end = _coded(people, PROFILE_FIELDS, 1)
    price = np.pad(np.log1p(ads["price"].fill_null(0.0).to_numpy()) / 10.0, (1, 0)).astype(np.float32)
    writer.table("items", {"categorical": item_table, "dense": price[:, None]})
    writer.table("users", {"categorical": user_table})
    writer.table("published_items", {"id": np.pad(ids, (1, 0))})
    writer.table("published_users", {"id": np.pad(users, (1, 0))})
    known = Known(
        users=users,
        ads=ids,
        category=ads["cate_id"].fill_null(-1).cast(pl.Int32).to_numpy(),
        brand=ads["brand"].fill_null(-1).cast(pl.Int32).to_numpy(),
        pids=tuple(pids),
        context=user_end,
        user_categories=user_end + HOURS + len(pids),
        item_categories=item_end,
    )
    lines = [
        f"ads: {len(ids):,}, {len(ids) - listed.height:,} of them without features",
        f"users: {len(users):,}, {int((~np.isin(users, profiles['userid'].to_numpy())).sum()):,} without a profile",
    ]
    return known, lines


def convert(folder: Path, config: TaobaoAdsConfig, writer: StoreWriter, say: Callable[[str], None]) -> Facts:
    """Spread the log by user, then make one shard of each part from each bucket."""
    period = Period.of(config)
    files = {"impressions": (LOG, _impressions, _LOG_WEIGHT)}
    if config.behaviours:
        files["behaviours"] = (BEHAVIOUR, _past_behaviours, 1)
    paths = {name: csv_stream.find(folder, file) for name, (file, _, _) in files.items()}
    count = max(bucket_shards.how_many(paths[name], _ROW_BYTES, weight) for name, (_, _, weight) in files.items())
    counted: dict[str, Any] = {}
    for name, (file, frames, _) in files.items():
        spread = functools.partial(_spread, frames, paths[name], period, count, writer.work / name)
        counted[name] = writer.step(name, spread)
        say(f"{file}: {counted[name]['rows']:,} rows read")
    found = writer.step("ids", lambda: _found(writer.work / "impressions", count, writer.work))
    known, lines = _catalogue(folder, config, writer, found["pids"])
    totals = dict.fromkeys(("duplicates", "conflicts", "repeated"), 0)
    for number in range(count):
        rows = buckets.bucket_rows(writer.work / "impressions", number)
        if rows is None:
            continue
        past = buckets.bucket_rows(writer.work / "behaviours", number)
        make = functools.partial(ad_lists.requests, rows, past, known, period, config)
        for name, more in bucket_shards.write(writer, f"{number:04}", PARTS, make).items():
            totals[name] += more
        say(f"lists: bucket {number + 1} of {count}")
    why = "{}: no impressions {}; see first_day and test_day"
    bucket_shards.refuse_empty(writer, PARTS, lambda part: why.format(LOG, period.words(part)))
    spec = FeatureSpec(
        users=len(known.users) + 1,
        items=len(known.ads) + 1,
        user_categories=known.user_categories,
        item_categories=known.item_categories,
        tasks=("click",),
        history_groups=1,
        cross=len(CROSS) if config.behaviours else 0,
    )
    vocabulary = {"items.id": spec.items, "history.id": spec.items, "user.id": spec.users}
    return Facts(
        spec=spec,
        vocabulary=vocabulary | {"user.categorical": spec.user_categories},
        zone=ZONE,
        lines=[*_lines(config, counted, totals), *lines],
        warnings=_warnings(config),
        more={"cross": list(CROSS) if config.behaviours else [], "rank": "order of exposure"},
    )


def _lines(config: TaobaoAdsConfig, counted: dict[str, Any], totals: dict[str, int]) -> list[str]:
    of = "and day" if config.lists == "day" else f"without a pause above {config.gap_minutes} minutes, within a day"
    lines = [
        f"{name}: {found['rows']:,} rows, {found['outside']:,} of them outside of the period and left out"
        for name, found in counted.items()
    ]
    return [
        *lines,
        f"{LOG}: {totals['duplicates']:,} duplicates removed, {totals['conflicts']:,} impressions with both labels"
        f" counted as clicked; {totals['repeated']:,} times an ad is again in a list, shown later",
        f"lists: impressions of a user {of}, in order of time, cut at {config.width} (the rest is a list of its own); "
        "stored clicked first; hour and position (pid) of a list are those of its first impression",
        f"history: last {config.history} {config.history_of} of the log before a list's first impression",
    ]


def _warnings(config: TaobaoAdsConfig) -> list[str]:
    warnings = [
        "the data set has no requests: lists are a choice of the protocol, and hit rates depend on it",
        "impressions only: no stage below exposure, and no ranker; HCCP's teacher is a DIN trained on them first",
        "HCCP's Table 2 has an AUC of .75 to .78, far above what is usual on this data (about .65): not to be expected",
        "items and users have exact ids, also those that only the test day has; their embeddings are not trained",
        "history reaches back to the first day only, so that lists of the first days have little of it",
    ]
    if not config.behaviours:
        warnings.append(f"{BEHAVIOUR} is not used (behaviours=true counts what it tells of an ad's category and brand)")
    else:
        warnings.append(f"behaviours count within {BEHAVIOUR_DAYS} days up to the test; histories are of ads alone")
    return warnings


DATASETS = (
    DataSet(
        name="taobao_ads",
        title="Ali_Display_Ad_Click",
        papers="HCCP's Table 2 (public Taobao); IntTower",
        where="https://tianchi.aliyun.com/dataset/56 (free, needs a Tianchi login)",
        licence="Tianchi's terms: research, no redistribution",
        files=(
            PublishedFile(LOG, "26.6 million rows, 1.1 GB"),
            PublishedFile(ADS, "846,811 ads"),
            PublishedFile(PROFILES, "1,061,768 users"),
            PublishedFile(BEHAVIOUR, "723 million rows, 23 GB; with --behaviours=true only"),
        ),
        config=TaobaoAdsConfig,
        convert=convert,
        note="the DIN that HCCP distils is trained by the experiments, the data set has no ranker",
    ),
)
