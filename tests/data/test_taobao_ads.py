"""Taobao's display ads: every impression once, in the lists that a slow reading of the files gives; strict files."""

import gzip
import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hccp_jax.data.convert import convert
from hccp_jax.data.requests import validate
from hccp_jax.errors import UserError

BEGIN = 1494000000  # 2017-05-06 00:00 in UTC+8
DAY = 24 * 3600
LOG_HEADER = "user,time_stamp,adgroup_id,pid,nonclk,clk"
AD_HEADER = "adgroup_id,cate_id,campaign_id,customer,brand,price"
PROFILE_HEADER = (
    "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation,"
    "new_user_class_level "
)
BEHAVIOUR_HEADER = "user,time_stamp,btag,cate,brand"
FIRST, SECOND = "430548_1007", "430539_1007"
ADS = ["63133,6406,83237,1,95471,170.0", "7,6406,83237,2,NULL,0.5", "9,11,5,2,95471,19.99", "1000000,12,6,3,4,1e7"]
AD_IDS = [7, 9, 63133, 1000000]
PROFILES = ["234,0,5,2,5,,3,0,3", "523,5,2,2,2,1,3,1,2", "612,0,8,1,2,2,3,0,"]
EACH_PART = [(234, BEGIN + 5, 7, FIRST, 1), (234, BEGIN + 6 * DAY, 9, FIRST, 0), (523, BEGIN + 7 * DAY, 7, SECOND, 1)]


def write(folder: Path, name: str, header: str, rows: list[str], *, gz=False, end="\n", bom=False) -> None:
    text = ("\ufeff" if bom else "") + "".join(line + end for line in (header, *rows))
    path = folder / (name + ".gz" if gz else name)
    path.write_bytes(gzip.compress(text.encode()) if gz else text.encode())


def write_all(folder: Path, impressions=EACH_PART, behaviours=None, **how) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{user},{time},{ad},{pid},{1 - click},{click}" for user, time, ad, pid, click in impressions]
    write(folder, "raw_sample.csv", LOG_HEADER, rows, **how)
    write(folder, "ad_feature.csv", AD_HEADER, ADS, **how)
    write(folder, "user_profile.csv", PROFILE_HEADER, PROFILES, **how)
    if behaviours is not None:
        lines = [",".join(map(str, row)) for row in behaviours]
        write(folder, "behavior_log.csv", BEHAVIOUR_HEADER, lines, **how)
    return folder


def converted(folder: Path, output: Path, **changes):
    return convert("taobao_ads", folder, output, changes, lambda line: None)


def local(time: int) -> datetime:
    return datetime.fromtimestamp(time, UTC) + timedelta(hours=8)


def expected(impressions, changes) -> dict:
    """Part -> [(user, request time, [(ad, click, rank)], [(past ad, time)], hour, pid)], one impression at a time."""
    clicked: dict = {}
    for user, time, ad, pid, click in impressions:
        if "2017-05-06" <= str(local(time).date()) <= "2017-05-13":
            clicked[user, time, ad, pid] = max(click, clicked.get((user, time, ad, pid), 0))
    found: dict = {"train": [], "validation": [], "test": []}
    last: tuple = ()
    members: list = []
    events = sorted(
        (user, time, ad, [SECOND, FIRST].index(pid), click) for (user, time, ad, pid), click in clicked.items()
    )
    for user, time, ad, pid, click in events:
        day = str(local(time).date())
        paused = changes["lists"] == "gap" and last and time - last[2] > 3600
        if not last or last[:2] != (user, day) or paused or len(members) == changes["width"]:
            members = []
            past = [
                (a, t)
                for u, t, a, _, c in events
                if u == user and t < time and (c or changes["history_of"] == "impressions")
            ]
            part = {"2017-05-12": "validation", "2017-05-13": "test"}.get(day, "train")
            found[part].append((user, time, members, past[-changes["history"] :], local(time).hour, pid))
        members.append((ad, click, len(members)))
        last = (user, day, time)
    for lists in found.values():
        for one in lists:
            one[2].sort(key=lambda item: -item[1])
    return found


def read(store) -> dict:
    """The same from a store."""
    users, items = store["published_users"]["id"], store["published_items"]["id"]
    context = int(store.facts["spec"]["user_categories"]) - 24 - len({FIRST, SECOND})
    found: dict = {}
    for part in ("train", "validation", "test"):
        table = store[part]
        batch = validate(table.requests())
        rows = found[part] = []
        for row in range(len(table)):
            mask, real = batch.mask[row], batch.history_mask[row]
            assert not real[:-1][real[1:] < real[:-1]].any()  # real ones are last
            times = np.asarray(table["history_time"][row])[real] // 1000
            past = [(int(items[i]), int(t)) for i, t in zip(batch.history["id"][row][real], times, strict=True)]
            members = [
                (int(items[i]), int(c), int(r))
                for i, c, r in zip(
                    batch.items["id"][row][mask], batch.labels["click"][row][mask], batch.rank[row][mask], strict=True
                )
            ]
            hour, pid = batch.user["categorical"][row] - [context, context + 24]
            user = int(users[batch.user["id"][row]])
            rows.append((user, int(table["request_time"][row]) // 1000, members, past, int(hour), int(pid)))
    return found


times = st.builds(
    lambda day, second: BEGIN + day * DAY + second, st.integers(-1, 8), st.sampled_from([0, 1, 3700, 80000])
)
impressions = st.lists(
    st.tuples(
        st.sampled_from([234, 523, 999]),
        times,
        st.sampled_from([*AD_IDS, 55]),
        st.sampled_from([FIRST, SECOND]),
        st.integers(0, 1),
    ),
    max_size=40,
)
protocols = st.fixed_dictionaries(
    {
        "lists": st.sampled_from(["day", "gap"]),
        "width": st.integers(1, 4),
        "history": st.integers(1, 3),
        "history_of": st.sampled_from(["clicks", "impressions"]),
    }
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=impressions, changes=protocols)
def test_every_impression_is_once_in_the_lists_that_a_slow_reading_gives(tmp_path_factory, drawn, changes):
    folder = tmp_path_factory.mktemp("ads")
    shown = [*drawn, *EACH_PART]
    # both positions are always there, so that their codes are
    store = converted(write_all(folder / "in", shown), folder / "out", **changes)
    found, wanted = read(store), expected(shown, changes)
    for part in wanted:
        assert sorted(found[part]) == sorted(wanted[part])
    inside = [row for row in shown if BEGIN <= row[1] < BEGIN + 8 * DAY]
    pairs = Counter(row[:4] for row in set(inside))
    conflicts = sum(count == 2 for count in pairs.values())
    lines = "\n".join(store.facts["lines"])
    assert f"{len(shown):,} rows, {len(shown) - len(inside)} of them outside" in lines
    assert f"{len(inside) - len(set(inside))} duplicates removed, {conflicts} impressions with both" in lines


@pytest.mark.parametrize("how", [{"gz": True}, {"end": "\r\n"}, {"bom": True}])
def test_files_gzipped_from_windows_or_with_a_mark_give_the_same(tmp_path, how):
    plain = converted(write_all(tmp_path / "plain"), tmp_path / "a")
    other = converted(write_all(tmp_path / "other", **how), tmp_path / "b")
    assert read(plain) == read(other)
    for table in ("items", "users"):
        np.testing.assert_array_equal(plain[table]["categorical"], other[table]["categorical"])


def test_features_of_ads_and_users(tmp_path):
    shown = [*EACH_PART, (999, BEGIN, 55, FIRST, 0)]  # neither is in the files of features
    store = converted(write_all(tmp_path / "in", shown), tmp_path / "out")
    assert store["published_items"]["id"].tolist() == [0, 7, 9, 55, 63133, 1000000]
    assert store["published_users"]["id"].tolist() == [0, 234, 523, 999]
    items = np.asarray(store["items"]["categorical"])
    category, brand = items[:, 0], items[:, 1]
    assert category[1] == category[4] != category[2]  # 6406 twice
    assert brand[2] == brand[4]  # 95471
    assert brand[1] == brand[3] == category.max() + 1  # NULL, and an ad without features: missing
    assert not items[0].any()
    assert items.max() < store.facts["spec"]["item_categories"]
    assert (np.diff(items[1:], axis=1) > 0).all()  # fields lie side by side
    np.testing.assert_allclose(store["items"]["dense"][4, 0], math.log1p(170.0) / 10, rtol=1e-6)
    users = np.asarray(store["users"]["categorical"])
    assert users[1, 4] == users[3, 4] != users[2, 4]  # an empty pvalue_level is as unknown as a missing profile
    assert users[1, 2] == users[2, 2] != users[3, 2]
    assert store.facts["spec"]["users"] == 4
    lines = "\n".join(store.facts["lines"])
    assert "ads: 5, 1 of them without features" in lines
    assert "users: 3, 1 without a profile" in lines


def test_rare_values_share_an_id(tmp_path):
    store = converted(write_all(tmp_path / "in"), tmp_path / "out", rare=2)
    category = store["items"]["categorical"][:, 0]
    assert category[1] == category[3] == 3  # 6406 has two ads
    assert category[2] == category[4] == 2  # 11 and 12 are rare


behaviours = st.lists(
    st.tuples(
        st.sampled_from([234, 523, 1]),
        times,
        st.sampled_from(["pv", "cart", "fav", "buy", "ipv"]),
        st.sampled_from([6406, 11, 77]),
        st.sampled_from([95471, 4, 2, "NULL"]),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(past=behaviours, drawn=impressions)
def test_behaviours_count_strictly_before_their_list(tmp_path_factory, past, drawn):
    folder = tmp_path_factory.mktemp("ads")
    past = [*past, (234, BEGIN - 40 * DAY, "pv", 6406, 95471), (234, -5, "pv", 6406, 95471)]  # too early, garbage
    # without clicks, which a count could tell by chance where there are so few
    shown = [(*row[:-1], 0) for row in (*drawn, *EACH_PART)]
    store = converted(write_all(folder / "in", shown, past), folder / "out", behaviours=True)
    features = {int(row.split(",")[0]): [row.split(",")[place] for place in (1, 4)] for row in ADS}
    users, items = store["published_users"]["id"], store["published_items"]["id"]
    assert store.facts["spec"]["cross"] == 4
    for part in ("train", "validation", "test"):
        batch, begin = store[part].requests(), store[part]["request_time"]
        for row, slot in np.argwhere(batch.mask):
            user, ad = users[batch.user["id"][row]], int(items[batch.items["id"][row, slot]])
            wanted = []
            for place in (0, 1):
                value = features.get(ad, ["NULL", "NULL"])[place]
                kinds = [
                    kind in ("cart", "fav", "buy")
                    for who, when, kind, *found in past
                    if who == user and BEGIN - 14 * DAY <= when < begin[row] // 1000
                    if value != "NULL" and str(found[place]) == value
                ]
                wanted += [math.log1p(kinds.count(False)), math.log1p(kinds.count(True))]
            np.testing.assert_allclose(batch.cross[row, slot], wanted, rtol=1e-6)


def test_many_buckets_hold_what_one_does(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    shown = [
        (int(u), BEGIN + int(t), AD_IDS[a], FIRST, int(c))
        for u, t, a, c in zip(
            random.integers(0, 300, 3000),
            random.integers(0, 8 * DAY, 3000),
            random.integers(0, 4, 3000),
            random.integers(0, 2, 3000),
            strict=True,
        )
    ]
    write_all(tmp_path / "in", [*shown, *EACH_PART])
    one = read(converted(tmp_path / "in", tmp_path / "one"))
    monkeypatch.setattr("hccp_jax.data.buckets.ROWS", 4000)
    several = converted(tmp_path / "in", tmp_path / "several")
    assert len(several["train"].shards) > 5
    many = read(several)
    assert {part: sorted(rows) for part, rows in one.items()} == {part: sorted(rows) for part, rows in many.items()}


def test_a_stopped_conversion_goes_on_and_gives_the_same(tmp_path, monkeypatch):
    write_all(tmp_path / "in")
    monkeypatch.setattr("hccp_jax.data.buckets.ROWS", 200)
    whole = converted(tmp_path / "in", tmp_path / "whole")
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if line.startswith("lists: bucket") and "impressions" not in lines:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert("taobao_ads", tmp_path / "in", tmp_path / "out", {}, stop)
    resumed: list[str] = []
    again = convert("taobao_ads", tmp_path / "in", tmp_path / "out", {}, resumed.append)
    assert any(line.startswith("going on") for line in resumed)
    assert read(again) == read(whole)
    assert again.facts["lines"] == whole.facts["lines"]


def refused(folder: Path, output: Path, match: str, **changes) -> None:
    with pytest.raises(UserError, match=match) as caught:
        converted(folder, output, **changes)
    assert "\n" not in str(caught.value)
    assert not output.exists()
    assert not output.with_name(f"{output.name}.partial").exists()


@pytest.mark.parametrize(
    ("name", "old", "new", "match"),
    [
        ("raw_sample.csv", ",1\n", ",0\n", r"raw_sample\.csv: row 1: nonclk=0, expected 1, 1 - clk"),
        ("raw_sample.csv", f",{FIRST},0", "", r"raw_sample\.csv: row 1: 4 fields, expected 6"),
        ("raw_sample.csv", "234,", "x,", r"raw_sample\.csv: row 1: user='x', expected an integer in \[0, "),
        ("raw_sample.csv", ",0,1\n", ",0,2\n", r"raw_sample\.csv: row 1: clk=2, expected an integer in \[0, 1\]"),
        ("raw_sample.csv", "time_stamp", "time", r"raw_sample\.csv: no column time_stamp; found user, time,"),
        ("ad_feature.csv", "7,6406", "63133,6406", r"ad_feature\.csv: row 1: adgroup_id=63133, expected each id once"),
        ("ad_feature.csv", "170.0", "free", r"ad_feature\.csv: row 1: price='free', expected a number"),
        ("user_profile.csv", "523,5", "234,5", r"user_profile\.csv: row 1: userid=234, expected each id once"),
    ],
)
def test_what_is_not_as_published_is_refused_in_one_line(tmp_path, name, old, new, match):
    path = write_all(tmp_path / "in") / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    refused(tmp_path / "in", tmp_path / "out", match)


def test_cut_off_and_reordered_and_garbage_files(tmp_path):
    path = write_all(tmp_path / "in") / "raw_sample.csv"
    good = path.read_text()
    path.write_text(good[:-1])
    refused(tmp_path / "in", tmp_path / "out", r"raw_sample\.csv: row 3: cut off, no end of line")
    path.write_bytes(bytes(range(256)) * 8)
    refused(tmp_path / "in", tmp_path / "out", r"raw_sample\.csv: ")
    path.unlink()
    refused(tmp_path / "in", tmp_path / "out", r"no raw_sample\.csv there")
    (tmp_path / "in" / "raw_sample.csv.gz").write_bytes(gzip.compress(good.encode())[:-12])
    refused(tmp_path / "in", tmp_path / "out", r"raw_sample\.csv\.gz: damaged after row 2")
    (tmp_path / "in" / "raw_sample.csv.gz").unlink()
    lines = [line.split(",") for line in good.splitlines()]
    path.write_text("".join(",".join(line[::-1]) + "\n" for line in lines))
    expect = read(converted(write_all(tmp_path / "same"), tmp_path / "a"))
    assert read(converted(tmp_path / "in", tmp_path / "b")) == expect  # columns are found by name


def test_protocols_that_have_no_data_are_refused(tmp_path):
    write_all(tmp_path / "in")
    out = tmp_path / "out"
    refused(
        *(tmp_path / "in", out, "no impressions from 2017-05-19 to 2017-05-19 .*, the validation part"),
        test_day="20170520",
    )
    refused(tmp_path / "in", out, "test_day=20170507: expected at least 2 days after", test_day="20170507")
    refused(tmp_path / "in", out, "first_day='tuesday': expected a date YYYYMMDD", first_day="tuesday")
    refused(tmp_path / "in", out, r"no behavior_log\.csv there", behaviours=True)
    rows = [(234, BEGIN + second, 7, f"pid{second}", 0) for second in range(70)]
    write_all(tmp_path / "many", rows)
    refused(tmp_path / "many", out, "70 different pid, such as 'pid0'; expected at most 64")
