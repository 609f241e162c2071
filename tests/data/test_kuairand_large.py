"""KuaiRand-1K and 27K: every exposure once, against loops over rows, and statistics of days gone by."""

import gzip
import itertools
import math
from collections import Counter, defaultdict
from datetime import date, datetime, timedelta
from pathlib import Path

import jax
import kuairand_synthetic as synthetic
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hccp_jax.data import kuairand as kr
from hccp_jax.data import kuairand_features
from hccp_jax.data.catalogue import Catalogue, FeatureSpec, attach
from hccp_jax.data.convert import convert
from hccp_jax.data.sources import kuairand_large_files, kuairand_large_passes
from hccp_jax.data.sources.kuairand_large import DATASETS
from hccp_jax.data.sources.kuairand_large_requests import item_statistics
from hccp_jax.data.store import Store
from hccp_jax.errors import UserError

EARLY, LATE = "log_standard_4_08_to_4_21_{}.csv", "log_standard_4_22_to_5_08_{}.csv"
DRAWN, USERS, VIDEOS = "log_random_4_22_to_5_08_{}.csv", "user_features_{}.csv", "video_features_basic_{}.csv"
PROTOCOL = {"train_from": "20220426", "test_from": "20220430", "history": 4, "exposed": 3, "video_min_exposures": 4}
PARTS = ("train", "validation", "test")


def quiet(line):
    """Nothing is said."""


def write_large(folder: Path, rows: list[str], *, size="1k", drawn=None, gz=False, parts=1, early=()) -> Path:
    """The published files; the late log in parts."""
    place = folder / "data" if gz else folder

    def put(name, header, lines):
        synthetic.write(place, header, lines, name.format(size), gz=gz)

    for number in range(parts):
        name = LATE if parts == 1 else LATE.replace(".csv", f"_part{number + 1}.csv")
        put(name, synthetic.LOG_HEADER, rows[number::parts])
    if early:
        put(EARLY, synthetic.LOG_HEADER, early)
    if drawn:
        put(DRAWN, synthetic.LOG_HEADER, drawn)
    put(USERS, synthetic.USER_HEADER, synthetic.user_rows())
    put(VIDEOS, synthetic.VIDEO_HEADER, synthetic.video_rows())
    return folder


def some_rows():
    """A log with exact duplicates, rows that contradict each other, and an exposure minutes before its file's day."""
    rows = synthetic.log_rows(count=700)
    rows += [*rows[:5], synthetic.log_row(1, 2, 1, 50, 0, 0, 4), synthetic.log_row(1, 2, 1, 50, 1, 0, 1)]
    fields = synthetic.log_row(3, 4, 0, -60).split(",")
    return [*rows, ",".join([*fields[:2], "20220425", *fields[3:]])]


def drawn_rows():
    return [
        synthetic.log_row(u, v, day, 60 * u + v, (u + v) % 2) for day in (2, 5, 6) for u in range(3) for v in (7, 9)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The rows and the store."""
    where = tmp_path_factory.mktemp("large")
    folder = write_large(where / "files", some_rows(), drawn=drawn_rows())
    return some_rows(), convert("kuairand_1k", folder, where / "store", PROTOCOL, quiet)


def parsed(rows):
    """Exposures in order: (user, time, video, day, tab, click, view), as the files mean them, by loops."""
    found: dict[tuple, list] = {}
    for row in rows:
        field = dict(zip(synthetic.LOG_HEADER.split(","), row.split(","), strict=True))
        key = int(field["user_id"]), int(field["time_ms"]), int(field["video_id"])
        found.setdefault(key, []).append((int(field["tab"]), int(field["is_click"]), int(field["long_view"])))
    first = min(datetime.strptime(row.split(",")[2], "%Y%m%d").date() for row in rows)
    events = []
    for (user, time, video), same in sorted(found.items()):
        tabs, clicks, views = zip(*same, strict=True)
        day = max((datetime(1970, 1, 1) + timedelta(milliseconds=time, hours=8)).date(), first)
        events.append((user, time, video, day, min(tabs), max(clicks), max(views)))
    return events


class Oracle:
    """What a store has to hold, by loops over exposures."""

    def __init__(self, rows, protocol=PROTOCOL, validation_days=1):
        self.events, self.protocol = parsed(rows), protocol
        days = sorted({event[3] for event in self.events})
        train_from, test_from = (
            datetime.strptime(protocol[name], "%Y%m%d").date() for name in ("train_from", "test_from")
        )
        validation = [day for day in days if day < test_from][-validation_days]
        test = min(day for day in days if day >= test_from)
        training = [day for day in days if train_from <= day < validation]
        earlier = [day for day in days if day < training[0]][:1]
        self.starts = [*earlier, *training, validation, test]
        self.train = len(earlier)
        shown = Counter(event[2] for event in self.events if event[3] < validation)
        kept = sorted(video for video, count in shown.items() if count >= protocol["video_min_exposures"])
        self.item = {video: number for number, video in enumerate(kept, 2)}

    def period(self, day):
        return sum(start <= day for start in self.starts) - 1

    def part(self, day):
        period, last = self.period(day), len(self.starts) - 1
        return {last: "test", last - 1: "validation"}.get(period, "train" if period >= self.train else "past")

    def requests(self, part, asked=None):
        """All of a request but its statistics, as sorted tuples."""
        lists = defaultdict(list)
        for event in sorted(asked or self.events, key=lambda e: (e[1], e[2])):
            if self.part(event[3]) == part:
                lists[event[3], event[0], event[4]].append(event)
        found, width = [], self.protocol["exposed"]
        for (day, user, tab), shown in lists.items():
            for begin in range(0, len(shown), width):
                found.append(self.request(day, user, tab, shown[begin : begin + width]))
        return sorted(found)

    def request(self, day, user, tab, shown):
        time = shown[0][1]
        past = [event for event in self.events if event[0] == user and event[1] < time][-self.protocol["history"] :]
        order = sorted(range(len(shown)), key=lambda slot: (-shown[slot][5], slot))
        slots = tuple((self.item.get(shown[s][2], 1), s, float(shown[s][5]), float(shown[s][6])) for s in order)
        history = tuple((self.item.get(event[2], 1), event[1], float(event[6])) for event in past)
        return user + 1, self.period(day), tab, (time // 3_600_000 + 8) % 24, time, slots, history

    def counts(self, period, of=lambda event: True):
        """Exposures, clicks and long views before a period."""
        past = [event for event in self.events if event[3] < self.starts[period] and of(event)]
        return len(past), sum(event[5] for event in past), sum(event[6] for event in past)

    def user_statistics(self, user, period, tab):
        mine = self.counts(period, lambda e: e[0] == user)
        here = self.counts(period, lambda e: e[0] == user and e[4] == tab)
        everyone, on_tab = self.counts(period), self.counts(period, lambda e: e[4] == tab)
        rates, tab_rates = [], []
        for label in (1, 2):
            rate = (everyone[label] + 1) / (everyone[0] + 2)
            tab_rate = (on_tab[label] + 20 * rate) / (on_tab[0] + 20)
            rates.append(logit((mine[label] + 10 * rate) / (mine[0] + 10)) - logit(rate))
            tab_rates.append(logit((here[label] + 10 * tab_rate) / (here[0] + 10)) - logit(rate))
        return [*rates, math.log1p(mine[0]) / 4, *tab_rates, math.log1p(here[0]) / 4]

    def item_statistics(self, item, period):
        mine = self.counts(period, lambda e: self.item.get(e[2], 1) == item)
        everyone, start = self.counts(period), self.starts[period]
        week = self.counts(period, lambda e: self.item.get(e[2], 1) == item and e[3] >= start - timedelta(days=7))
        rates = []
        for label in (1, 2):
            rate = (everyone[label] + 1) / (everyone[0] + 2)
            rates.append(logit((mine[label] + 20 * rate) / (mine[0] + 20)) - logit(rate))
        return [*rates, *((math.log1p(count[0]) / 4 if item > 1 else 0.0) for count in (mine, week))]


def logit(rate):
    rate = min(max(rate, 0.01), 0.99)
    return math.log(rate / (1 - rate))


def held(store, part):
    """The requests of a store as the oracle tells them, and (user, period, tab) -> statistics."""
    table = store[part]
    column = {name: np.asarray(table[name][:]) for name in table.columns}
    found, statistics = [], {}
    for row in range(len(table)):
        mask, real = column["mask"][row], column["history_mask"][row]
        assert (column["stage"][row] == mask).all()
        assert (column["history.groups"][row][:, 0] == real).all()
        slots = (column[name][row][mask].tolist() for name in ("items.id", "rank", "labels.click", "labels.long_view"))
        past = column["history.id"], column["history_time"], column["history.groups"][:, :, 1]
        history = (values[row][real].tolist() for values in past)
        tab, hour = column["user.categorical"][row] - [1, 16]
        user, period = int(column["user.id"][row]), int(column["user.day"][row])
        time = int(column["request_time"][row])
        slots, history = tuple(zip(*slots, strict=True)), tuple(zip(*history, strict=True))
        found.append((user, period, int(tab), int(hour), time, slots, history))
        statistics[user - 1, period, int(tab)] = column["user.dense"][row]
    return sorted(found), statistics


def daily(store):
    return np.asarray(store["daily"]["statistics"][:]).reshape(store.facts["more"]["periods"], -1, 4)


def assert_as_oracle(store, oracle):
    for part in PARTS:
        requests, statistics = held(store, part)
        assert requests == oracle.requests(part)
        for key, found in itertools.islice(statistics.items(), 40):
            np.testing.assert_allclose(found, oracle.user_statistics(*key), rtol=1e-4, atol=1e-5)
    published = np.asarray(store["item_ids"]["published"][:])
    assert published.tolist() == [-1, -1, *oracle.item]
    for period, item in itertools.product(range(len(oracle.starts)), range(1, min(len(published), 8))):
        expected = oracle.item_statistics(item, period)
        np.testing.assert_allclose(daily(store)[period, item], expected, rtol=1e-4, atol=1e-5)


def test_every_exposure_once_with_its_past_as_loops_over_rows_find_it(made):
    rows, store = made
    assert_as_oracle(store, Oracle(rows))
    told = " ".join(store.facts["lines"])
    assert "removed 5 exact duplicates" in told
    assert "merged 1 rows" in told


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_log_is_converted_as_loops_do(data, tmp_path_factory, monkeypatch):
    row = st.tuples(
        st.integers(0, 3), st.integers(0, 5), st.integers(0, 6), st.integers(0, 5), st.booleans(), st.booleans(),
        st.sampled_from([0, 1, 14]),
    )  # fmt: skip
    drawn = data.draw(st.lists(row, max_size=40))
    rows = [synthetic.log_row(u, v, d, s, int(c), int(w), t) for u, v, d, s, c, w, t in drawn]
    rows += [synthetic.log_row(0, 0, day, 7, day % 2) for day in (1, 2, 4, 5)]  # each part has something
    protocol = PROTOCOL | {"video_min_exposures": data.draw(st.integers(1, 2)), "exposed": data.draw(st.integers(1, 3))}
    where = tmp_path_factory.mktemp("any")
    with monkeypatch.context() as patch:
        patch.setattr(kuairand_large_passes, "GROUP_BYTES", data.draw(st.sampled_from([10_000, 1 << 30])))
        folder = write_large(where / "files", rows, parts=data.draw(st.integers(1, 3)))
        assert_as_oracle(convert("kuairand_1k", folder, where / "store", protocol, quiet), Oracle(rows, protocol))


def test_statistics_are_those_of_kuairand_pure(tmp_path):
    """The same rows and no earlier ones: the same numbers as the functions that hold everything in memory."""
    rows = synthetic.log_rows(count=600)
    protocol = PROTOCOL | {"train_from": "20220425", "video_min_exposures": 1}
    store = convert("kuairand_1k", write_large(tmp_path / "large", rows), tmp_path / "store", protocol, quiet)
    tables = synthetic.tables(tmp_path / "pure", rows=rows, history=False)
    past = kuairand_features.collect(tables, kr.split(tables.log, synthetic.small_config()))
    published = np.asarray(store["item_ids"]["published"][:])
    expected = kuairand_features.item_statistics(past)[:, published[2:] + 1]
    np.testing.assert_allclose(daily(store)[:, 2:], expected, rtol=1e-4, atol=1e-5)
    users = kuairand_features.user_statistics(past)
    for part in PARTS:
        for (user, period, tab), found in held(store, part)[1].items():
            np.testing.assert_allclose(found, users[period, user + 1, tab], rtol=1e-4, atol=1e-5)


def test_the_week_before_a_period_is_seven_days_long():
    one = pl.DataFrame({"item": [2], "exposures": [1], "clicks": [0], "views": [0]}).cast(pl.Int32)
    days = np.arange(100, 112)
    everyone = np.zeros((2, 15, 3))
    found = list(item_statistics(np.array([105, 111]), days, lambda day: iter([one]), everyone, 3))
    np.testing.assert_allclose(np.expm1(4 * np.stack(found)[:, 2, 2:]), [[5, 5], [11, 7]], rtol=1e-4)


def same(one: Store, other: Store, ordered: bool = True):
    """Whether two stores hold the same rows."""
    assert one.manifest["tables"].keys() == other.manifest["tables"].keys()
    for name in one.manifest["tables"]:
        tables = []
        for store in (one, other):
            table = store[name]
            flat = [np.asarray(table[c][:]).reshape(len(table), -1).astype(np.float64) for c in table.columns]
            rows = np.concatenate(flat, axis=1)
            tables.append(rows if ordered or name not in (*PARTS, "test_random") else rows[np.lexsort(rows.T)])
        np.testing.assert_array_equal(*tables)


def test_files_of_users_change_nothing(made, tmp_path, monkeypatch):
    rows, store = made
    monkeypatch.setattr(kuairand_large_passes, "GROUP_BYTES", 30_000)
    folder = write_large(tmp_path / "files", rows, drawn=drawn_rows())
    other = convert("kuairand_1k", folder, tmp_path / "store", PROTOCOL, quiet)
    assert len(store["train"].shards) == 1
    assert len(other["train"].shards) >= 5
    same(store, other, ordered=False)


def test_parts_gz_and_the_earlier_log_are_one_log(made, tmp_path):
    rows, store = made
    early = [row for row in rows if row.split(",")[2] == "20220425"]
    late = [row for row in rows if row.split(",")[2] != "20220425"]
    folder = write_large(tmp_path / "files", late, drawn=drawn_rows(), gz=True, parts=3, size="27k", early=early)
    other = convert("kuairand_27k", folder, tmp_path / "store", PROTOCOL, quiet)
    same(store, other)
    warned = ["no log of 8 to 21 April" in " ".join(found.facts["warnings"]) for found in (store, other)]
    assert warned == [True, False]


def test_rare_videos_share_an_item_without_features(made):
    _, store = made
    kept = np.asarray(store["item_ids"]["published"][:])
    items = {name: np.asarray(store["items"][name][:]) for name in store["items"].columns}
    assert store.facts["more"]["rare"] == 1
    assert 3 < len(kept) < synthetic.VIDEOS
    rare, known = items["categorical"][1], items["categorical"][2:]
    assert (rare <= known).all()
    assert (rare[1:5] < known[:, 1:5]).all()  # what every video of the table has
    assert np.isfinite(items["dense"]).all()
    tags = [synthetic.video_rows()[video].split("9.0,")[1] for video in kept[2:]]
    for tag in set(tags):  # one id for each first tag
        assert len({row[0] for row, own in zip(known, tags, strict=True) if own == tag}) == 1
    ids = np.asarray(store["train"]["items.id"][:])
    np.testing.assert_array_equal(np.bincount(ids[ids > 0], minlength=len(kept)), items["exposures"])


def test_defaults_keep_fewer_videos_of_the_larger_set():
    assert [dataset.config().video_min_exposures for dataset in DATASETS] == [5, 20]


def test_videos_shown_at_random_are_a_test_with_the_past_of_the_test(made):
    rows, store = made
    oracle = Oracle(rows)
    requests, statistics = held(store, "test_random")
    assert requests == oracle.requests("test", asked=parsed(drawn_rows()))
    assert len(requests) > 3
    for key, found in statistics.items():
        assert key[1] == len(oracle.starts) - 1
        np.testing.assert_allclose(found, oracle.user_statistics(*key), rtol=1e-4, atol=1e-5)


def test_a_user_of_the_random_log_alone_has_no_past(tmp_path, monkeypatch):
    monkeypatch.setattr(kuairand_large_passes, "GROUP_BYTES", 20_000)
    rows = [row for row in some_rows() if not row.startswith("2,")]
    folder = write_large(tmp_path / "files", rows, drawn=[synthetic.log_row(2, 7, 5, 60)])
    store = convert("kuairand_1k", folder, tmp_path / "store", PROTOCOL, quiet)
    (request,), statistics = held(store, "test_random")
    assert request[0] == 3
    assert request[-1] == ()
    oracle = Oracle(rows)
    np.testing.assert_allclose(
        statistics[2, request[1], 1], oracle.user_statistics(2, request[1], 1), rtol=1e-4, atol=1e-5
    )


def test_features_can_be_attached(made):
    _, store = made
    spec = FeatureSpec(**{**store.facts["spec"], "tasks": tuple(store.facts["spec"]["tasks"])})
    tables = {
        name: {column: np.asarray(store[name][column][:]) for column in store[name].columns}
        for name in ("users", "items")
    }
    assert (len(tables["users"]["group"]), len(tables["items"]["dense"])) == (spec.users, spec.items)
    log = jax.tree.map(lambda leaf: np.asarray(leaf[:5]), store["test"].requests())
    batch = attach(log, Catalogue(users=tables["users"], items=tables["items"], daily=daily(store)))
    assert batch.items["dense"].shape == (5, 3, 2 + 4)
    assert batch.user["categorical"].max() < spec.user_categories
    assert batch.items["categorical"].max() < spec.item_categories
    assert batch.cross is None
    assert spec.cross == 0


def test_a_stopped_conversion_goes_on(made, tmp_path, monkeypatch):
    rows, store = made
    folder = write_large(tmp_path / "files", rows, drawn=drawn_rows())

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kuairand_large_passes.Passes, "keep", stop)
        with pytest.raises(KeyboardInterrupt):
            convert("kuairand_1k", folder, tmp_path / "store", PROTOCOL, quiet)
    monkeypatch.setattr(kuairand_large_files, "exposures", stop)  # the logs are not read again
    same(store, convert("kuairand_1k", folder, tmp_path / "store", PROTOCOL, quiet))


def changed(name, old, new):
    def change(folder):
        path = folder / name.format("1k")
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def renamed(old, *names):
    def change(folder):
        data = (folder / old.format("1k")).read_bytes()
        (folder / old.format("1k")).unlink()
        for name in names:
            (folder / name.format("1k")).write_bytes(data)

    return change


def cut(name):
    def change(folder):
        path = folder / name.format("1k")
        packed = gzip.compress(path.read_bytes())
        path.unlink()
        path.with_name(path.name + ".gz").write_bytes(packed[: len(packed) // 2])

    return change


FIRST = synthetic.log_rows()[0]
NUMBERS = FIRST.split(",")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(LATE, FIRST, FIRST[:-1] + "15"), r"log_standard_4_22_to_5_08_1k.csv: row 1: tab=15, expected .*14\]"),
        (changed(LATE, FIRST, FIRST.removesuffix(",1")[:-2]), r"1k.csv: row 1: .* fields, expected 19"),
        (changed(LATE, FIRST, "99" + FIRST), r"1k.csv: row 1: user_id=99\d+, expected a user of the table of users"),
        (changed(LATE, NUMBERS[2], "20220431"), r"1k.csv: row 1: date='20220431', expected a date as 20220408"),
        (changed(LATE, NUMBERS[2], "20220501"), r"1k.csv: row 1: date=20220501, expected at most a day from time_ms"),
        (changed(LATE, "long_view", "long_watch"), "no column long_view; found user_id"),
        (cut(LATE), r"1k.csv.gz: .*(after row|gzip)"),
        (changed(USERS, "\n1,", "\n0,"), "user_features_1k.csv: row 2: user_id=0, expected each id once"),
        (changed(VIDEOS, "\n1,", "\n0,"), "video_features_basic_1k.csv: row 2: video_id=0, expected each id once"),
        (changed(VIDEOS, "2022-04-10", "10.4.2022"), "row 1: upload_dt='10.4.2022', expected a date as 2022-04-08"),
        (renamed(VIDEOS), "no video_features_basic_1k.csv or video_features_basic_1k_part1.csv there"),
        (
            renamed(LATE, LATE[:-4] + "_part2.csv"),
            r"_1k_part2.csv; expected .*_1k.csv alone, or _part1, _part2 and",
        ),
        (renamed(LATE, LATE, LATE[:-4] + "_part1.csv"), "1k.csv, .*_part1.csv; expected"),
    ],
)
def test_bad_files_leave_nothing(tmp_path, change, message):
    folder = write_large(tmp_path / "files", synthetic.log_rows())
    change(folder)
    with pytest.raises(UserError, match=message) as caught:
        convert("kuairand_1k", folder, tmp_path / "store", PROTOCOL | {"video_min_exposures": 1}, quiet)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_from": "2022-05-01"}, "test_from='2022-05-01': expected a date YYYYMMDD"),
        ({"test_from": "20220510"}, "test_from=20220510, validation_days=1: the log has 2022-04-25 to 2022-05-01"),
        ({"validation_days": 9}, "validation_days=9: the log has"),
        ({"train_from": "20220429"}, "train_from=20220429, .*expected days of it for training, validation and test"),
        ({"video_min_exposures": 999}, r"video_min_exposures=999: no video has so many, expected at most \d+"),
    ],
)
def test_a_protocol_that_the_log_has_no_days_for_is_refused(tmp_path, changes, message):
    folder = write_large(tmp_path / "files", synthetic.log_rows())
    with pytest.raises(UserError, match=message):
        convert("kuairand_1k", folder, tmp_path / "store", PROTOCOL | changes, quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


def test_columns_in_another_order_give_the_same(made, tmp_path):
    rows, store = made
    folder = write_large(tmp_path / "files", rows, drawn=drawn_rows())
    path = folder / LATE.format("1k")
    lines = [",".join(reversed(line.split(","))) for line in path.read_text().splitlines()]
    path.write_bytes(("﻿" + "\r\n".join([*lines, ""])).encode())
    same(store, convert("kuairand_1k", folder, tmp_path / "store", PROTOCOL, quiet))


def test_a_kept_video_that_the_table_has_not_is_told(tmp_path):
    folder = write_large(tmp_path / "files", synthetic.log_rows())
    path = folder / VIDEOS.format("1k")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    store = convert("kuairand_1k", folder, tmp_path / "store", PROTOCOL | {"video_min_exposures": 1}, quiet)
    assert "2 videos with an id of their own are not in the table of videos" in store.facts["warnings"]
    assert np.isfinite(np.asarray(store["items"]["dense"][:])).all()


@pytest.mark.slow
def test_real_rows(kuairand_dir, tmp_path):
    """The excerpt of KuaiRand-Pure, which has the same columns."""
    folder = tmp_path / "files"
    folder.mkdir()
    for path in (kuairand_dir / "data").iterdir():
        (folder / path.name.replace("pure", "1k")).symlink_to(path)
    store = convert("kuairand_1k", folder, tmp_path / "store", {"test_from": "20220506"}, quiet)
    tables = kr.read(kuairand_dir)
    days = np.unique(tables.log.day)
    shown = {part: int((np.asarray(store[part]["items.id"][:]) > 0).sum()) for part in PARTS}
    assert sum(shown.values()) == len(tables.log.user)
    assert shown["test"] == (tables.log.day == days[-1]).sum()
    assert store.facts["more"]["train_period"] == 0
    assert date(2022, 5, 6).isoformat() in " ".join(store.facts["lines"])
