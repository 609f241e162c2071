"""JD.ad Pre-ranking: every candidate once in its session, hashed fields compacted exactly, bad files in one line."""

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
from hccp_jax.data.requests import Stage
from hccp_jax.data.sources import jd_ad
from hccp_jax.data.store import open_store
from hccp_jax.errors import UserError

LABELS = ("1,0,0", "0,1,0", "0,0,1", "1.0,1.0,0.0")
TOP = 2**26 - 1


def line(session, item, label, user, own, cross) -> str:
    return "\t".join([session, item, label, *(",".join(map(str, part)) for part in (user, own, cross))]) + "\n"


def some_rows(count, seed=0, sessions=8, users=1):
    """Rows whose user fields depend on the session, and with `users` above 1 differ within it."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        session = int(draw.integers(sessions))
        user = (session, 7, TOP, 0, 5, int(draw.integers(users)))
        item = int(draw.integers(20))
        own = tuple(int(x) for x in draw.integers(0, 9, 6))
        cross = tuple(int(x) for x in draw.integers(TOP - 9, TOP + 1, 10))
        rows.append((f"s-{session}", f"sku {item}", LABELS[draw.choice(4, p=[0.2, 0.3, 0.4, 0.1])], user, own, cross))
    return rows


def write(folder: Path, train, test, packed=False) -> Path:
    """Days of several files, with the marks that the authors' loader skips."""
    half = len(train) // 2
    for name, rows in {"train/02/part-0": train[:half], "train/03/part-0": train[half:], "test/a": test}.items():
        path = folder / (name + ".gz" * packed)
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = "".join(line(*row) for row in rows).encode()
        path.write_bytes(gzip.compress(raw) if packed else raw)
    (folder / "train" / "02" / "_SUCCESS").touch()
    (folder / "train" / ".hidden").write_text("x")
    return folder


def converted(folder: Path, output: Path, **changes):
    convert("jd_ad", folder, output, changes, lambda text: None)
    return open_store(output, "full")


def read(store, part, items):
    """[(user categories, [(item, stage, click, categories)])] of each request."""
    batch = jax.tree.map(np.asarray, store[part].requests())
    for row in range(len(store[part])):
        real = batch.mask[row]
        columns = (batch.items["id"], batch.stage, batch.labels["click"], batch.items["categorical"])
        ids, stage, click, categories = (column[row][real] for column in columns)
        slots = [
            (items[i - 1], int(s), float(c), tuple(f.tolist()))
            for i, s, c, f in zip(ids, stage, click, categories, strict=True)
        ]
        yield tuple(batch.user["categorical"][row].tolist()), slots


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**31),
    st.integers(1, 80),
    st.integers(1, 3),
    st.integers(2, 12),
    st.booleans(),
    st.booleans(),
)
def test_every_candidate_is_in_the_store_once_with_its_fields(seed, count, users, width, cross, packed):
    train, test = some_rows(count + 4, seed, users=users), some_rows(count, seed + 1, sessions=3)
    train.append(train[0])
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "in", train, test, packed)
        changes = {"list_length": width, "cross_fields": cross}
        store = converted(Path(folder) / "in", Path(folder) / "store", **changes)
        items = sorted({row[1] for row in [*train, *test]})
        requests = {part: list(read(store, part, items)) for part in ("train", "test")}
    known = [sorted({x for row in train for x in row[3]}), sorted({x for row in train for x in (*row[4], *row[5])})]

    def code(side, values):
        return tuple(known[side].index(x) + 1 if x in known[side] else 0 for x in values)

    for part, rows in {"train": train, "test": test}.items():
        expected = Counter(
            (
                code(0, user),
                item,
                int(Stage.PRERANKED if label == "0,0,1" else Stage.EXPOSED),
                float(label.startswith("1")),
                code(1, (*own, *crossed) if cross else own),
            )
            for _, item, label, user, own, crossed in dict.fromkeys(rows)
        )
        assert Counter((user, *slot) for user, slots in requests[part] for slot in slots) == expected
        assert all(1 <= len(slots) <= width for _, slots in requests[part])
        for _, slots in requests[part]:
            stages = [stage for _, stage, _, _ in slots]
            assert stages == sorted(stages)
    again = len(train) - len(set(train))
    assert store.facts["lines"][-4].startswith(f"train: {len(train)} rows, {again} exact duplicates removed")


def test_many_buckets_shards_and_blocks_hold_the_same_requests(tmp_path, monkeypatch):
    write(tmp_path / "in", some_rows(300), some_rows(60, 1))
    whole = converted(tmp_path / "in", tmp_path / "whole")
    monkeypatch.setattr(jd_ad, "BUCKET_ROWS", 20)
    monkeypatch.setattr(jd_ad, "SHARD_SLOTS", 1)
    pieces = converted(tmp_path / "in", tmp_path / "pieces")
    items = sorted({row[1] for row in [*some_rows(300), *some_rows(60, 1)]})
    assert len(pieces.manifest["tables"]["train"]["shards"]) > len(whole.manifest["tables"]["train"]["shards"])
    for part in ("train", "test"):
        found = [Counter((user, *sorted(slots)) for user, slots in read(s, part, items)) for s in (whole, pieces)]
        assert found[0] == found[1]


def test_days_of_training_are_chosen_and_the_vocabulary_is_theirs(tmp_path):
    write(tmp_path / "in", some_rows(40), some_rows(10, 1))
    store = converted(tmp_path / "in", tmp_path / "store", days="02")
    assert int(np.asarray(store["train"]["mask"]).sum()) == len(set(some_rows(40)[:20]))
    with pytest.raises(UserError, match="no files of the train part of days 07, expected a folder train with files"):
        converted(tmp_path / "in", tmp_path / "other", days="07")


GOOD = line("s", "i", "0,1,0", range(6), range(6), range(10))
BAD = [
    (GOOD + GOOD[:-4], "row 2: "),
    (GOOD + "s\ti\t0,1,0\n", "row 2: 3 fields, expected 6"),
    (GOOD.replace("\t", ","), "row 1: 1 fields, expected 6"),
    (GOOD + line("s", "i", "0,1", range(6), range(6), range(10)), "row 2: label='0,1', expected 3 numbers in [0, 1]"),
    (line("s", "i", "0,0,0", range(6), range(6), range(10)), "row 1: label='0,0,0', expected click,expose,unexposed"),
    (line("s", "i", "1,0,1", range(6), range(6), range(10)), "row 1: label='1,0,1', expected click,expose,unexposed"),
    (line("s", "i", "0,.5,0", range(6), range(6), range(10)), "row 1: label='0,.5,0', expected click,expose,unexposed"),
    (GOOD * 2 + line("s", "i", "0,1,0", range(5), range(6), range(10)), "row 3: user='0,1,2,3,4', expected 6 numbers"),
    (line("s", "i", "0,1,0", range(6), "abcdef", range(10)), "row 1: own='a,b,c,d,e,f', expected 6 numbers"),
    (line("s", "i", "0,1,0", range(6), range(6), [2**26] * 10), "row 1: cross='67108864,67108864"),
    (line("", "i", "0,1,0", range(6), range(6), range(10)), "row 1: session=nothing, expected text"),
    ("", "row 1: no rows"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_file_that_is_not_as_its_loader_reads_it_is_one_line_and_leaves_nothing(tmp_path, text, message):
    write(tmp_path / "in", some_rows(20), some_rows(5))
    (tmp_path / "in" / "test" / "a").write_text(text)
    with pytest.raises(UserError) as refused:
        converted(tmp_path / "in", tmp_path / "store")
    assert str(refused.value).startswith(f"test/a: {message}")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_part_without_files_is_told(tmp_path):
    write(tmp_path / "in", some_rows(20), some_rows(5))
    (tmp_path / "in" / "test" / "a").unlink()
    with pytest.raises(UserError, match=r"no files of the test part, expected a folder test with files$"):
        converted(tmp_path / "in", tmp_path / "store")
