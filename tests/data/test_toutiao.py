"""ToutiaoRec in its assumed schema: refused unless confirmed; every candidate once, with its stage and positions."""

import gzip
import tempfile
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hccp_jax.data.convert import convert
from hccp_jax.data.sources import toutiao
from hccp_jax.data.store import open_store
from hccp_jax.errors import UserError

NAMES = list(toutiao.COLUMNS)
BIG = 2**40


def some_rows(count, seed=0, first=0):
    """Rows as dictionaries of text; a request has one user, RN items have a rank, feedback is of exposures."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        request = int(draw.integers(first, first + 6))
        source = str(draw.choice(["exposed", "RN", "PRN", "GN"]))
        row = {"request_id": BIG + request, "user_id": request % 3, "item_id": int(draw.integers(30)) * BIG}
        row |= {"source": source, "prerank_pos": "", "rank_pos": "", "click": "", "like": "NULL", "comment": 0}
        if source != "GN":
            row["prerank_pos"] = int(draw.integers(500))
        if source in ("exposed", "RN"):
            row["rank_pos"] = int(draw.integers(90))
        if source == "exposed":
            row |= {task: int(draw.integers(2)) for task in toutiao.TASKS}
        row |= {name: int(draw.integers(4)) for name in toutiao.FIELDS}
        rows.append({name: str(value) for name, value in row.items()})
    return rows


def text(rows, names=NAMES, ending="\n"):
    return "".join(
        ",".join(row[name] for name in names) + ending for row in [dict(zip(names, names, strict=True)), *rows]
    )


def write(folder: Path, train, test, names=NAMES, ending="\n", packed=False) -> Path:
    for name, rows in {"train/a.csv": train, "test/a.csv": test}.items():
        path = folder / (name + ".gz" * packed)
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = b"\xef\xbb\xbf" * packed + text(rows, names, ending).encode()
        path.write_bytes(gzip.compress(raw) if packed else raw)
    return folder


def converted(folder: Path, output: Path, **changes):
    convert("toutiao", folder, output, {"schema_confirmed": True, **changes}, lambda line: None)
    return open_store(output, "full")


def read(store, part):
    """Each candidate as (request's row, user, item, stage, rank, pre-rank, labels, fields)."""
    table = store[part]
    batch = jax.tree.map(np.asarray, table.requests())
    position = np.asarray(table[toutiao.PRERANK])
    for row, slot in zip(*np.nonzero(batch.mask), strict=True):
        labels = tuple(float(batch.labels[task][row, slot]) for task in toutiao.TASKS)
        values = (batch.items["id"], batch.stage, batch.rank, position)
        fields = tuple(batch.items["categorical"][row, slot].tolist())
        yield int(batch.user["id"][row]), *(int(value[row, slot]) for value in values), labels, fields


def expected(rows, train, every):
    users, items = (sorted({int(row[name]) for row in every}) for name in ("user_id", "item_id"))
    known = [sorted({int(row[name]) for row in train}) for name in toutiao.FIELDS]
    starts = np.cumsum([0, *map(len, known)])
    number = {"exposed": 1, "RN": 2, "PRN": 3, "GN": 4}
    for row in {tuple(row.items()): row for row in rows}.values():
        stage = number[row["source"]]
        fields = tuple(
            int(start) + values.index(int(row[name])) + 1 if int(row[name]) in values else 0
            for name, values, start in zip(toutiao.FIELDS, known, starts, strict=False)
        )
        yield (
            1 + users.index(int(row["user_id"])),
            1 + items.index(int(row["item_id"])),
            stage,
            int(row["rank_pos"]) if stage < 3 else -1,
            int(row["prerank_pos"] or -1),
            tuple(float(row[task]) if stage == 1 else 0.0 for task in toutiao.TASKS),
            fields,
        )


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(2, 12), st.permutations(NAMES), st.booleans())
def test_every_candidate_is_in_the_store_once_whatever_the_order_of_columns(seed, count, width, names, packed):
    train, test = some_rows(count + 3, seed), some_rows(count, seed + 1, first=4)
    train.append(train[0])
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "in", train, test, names, "\r\n" if packed else "\n", packed)
        store = converted(Path(folder) / "in", Path(folder) / "store", list_length=width)
        for part, rows in {"train": train, "test": test}.items():
            assert Counter(read(store, part)) == Counter(expected(rows, train, [*train, *test]))
            assert np.asarray(store[part]["mask"]).sum(axis=1).max() <= width
    again = len(train) - len({tuple(row.items()) for row in train})
    assert f" {again} exact duplicates" in store.facts["lines"][-3]


def test_many_buckets_and_shards_hold_the_same_candidates(tmp_path, monkeypatch):
    folder = write(tmp_path / "in", some_rows(200), some_rows(40, 1))
    whole = converted(folder, tmp_path / "whole")
    monkeypatch.setattr(toutiao, "BUCKET_ROWS", 20)
    monkeypatch.setattr(toutiao, "SHARD_SLOTS", 1)
    pieces = converted(folder, tmp_path / "pieces")
    assert len(pieces["train"].shards) == len(pieces["train"]) > len(whole["train"].shards)
    for part in ("train", "test"):
        assert Counter(read(whole, part)) == Counter(read(pieces, part))


def test_it_is_refused_unless_the_schema_is_confirmed(tmp_path):
    write(tmp_path / "in", some_rows(20), some_rows(5))
    with pytest.raises(
        UserError, match=r"^schema_confirmed=false: ToutiaoRec is not released .* describes$"
    ) as refused:
        convert("toutiao", tmp_path / "in", tmp_path / "store", {}, lambda line: None)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def changed(**values):
    return {**some_rows(1)[0], "source": "exposed", "rank_pos": "3", "prerank_pos": "4", **values}


BAD = [
    (text([changed()])[:-1], "row 1: cut off, no end of line"),
    (text([changed(source="SN")]), "row 1: source='SN', expected one of exposed, RN, PRN, GN"),
    (text([changed(), changed(source="RN", rank_pos="", click="0")]), "row 2: rank_pos=nothing, expected a position"),
    (text([changed(source="PRN", click="1")]), "row 1: source='PRN' has feedback, expected it of exposed items only"),
    (text([changed(click="2")]), "row 1: click=2, expected an integer in [0, 1] or nothing"),
    (text([changed(item_id="x")]), "row 1: item_id='x', expected an integer in [0, "),
    (text([changed()], NAMES[:-1]), "no column feature_29; found request_id, "),
    (text([changed()]) + "1,2,3\n", "row 2: 3 fields, expected 39"),
    (text([]), "row 1: no rows"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_a_file_in_another_form_is_one_line_and_leaves_nothing(tmp_path, content, message):
    write(tmp_path / "in", some_rows(20), some_rows(5))
    (tmp_path / "in" / "test" / "a.csv").write_text(content)
    with pytest.raises(UserError) as refused:
        converted(tmp_path / "in", tmp_path / "store")
    assert str(refused.value).startswith(f"test/a.csv: {message}")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
