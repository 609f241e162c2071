"""RecFlow's files become exactly the lists that they hold, by an oracle that goes through them row by row."""

import datetime
import os
import shutil

import numpy as np
import pytest
import recflow_synthetic as synthetic
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hccp_jax.data import describe
from hccp_jax.data.convert import convert
from hccp_jax.data.requests import Stage, validate
from hccp_jax.data.sources.recflow_ids import Vocabulary
from hccp_jax.data.store import open_store
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

DAYS = ["2024-02-15", "2024-02-16", "2024-02-17", "2024-02-18"]
PARTS = {"train": DAYS[:2], "validation": DAYS[2:3], "test": DAYS[3:]}
ALL = {"exposed": 40, "each": 40}  # limits that nothing reaches
LCRON = ("rank_pos", "rank_neg", "coarse_neg", "prerank_neg")
PRIORITY = dict(zip(synthetic.FLAGS, (5, 4, 3, 4, 3, 2, 1), strict=True))
SHANGHAI = datetime.timezone(datetime.timedelta(hours=8))
TASKS = ("effective_view", "long_view")


def quiet(line):
    pass


def converted(folder, output="store", **changes):
    return convert("recflow", folder, folder.parent / output, changes, quiet)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(folder, what is in it) of four days."""
    folder = tmp_path_factory.mktemp("recflow") / "published"
    return folder, synthetic.write(folder / "data", 5, DAYS, requests=12)


@pytest.fixture(scope="module")
def whole(published):
    """The store of them, without limits."""
    return converted(published[0], "whole", **ALL)


def video_numbers(written):
    found = {row["video_id"] for rows, _ in written.values() for row in rows}
    for _, history in written.values():
        found |= {int(event[0]) for events in history.values() for event in events if event[7] > 0}
    return {video: number for number, video in enumerate(sorted(found), start=1)}


def items_of(rows, lcron=False):
    """{video: (stage, rank, priority, labels)} of one request's rows, as the documentation defines them."""
    flags_of = {row["video_id"]: {flag for flag in synthetic.FLAGS if row[flag]} for row in rows}
    kept = [row for row in rows if flags_of[row["video_id"]] & set(LCRON if lcron else synthetic.FLAGS)]
    ranked = [row for row in kept if flags_of[row["video_id"]] - {"coarse_neg", "prerank_neg"}]

    def order(row):
        index = row["rank_index"]
        return "rank_pos" not in flags_of[row["video_id"]], index if index >= 0 else 10**9, row["video_id"]

    rank = {row["video_id"]: place for place, row in enumerate(sorted(ranked, key=order))}
    found = {}
    for row in kept:
        video, flags = row["video_id"], flags_of[row["video_id"]]
        stage = Stage.EXPOSED if "realshow" in flags else Stage.RANKED if video in rank else Stage.PRERANKED
        labels = tuple(float(row[task]) for task in TASKS)
        priority = 6 if row["effective_view"] else max(PRIORITY[flag] for flag in flags)
        if lcron:
            group = next(index for index, flag in enumerate(LCRON) if flag in flags)
            priority = 23 - rank[video] if group == 0 else 4 - group
        found[video] = (int(stage), rank.get(video, -1), priority, labels)
    return found


def within_limits(rows, kept):
    """Rows of one request whose videos are kept: LCRON keeps ten of a flag, of `rank_pos` the best."""
    groups = {flag: {} for flag in LCRON}
    for row in rows:
        flag = next((flag for flag in LCRON if row[flag]), None)
        if flag:
            groups[flag][row["video_id"]] = row["rank_index"]
    for flag, videos in groups.items():
        assert len(kept & set(videos)) == min(10, len(videos))
        best = sorted(videos, key=lambda video, at=videos: (at[video], video))[:10]
        assert flag != "rank_pos" or kept & set(videos) == set(best)
    return [row for row in rows if row["video_id"] in kept]


def check_lists(store, written, lcron=False):
    """Every request that has an item is there once with exactly its items, each with what is known of it."""
    numbers = video_numbers(written)
    for part, days in PARTS.items():
        table = store[part]
        batch = validate(table.requests())
        requests, priority = np.asarray(table["request_id"][:]), np.asarray(table["priority"][:])
        rows = [row for day in days for row in written[day][0]]
        expected = {
            request: [row for row in rows if row["request_id"] == request]
            for request in {row["request_id"] for row in rows}
        }
        expected = {request: own for request, own in expected.items() if items_of(own, lcron)}
        assert sorted(requests.tolist()) == sorted(expected)
        for u, request in enumerate(requests.tolist()):
            ids, mask = batch.items["id"][u], batch.mask[u]
            labels = zip(*(batch.labels[task][u][mask].tolist() for task in TASKS), strict=True)
            known = zip(
                batch.stage[u][mask].tolist(),
                batch.rank[u][mask].tolist(),
                priority[u][mask].tolist(),
                labels,
                strict=True,
            )
            own = expected[request]
            if lcron:
                own = within_limits(own, {video for video, number in numbers.items() if number in ids[mask]})
            items = {numbers[video]: known for video, known in items_of(own, lcron).items()}
            assert dict(zip(ids[mask].tolist(), known, strict=True)) == items
            assert mask.sum() == len(items)
            assert not priority[u][~mask].any()
            heads = [row for row in rows if row["request_id"] == request]
            assert table["request_time"][u] == heads[0]["request_timestamp"]


def check_histories(store, written, width):
    numbers = video_numbers(written)
    for part, days in PARTS.items():
        table, histories = store[part], {key: x for day in days for key, x in written[day][1].items()}
        past = zip(
            *(
                np.asarray(table[name][:]).tolist()
                for name in ("request_id", "history.id", "history_mask", "history_time", "history.groups")
            ),
            strict=True,
        )
        for request, ids, mask, times, groups in past:
            real = [event for event in histories[request].tolist() if event[7] > 0][-width:]
            empty = width - len(real)
            assert mask == [False] * empty + [True] * len(real)
            assert ids == [0] * empty + [numbers[event[0]] for event in real]
            assert times == [0] * empty + [event[7] for event in real]
            assert groups == [[float(is_real)] for is_real in mask]


@settings(max_examples=4, deadline=None, database=None)
@given(seed=st.integers(0, 2**31), lcron=st.booleans(), width=st.sampled_from([2, 50]))
@example(seed=966, lcron=True, width=2)  # eleven of rank_neg
def test_what_is_converted_is_what_was_published(tmp_path_factory, seed, lcron, width):
    folder = tmp_path_factory.mktemp("any") / "published"
    written = synthetic.write(folder, seed, DAYS, requests=3)
    protocol = {"protocol": "lcron", "test_day": DAYS[-1]} if lcron else {"protocol": "recflow", **ALL}
    store = converted(folder, history=width, **protocol)
    check_lists(store, written, lcron)
    check_histories(store, written, width)


def test_features_are_the_published_ones(published, whole):
    (_, written), store, facts = published, whole, whole.facts
    numbers, items = (
        video_numbers(written),
        {name: np.asarray(store["items"][name][:]) for name in ("categorical", "dense")},
    )
    first = {}
    for rows, _ in written.values():
        for row in rows:
            first.setdefault(row["video_id"], row)
    assert not items["categorical"][0].any()
    assert len(items["categorical"]) == len(numbers) + 1 == facts["spec"]["items"]
    assert items["categorical"].max() < facts["spec"]["item_categories"]
    meant = {}
    for video, row in first.items():
        uploaded = datetime.datetime.fromtimestamp(
            row["upload_timestamp"], datetime.timezone(datetime.timedelta(hours=8))
        )
        clock = (uploaded.weekday(), uploaded.hour) if row["upload_timestamp"] else ("none", "none")
        one = "padding" if row["category_level_one"] == 2 else row["category_level_one"]
        names = (row["author_id"], one, row["category_level_two"], row["upload_type"], *clock)
        for field, (name, code) in enumerate(zip(names, items["categorical"][numbers[video]].tolist(), strict=True)):
            assert meant.setdefault(code, (field, name)) == (field, name)  # a code means one value of one field
        assert items["dense"][numbers[video], 0] == pytest.approx(np.log1p(max(row["duration"], 0) / 1000), rel=1e-6)
    assert len(set(meant.values())) == len(meant)  # and a value has one code
    missing = 1 + facts["more"]["vocabularies"]["author_id"]  # the first code of the second field
    assert meant[missing] == (1, "padding")


def test_context_and_users_are_the_published_ones(published, whole):
    (_, written), store = published, whole
    heads = {row["request_id"]: row for rows, _ in written.values() for row in rows}
    people = np.asarray(store["users"]["categorical"][:])
    users = sorted({row["user_id"] for row in heads.values()})
    meant = {}
    for part in PARTS:
        table = store[part]
        ids = zip(
            *(np.asarray(table[name][:]).tolist() for name in ("request_id", "user.id", "user.categorical")),
            strict=True,
        )
        for request, user, codes in ids:
            row = heads[request]
            assert user == 1 + users.index(row["user_id"])
            when = datetime.datetime.fromtimestamp(row["request_timestamp"] / 1000, SHANGHAI)
            assert codes[:2] == [2 + when.weekday(), 10 + when.hour]
            names = (when.weekday(), when.hour, row["device_id"], row["province"], row["age"], row["gender"])
            for field, (name, code) in enumerate(zip(names, codes + people[user].tolist(), strict=True)):
                assert meant.setdefault(code, (field, name)) == (field, name)
                assert 0 < code < store.facts["spec"]["user_categories"]
    assert len(set(meant.values())) == len(meant)


def test_lists_begin_with_clicks_and_go_down_the_funnel(whole):
    batch = whole["train"].requests()
    for u in range(len(batch.mask)):
        stage, rank, click = batch.stage[u], batch.rank[u], batch.labels["effective_view"][u]
        real = stage[batch.mask[u]].tolist()
        assert real == sorted(real)
        for chosen in (click > 0, (stage == Stage.EXPOSED) & (click == 0), stage == Stage.RANKED):
            assert rank[chosen].tolist() == sorted(rank[chosen].tolist())
        assert (click[stage == Stage.EXPOSED] == sorted(click[stage == Stage.EXPOSED], reverse=True)).all()


def test_limits_draw_from_each_stage_whatever_the_order_of_rows(published, tmp_path):
    folder, written = published
    store = converted(folder, "limited", exposed=1, each=2)
    numbers, flagged = video_numbers(written), 0
    rows = [row for day in PARTS["train"] for row in written[day][0]]
    table = store["train"]
    assert table["mask"].shape[1] == 1 + 6 * 2
    for request, ids in zip(np.asarray(table["request_id"][:]), np.asarray(table["items.id"][:]), strict=True):
        deepest = {}
        for row in rows:
            if row["request_id"] == request and any(row[flag] for flag in synthetic.FLAGS):
                deepest[numbers[row["video_id"]]] = next(flag for flag in synthetic.FLAGS if row[flag])
        kept = [deepest[item] for item in ids[ids > 0].tolist()]
        for flag in synthetic.FLAGS:
            limit = 1 if flag == "realshow" else 2
            assert kept.count(flag) == min(limit, list(deepest.values()).count(flag))
            flagged += list(deepest.values()).count(flag) > limit
    assert flagged  # a limit was reached
    other = tmp_path / "other"
    shutil.copytree(folder / "data", other)  # without the folder `data`
    for day in DAYS:
        synthetic.write_table(
            other / "all_stage" / f"{day}.feather", written[day][0][::-1], reversed(synthetic.COLUMNS)
        )
    again = converted(other, "again", exposed=1, each=2)
    for part in PARTS:
        for column in store[part].columns:
            np.testing.assert_array_equal(store[part][column][:], again[part][column][:])


def test_counts_and_traps_are_told(published, tmp_path):
    folder, written = published
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    rows, history = written[DAYS[1]]
    twice = dict(rows[0], coarse_neg=1)
    unseen = next(row for row in rows if row["realshow"] == 0 and row["rank_neg"] == 1)
    told = [*(dict(row, effective_view=1) if row is unseen else row for row in rows), twice]
    border = min(row["request_timestamp"] for row in written[DAYS[2]][0])  # belongs to the next day already
    late = dict(rows[0], request_id=77, request_timestamp=border)
    synthetic.write_table(other / "data" / "all_stage" / f"{DAYS[1]}.feather", [*told, late])
    synthetic.write_table(other / "data" / "realshow" / f"{DAYS[1]}.feather", rows[:3], ("request_id", "realshow"))
    asked = next(request for request, events in history.items() if (events[:, 7] > 0).any())
    events = history[asked].copy()
    events[-1, 7] = next(row["request_timestamp"] for row in rows if row["request_id"] == asked)
    synthetic.write_pickle(other / "data" / "seq_effective_50_dict" / f"{DAYS[1]}.pkl", history | {asked: events}, 4)
    store = converted(other, **ALL)
    text = describe.text(store.manifest)
    shown = sum(row["realshow"] for row in [*told, late])
    assert "1 rows that repeat an item of their request" in text
    assert "warning: 1 items with feedback that were not shown" in text
    assert "warning: 1 behaviours of histories that are not before their request" in text
    assert "warning: 1 requests not before the first of the next part" in text
    assert f"warning: realshow/{DAYS[1]}: 3 rows, but all_stage has {shown} exposures" in text
    assert f"{DAYS[1]}: 12 requests, {len(rows) + 2} rows (realshow {shown}, " in text
    table = store["train"]
    row = np.flatnonzero(np.asarray(table["request_id"][:]) == twice["request_id"])[0]
    slot = table["items.id"][row].tolist().index(video_numbers(written)[twice["video_id"]])
    assert table["stage"][row, slot] == items_of([twice])[twice["video_id"]][0]  # the deepest of both rows


def test_published_candidates_are_a_table(published, tmp_path):
    folder, written = published
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    rows, _ = written[DAYS[-1]]
    names = (*synthetic.HEADS, *synthetic.VIDEOS, "effective_view")
    synthetic.write_table(other / "data" / "others" / "prerank_test.feather", rows, names)
    table = converted(other, slots=64)["candidates"]
    batch = validate(table.requests())
    assert batch.mask.shape == (len({row["request_id"] for row in rows}), 64)
    found = {
        (request, item, label)
        for request, items, labels, mask in zip(
            np.asarray(table["request_id"][:]).tolist(),
            batch.items["id"],
            batch.labels["effective_view"],
            batch.mask,
            strict=True,
        )
        for item, label in zip(items[mask].tolist(), labels[mask].tolist(), strict=True)
    }
    numbers = video_numbers(written)
    assert found == {(row["request_id"], numbers[row["video_id"]], float(row["effective_view"])) for row in rows}


def test_a_stopped_conversion_goes_on_and_ends_the_same(published, whole, monkeypatch):
    folder, _ = published
    shard, shards, stops = StoreWriter.shard, 0, 0

    def stopping(self, *arguments):
        nonlocal shards
        shards += 1
        if shards in (2, 6, 11):  # before this shard
            raise KeyboardInterrupt
        shard(self, *arguments)

    monkeypatch.setattr(StoreWriter, "shard", stopping)
    while True:
        try:
            resumed = converted(folder, "resumed", **ALL)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops == 3
    assert resumed.facts["lines"] == whole.facts["lines"]
    for name, table in whole.manifest["tables"].items():
        for column in table["columns"]:
            np.testing.assert_array_equal(whole[name][column][:], resumed[name][column][:])


def test_ids_are_numbered_in_their_order():
    flags = np.random.default_rng(0).random(1000) < 0.3
    vocabulary, ids = Vocabulary(flags), np.arange(3000)
    expected = {int(value): number for number, value in enumerate(np.flatnonzero(flags), start=1)}
    assert vocabulary(ids).tolist() == [expected.get(value, 0) for value in range(3000)]
    assert vocabulary.size == flags.sum() + 1
    assert Vocabulary(np.zeros(0, bool))(ids).max() == 0


def broken(folder, written, what):
    """Damage a copy of the files."""
    day = DAYS[1]
    table, past = folder / "data/all_stage" / f"{day}.feather", folder / "data/seq_effective_50_dict" / f"{day}.pkl"
    rows = [dict(row) for row in written[day][0]]
    match what:
        case "truncated":
            table.write_bytes(table.read_bytes()[:-200])
        case "placeholder":
            table.write_bytes(b"")
        case "garbage":
            table.write_bytes(os.urandom(4096))
        case "first version":
            table.write_bytes(b"FEA1" + bytes(64))
        case "no column":
            synthetic.write_table(table, rows, [name for name in synthetic.COLUMNS if name != "rank_pos"])
        case "mixed schema":
            synthetic.feather.write_feather(
                synthetic.pa.table({name: [str(row[name]) for row in rows] for name in synthetic.COLUMNS}), str(table)
            )
        case "no rows":
            synthetic.write_table(table, [])
        case "flag":
            rows[20]["realshow"] = 2
            synthetic.write_table(table, rows)
        case "seconds":
            rows[3]["request_timestamp"] //= 1000
            synthetic.write_table(table, rows)
        case "nulls":
            values = {name: [row[name] for row in rows] for name in synthetic.COLUMNS}
            values["video_id"][4] = None
            synthetic.feather.write_feather(synthetic.pa.table(values), str(table))
        case "two users":
            rows[0]["user_id"] += 3
            synthetic.write_table(table, rows)
        case "no histories":
            past.unlink()
        case "cut pickle":
            past.write_bytes(past.read_bytes()[:-50])
        case "empty pickle":
            past.write_bytes(b"")
        case "narrow histories":
            synthetic.write_pickle(past, {1: np.zeros((50, 8), np.int64)})
        case "list of histories":
            synthetic.write_pickle(past, [1, 2])
        case "history id":
            synthetic.write_pickle(past, {1001: np.full((1, 10), -5) + 10 * (np.arange(10) == 7)})
        case "no day":
            (folder / "data/all_stage" / f"{DAYS[-1]}.feather").unlink()
        case "name":
            shutil.copy(table, table.with_name("monday.feather"))


REFUSED = {
    "truncated": r"all_stage/2024-02-16.feather: not a whole Feather V2 \(Arrow IPC\) file",
    "placeholder": "all_stage/2024-02-16.feather: empty; the repository of RecFlow holds placeholders",
    "garbage": r"all_stage/2024-02-16.feather: not a whole Feather V2 \(Arrow IPC\) file",
    "first version": "all_stage/2024-02-16.feather: Feather V1; expected V2",
    "no column": "all_stage/2024-02-16.feather: no column rank_pos; found request_id, ",
    "mixed schema": "all_stage/2024-02-16.feather: request_timestamp is of .*string, expected integers",
    "no rows": "all_stage/2024-02-16.feather: row 1: no rows",
    "flag": r"all_stage/2024-02-16.feather: row 21: realshow=2, expected an integer in \[0, 1\]",
    "seconds": r"all_stage/2024-02-16.feather: row 4: request_timestamp=170\d+, expected an integer in \[",
    "nulls": r"all_stage/2024-02-16.feather: row 5: video_id=nothing, expected an integer in \[0, 268435455\]",
    "two users": r"all_stage/2024-02-16.feather: request_id=1\d\d\d: two values of user, expected one",
    "no histories": "no seq_effective_50_dict/2024-02-16.pkl there or in its data folder",
    "cut pickle": "seq_effective_50_dict/2024-02-16.pkl: not a whole pickle of arrays",
    "empty pickle": r"seq_effective_50_dict/2024-02-16.pkl: not a whole pickle of arrays \(empty\)",
    "narrow histories": r"2024-02-16.pkl: request 1: int64\[50, 8\], expected integers \[50, 10\]",
    "list of histories": "2024-02-16.pkl: a pickle of list, expected a dictionary",
    "history id": r"2024-02-16.pkl: request 1001: video_id=-5, expected an integer in \[0, 268435455\]",
    "no day": "test_day=2024-02-18, validation_days=1: expected days of all_stage, of which there are 2024-02-15 to",
    "name": "all_stage/monday.feather: expected a file for each day",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_as_published_is_refused_in_one_line_and_leaves_nothing(published, tmp_path, what):
    folder, written = published
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    broken(other, written, what)
    with pytest.raises(UserError, match=REFUSED[what]) as caught:
        converted(other)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": "like,like"}, "tasks=like,like: expected some of effective_view, "),
        ({"tasks": "click"}, "tasks='click': expected one of effective_view, "),
        ({"test_day": "tomorrow"}, "test_day='tomorrow': expected a day YYYY-MM-DD"),
        ({"protocol": "lcron"}, "test_day=2024-02-04, validation_days=1: expected days of all_stage"),
        ({"first_day": "2024-02-17"}, "test_day=2024-02-18, validation_days=1: expected days"),
    ],
)
def test_settings_are_checked(published, changes, message):
    with pytest.raises(UserError, match=message):
        converted(published[0], "refused", **changes)


def test_missing_ranks_may_be_numbers_that_are_none(published, tmp_path):
    folder, written = published
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    for day in DAYS:
        values = {name: [row[name] for row in written[day][0]] for name in synthetic.COLUMNS}
        values["rank_index"] = [float("nan") if rank < 0 else float(rank) for rank in values["rank_index"]]
        path = other / "data/all_stage" / f"{day}.feather"
        synthetic.feather.write_feather(synthetic.pa.table(values), str(path), compression="uncompressed")
    check_lists(converted(other, **ALL), written)


def test_without_a_validation_day_all_before_the_test_is_trained_on(published):
    store = converted(published[0], "published_protocol", validation_days=0, authors=False, **ALL)
    assert "validation" not in store
    assert len(store["train"]) == 36
    assert store["items"]["categorical"].shape[1] == 5
    assert open_store(store.directory, "full").facts["spec"]["tasks"] == ["effective_view", "long_view"]


def test_items_that_only_the_test_has_are_counted(tmp_path):
    written = synthetic.write(tmp_path / "in", 9, DAYS, requests=6)
    store = converted(tmp_path / "in", validation_days=2, **ALL)
    seen = [{row["video_id"] for row in written[day][0] if row["realshow"]} for day in (DAYS[0], DAYS[-1])]
    assert 0 < len(seen[1] - seen[0]) < len(seen[1])
    line = f"exposed items: {len(seen[1])} in test, {len(seen[1] - seen[0])} of them not in train"
    assert line in store.facts["lines"]
