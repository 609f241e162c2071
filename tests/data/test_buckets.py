"""Rows spread over files: every row once, all rows of a key together and in order, whatever the pieces they came in."""

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hccp_jax.data import buckets
from hccp_jax.data.buckets import bucket_rows, how_many, of_key, scatter
from hccp_jax.data.store_writer import WriteError
from hccp_jax.errors import UserError

KEYS = st.one_of(st.integers(0, 5), st.integers(-(1 << 63), (1 << 63) - 1))


def expected_bucket(key: int, count: int) -> int:
    return (key % 2**32 * 0x9E3779B1 % 2**32) * count // 2**32


def frame_of(keys: list[int], first: int = 0) -> pl.DataFrame:
    """Rows that know their place, with a text that may be missing."""
    place = list(range(first, first + len(keys)))
    text = [None if i % 3 == 0 else "é" * (i % 5) for i in place]
    schema = {"key": pl.Int64, "place": pl.Int64, "text": pl.String}
    return pl.DataFrame({"key": keys, "place": place, "text": text}, schema=schema)


@given(st.lists(st.lists(KEYS, max_size=12), max_size=6), st.integers(1, 9), st.sampled_from([1, 200, 1 << 26]))
@settings(max_examples=30, deadline=None)
def test_every_row_is_once_in_the_bucket_of_its_key_in_order(pieces, count, held):
    keys = [key for piece in pieces for key in piece]
    begins = np.cumsum([0, *map(len, pieces)]).tolist()
    frames = [frame_of(piece, begin) for piece, begin in zip(pieces, begins, strict=False)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "_HELD", held)
        assert scatter(iter(frames), lambda n: of_key("key", n), count, Path(folder) / "b") == len(keys)
        found = {number: bucket_rows(Path(folder) / "b", number) for number in range(count)}
        assert bucket_rows(Path(folder) / "b", count) is None
    whole = frame_of(keys)
    for number, rows in found.items():
        wanted = [place for place, key in enumerate(keys) if expected_bucket(key, count) == number]
        assert (rows is None) == (not wanted)
        if rows is not None:
            assert rows.equals(whole[wanted])


@pytest.mark.parametrize("step", [1, 2, 64, 1000])
@pytest.mark.parametrize("count", [7, 64, 512])
def test_buckets_are_of_like_size(step, count):
    """Dense ids, and every so-manyth one, as a sample of users has: the largest bucket decides how much memory."""
    keys = pl.DataFrame({"key": np.arange(1, 200_001) * step})
    sizes = np.bincount(keys.select(of_key("key", count)).to_series(), minlength=count)
    assert len(sizes) == count
    assert sizes.max() <= 1.1 * sizes.mean()


def test_the_number_of_buckets_grows_with_the_rows_up_to_a_bound():
    assert [how_many(rows) for rows in (0, 1, buckets.ROWS, buckets.ROWS + 1)] == [1, 1, 1, 2]
    assert how_many(10**12) == 512
    assert how_many(10**12, at_most=8) == 8


def test_nothing_is_left_of_an_earlier_run(tmp_path):
    every = lambda _: pl.col("key").cast(pl.UInt32)  # noqa: E731
    scatter([frame_of([0, 1, 2])], every, 3, tmp_path)
    assert scatter([frame_of([1, 1])], every, 3, tmp_path) == 2
    assert bucket_rows(tmp_path, 0) is None
    assert bucket_rows(tmp_path, 1)["place"].to_list() == [0, 1]
    assert bucket_rows(tmp_path, 2) is None


def test_a_fault_of_the_frames_passes_and_files_are_closed(tmp_path):
    def frames():
        yield frame_of([1] * 10)
        raise UserError("log.csv: row 11: bad")

    with pytest.raises(UserError, match=r"^log\.csv: row 11: bad$"):
        scatter(frames(), lambda n: of_key("key", n), 2, tmp_path)
    assert scatter([frame_of([5])], lambda n: of_key("key", n), 2, tmp_path) == 1


def test_a_disk_that_does_not_take_it_is_told_in_a_line_and_can_be_tried_again(tmp_path, monkeypatch):
    real = pa.OSFile
    with monkeypatch.context() as patch:
        patch.setattr(buckets.pa, "OSFile", lambda _, mode: real("/dev/full", mode))
        with pytest.raises(WriteError, match=r"^output=.*: cannot be written \(.*No space left on device\)$"):
            scatter([frame_of([1, 2, 3])], lambda n: of_key("key", n), 2, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"cannot be written \(Not a directory\)"):
        scatter([frame_of([1])], lambda n: of_key("key", n), 1, tmp_path / "file" / "b")


def test_many_rows_in_little_memory(tmp_path, monkeypatch):
    """What is held before it is written does not grow with the rows."""
    most = []
    monkeypatch.setattr(buckets, "_HELD", 50_000)
    join = buckets._joined
    monkeypatch.setattr(buckets, "_joined", lambda frames: (most.append(f.height) or f for f in join(frames)))
    frames = (frame_of([i] * 100, 100 * i) for i in range(400))
    assert scatter(frames, lambda n: of_key("key", n), 8, tmp_path) == 40_000
    assert sum(most) == 40_000
    assert max(most) < 4_000
