"""Each guard lets a clean store pass and refuses one that was made to break it, by the name of the column."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hccp_jax.data import guards
from hccp_jax.data.lists import DAY_MS
from hccp_jax.data.store import Table
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

Columns = dict[str, np.ndarray]
HOUR_MS = 3_600_000
VOCABULARY = {"items.id": 50, "history.id": 50, "user.id": 20, "user.categorical": 9}
USERS, SLOTS, HISTORY = 60, 3, 2


def part(day: int, seed: int = 0, requests: int = USERS, shift: int = 0) -> Columns:
    """A table of requests of one day whose features know nothing of the labels; the last slot is not exposed."""
    random = np.random.default_rng(seed)
    ids = random.integers(1 + shift, 20 + shift, (requests, SLOTS)).astype(np.int32)
    stage = np.tile(np.array([1, 1, 3], np.int8), (requests, 1))
    time = day * DAY_MS + np.sort(random.integers(0, DAY_MS, requests))
    click = random.integers(0, 2, (requests, SLOTS)).astype(np.float32) * (stage == 1)
    return {
        "user.id": random.integers(1 + shift, 10 + shift, requests).astype(np.int32),
        "user.categorical": random.integers(0, 9, (requests, 2)).astype(np.int32),
        "user.dense": random.normal(size=(requests, 2)).astype(np.float32),
        "history.id": random.integers(1, 20, (requests, HISTORY)).astype(np.int32),
        "history_mask": np.tile([False, True], (requests, 1)),
        "items.id": ids,
        "items.price": random.normal(size=(requests, SLOTS)).astype(np.float32),
        "items.kind": random.integers(0, 4, (requests, SLOTS)).astype(np.int32),
        "cross": random.normal(size=(requests, SLOTS, 2)).astype(np.float32),
        "stage": stage,
        "rank": np.tile(np.array([0, 1, -1], np.int32), (requests, 1)),
        "labels.click": click,
        "labels.buy": click * (random.random((requests, SLOTS)) < 0.5).astype(np.float32),
        "mask": np.ones((requests, SLOTS), bool),
        "request_time": time,
        "history_time": np.stack([time + 5, time - 1], axis=1),
    }


def tables(folder: Path, parts: dict[str, Columns], rows: int = 25) -> dict[str, Table]:
    """Parts as tables of several shards."""
    with StoreWriter(folder / "store", {}) as writer:
        for name, columns in parts.items():
            writer.table(name, columns, rows)
        store = writer.finish({})
    return {name: store[name] for name in parts}


def clean() -> dict[str, Columns]:
    return {"train": part(100, 1), "validation": part(101, 2), "test": part(102, 3, shift=5)}


def test_a_clean_store_passes_and_what_has_to_be_known_is_told(tmp_path):
    parts = clean()
    lines = guards.check(tables(tmp_path, parts), VOCABULARY)
    wanted = []
    for column, word in (("user.id", "users"), ("items.id", "exposed items")):
        known, new = set(parts["train"][column].flat), set(parts["test"][column].flat)
        assert new - known
        wanted.append(f"{word}: {len(new)} in test, {len(new - known)} of them not in train")
    most = max(2 * np.bincount(columns["user.id"]).max() for columns in parts.values())
    assert lines == [*wanted, f"impressions of a user and day: at most {most}; 0 user-days with more than 1000"]


def test_a_store_without_times_a_test_part_or_requests_passes(tmp_path):
    timeless = {name: value for name, value in part(1).items() if not name.endswith("_time")}
    assert guards.check(tables(tmp_path, {"train": timeless}), VOCABULARY) == []
    empty = {name: value[:0] for name, value in part(1).items()}
    found = tables(tmp_path / "b", {"train": part(1), "validation": empty, "test": part(2)})
    assert len(guards.check(found, VOCABULARY)) == 3


def test_a_part_without_impressions_passes(tmp_path):
    columns = part(100)
    columns["stage"][:] = 3
    columns["rank"][:] = -1
    columns["labels.click"] *= 0
    columns["labels.buy"] *= 0
    assert guards.check(tables(tmp_path, {"train": columns}), VOCABULARY) == []


def late(columns: Columns) -> None:
    columns["request_time"] = columns["request_time"].copy()
    columns["request_time"][-1] = clean()["validation"]["request_time"].min()


def seen_later(columns: Columns) -> None:
    columns["history_time"][41, 1] = columns["request_time"][41]


def label_of(columns: Columns) -> np.ndarray:
    """Clicks, with noise that keeps their order."""
    return columns["labels.click"] + 0.5 * np.random.default_rng(5).random((USERS, SLOTS))


def set_price(columns: Columns) -> None:
    columns["items.price"] = -label_of(columns).astype(np.float32)


def set_cross(columns: Columns) -> None:
    columns["cross"][..., 1] = label_of(columns)


def set_kind(columns: Columns) -> None:
    columns["items.kind"] = (columns["labels.click"] + 1).astype(np.int32)


def set_context(columns: Columns) -> None:
    """All items of a request share its feedback, and a feature of the user tells it."""
    columns["labels.click"] = np.repeat(columns["labels.click"][:, :1], SLOTS, axis=1) * (columns["stage"] == 1)
    columns["labels.buy"] = columns["labels.click"] * 0
    columns["user.dense"][:, 1] = columns["labels.click"][:, 0]


def set_id(columns: Columns) -> None:
    columns["items.id"][30, 2] = 50


def set_category(columns: Columns) -> None:
    columns["user.categorical"][59, 1] = 9


def set_nan(columns: Columns) -> None:
    columns["user.dense"][26, 0] = np.nan


def drop_time(columns: Columns) -> None:
    del columns["request_time"]


TRIPS: dict[str, tuple[str, Callable[[Columns], None], str]] = {
    "a request as late as the next part": ("train", late, r"validation: request_time=\d+ is not after the last of tr"),
    "a history as late as its request": ("test", seen_later, "test: history_time of request 41, slot 1: not before"),
    "times of histories only": ("validation", drop_time, "validation: history_time without request_time"),
    "an item's number": ("train", set_price, r"train: items\.price tells click \(AUC 0\.000\): it was made from"),
    "a feature of user and item": ("test", set_cross, r"test: cross\[1\] tells click \(AUC 1\.000\): it was made from"),
    "a category": ("train", set_kind, r"train: items\.kind tells click \(AUC 1\.000\)"),
    "a user's number": ("train", set_context, r"train: user\.dense\[1\] tells click \(AUC 1\.000\)"),
    "an item outside the vocabulary": ("train", set_id, r"train: requests: items\.id, first at request 30, slot 2"),
    "a category outside": ("test", set_category, r"test: requests: user\.categorical, first at request 59"),
    "what is not finite": ("validation", set_nan, r"validation: requests: user\.dense, first at request 26: not fin"),
}


@pytest.mark.parametrize("guard", TRIPS)
def test_a_guard_trips(tmp_path, guard):
    name, harm, told = TRIPS[guard]
    parts = clean()
    harm(parts[name])
    with pytest.raises(UserError, match=f"^{told}") as refused:
        guards.check(tables(tmp_path, parts), VOCABULARY)
    assert "\n" not in str(refused.value)


def test_a_published_split_by_user_may_overlap_in_time(tmp_path):
    parts = clean()
    late(parts["train"])
    assert len(guards.check(tables(tmp_path, parts), VOCABULARY, timed=False)) == 3


def test_parts_that_meet_are_told_from_parts_that_overlap_across_an_empty_one(tmp_path):
    parts = clean()
    parts["validation"] = {name: value[:0] for name, value in parts["validation"].items()}
    for column in ("request_time", "history_time"):
        parts["test"][column] = parts["train"][column].copy()
    with pytest.raises(UserError, match=r"^test: request_time=\d+ is not after the last of train"):
        guards.check(tables(tmp_path, parts), VOCABULARY)


def test_a_fault_in_a_later_block_is_told_by_its_request(tmp_path, monkeypatch):
    monkeypatch.setattr(guards, "BLOCK", 16)
    monkeypatch.setattr(guards.blocks, "__defaults__", (16,))
    for harm, told in (
        (seen_later, r"test: history_time of request 41, slot 1"),
        (set_id, r"test from request 16: requests: items\.id, first at request 14, slot 2: id outside"),
    ):
        parts = clean()
        harm(parts["test"])
        with pytest.raises(UserError, match=f"^{told}"):
            guards.check(tables(tmp_path / harm.__name__, parts), VOCABULARY)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_area_is_that_of_all_pairs(data):
    count = data.draw(st.integers(2, 25))
    values = data.draw(hnp.arrays(np.float32, count, elements=st.sampled_from([-1.5, 0.0, 0.25, 3.0])))
    label = np.array(data.draw(st.permutations([True, False, *data.draw(st.lists(st.booleans(), max_size=23))])))
    values = np.resize(values, len(label))
    pairs = [(a > b) + 0.5 * (a == b) for a in values[label] for b in values[~label]]
    assert guards.area(values, label) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(("flipped", "trips"), [(0, True), (2, True), (6, False), (40, False)])
def test_a_feature_may_be_good_but_not_perfect(tmp_path, flipped, trips):
    """An order that is wrong for a few impressions still was made from the label; one wrong for more may be honest."""
    columns = part(100)
    shown = columns["stage"] == 1
    price = label_of(columns)
    positive = np.argwhere(shown & (columns["labels.click"] > 0))[:flipped]
    price[tuple(positive.T)] = -1
    columns["items.price"] = price.astype(np.float32)
    label = columns["labels.click"][shown] > 0
    area = np.mean([(a > b) for a in price[shown][label] for b in price[shown][~label]])
    assert (area >= guards.TELLS) == trips
    found = tables(tmp_path, {"train": columns})
    if trips:
        with pytest.raises(UserError, match=rf"items\.price tells click \(AUC {area:.3f}\)"):
            guards.check(found, VOCABULARY)
    else:
        guards.check(found, VOCABULARY)


@pytest.mark.parametrize(("clicks", "trips"), [(guards.FEW - 1, False), (guards.FEW, True)])
def test_a_handful_of_clicks_says_nothing_of_a_feature(tmp_path, clicks, trips):
    columns = part(100)
    columns["labels.click"] = np.zeros((USERS, SLOTS), np.float32)
    columns["labels.click"][:clicks, 0] = 1
    columns["labels.buy"] = np.zeros((USERS, SLOTS), np.float32)
    set_price(columns)
    found = tables(tmp_path, {"train": columns})
    if trips:
        with pytest.raises(UserError, match=r"items\.price tells click"):
            guards.check(found, VOCABULARY)
    else:
        guards.check(found, VOCABULARY)


def test_what_is_not_exposed_tells_nothing(tmp_path):
    """Features differ between stages, as they must: only impressions have labels."""
    columns = part(100)
    columns["items.price"] -= 100 * (columns["stage"] != 1)
    guards.check(tables(tmp_path, {"train": columns}), VOCABULARY)


@pytest.mark.parametrize("zone", [0, 8, -7])
def test_busy_users_are_counted_by_days_of_the_zone(tmp_path, monkeypatch, zone):
    """Against a loop over all requests; users without an id are not one busy user."""
    monkeypatch.setattr(guards, "BOT_DAILY", 9)
    monkeypatch.setattr(guards.column, "__defaults__", (16,))
    parts = {"train": part(100, 4), "test": part(102, 5)}
    for columns in parts.values():
        columns["user.id"][:30] = 0
        columns["request_time"] = columns["request_time"] // HOUR_MS * HOUR_MS
        columns["history_time"] = columns["request_time"][:, None] + np.array([5, -1])
    busy, most = 0, 0
    for columns in parts.values():
        daily: dict[tuple[int, int], int] = {}
        for user, time in zip(columns["user.id"].tolist(), columns["request_time"].tolist(), strict=True):
            key = user, (time + zone * HOUR_MS) // DAY_MS
            daily[key] = daily.get(key, 0) + 2 * (user > 0)
        busy, most = busy + sum(count > 9 for count in daily.values()), max(most, *daily.values())
    assert busy > 0
    lines = guards.check(tables(tmp_path, parts), VOCABULARY, zone=zone)
    assert lines[-1] == f"impressions of a user and day: at most {most}; {busy} user-days with more than 9"


def test_the_guards_look_at_more_than_one_day_s_worth_of_blocks(tmp_path):
    """First and last times are those of all shards."""
    columns = part(100)
    order = np.random.default_rng(0).permutation(USERS)
    found = tables(tmp_path, {"train": {name: value[order] for name, value in columns.items()}})["train"]
    assert guards.period(found) == (columns["request_time"].min(), columns["request_time"].max())
    assert [len(block) for block in guards.column(found, "mask", 16)] == [16, 16, 16, 12]
    rows = [(rows.start, rows.stop) for rows, _ in guards.blocks(found, 40)]
    assert rows == [(0, 40), (40, 60)]
