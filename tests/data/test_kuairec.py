"""KuaiRec: every row once, training of the past, whole rows of the small matrix as the test part."""

import gzip
import tempfile
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hccp_jax.data import buckets
from hccp_jax.data.convert import convert
from hccp_jax.data.kuairand import USER_FIELDS
from hccp_jax.data.sources import kuairec
from hccp_jax.data.store import open_store
from hccp_jax.errors import UserError

NAMES = ["user_id", "video_id", "play_duration", "video_duration", "time", "date", "timestamp", "watch_ratio"]
START = 1_593_878_400  # 2020-07-05 00:00 in Shanghai
USERS, VIDEOS = range(0, 12, 3), range(0, 40, 2)


def big_rows(count, seed=0, days=9):
    """Rows [user, video, ms, ratio] of a log; one in twenty has no time."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        moment = START * 1000 + int(draw.integers(days * 86_400_000))
        time = None if draw.random() < 0.05 else moment
        rows.append((int(draw.choice(USERS)), int(draw.choice(VIDEOS)), time, round(float(draw.gamma(2.0)), 3)))
    return [*rows, (0, 0, START * 1000 + days * 86_400_000 - 1, 1.0)]


def small_rows(seed=0):
    draw = np.random.default_rng(seed)
    return [
        (user, video, None if draw.random() < 0.2 else START * 1000 + int(draw.integers(9 * 86_400_000)), ratio)
        for user in list(USERS)[1:]
        for video, ratio in zip(VIDEOS, np.round(draw.gamma(2.0, size=len(VIDEOS)), 3).tolist(), strict=True)
        if draw.random() < 0.9
    ]


def matrix(rows, names=NAMES, ending="\n"):
    lines = [",".join(names)]
    for user, video, time, ratio in rows:
        row = {"user_id": user, "video_id": video, "play_duration": 5, "video_duration": 9000}
        row |= {"time": "", "date": "", "timestamp": "", "watch_ratio": ratio}
        if time is not None:
            row |= {"time": "2020-07-05 00:08:23.438", "date": "20200705.0", "timestamp": f"{time / 1000:.3f}"}
        lines.append(",".join(str(row[name]) for name in names))
    return "".join(line + ending for line in lines)


def write(folder: Path, big, small, packed=False, ending="\n", names=NAMES, tables=True) -> Path:
    (folder / "data").mkdir(parents=True)
    texts = {kuairec.BIG: matrix(big, names, ending), kuairec.SMALL: matrix(small, names, ending)}
    if tables:
        texts["item_categories.csv"] = 'video_id,feat\n0,[8]\n2,"[27, 9]"\n4,"[9,27]"\n'
        header = ["user_id", "is_lowactive_period", *USER_FIELDS]
        rows = [[str(user), "0", *("" if user == 3 else "full_active" for _ in USER_FIELDS)] for user in USERS]
        texts["user_features.csv"] = "".join(",".join(row) + "\n" for row in [header, *rows])
    for name, text in texts.items():
        raw = text.encode()
        (folder / "data" / (name + ".gz" * packed)).write_bytes(gzip.compress(raw) if packed else raw)
    return folder


def converted(folder: Path, output: Path, **changes):
    convert("kuairec", folder, output, changes, lambda line: None)
    return open_store(output, "full")


def read(store, part, users, videos):
    """(user, request time, [(video, label)], history, its times) of each request."""
    table = store[part]
    batch = jax.tree.map(np.asarray, table.requests())
    for row in range(len(table)):
        real, past = batch.mask[row], batch.history_mask[row]
        ids, labels = batch.items["id"][row][real], batch.labels["click"][row][real].tolist()
        items = [(videos[item - 1], label) for item, label in zip(ids, labels, strict=True)]
        history = [videos[item - 1] for item in batch.history["id"][row][past]]
        times = np.asarray(table["history_time"])[row][past].tolist()
        yield users[batch.user["id"][row] - 1], int(table["request_time"][row]), items, history, times


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.integers(1, 9), st.permutations(NAMES), st.booleans())
def test_every_row_is_in_the_store_once_and_history_is_of_the_past(seed, width, names, packed):
    big, small = big_rows(240, seed), small_rows(seed)
    big, small = [*big, big[0]], [*small, small[0]]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "in", big, small, packed, "\r\n" if packed else "\n", names)
        changes = {"exposed": width, "history": 3, "watch_ratio_above": 1.5}
        store = converted(Path(folder) / "in", Path(folder) / "store", **changes)
        users, videos = (sorted({row[column] for row in [*big, *small]}) for column in (0, 1))
        found = {part: list(read(store, part, users, videos)) for part in ("train", "validation", "test")}
    timed = sorted({row for row in big if row[2] is not None}, key=lambda row: (row[2], row[1], row[3]))
    border = (START + 6 * 86_400) * 1000
    rows = {
        "train": [row for row in timed if row[2] < border],
        "validation": [row for row in timed if row[2] >= border],
        "test": list(dict.fromkeys(small)),
    }
    for part, expected in rows.items():
        slots = Counter((user, *item) for user, _, items, *_ in found[part] for item in items)
        assert slots == Counter((user, video, float(ratio > 1.5)) for user, video, _, ratio in expected)
    assert [user for user, *_ in found["test"]] == sorted({row[0] for row in small})  # a whole row is one list
    for user, time, items, history, times in [row for part in found.values() for row in part]:
        liked = [(t, video) for u, video, t, ratio in timed if u == user and t < time and ratio > 1.5][-3:]
        assert (times, history) == ([t for t, _ in liked], [video for _, video in liked])
        assert time == timed[-1][2] + 1 or len(items) <= width


def test_buckets_hold_the_same_requests_and_tables_share_tags(tmp_path, monkeypatch):
    folder = write(tmp_path / "in", big_rows(300), small_rows())
    whole = converted(folder, tmp_path / "whole")
    monkeypatch.setattr(buckets, "ROWS", 60)
    pieces = converted(folder, tmp_path / "pieces")
    assert len(pieces["train"].shards) > len(whole["train"].shards)
    for part in ("train", "validation", "test"):
        found = [[str(row) for row in read(store, part, USERS, VIDEOS)] for store in (whole, pieces)]
        assert sorted(found[0]) == sorted(found[1])
    table = np.asarray(whole["items"]["categorical"])
    assert set(table[2]) == set(table[3])  # [27, 9] and [9,27]
    assert not set(table[1]) & set(table[2]) - {0}
    assert not table[4].any()  # a video that the file does not have
    users = np.asarray(whole["users"]["categorical"])
    assert (users[1] == users[3]).all()
    assert (users[1] != users[2]).all()  # empty fields are unknown


def test_categories_are_optional_and_told(tmp_path):
    store = converted(write(tmp_path / "in", big_rows(300), small_rows(), tables=False), tmp_path / "store")
    assert "no item_categories.csv: no categories" in store.facts["lines"]
    assert "no user_features.csv: no categories" in store.facts["lines"]


GOOD = matrix([(1, 2, START * 1000, 0.5)])
BAD = [
    (kuairec.SMALL, GOOD[:-1], "row 1: cut off, no end of line"),
    (kuairec.SMALL, matrix([(1, 2, None, -0.5)]), "row 1: watch_ratio=-0.5, expected a number in [0, inf]"),
    (kuairec.BIG, matrix([(1, "x", None, 0.5)]), "row 1: video_id='x', expected an integer in [0, "),
    (kuairec.BIG, GOOD.replace("watch_ratio", "ratio"), "no column watch_ratio; found user_id, "),
    (kuairec.BIG, GOOD + "1,2\n", "row 2: 2 fields, expected 8"),
    ("item_categories.csv", "video_id,feat\n0,x\n", "row 1: feat='x', expected a list as [27,9]"),
    ("user_features.csv", "user_id\n0\n", "no column user_active_degree"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD)
def test_a_file_that_is_not_as_published_is_one_line_and_leaves_nothing(tmp_path, name, text, message):
    folder = write(tmp_path / "in", big_rows(300), small_rows())
    (folder / "data" / name).write_text(text)
    with pytest.raises(UserError) as refused:
        converted(folder, tmp_path / "store")
    assert str(refused.value).startswith(f"{name}: {message}")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
