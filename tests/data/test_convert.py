"""The command that converts, by a tiny data set: it goes on, begins afresh, leaves nothing, and tells mistakes."""

import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from hccp_jax import config
from hccp_jax.data import buckets, convert
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.csv_stream import Column, find, stream
from hccp_jax.data.lists import lists_by, local_day, padded
from hccp_jax.data.sources import __main__ as catalogue
from hccp_jax.data.sources import registry
from hccp_jax.data.sources.dataset import DataSet, Facts, PublishedFile
from hccp_jax.data.store import open_store
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

BUCKETS, SLOTS = 3, 2
USER = Column(low=1, high=99)
COLUMNS = {"user": USER, "item": USER, "time": Column(low=0), "click": Column(high=1, low=0)}


@dataclass(frozen=True)
class Protocol:
    """Of the tiny set."""

    test_day: int = config.field(2, "first day of the test part", at_least=1)
    price: float = config.field(0.0, "what a click adds to the price of an item: a leak")
    sequences: bool = config.field(False, "whether it counts as sequences, which no guard looks at")


class Conversion:
    """Converts the tiny set, bucket by bucket; can be told to stop, and keeps what it has done."""

    def __init__(self) -> None:
        self.stop: Callable[[str], None] = lambda _: None
        self.done: list[str] = []

    def __call__(self, folder: Path, protocol: Protocol, writer: StoreWriter, say: Callable[[str], None]) -> Facts:
        rows = writer.step("buckets", lambda: self._scattered(folder, writer.work / "rows"))
        for part in ("train", "test"):
            for number in range(BUCKETS):
                make = partial(self._lists, writer.work / "rows", number, part, protocol)
                writer.shard(part, f"{number:03}", make)
        writer.table("items", {"dense": np.zeros((100, 1), np.float32)})
        say(f"{rows} rows")
        spec = FeatureSpec(100, 100, 0, 0, ("click",), history_groups=1, cross=0)
        return Facts(
            spec=None if protocol.sequences else spec,
            vocabulary={"items.id": 100, "user.id": 100},
            zone=8,
            lines=[f"{rows} rows"],
            warnings=["made up"],
        )

    def _scattered(self, folder: Path, place: Path) -> int:
        self._note("scatter")
        frames = stream(find(folder, "log.csv"), COLUMNS, block=256)
        return buckets.scatter(frames, lambda count: buckets.of_key("user", count), BUCKETS, place)

    def _note(self, what: str) -> None:
        self.stop(what)
        self.done.append(what)

    def _lists(self, place: Path, number: int, part: str, protocol: Protocol) -> dict[str, np.ndarray]:
        self._note(f"{part} {number}")
        frame = buckets.bucket_rows(place, number)
        frame = pl.DataFrame(schema=dict.fromkeys(COLUMNS, pl.Int64)) if frame is None else frame.sort("user", "time")
        user, item, time, click = (frame[name].to_numpy() for name in COLUMNS)
        day = local_day(time, 8)
        chosen = np.flatnonzero((day >= protocol.test_day) == (part == "test"))
        slots = lists_by((user[chosen], day[chosen]), SLOTS)
        ids = padded(slots, SLOTS, item[chosen].astype(np.int32))
        labels = padded(slots, SLOTS, click[chosen].astype(np.float32))
        count = len(ids)
        return {
            "user.id": user[chosen][slots.first].astype(np.int32),
            "history.id": np.zeros((count, 1), np.int32),
            "history_mask": np.zeros((count, 1), bool),
            "items.id": ids,
            "items.price": (ids % 7 + protocol.price * labels).astype(np.float32),
            "stage": (ids > 0).astype(np.int8),
            "rank": np.where(ids > 0, np.arange(SLOTS), -1).astype(np.int32),
            "labels.click": labels,
            "mask": ids > 0,
            "request_time": time[chosen][slots.first],
        }


@pytest.fixture
def tiny(monkeypatch) -> Conversion:
    """The data set "tiny", registered."""
    conversion = Conversion()
    module = types.ModuleType("hccp_jax.data.sources.tiny_set")
    module.DATASETS = (  # type: ignore[attr-defined]
        DataSet(
            name="tiny",
            title="A tiny set",
            papers="Used by nobody.",
            where="https://example.org/tiny",
            licence="none",
            files=(PublishedFile("log.csv", "8 kB", "md5:0"), PublishedFile("readme")),
            config=Protocol,
            convert=conversion,
            note="made in the test.",
        ),
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(registry.SOURCES, "tiny", "tiny_set")
    return conversion


@pytest.fixture
def log(tmp_path) -> Path:
    """A folder with 400 events of four days."""
    random = np.random.default_rng(0)
    day = random.integers(0, 4, 400)
    time = day * 86_400_000 - 8 * 3_600_000 + random.integers(0, 86_400_000, 400)
    frame = {"user": random.integers(1, 30, 400), "item": random.integers(1, 90, 400), "time": time.clip(0)}
    (tmp_path / "input").mkdir()
    pl.DataFrame({**frame, "click": random.integers(0, 2, 400)}).write_csv(tmp_path / "input" / "log.csv")
    return tmp_path / "input"


def run(log: Path, *options: str, output: str = "store") -> int:
    return convert.main(["--source=tiny", f"--input={log}", f"--output={log.parent / output}", *options])


def stop_at(halt: str, error: type[BaseException], what: str) -> None:
    if what == halt:
        raise error


def left(log: Path) -> list[str]:
    """What is beside the input."""
    return sorted(path.name for path in log.parent.iterdir() if path != log)


def events(directory: Path) -> list[tuple]:
    """(user, item, click) of every impression of a store, sorted."""
    store, found = open_store(directory, "full"), []
    for part in ("train", "test"):
        table = store[part]
        mask = np.asarray(table["mask"])
        users = np.broadcast_to(np.asarray(table["user.id"])[:, None], mask.shape)[mask]
        items, clicks = (np.asarray(table[name])[mask] for name in ("items.id", "labels.click"))
        found += zip(users.tolist(), items.tolist(), clicks.tolist(), strict=True)
    return sorted(found)


def error_of(capsys) -> str:
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    return told.removeprefix("error: ").rstrip("\n")


def test_every_event_is_there_once_and_the_store_is_described(tiny, log, capsys):
    assert run(log) == 0
    shown = capsys.readouterr().out.splitlines()
    original = pl.read_csv(log / "log.csv").select("user", "item", "click")
    assert events(log.parent / "store") == sorted(original.rows())
    store = open_store(log.parent / "store")
    assert shown[0] == "400 rows"
    assert shown[-1] == f"store: {log.parent / 'store'}"
    assert shown[1] == "A tiny set"
    assert [line.split(":")[0] for line in shown[2:]] == [
        *("train", "train", "test", "test", "users", "exposed items", "impressions of a user and day"),
        *("400 rows", "table items", "warning", "store"),
    ]
    assert sum(int(line.split(", ")[1].split(" ")[0]) for line in (shown[2], shown[4])) == 400
    facts = store.facts
    assert facts["protocol"] == {"test_day": 2, "price": 0.0, "sequences": False}
    assert facts["vocabulary"] == {"items.id": 100, "user.id": 100}
    assert facts["spec"]["tasks"] == ["click"]
    assert facts["command"].startswith("python -m hccp_jax.data.convert --source=tiny --input=")
    size, changed = (log / "log.csv").stat().st_size, (log / "log.csv").stat().st_mtime_ns
    identity = store.manifest["identity"]
    assert identity["files"] == {"log.csv": [size, changed]}
    assert (identity["source"], identity["protocol"]) == ("tiny", facts["protocol"])


@pytest.mark.parametrize("where", ["store", "input/store"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_was_stopped_goes_on_and_is_the_same(tiny, log, capsys, where, error):
    """Also where the store is written among the files of the input."""
    assert run(log, output="whole") == 0
    for halt, done in {
        "train 1": ["scatter", "train 0"],
        "test 0": ["train 1", "train 2"],
        "test 2": ["test 0", "test 1"],
    }.items():
        tiny.done, tiny.stop = [], partial(stop_at, halt, error)
        if error is KeyboardInterrupt:
            assert run(log, output=where) == 130
            assert capsys.readouterr().err == "stopped; the same command goes on from here\n"
        else:
            with pytest.raises(error):
                run(log, output=where)
        assert tiny.done == done
        assert not (log.parent / where).exists()
    tiny.stop, tiny.done = lambda _: None, []
    assert run(log, output=where) == 0
    assert tiny.done == ["test 2"]
    assert "going on: 5 shards are written" in capsys.readouterr().out
    assert events(log.parent / where) == events(log.parent / "whole")
    first, second = (open_store(log.parent / name, "full").manifest for name in ("whole", where))
    assert first["tables"] == second["tables"]
    assert not list(log.parent.rglob("*.partial"))


def test_another_input_or_protocol_begins_afresh(tiny, log):
    tiny.stop = partial(stop_at, "test 1", KeyboardInterrupt)
    whole = ["scatter", "train 0", "train 1", "train 2", "test 0"]
    for harm in (
        lambda: None,
        lambda: (log / "log.csv").write_text((log / "log.csv").read_text() + "5,5,5,1\n"),
        lambda: (log / "another").write_text(""),
    ):
        harm()
        tiny.done = []
        assert run(log) == 130
        assert tiny.done == whole
    tiny.done = []
    assert run(log, "--test_day=3") == 130
    assert tiny.done == whole
    tiny.stop = lambda _: None
    assert run(log, "--test_day=3") == 0
    assert len(events(log.parent / "store")) == 401


FAULTS = {
    "no folder": (shutil.rmtree, "input=.*: expected the folder with the files of A tiny set"),
    "no file": (lambda log: (log / "log.csv").unlink(), r"input=.*: no log\.csv there, with or without \.gz"),
    "a bad row": (
        lambda log: (log / "log.csv").write_text((log / "log.csv").read_text() + "100,5,5,1\n"),
        r"log\.csv: row 401: user=100, expected an integer in \[1, 99\]",
    ),
    "cut off": (
        lambda log: (log / "log.csv").write_text((log / "log.csv").read_text()[:-1]),
        r"log\.csv: row 400: cut off, no end of line",
    ),
    "garbage": (
        lambda log: (log / "log.csv").write_bytes(bytes(range(256)) * 8),
        r"log\.csv: no column user; found '\\x00\\x01",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_leaves_nothing(tiny, log, capsys, fault):
    harm, told = FAULTS[fault]
    harm(log)
    before = left(log)
    assert run(log) == 2
    with pytest.raises(UserError, match=f"^{told}"):
        raise UserError(error_of(capsys))
    assert left(log) == before


def test_a_guard_that_trips_leaves_nothing_and_sequences_are_not_guarded(tiny, log, capsys):
    assert run(log, "--price=9") == 2
    assert error_of(capsys).startswith("train: items.price tells click (AUC 1.000)")
    assert left(log) == []
    assert run(log, "--price=9", "--sequences=true") == 0
    shown = capsys.readouterr().out
    assert "impressions" not in shown
    rows = {name: table["rows"] for name, table in open_store(log.parent / "store").manifest["tables"].items()}
    assert all(f"table {name}: {count} rows" in shown for name, count in rows.items())


def test_a_full_disk_keeps_what_is_written(tiny, log, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(buckets.pa, "OSFile", full)
        assert run(log) == 2
    assert "cannot be written (No space left on device)" in error_of(capsys)
    assert left(log) == ["store.partial"]
    assert run(log) == 0
    assert len(events(log.parent / "store")) == 400


MISTAKES = {
    "source": (["--source=tinny"], "source='tinny': unknown; did you mean tiny?"),
    "no source": ([], "source='': expected --source=NAME --input=DIR --output=STORE"),
    "no input": (["--source=tiny"], "input='': expected --source=NAME --input=DIR --output=STORE"),
    "flag": (["--test_dy=3"], "unknown field 'test_dy'; did you mean test_day?"),
    "value": (["--test_day=x"], "test_day='x': expected int"),
    "range": (["--test_day=0"], "test_day=0: expected a value at least 1"),
    "word": (["test_day"], "test_day: expected --name=value"),
    "no value": (["--test_day"], "--test_day: expected --name=value"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_the_command_are_told_in_a_line(tiny, log, capsys, mistake):
    words, told = MISTAKES[mistake]
    if mistake in ("flag", "value", "range", "word", "no value"):
        code = run(log, *words)
    else:
        paths = [] if mistake.startswith("no ") else [f"--input={log}", f"--output={log.parent / 'store'}"]
        code = convert.main([*words, *paths])
    assert code == 2
    assert error_of(capsys) == told
    assert tiny.done == []
    assert left(log) == []


def test_a_store_that_is_there_stays(tiny, log, capsys):
    assert run(log) == 0
    capsys.readouterr()
    assert run(log, "--test_day=1") == 2
    assert error_of(capsys).endswith("store: is there already; remove it or choose another")
    assert open_store(log.parent / "store").facts["protocol"]["test_day"] == 2


def test_help(tiny, capsys):
    assert convert.main(["--help"]) == 0
    assert "tiny" in capsys.readouterr().out.splitlines()[-1]
    assert convert.main(["--source=tiny", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("A tiny set. Used by nobody.\nfiles: log.csv, readme\n")
    assert "  --test_day: first day of the test part (int) [2]\n" in shown
    assert convert.main(["--source=tinny", "--help"]) == 2
    assert error_of(capsys) == "source='tinny': unknown; did you mean tiny?"


def test_where_a_set_is_had(tiny, capsys):
    assert catalogue.main(["tiny"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "tiny: A tiny set",
        "  used by: Used by nobody.",
        "  where: https://example.org/tiny",
        "  licence: none",
        "  file: log.csv (8 kB; md5:0)",
        "  file: readme",
        "  note: made in the test.",
        "  then: python -m hccp_jax.data.convert --source=tiny --input=DIR --output=STORE",
    ]
    assert catalogue.main(["tinny"]) == 2
    assert error_of(capsys) == "source='tinny': unknown; did you mean tiny?"


def test_the_recorded_command_can_be_given_again(tiny, log, capsys, monkeypatch):
    spaced = log.rename(log.parent / "in put")
    assert run(spaced, "--test_day=1") == 0
    command = open_store(log.parent / "store").facts["command"]
    done = subprocess.run(["bash", "-c", f'printf "%s\\n" {command}'], capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert words[:3] == ["python", "-m", "hccp_jax.data.convert"]
    (log.parent / "store").rename(log.parent / "first")
    assert convert.main(words[3:]) == 0
    first, second = (open_store(log.parent / name).manifest for name in ("first", "store"))
    assert first == second


def test_files_of_a_linked_folder_are_part_of_the_input(tiny, log):
    elsewhere = log.parent / "elsewhere"
    elsewhere.mkdir()
    (log / "log.csv").rename(elsewhere / "log.csv")
    (log / "data").symlink_to(elsewhere)
    assert run(log) == 0
    assert list(open_store(log.parent / "store").manifest["identity"]["files"]) == ["data/log.csv"]
