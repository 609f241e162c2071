"""Several processes on this machine train as one: the same numbers, one stop, restarts with another number of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import free_port

from hccp_jax.errors import UserError
from hccp_jax.training import hosts

HERE = Path(__file__).parent
SECONDS = 150  # of one run, under load


def start(directory, *flags, environment=()):
    words = [sys.executable, str(HERE / "two_processes.py"), str(directory), *flags]
    paths = os.pathsep.join(map(str, (HERE.parent.parent, HERE.parent)))
    settled = {**os.environ, "PYTHONPATH": paths, "XLA_FLAGS": "", **dict(environment)}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settled)


def both(directory, *flags):
    port = free_port()
    return [
        start(directory, f"--coordinator=127.0.0.1:{port}", "--host_count=2", f"--host_index={index}", *flags)
        for index in range(2)
    ]


def said(process):
    """Exit code and the JSON lines of a process."""
    try:
        out, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"hangs: {process.communicate()}") from None
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert lines or process.returncode, errors
    return process.returncode, lines


def wait_for_step(process, step):
    for line in process.stdout:
        if line.startswith("{") and json.loads(line)["step"] >= step:
            return
    raise AssertionError(process.stderr.read())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process with one device gives."""
    code, lines = said(start(tmp_path_factory.mktemp("alone") / "out", "--kind=single"))
    assert code == 0
    return lines


def assert_same(lines, expected):
    """Losses of the steps that were run, and the last parameters."""
    losses = {line["step"]: line["loss"] for line in expected[:-1]}
    for line in lines[:-1]:
        assert line["loss"] == pytest.approx(losses[line["step"]], rel=1e-5)
    np.testing.assert_allclose(lines[-1]["parameters"], expected[-1]["parameters"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mesh", "pmap"])
def test_two_processes_are_one_and_only_the_primary_writes_the_log(tmp_path, alone, kind):
    found = [said(process) for process in both(tmp_path, f"--kind={kind}")]
    assert [code for code, _ in found] == [0, 0]
    for _, lines in found:
        assert len(lines) == 9
        assert_same(lines, alone)
    assert found[0][1][-1]["parameters"] == found[1][1][-1]["parameters"]
    steps = [json.loads(line)["step"] for line in (tmp_path / "0" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(5, 41, 5))


@pytest.mark.slow
def test_sigterm_on_one_process_saves_on_all_at_one_step_and_one_process_goes_on(tmp_path, alone):
    first, second = both(tmp_path, "--slow=1.5")
    wait_for_step(second, 10)
    second.send_signal(signal.SIGTERM)
    (code, mine), (other, theirs) = said(first), said(second)
    assert (code, other) == (143, 143)
    assert mine[-1] == theirs[-1]
    stopped = mine[-1]["stopped"]
    assert stopped < 40
    assert max(int(path.name) for path in (tmp_path / "0" / "checkpoints").iterdir()) == stopped
    code, lines = said(start(tmp_path, "--kind=single"))
    assert code == 0
    assert lines[0]["step"] == stopped + 5
    assert_same(lines, alone)


@pytest.mark.slow
def test_a_process_that_is_killed_takes_the_others_along_and_all_start_again(tmp_path, alone):
    first, second = both(tmp_path, "--slow=0.5")
    wait_for_step(first, 25)
    second.kill()
    code, _ = said(first)
    assert code != 0
    second.communicate()
    found = [said(process) for process in both(tmp_path)]
    assert [code for code, _ in found] == [0, 0]
    assert found[0][1][0]["step"] > 10  # from a checkpoint
    assert_same(found[0][1], alone)


@pytest.mark.slow
def test_processes_of_a_slurm_step_find_each_other(tmp_path, alone):
    """Slurm's variables, without Slurm."""
    job = {"SLURM_JOB_ID": str(10_000 + os.getpid() % 4000), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    processes = [
        start(tmp_path, "--distributed", environment={**job, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}.items())
        for i in range(2)
    ]
    for code, lines in map(said, processes):
        assert code == 0
        assert_same(lines, alone)


@pytest.mark.slow
def test_one_process_that_gets_sigterm_saves_and_goes_on_later(tmp_path, alone):
    process = start(tmp_path, "--kind=single", "--slow=0.2")
    wait_for_step(process, 15)
    process.send_signal(signal.SIGTERM)
    code, lines = said(process)
    assert code == 143
    assert {"stopped"} == set(lines[-1])
    code, rest = said(start(tmp_path, "--kind=single"))
    assert rest[0]["step"] == lines[-1]["stopped"] + 5
    assert_same(rest, alone)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ("localhost:1", None, 0),
            r"^host_count: expected with the other two of coordinator, ",
        ),
        ((None, 2, None), r"^coordinator: expected with"),
        (("localhost:1", 2, 2), r"^host_index=2: expected 0 to 1$"),
    ],
)
def test_half_an_address_is_refused(flags, line):
    with pytest.raises(UserError, match=line):
        hosts.join(*flags)


def test_processes_that_nothing_tells_of_each_other_are_refused(tmp_path):
    process = start(tmp_path, "--distributed")
    begun = time.monotonic()
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert "error: distributed: the hosts cannot find each other" in errors
    assert time.monotonic() - begun < SECONDS
