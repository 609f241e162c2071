"""The description of a store: its counts by hand, and the command."""

from pathlib import Path

import numpy as np

from hccp_jax.data import describe
from hccp_jax.data.store import Store
from hccp_jax.data.store_writer import StoreWriter

MIDNIGHT = 1_511_539_200_000  # 2017-11-25 00:00 at UTC+8


def store_of(folder: Path, facts: dict, stage: list[list[int]], user: list[int], **times: np.ndarray) -> Store:
    """Requests with these stages; the first impression of each is clicked."""
    stages = np.array(stage, np.int8)
    columns = {
        "user.id": np.array(user, np.int32),
        "history.id": np.zeros((len(user), 1), np.int32),
        "history_mask": np.zeros((len(user), 1), bool),
        "items.id": (stages > 0).astype(np.int32),
        "stage": stages,
        "rank": np.where((stages == 1) | (stages == 2), 0, -1).astype(np.int32),
        "labels.click": (stages == 1).astype(np.float32) * (np.arange(stages.shape[1]) == 0),
        "mask": stages > 0,
    }
    with StoreWriter(folder / "store", {}) as writer:
        writer.table("train", {**columns, **times}, 2)
        writer.table("items", {"dense": np.zeros((1_234, 2), np.float32)})
        return writer.finish(facts)


STAGES = [[1, 1, 2, 3], [1, 2, 2, 4], [1, 0, 0, 0]]


def test_a_table_of_requests_in_numbers(tmp_path):
    times = np.array([MIDNIGHT + 61_000, MIDNIGHT - 1_000, MIDNIGHT], np.int64)
    store = store_of(tmp_path, {}, STAGES, [7, 7, 0], request_time=times)
    counted = "train: 3 requests of 1 users, 4 impressions (click 0.7500); "
    counted += "items a request: RANKED 1.0, PRERANKED 0.3, POOL 0.3"
    china = "train: 2017-11-24 23:59:59 UTC+08:00 to 2017-11-25 00:01:01 UTC+08:00"
    assert describe.measured("train", store["train"], 8) == [counted, china]
    assert describe.measured("train", store["train"], None)[1].endswith("15:59:59 UTC to 2017-11-24 16:01:01 UTC")


def test_exposures_only_without_times(tmp_path):
    store = store_of(tmp_path, {}, [[1, 0], [0, 0]], [1, 2])
    lines = describe.measured("test", store["train"], 8)
    assert lines == ["test: 2 requests of 2 users, 1 impressions (click 1.0000)"]


def test_no_requests_at_all(tmp_path):
    store = store_of(tmp_path, {}, np.zeros((0, 4)), [], request_time=np.zeros(0, np.int64))
    lines = describe.measured("test", store["train"], 8)
    assert lines == ["test: 0 requests of 0 users, 0 impressions"]


def test_a_time_in_words():
    assert [describe.date(np.int64(MIDNIGHT), zone) for zone in (None, 8, -7)] == [
        "2017-11-24 16:00:00 UTC",
        "2017-11-25 00:00:00 UTC+08:00",
        "2017-11-24 09:00:00 UTC-07:00",
    ]


def test_all_facts_are_told(tmp_path, capsys):
    facts = {
        "title": "a tiny set",
        "spec": {"users": 3},
        "lines": ["one", "two"],
        "simulated": "lower stages",
        "warnings": ["the public code leaks"],
    }
    store_of(tmp_path, facts, STAGES, [1, 2, 3])
    assert describe.main([f"--store={tmp_path / 'store'}"]) == 0
    wanted = ["a tiny set", "one", "two", "table items: 1,234 rows", "SIMULATED: lower stages"]
    assert capsys.readouterr().out.splitlines() == [*wanted, "warning: the public code leaks"]


def test_sequences_and_logs_tell_the_rows_of_every_table(tmp_path, capsys):
    store_of(tmp_path, {}, STAGES, [1, 2, 3])
    assert describe.main([f"--store={tmp_path / 'store'}"]) == 0
    assert capsys.readouterr().out.splitlines() == ["a log", "table train: 3 rows", "table items: 1,234 rows"]


def test_mistakes_in_the_command_are_told_in_a_line(tmp_path, capsys):
    for arguments in ([], ["--store="], ["--store=a", "--store=b"], ["--stor=a"], [str(tmp_path)], ["--help"]):
        assert describe.main(arguments) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert told.endswith(": expected --store=DIR and nothing else\n")
        assert told.count("\n") == 1
    assert describe.main([f"--store={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: store={tmp_path}: cannot be read")
