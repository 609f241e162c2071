"""What the benchmark commands share: how bars are judged and shown, what is written, and their exit codes."""

import json

import pytest

from experiments.benchmarks import kernels, scaling, serving, training
from experiments.benchmarks.bars import (
    Neighbours,
    asked,
    exit_with,
    finish,
    interleaved,
    line,
    outcome,
    parse,
    quickest,
    times_slower,
)
from hccp_jax.errors import UserError

FAST = outcome("part", "B=2", "ours", "torch", 2.0, 1.5, "at least", {"ours": [1.0, 2.0, 9.0]})
LARGE = outcome("part", "B=2", "MiB", "", 30.0, 24, "at most")


def test_a_bar_is_judged_in_its_own_sense():
    assert FAST.ok
    assert FAST.milliseconds == {"ours": 2000.0}
    assert not LARGE.ok
    assert outcome("", "", "", "", 24.0, 24, "at most").ok
    assert outcome("", "", "", "", 1.5, 1.5, "at least").ok


def test_a_bar_is_one_line():
    assert line(FAST).split() == ["part", "B=2", "torch", "2.00x", "at", "least", "1.5x", "ok"]
    assert line(LARGE).split() == ["part", "B=2", "MiB", "30.00", "at", "most", "24", "short"]


def test_figures_are_medians_over_the_rounds():
    times = {"ours": [1.0, 2.0, 1.0], "torch": [3.0, 2.0, 2.0], "torch compiled": [9.0, 9.0, 1.0]}
    assert times_slower(times, "torch", "ours") == 2.0
    assert quickest(times, ["torch", "torch compiled"]) == "torch"


def test_rivals_take_turns_until_enough_time_has_passed():
    now, turns = [0.0], []

    def works(name, seconds):
        def call():
            turns.append(name)
            now[0] += seconds

        return call

    times = interleaved({"slow": works("slow", 2.0), "quick": works("quick", 0.5)}, 2, lambda: now[0], 1.0)
    assert turns == ["slow", "quick", "quick"] * 2
    assert times == {"slow": [2.0, 2.0], "quick": [0.5, 0.5]}


def test_flags(tmp_path):
    found = parse("kernels", [f"--json={tmp_path / 'x.json'}", "--only=SoftSort,List"], 7, "kernels")
    assert found == {"json": tmp_path / "x.json", "rounds": 7, "only": ["SoftSort", "List"]}
    assert asked("ListMLE", found["only"])
    assert not asked("SDCL", found["only"])
    assert asked("SDCL", [])


@pytest.mark.parametrize("command", [kernels, training, scaling, serving])
@pytest.mark.parametrize(
    ("argument", "told"),
    [("--json=/nowhere/x.json", "/nowhere is not there"), ("more", "unexpected argument 'more'"), ("--nope=1", "nope")],
)
def test_a_mistake_is_told_in_one_line(monkeypatch, capsys, command, argument, told):
    monkeypatch.setattr("sys.argv", ["command", argument])
    with pytest.raises(SystemExit) as stopped:
        exit_with(command.main)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert told in lines[0]


def test_the_exit_code_says_whether_all_bars_are_reached(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(training, "parts", lambda: {"quick": lambda rounds: [FAST], "big": lambda rounds: [LARGE]})
    target = tmp_path / "found.json"
    assert training.main(["--only=quick", f"--json={target}"]) == 0
    assert [record["kernel"] for record in json.loads(target.read_text())] == ["part"]
    assert training.main([f"--json={target}"]) == 1
    assert "1 of 2 bars reached" in capsys.readouterr().out
    assert json.loads(target.read_text())[1]["ok"] is False
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
    with pytest.raises(UserError, match="only=slow: no part begins so"):
        training.main(["--only=slow"])


def test_nothing_measured_is_a_mistake():
    with pytest.raises(UserError, match="no kernel begins so"):
        finish([], {"only": ["x"], "json": None}, "kernel")


def test_neighbours_are_other_processes():
    busy = Neighbours().cores()
    assert busy is None or busy >= 0
