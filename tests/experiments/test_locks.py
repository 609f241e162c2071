"""Locks between processes: nothing runs twice, and a killed process leaves nothing locked."""

import subprocess
import sys
import time
from pathlib import Path

from processes import ROOT

from experiments.locks import alone, run_each_once

WORKER = """
import sys, time
from pathlib import Path
from experiments.locks import alone, run_each_once

directory, items = Path(sys.argv[1]), sys.argv[3:]

def run(mine):
    for item in mine:
        with (directory / f"{item}.runs").open("a") as log:
            log.write(sys.argv[2])
        time.sleep(0.2)
        (directory / f"{item}.done").touch()

run_each_once(directory / "locks", items, lambda item: (directory / f"{item}.done").exists(), run, print)
"""
ITEMS = tuple("abcde")


def start(directory: Path, name: str, items=ITEMS) -> subprocess.Popen:
    command = [sys.executable, "-c", WORKER, str(directory), name, *items]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_two_processes_run_every_item_once_and_both_wait_for_all(tmp_path):
    both = [start(tmp_path, "1", ITEMS[:3]), start(tmp_path, "2", ITEMS)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert [len((tmp_path / f"{item}.runs").read_text()) for item in ITEMS] == [1] * 5
    assert all((tmp_path / f"{item}.done").exists() for item in ITEMS)


def test_what_a_killed_process_left_is_run_by_the_one_that_waits(tmp_path):
    first = start(tmp_path, "1", ("a", "b"))
    deadline = time.monotonic() + 60
    while not (tmp_path / "a.runs").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    second = start(tmp_path, "2", ("a", "b"))
    first.kill()
    first.wait()
    assert second.wait(timeout=60) == 0
    assert (tmp_path / "b.runs").read_text() == "2"
    assert (tmp_path / "a.done").exists()


def test_finished_items_are_not_run_again(tmp_path):
    ran = []
    run_each_once(tmp_path / "deep" / "locks", ITEMS, lambda item: item in "abc", ran.extend, ran.append)
    assert ran == ["d", "e"]


def test_one_is_alone_and_the_other_waits_for_it(tmp_path):
    code = """
import sys
from pathlib import Path
from experiments.locks import alone
with alone(Path(sys.argv[1]), lambda: print("waits", flush=True)):
    print("in", flush=True)
"""
    told = []
    command = [sys.executable, "-c", code, str(tmp_path / "deep" / "lock")]
    with alone(tmp_path / "deep" / "lock", lambda: told.append("waits")):
        other = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "waits\n"
    assert other.communicate(timeout=60)[0] == "in\n"
    assert told == []
