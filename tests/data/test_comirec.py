"""Stores of ComiRec's layout hold exactly the published sequences, and what is not as published is one line."""

import gzip
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hccp_jax.data import buckets
from hccp_jax.data.convert import convert, main
from hccp_jax.data.sequences import items_of, sequences
from hccp_jax.data.store import open_store
from hccp_jax.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"
FILES = {"train": "train", "valid": "validation", "test": "test"}


def quiet(line: str) -> None:
    pass


def write(folder: Path, parts: dict[str, dict[int, list[int]]], name="tiny", order=None) -> Path:
    """Files of some parts, {user: items} each; `order` shuffles the rows of a file."""
    folder.mkdir(exist_ok=True, parents=True)
    for part, users in parts.items():
        rows = [f"{user},{item},{place}\n" for user, items in users.items() for place, item in enumerate(items)]
        (folder / f"{name}_{part}.txt").write_text("".join(rows if order is None else order(rows)))
    return folder


def read(store, part):
    """{user: items} of a part, row by row."""
    user, begin, length = (np.asarray(store[f"sequences_{part}"][name]) for name in ("user", "begin", "length"))
    events = np.asarray(store[f"events_{part}"]["item"])
    return {int(u): events[b : b + n].tolist() for u, b, n in zip(user, begin, length, strict=True)}


GOOD = {"train": {3: [1, 2, 1, 4], 0: [5, 1]}, "valid": {7: [2, 2, 2]}, "test": {9: [3], 8: [1, 5]}}


@st.composite
def published(draw):
    users = draw(st.lists(st.integers(0, 2**31 - 1), min_size=3, max_size=12, unique=True))
    histories = [draw(st.lists(st.integers(1, 50), min_size=1, max_size=9)) for _ in users]
    names = [*FILES, *draw(st.lists(st.sampled_from(list(FILES)), min_size=len(users) - 3, max_size=len(users) - 3))]
    parts = {part: {} for part in FILES}
    for user, items, part in zip(users, histories, names, strict=True):
        parts[part][user] = items
    return parts


@given(published(), st.randoms(use_true_random=False), st.sampled_from([12, 1000]))
@settings(max_examples=6, deadline=None)
def test_what_is_read_is_what_was_published_in_any_order_of_rows(parts, random, rows):
    held, buckets.ROWS = buckets.ROWS, rows  # several buckets even here
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = write(Path(folder) / "in", parts, order=lambda rows: random.sample(rows, len(rows)))
            store = convert("comirec", made, Path(folder) / "store", {}, quiet)
            for file, part in FILES.items():
                assert read(store, part) == parts[file]
            largest = max(max(items) for users in parts.values() for items in users.values())
            assert store.facts["more"] == {"name": "tiny", "items": largest + 1, "history": 20}
            assert items_of(store) == largest + 1
    finally:
        buckets.ROWS = held


def test_gzip_windows_line_ends_and_categories(tmp_path):
    folder = write(tmp_path / "in", GOOD)
    for path in list(folder.iterdir()):
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes().replace(b"\n", b"\r\n")))
        path.unlink()
    (folder / "tiny_item_cate.txt").write_text("7,9\n2,3\n")
    (folder / "tiny_user_map.txt").write_text("A,0\n")
    store = convert("comirec", folder, tmp_path / "store", {"history": 50}, quiet)
    assert read(store, "train") == GOOD["train"]
    assert np.asarray(store["items"]["category"]).tolist() == [0, 0, 3, 0, 0, 0, 0, 9]
    assert store.facts["more"] == {"name": "tiny", "items": 8, "history": 50}
    assert any("5 items have no category" in line for line in store.facts["warnings"])
    assert any("train: 2 users, 6 events, 3 each in the middle, at most 4" in line for line in store.facts["lines"])


def test_an_excerpt_loses_its_last_user_and_an_absent_part_is_told(tmp_path):
    folder = write(tmp_path / "in", {"train": GOOD["train"]})
    (folder / "tiny_train.txt").rename(folder / "tiny_train.first6.txt")
    store = convert("comirec", folder, tmp_path / "store", {}, quiet)
    assert read(store, "train") == {3: [1, 2, 1, 4]}
    assert "sequences_test" not in store
    warnings = "\n".join(store.facts["warnings"])
    assert "its last user, 0, may be cut" in warnings
    assert "validation: no file of it" in warnings
    with pytest.raises(UserError, match="no sequences of test"):
        sequences(store, "test")


def test_a_user_a_line_is_a_sequence(tmp_path):
    folder = write(tmp_path / "in", {"train": GOOD["train"]})
    whole = "user_id:5 target_item:0 hist_item:4 hist_item:9 hist_item:4 hist_item:2 eval_item:1"
    late = "user_id:6 target_item:0 hist_item:4 eval_item:8 eval_item:2"
    (folder / "paddle_valid_part-0.txt").write_text(f"{whole}\n{late}\n{whole[:-20].replace(':5', ':8', 1)}")
    store = convert("comirec", folder, tmp_path / "store", {}, quiet)
    assert read(store, "validation") == {5: [4, 9, 4, 2, 1], 6: [4, 8, 2]}
    warnings = "\n".join(store.facts["warnings"])
    assert "its last user has no end of line" in warnings
    assert "1 of 2 histories are cut to their last 4 items" in warnings


BAD = [
    ("train", "1,1,0\n1,2,2\n", "tiny_train.txt: row 2: order=2, expected 1, as user_id=1"),
    ("train", "1,1,0\n1,2,0\n", "tiny_train.txt: row 2: order=0, expected 1"),
    ("train", "1,1,1\n", "tiny_train.txt: row 1: order=1, expected 0"),
    ("train", "1,0,0\n", "tiny_train.txt: row 1: item_id=0, expected an integer in [1, 100000000]"),
    ("train", "1,3000000000,0\n", "tiny_train.txt: row 1: item_id=3000000000, expected"),
    ("train", "-1,1,0\n", "tiny_train.txt: row 1: user_id=-1, expected"),
    ("train", "1,1,0\n1,2\n", "tiny_train.txt: row 2: 2 fields, expected 3"),
    ("train", "1,1,0\n1,2,x\n", "tiny_train.txt: row 2: order='x', expected an integer"),
    ("train", "1,1,0\n1,2,1", "tiny_train.txt: row 2: cut off, no end of line"),
    ("train", "", "tiny_train.txt"),
    ("train", "user_id,item_id,order\n1,1,0\n", "tiny_train.txt: row 1: user_id='user_id', expected an integer"),
    ("test", "3,1,0\n", "tiny_test.txt: user_id=3 is in tiny_train.txt, too"),
    ("item_cate", "1,2\n1,3\n", "tiny_item_cate.txt: row 2: item_id=1 again"),
    ("item_cate", "0,2\n", "tiny_item_cate.txt: row 1: item_id=0, expected"),
]


@pytest.mark.parametrize(("part", "text", "line"), BAD, ids=[f"{part}-{text[:14]!r}" for part, text, _ in BAD])
def test_what_is_not_as_published_is_one_line_and_leaves_nothing(tmp_path, capsys, part, text, line):
    folder = write(tmp_path / "in", GOOD)
    (folder / f"tiny_{part}.txt").write_text(text)
    code = main(["--source=comirec", f"--input={folder}", f"--output={tmp_path / 'store'}"])
    told = capsys.readouterr().err
    assert code == 2
    assert told.startswith(f"error: {line}")
    assert told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_damaged_gzip_a_garbage_line_and_a_choice_of_names_are_one_line(tmp_path):
    folder = write(tmp_path / "in", GOOD)
    with pytest.raises(UserError, match=r"no other_train\.txt in .*it has tiny"):
        convert("comirec", folder, tmp_path / "store", {"name": "other"}, quiet)
    write(folder, GOOD, name="second")
    with pytest.raises(UserError, match="name='': expected one of second, tiny"):
        convert("comirec", folder, tmp_path / "store", {}, quiet)
    assert read(convert("comirec", folder, tmp_path / "store", {"name": "second"}, quiet), "test") == GOOD["test"]
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(UserError, match="no NAME_train"):
        convert("comirec", other, tmp_path / "none", {}, quiet)
    (other / "x_train.txt.gz").write_bytes(gzip.compress(b"1,2,0\n" * 1000)[:-9])
    with pytest.raises(UserError, match=r"x_train\.txt\.gz"):
        convert("comirec", other, tmp_path / "none", {}, quiet)
    (other / "x_train.txt.gz").unlink()
    (other / "paddle_valid_part-0.txt").write_text("user_id:1 hist_item:3\n")
    with pytest.raises(UserError, match="row 1: 'user_id:1 hist_item:3', expected user_id:N target_item"):
        convert("comirec", other, tmp_path / "none", {}, quiet)


def test_a_conversion_that_was_stopped_goes_on_to_the_same_store(tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "ROWS", 2)
    folder = write(tmp_path / "in", GOOD)
    whole = convert("comirec", folder, tmp_path / "whole", {}, quiet)
    from hccp_jax.data.store_writer import StoreWriter

    class Stopped(Exception):  # noqa: N818
        pass

    shard, calls = StoreWriter.shard, []

    def stops(self, *arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise Stopped
        return shard(self, *arguments)

    monkeypatch.setattr(StoreWriter, "shard", stops)
    with pytest.raises(Stopped):
        convert("comirec", folder, tmp_path / "store", {}, quiet)
    monkeypatch.setattr(StoreWriter, "shard", shard)
    lines = []
    store = convert("comirec", folder, tmp_path / "store", {}, lines.append)
    assert lines[0] == "going on: 3 shards are written"
    for part in FILES.values():
        assert read(store, part) == read(whole, part)
    assert store.facts["lines"] == whole.facts["lines"]


def test_histories_end_before_a_position_and_are_padded_behind(tmp_path):
    store = convert("comirec", write(tmp_path / "in", GOOD), tmp_path / "store", {}, quiet)
    train = sequences(open_store(tmp_path / "store"), "train")
    row = np.array([0, 1, 1, 1])
    assert train.user.tolist() == [0, 3]
    assert train.before(row, np.array([1, 0, 2, 4]), 3).tolist() == [[5, 0, 0], [0, 0, 0], [1, 2, 0], [2, 1, 4]]
    assert train.at(row, np.array([1, 0, 1, 3])).tolist() == [1, 1, 2, 4]
    assert store["sequences_train"]["begin"].tolist() == [0, 2]


@pytest.fixture
def excerpts() -> Path:
    if not (SHARED / "amazon_games_comirec").exists():
        pytest.skip(f"needs the excerpts of ComiRec's layout in {SHARED}")
    return SHARED


def test_the_excerpts_of_games_and_books(excerpts, tmp_path):
    games = convert("comirec", excerpts / "amazon_games_comirec", tmp_path / "games", {}, quiet)
    assert [len(games[f"events_{part}"]) for part in FILES.values()] == [226_101, 26_784, 28_060]
    assert games.facts["more"]["items"] == 23_715
    books = convert("comirec", excerpts / "amazon_books_comirec", tmp_path / "books", {}, quiet)
    assert len(books["sequences_train"]) == 1466
    assert len(books["sequences_validation"]) == 498
    assert items_of(books) == 367_983
    assert np.asarray(books["items"]["category"][1:]).min() == 1
