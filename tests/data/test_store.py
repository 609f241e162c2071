"""Logs on disk are the logs that were written, whatever their shards, and are never half there."""

import dataclasses
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_hccp import assert_trees_equal, tiny

from hccp_jax.data import arrow, store
from hccp_jax.data.order import rows_at
from hccp_jax.data.requests import validate
from hccp_jax.data.resident import resident
from hccp_jax.data.source import log_chunk
from hccp_jax.data.store import Rows, Store, open_store
from hccp_jax.data.store_writer import StoreWriter, write_log
from hccp_jax.errors import UserError

DTYPES = st.sampled_from([np.bool_, np.int8, np.int32, np.int64, np.float32, np.uint8])
SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@pytest.fixture(scope="module")
def log(small_world):
    return tiny(small_world).log


def parts_of(log, *borders):
    ends = [0, *borders, len(log.mask)]
    return (jax.tree.map(lambda x, a=a, b=b: x[a:b], log) for a, b in itertools.pairwise(ends))


def written(directory: Path, *shards: dict, facts=None) -> Store:
    with StoreWriter(directory, {}) as writer:
        for number, columns in enumerate(shards):
            writer.shard("table", str(number), lambda c=columns: c)
        return writer.finish(facts or {})


@pytest.mark.parametrize("rows", [1000, 40, 1])
def test_what_is_read_is_what_was_written_and_its_batches_are_the_same(tmp_path, log, rows):
    write_log(tmp_path / "log", 128, parts_of(log, 10, 70), rows)
    back = open_store(tmp_path / "log", "full")["log"].requests()
    assert all(isinstance(leaf, np.ndarray if rows == 1000 else Rows) for leaf in jax.tree.leaves(back))
    assert_trees_equal(jax.tree.map(np.asarray, back), log)
    assert jax.tree.structure(back) == jax.tree.structure(log)
    validate(back)
    assert_trees_equal(log_chunk(back, 16)([0, 3], 5, 2), log_chunk(log, 16)([0, 3], 5, 2))
    for part in range(2):
        assert_trees_equal(log_chunk(back, 16)([1], 3, 2, (part, 2)), log_chunk(log, 16)([1], 3, 2, (part, 2)))


def test_the_parts_of_a_batch_are_the_batch(log):
    chunk = log_chunk(log, 16)
    parts = [chunk([0, 1], 3, 2, part=(index, 4)) for index in range(4)]
    assert {leaf.shape[2] for part in parts for leaf in jax.tree.leaves(part)} == {4}
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=2), *parts)
    assert_trees_equal(joined, chunk([0, 1], 3, 2))
    with pytest.raises(ValueError, match="no 3 equal parts"):
        chunk([0], 0, 1, part=(0, 3))


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_columns_of_any_kind_come_back_by_any_index(data):
    dtype, shape = data.draw(DTYPES), data.draw(SHAPES)
    heights = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any))
    shards = [data.draw(hnp.arrays(dtype, (height, *shape))) for height in heights]
    whole = np.concatenate(shards)
    with tempfile.TemporaryDirectory() as folder:
        found = written(Path(folder) / "store", *({"x": shard} for shard in shards))["table"]["x"]
        indices = data.draw(hnp.arrays(np.int64, (2, 3), elements=st.integers(-len(whole), len(whole) - 1)))
        begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
        for index in (
            indices,
            indices[0, 0],
            slice(begin, end),
            slice(None),
            slice(None, None, -1),
            slice(begin, end, 2),
        ):
            np.testing.assert_array_equal(found[index], whole[index])
        np.testing.assert_array_equal(np.asarray(found), whole)
        assert (found.shape, found.dtype, found.nbytes) == (whole.shape, whole.dtype, whole.nbytes)
        if isinstance(found, Rows):
            with pytest.raises(IndexError):
                found[np.array([len(whole)])]


def test_rows_by_slices_and_positions_with_columns_are_those_of_one_array():
    whole = np.arange(7 * 5 * 2).reshape(7, 5, 2)
    rows = Rows([whole[:3], whole[3:4], whole[4:]])
    for index in [
        (slice(None), slice(2)),
        (slice(1, 6), slice(1, 4), 0),
        (slice(None, None, 2), 3),
        (np.array([6, 0]), slice(2)),
        (np.array([[6, 0], [3, 3]]), slice(2), 1),
        (4, slice(2)),
    ]:
        np.testing.assert_array_equal(rows[index], whole[index])


def test_a_log_of_many_shards_can_stay_on_the_device(tmp_path, small_world):
    made = tiny(small_world)
    write_log(tmp_path / "log", 128, parts_of(made.log, 50), 1)
    found = open_store(tmp_path / "log")["log"].requests()
    source = resident(dataclasses.replace(made.source, log=found, rows=lambda *a: np.zeros((1, 1, 4), np.int64)))
    assert_trees_equal(jax.tree.map(np.asarray, source.catalogue.log), made.log)


def test_a_row_of_a_billion_is_found_without_a_permutation():
    """The rows of a step far into an epoch: in bounds, no row twice, and the same whenever they are asked for."""
    total = 3_000_000_007
    rows = rows_at(5, 1_234_567, 512, total, steps=3)
    assert rows.min() >= 0
    assert rows.max() < total
    assert len(np.unique(rows)) == len(rows)
    np.testing.assert_array_equal(rows[512:1024], rows_at(5, 1_234_568, 512, total))


def test_only_so_many_requests_are_written(tmp_path, log):
    write_log(tmp_path / "log", 30, parts_of(log, 20, 40))
    found = open_store(tmp_path / "log")["log"].requests()
    assert_trees_equal(found, jax.tree.map(lambda leaf: leaf[:30], log))


def test_a_write_that_fails_leaves_nothing(tmp_path, log):
    def broken():
        yield from parts_of(log, 50)
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"^store=.*log: cannot be written \(No space left on device\)$"):
        write_log(tmp_path / "log", 200, broken())
    with pytest.raises(ValueError, match="128 requests to write, expected 129"):
        write_log(tmp_path / "log", 129, parts_of(log))
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_is_there_stays(tmp_path, log):
    write_log(tmp_path / "log", 128, parts_of(log))
    write_log(tmp_path / "log", 10, parts_of(log))
    assert len(open_store(tmp_path / "log")["log"]) == 128
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def swap(directory: Path) -> None:
    (directory / "table-0.arrow").rename(directory / "x")
    (directory / "table-1.arrow").rename(directory / "table-0.arrow")
    (directory / "x").rename(directory / "table-1.arrow")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGE = {
    "no manifest": (lambda d: (d / "manifest.json").unlink(), "cannot be read"),
    "half a manifest": (lambda d: (d / "manifest.json").write_text("{"), "cannot be read"),
    "another format": (lambda d: (d / "manifest.json").write_text('{"format": 0, "tables": {}}'), "format 0"),
    "no shard": (lambda d: (d / "table-1.arrow").unlink(), "table-1.arrow cannot be read"),
    "cut off": (
        lambda d: cut(d / "table-1.arrow"),
        "bytes, expected",
    ),
    "garbage": (
        lambda d: (d / "table-1.arrow").write_bytes(bytes((d / "table-1.arrow").stat().st_size)),
        "table-1.arrow",
    ),
    "another shard": (swap, "table-0.arrow has changed since it was written"),
    "a byte": (lambda d: flip(d / "table-0.arrow", 300), "table-0.arrow"),
}


@pytest.mark.parametrize("harm", DAMAGE)
def test_a_damaged_store_is_refused_in_a_line(tmp_path, harm):
    directory = tmp_path / "store"
    written(directory, {"x": np.arange(90)}, {"x": np.arange(90) + 1})
    harm, line = DAMAGE[harm]
    harm(directory)
    with pytest.raises(UserError, match=rf"^store=.*{line}") as refused:
        open_store(directory, "full")
    assert "\n" not in str(refused.value)


def test_another_schema_is_refused(tmp_path):
    written(tmp_path / "store", {"x": np.arange(6, dtype=np.int32)})
    path = tmp_path / "store" / "table-0.arrow"
    arrow.write(path, {"x": np.arange(6, dtype=np.float32)})
    with pytest.raises(UserError, match=r"column x of float\[\]; expected int32\[\]|bytes, expected"):
        open_store(tmp_path / "store", "quick")


def test_a_small_store_is_checked_byte_for_byte_and_a_large_one_is_not(tmp_path, monkeypatch):
    directory = tmp_path / "store"
    written(directory, {"x": np.zeros(1000)})
    content = (directory / "table-0.arrow").read_bytes()
    flip(directory / "table-0.arrow", content.index(bytes(4000)) + 2000)
    with pytest.raises(UserError, match="has changed"):
        open_store(directory)
    monkeypatch.setattr(store, "CHECKED_BYTES", 10)
    open_store(directory)


def test_a_conversion_goes_on_shard_by_shard(tmp_path):
    made = []

    def convert(until: int, identity: str = "same") -> None:
        with StoreWriter(tmp_path / "store", {"input": identity}) as writer:
            found = writer.step("counting", lambda: made.append("step") or {"n": 4})
            for number in range(found["n"]):
                if number == until:
                    raise KeyboardInterrupt
                columns = {"x": np.full(3, number)}
                writer.shard("table", str(number), lambda n=number, c=columns: made.append(n) or c)
            writer.finish({"time": "today"})

    with pytest.raises(KeyboardInterrupt):
        convert(2)
    with pytest.raises(KeyboardInterrupt):
        convert(3)
    assert made == ["step", 0, 1, 2]
    assert not (tmp_path / "store").exists()
    convert(9)
    assert made == ["step", 0, 1, 2, 3]
    found = open_store(tmp_path / "store", "full")
    assert found["table"]["x"][:].tolist() == np.repeat(range(4), 3).tolist()
    assert found.facts == {"time": "today"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]
    assert not (tmp_path / "store" / "work").exists()


def test_another_input_begins_afresh(tmp_path):
    with StoreWriter(tmp_path / "store", {"input": "a"}) as writer:
        writer.shard("table", "0", lambda: {"x": np.zeros(3)})
    with StoreWriter(tmp_path / "store", {"input": "b"}) as writer:
        assert writer.resumed == 0
        writer.shard("table", "0", lambda: {"x": np.ones(3)})
        writer.finish({})
    assert open_store(tmp_path / "store")["table"]["x"][:].tolist() == [1, 1, 1]


def test_what_is_there_stays_and_nobody_writes_beside_another(tmp_path):
    written(tmp_path / "store", {"x": np.zeros(3)})
    with pytest.raises(UserError, match="is there already; remove it or choose another"):
        StoreWriter(tmp_path / "store", {})
    with StoreWriter(tmp_path / "other", {}):
        code = f"""
from pathlib import Path
from hccp_jax.data.store_writer import StoreWriter
StoreWriter(Path({str(tmp_path / "other")!r}), {{}})
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "other: another command is writing it" in done.stderr


def test_shards_of_a_table_are_alike(tmp_path):
    with StoreWriter(tmp_path / "store", {}) as writer:
        writer.shard("table", "0", lambda: {"x": np.zeros((3, 2))})
        with pytest.raises(ValueError, match="table table, shard 1: columns"):
            writer.shard("table", "1", lambda: {"x": np.zeros((3, 3))})
        with pytest.raises(ValueError, match="different heights"):
            writer.shard("other", "0", lambda: {"x": np.zeros(3), "y": np.zeros(4)})
        with pytest.raises(ValueError, match="rows without numbers"):
            writer.shard("another", "0", lambda: {"x": np.zeros((3, 0))})
