"""Sequences from raw events, UserBehavior and Amazon reviews, against the protocol written out in loops over rows."""

import gzip
import json
import tempfile
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hccp_jax.data import buckets
from hccp_jax.data.convert import convert, main
from hccp_jax.data.sequences import items_of
from hccp_jax.data.sources import amazon_reviews
from hccp_jax.data.sources.events import EventsConfig, split, text_key
from hccp_jax.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"
PARTS = ("train", "validation", "test")
CHINA = timezone(timedelta(hours=8))
BEGIN = int(datetime(2017, 11, 25, tzinfo=CHINA).timestamp())
END = int(datetime(2017, 12, 4, tzinfo=CHINA).timestamp())


def quiet(line: str) -> None:
    pass


def oracle(events, at_least, key):
    """Part -> set of (items, times) of users, and the raw items by id: ComiRec's protocol, a row at a time.

    Args:
        events: (user, item, seconds) in the order of the file.
        at_least: events of an item, and of a user.
        key: user -> the number whose hash decides the part.
    """
    seen = Counter(item for _, item, _ in events)
    items = sorted((item for item in seen if seen[item] >= at_least), key=lambda item: (-seen[item], item))
    number = {item: place + 1 for place, item in enumerate(items)}
    found = {part: [] for part in PARTS}
    for user in {user for user, _, _ in events}:
        own = sorted(((time, item) for u, item, time in events if u == user and item in number), key=lambda e: e[0])
        if len(own) >= at_least:
            part = PARTS[int(split(np.array([key(user)]), EventsConfig(validation=0.3, test=0.3))[0])]
            found[part].append((tuple(number[item] for _, item in own), tuple(1000 * time for time, _ in own)))
    return {part: sorted(users) for part, users in found.items()}, items


def read(store):
    """The same of a store."""
    found = {}
    for part in PARTS:
        begin, length = (np.asarray(store[f"sequences_{part}"][name]) for name in ("begin", "length"))
        item, time = (np.asarray(store[f"events_{part}"][name]) for name in ("item", "time"))
        places = [slice(b, b + n) for b, n in zip(begin, length, strict=True)]
        found[part] = sorted((tuple(item[p].tolist()), tuple(time[p].tolist())) for p in places)
    return found


CLICKS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 5), st.sampled_from(["pv", "pv", "pv", "buy"]), st.integers(-2, 40)),
    min_size=30,
    max_size=60,
)


@given(CLICKS, st.sampled_from([15, 1000]), st.booleans())
@settings(max_examples=5, deadline=None)
def test_user_behavior_is_the_protocol(clicks, rows, several):
    rows_of_file = [(10**9 * u + 7, 5 * i, i % 2, b, BEGIN + 21_600 * t) for u, i, b, t in clicks]
    kept = [(u, i, t) for u, i, _, b, t in rows_of_file if (several or b == "pv") and BEGIN <= t < END]
    expected, items = oracle(kept, 2, lambda user: user)
    if not expected["train"]:
        return
    held, buckets.ROWS = buckets.ROWS, rows
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "UserBehavior.csv"
            path.write_text("".join(f"{u},{i},{c},{b},{t}\n" for u, i, c, b, t in rows_of_file))
            changes = {"at_least": 2, "validation": 0.3, "test": 0.3, "behaviors": "pv,buy" if several else "pv"}
            store = convert("userbehavior", Path(folder), Path(folder) / "store", changes, quiet)
            assert read(store) == expected
            assert np.asarray(store["items"]["raw"])[1:].tolist() == items
            assert np.asarray(store["items"]["category"])[1:].tolist() == _numbered([item // 5 % 2 for item in items])
            users = np.concatenate([np.asarray(store[f"sequences_{part}"]["user"]) for part in PARTS])
            assert sorted(users) == list(range(1, len(users) + 1))
            lines = "\n".join(store.facts["lines"])
            wanted = sum(several or row[3] == "pv" for row in rows_of_file)
            assert f"{len(rows_of_file) - wanted} events of other behaviors" in lines
            assert f"{wanted - len(kept)} events outside the days" in lines
            stay = sum(len(items) for users in expected.values() for items, _ in users)
            repeated = stay - sum(len(set(zip(*user, strict=True))) for users in expected.values() for user in users)
            assert f"kept: {repeated} exact duplicates" in lines
    finally:
        buckets.ROWS = held


def _numbered(raw):
    order = sorted(set(raw))
    return [order.index(value) + 1 for value in raw]


def test_days_are_chinese_and_their_borders_are_exact(tmp_path):
    times = [BEGIN - 1, BEGIN, END - 1, END, 0, -(2**40)]
    path = tmp_path / "UserBehavior.csv.gz"
    path.write_bytes(gzip.compress("".join(f"1,{t % 3 + 1},2,pv,{t}\r\n" for t in times).encode()))
    store = convert("userbehavior", tmp_path, tmp_path / "store", {"at_least": 1, "validation": 0, "test": 0}, quiet)
    assert np.asarray(store["events_train"]["time"]).tolist() == [1000 * BEGIN, 1000 * (END - 1)]
    assert store.facts["zone"] == 8
    assert "sequences_test" not in store


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1,2,3,pv,1511848894\n1,2,3,ipv,1511848894\n", "UserBehavior.csv: row 2: behavior='ipv', expected one of pv"),
        ("1,2,3,pv\n", "UserBehavior.csv: row 1: 4 fields, expected 5"),
        ("2,1,pv,3,1511848894\n", "UserBehavior.csv: row 1: category='pv', expected an integer"),
        ("1,2,3,pv,2017-11-25\n", "UserBehavior.csv: row 1: timestamp='2017-11-25', expected an integer"),
        ("1,2,3,pv,1511848894", "UserBehavior.csv: row 1: cut off, no end of line"),
        ("1,2,3,pv,5\n", "events: none is left by the protocol"),
        ("1,2,3,pv,1511848894\n", "at_least=5: no item has so many of the 1 events"),
        ("\x00\xff\x93", "UserBehavior.csv: row 1"),
    ],
)
def test_a_bad_row_is_one_line_and_leaves_nothing(tmp_path, capsys, text, line):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "UserBehavior.csv").write_bytes(text.encode("latin-1"))
    assert main(["--source=userbehavior", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'store'}"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {line}")
    assert told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_bad_settings_are_one_line(tmp_path):
    (tmp_path / "UserBehavior.csv").write_text("1,2,3,pv,1511848894\n")
    for changes, line in (
        ({"first_day": "20171301"}, "first_day=20171301: expected a day as YYYYMMDD"),
        ({"last_day": "20171124"}, "last_day=20171124: expected first_day=20171125 or later"),
        ({"behaviors": "view"}, "behaviors='view': expected one of pv"),
    ):
        with pytest.raises(UserError, match=line):
            convert("userbehavior", tmp_path, tmp_path / "store", changes, quiet)


def test_the_excerpt_of_user_behavior(tmp_path):
    if not (SHARED / "taobao_userbehavior").exists():
        pytest.skip(f"needs the excerpt of UserBehavior in {SHARED}")
    store = convert("userbehavior", SHARED / "taobao_userbehavior", tmp_path / "store", {"at_least": 2}, quiet)
    lines = "\n".join(store.facts["lines"])
    assert "left out: 954 events of other behaviors" in lines
    assert "left out: 4 events outside the days" in lines
    assert sum(len(store[f"events_{part}"]) for part in PARTS) == 3014
    assert items_of(store) == 1145


NAMES = ["A1", "A2Ö", "A" * 21, "B 7"]
REVIEWS = st.lists(
    st.tuples(
        st.sampled_from(["A1", "A2Ö", "A" * 21, "B 7"]), st.sampled_from(["000X", "B01", "B02"]), st.integers(0, 9)
    ),
    min_size=16,
    max_size=40,
)


@given(REVIEWS, st.sampled_from([64, 1 << 20]), st.booleans())
@settings(max_examples=6, deadline=None)
def test_reviews_are_the_protocol(reviews, block, last_line):
    expected, items = oracle(reviews, 3, lambda user: int(text_key(pl.Series([user]))[0]))
    if not expected["train"]:
        return
    held, amazon_reviews.BLOCK = amazon_reviews.BLOCK, block
    try:
        with tempfile.TemporaryDirectory() as folder:
            lines = [
                json.dumps({"reviewerID": u, "helpful": [0, 0], "asin": i, "reviewText": 'x\n"}', "unixReviewTime": t})
                for u, i, t in reviews
            ]
            (Path(folder) / "reviews_Books_5.json").write_text("\n".join(lines) + "\n" * last_line)
            known = [
                {"asin": i, "title": "it's", "categories": [["Books", i[:2]], ["z"]]} for i in ("B01", "000X", "C9")
            ]
            (Path(folder) / "meta_Books.json").write_text("".join(f"{one!r}\n" for one in known))
            changes = {"at_least": 3, "validation": 0.3, "test": 0.3}
            store = convert("amazon_books", Path(folder), Path(folder) / "store", changes, quiet)
            assert read(store) == expected
            named = sorted({i[:2] for i in items if i != "B02"})
            categories = [0 if i == "B02" else named.index(i[:2]) + 1 for i in items]
            assert np.asarray(store["items"]["category"])[1:].tolist() == categories
    finally:
        amazon_reviews.BLOCK = held


GOOD = '{"reviewerID": "A", "asin": "B", "unixReviewTime": 5}\n' * 5


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (GOOD + '{"reviewerID": "A", "asin": "B"}\n', 'row 6: b\'{"reviewerID": "A", "asin": "B"}'),
        (GOOD + '{"reviewerID": "A", "asin": "B", "unixReviewTime": "5"}\n', "row 6"),
        (GOOD + '{"reviewerID": "A", "asin": "", "unixReviewTime": 5}\n', "row 6"),
        (GOOD + "{'reviewerID': 'A', 'asin': 'B', 'unixReviewTime': 5}\n", "row 6"),
        (GOOD + '{"reviewerID": "A", "as', "row 6"),
        (GOOD + "\n" + GOOD, "row 6"),
        ("garbage\n", "row 1"),
        ("", "row 1: no rows"),
    ],
)
def test_a_bad_review_is_one_line_and_leaves_nothing(tmp_path, capsys, text, line):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "reviews_Toys.json").write_text(text)
    assert main(["--source=amazon_books", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'store'}"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: reviews_Toys.json: {line}")
    assert told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_what_is_known_of_items_is_never_run(tmp_path):
    (tmp_path / "reviews_Toys.json.gz").write_bytes(gzip.compress(GOOD.encode()))
    changes = {"validation": 0, "test": 0}
    store = convert("amazon_books", tmp_path, tmp_path / "without", changes, quiet)
    assert any("1 of 1 items have no category" in line for line in store.facts["warnings"])
    (tmp_path / "meta_Toys.json").write_text("{'asin': 'Z', 'broken\n{'asin': 'B', 'x': print('run')}\n")
    with pytest.raises(UserError, match=r"meta_Toys\.json: row 2: .*expected a line"):
        convert("amazon_books", tmp_path, tmp_path / "store", changes, quiet)
    (tmp_path / "reviews_Toys.json.gz").write_bytes(gzip.compress(GOOD.encode() * 1000)[:-9])
    with pytest.raises(UserError, match=r"reviews_Toys\.json\.gz: gzip stream damaged"):
        convert("amazon_books", tmp_path, tmp_path / "store", changes, quiet)
    (tmp_path / "reviews_Books.json").write_text(GOOD)
    with pytest.raises(UserError, match="name='': expected one of Books, Toys"):
        convert("amazon_books", tmp_path, tmp_path / "store", changes, quiet)


def test_users_are_split_by_their_name_alone():
    names = [f"R{number}" for number in range(20_000)]
    key = text_key(pl.Series(names)).to_numpy()
    alone = [int(text_key(pl.Series([name, "a much longer name beside it"]))[0]) for name in names[:20]]
    assert key[:20].tolist() == alone
    assert len(np.unique(key)) == len(names)
    for keys in (key, np.arange(20_000)):
        part = split(keys, EventsConfig())
        np.testing.assert_allclose(np.bincount(part) / len(keys), [0.8, 0.1, 0.1], atol=0.01)
        assert (split(keys, EventsConfig(seed=1)) != part).mean() > 0.2
