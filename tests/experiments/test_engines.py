"""Engines: how trials become jobs, workers that die, refuse, hang on or lose their launcher, and the same table."""

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import ROOT, begin, launch
from test_launch import TINY, one_line

from experiments import plan as plans
from experiments.engines import choice, leash, local, workers
from experiments.engines.jobs import Job, jobs
from experiments.engines.printed import print_jobs
from experiments.engines.waiting import Waiting
from experiments.experiment import Data, Experiment, Kind, Row
from experiments.flags import launcher_flags, parse, settings_flags
from experiments.trials import Trial
from hccp_jax.config import field
from hccp_jax.errors import UserError
from launch import main as launch_main


@dataclasses.dataclass(frozen=True)
class Hyper:
    margin: float = field(0.5, "margin", at_least=0)


@dataclasses.dataclass(frozen=True)
class Train:
    batch: int = field(4, "requests")


@dataclasses.dataclass(frozen=True)
class Settings:
    hyper: Hyper = Hyper()
    train: Train = Train()
    width: int = field(4, "width")


ROWS = (
    *(Row("a", "A"), Row("b", "B", {"hyper.margin": 0.0}), Row("wide", "Wide", {"width": 8})),
    Row("truth", "Truth", reference=True),
)
EXPERIMENT = Experiment(
    "demo", "Demo", "P", "T", 1, Data(Kind.SIMULATED, "It is."), Settings(), {}, ROWS, (), (), 2, print
)


TIMES = ("p50_ms", "p99_ms", "train_requests_per_second")


def planned(out: Path, *arguments: str) -> plans.Plan:
    values = launcher_flags()
    settings_flags(values, EXPERIMENT)
    parse(values, [f"--out={out}", *arguments])
    return plans.make(EXPERIMENT, values)


def finish(trial: Trial) -> None:
    trial.directory.mkdir(parents=True)
    (trial.directory / "result.json").write_text("{}")


def shapes(found: list[Job]) -> list[list[str]]:
    return [[f"{trial.row.name}{trial.seed}" for trial in job.trials] for job in found]


def test_a_job_is_what_shares_a_program_the_largest_first(tmp_path):
    found = jobs(planned(tmp_path))
    assert shapes(found) == [["a0", "a1", "b0", "b1", "truth0"], ["wide0", "wide1"]]
    assert found[0].label == "a, b and 1 more rows (5 trials)"
    assert found[0].log.parent == tmp_path / "logs"


@pytest.mark.parametrize(
    ("least", "expected"),
    [
        (3, [["b0", "b1", "truth0"], ["a0", "a1"], ["wide0", "wide1"]]),
        (4, [["a0", "a1"], ["wide0", "wide1"], ["b0", "truth0"], ["b1"]]),
        (99, [["b1", "truth0"], ["a0"], ["a1"], ["b0"], ["wide0"], ["wide1"]]),
    ],
)
def test_programs_are_split_until_all_processes_work(tmp_path, least, expected):
    found = shapes(jobs(planned(tmp_path), least))
    assert sorted(name for job in found for name in job) == sorted(name for job in expected for name in job)
    assert len(found) == min(least, 6)
    if least == 3:  # the seeds of a row stay together if that is enough
        assert found == expected


def test_a_continued_command_has_the_same_jobs_without_what_is_finished(tmp_path):
    plan = planned(tmp_path)
    for trial in plan.trials():
        if trial.row.name == "a" or (trial.row.name, trial.seed) == ("wide", 0):
            finish(trial)
    assert shapes(jobs(plan, 3)) == [["b0", "b1", "truth0"], ["wide1"]]


def test_a_worker_is_told_what_decides_its_trials_and_nothing_else(tmp_path, capsys):
    arguments = ("--seeds=1", "--width=6", "--processes=3", "--engine=print", "--retries=1", "--rows=a,wide")
    plan = planned(tmp_path / "a b", *arguments)
    print_jobs(plan, 1)
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [[sys.executable, str(ROOT / "launch.py")]] * 2
    assert sorted(lines[0][2:-2]) == ["--rows=a,wide", "--seeds=1", "--width=6"]
    assert lines[0][-2] == f"--out={tmp_path / 'a b'}"
    hashes = [name for line in lines for name in line[-1].removeprefix("--only=").split(",")]
    assert sorted(hashes) == sorted(trial.directory.name for trial in plan.trials())


WORKER = """
import os, sys, time
from pathlib import Path
how, *directories = sys.argv[1:]
directories = [Path(directory) for directory in directories]
for directory in directories:
    directory.mkdir(parents=True, exist_ok=True)
runs = directories[0] / "runs"
runs.open("a").write("x")
if how == "refuses":
    print("error: margin=-1: expected more")
    sys.exit(2)
if how == "dies" or (how == "dies once" and len(runs.read_text()) == 1):
    print("about to die", flush=True)
    os.kill(os.getpid(), 9)
if how == "hangs":
    (directories[0] / "pid").write_text(str(os.getpid()))
    time.sleep(600)
for directory in directories:
    time.sleep(0.05)
    (directory / "result.json").write_text("{}")
"""


def fake(out: Path, name: str, how: str = "works", trials: int = 2) -> Job:
    """A job whose worker does as it is told."""
    made = tuple(Trial(Row(name, name), s, None, out / "trials" / f"{name}{s}") for s in range(trials))
    words = (sys.executable, "-c", WORKER, how, *(str(trial.directory) for trial in made))
    return Job(name, made, words, out / "logs" / f"{name}.log")


def runs(job: Job) -> int:
    path = job.trials[0].directory / "runs"
    return len(path.read_text()) if path.exists() else 0


def run_local(out: Path, *asked: Job, processes: int = 2, retries: int = 2):
    said: list[str] = []
    waiting = Waiting(asked, out, retries, said.append)
    try:
        local.run_local(waiting, processes)
    finally:
        waiting.close()
    return waiting.failures, said


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_worker_that_died_is_started_again_and_one_that_keeps_dying_is_told(tmp_path):
    asked = [fake(tmp_path, "a", "dies once"), fake(tmp_path, "b", "dies"), fake(tmp_path, "c")]
    failures, said = run_local(tmp_path, *asked, retries=2)
    assert [runs(job) for job in asked] == [2, 3, 1]
    assert [job.finished for job in asked] == [True, False, True]
    assert [str(failure) for failure in failures] == [f"b: signal 9 (about to die); see {asked[1].log}"]
    assert "[3/3]" in said[-1]
    assert sum(line.startswith("warning: a: signal 9") for line in said) == 1


def test_a_refusal_is_not_tried_again_and_ends_the_others(tmp_path):
    slow, refused = fake(tmp_path, "slow", "hangs"), fake(tmp_path, "no", "refuses")
    with pytest.raises(UserError, match=r"^margin=-1: expected more$"):
        run_local(tmp_path, slow, refused, fake(tmp_path, "later"), processes=2)
    assert runs(refused) == 1
    pid = slow.trials[0].directory / "pid"
    assert not pid.exists() or gone(int(pid.read_text()))


def test_what_is_finished_is_not_started(tmp_path):
    job = fake(tmp_path, "a")
    for trial in job.trials:
        finish(trial)
    failures, said = run_local(tmp_path, job)
    assert (failures, runs(job), said) == ([], 0, ["[1/1] a was finished by another command"])


LAUNCHER = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1] + part for part in ("", "/tests", "/tests/experiments")]
from test_engines import fake, run_local
out, how = Path(sys.argv[2]), sys.argv[3]
run_local(out, *(fake(out, name, how, 3) for name in "abcd"))
"""


def launcher(out: Path, how: str = "works") -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", LAUNCHER, str(ROOT), str(out), how], cwd=ROOT)


def test_two_launchers_share_the_jobs_of_a_directory(tmp_path):
    both = [launcher(tmp_path), launcher(tmp_path)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    asked = [fake(tmp_path, name, "works", 3) for name in "abcd"]
    assert [runs(job) for job in asked] == [1] * 4
    assert all(job.finished for job in asked)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGTERM, signal.SIGINT))]
)
def test_a_launcher_that_ends_takes_its_workers_along(tmp_path, number):
    process = launcher(tmp_path, "hangs")
    pids = [tmp_path / "trials" / f"{name}0" / "pid" for name in "ab"]
    try:
        until(lambda: all(path.exists() and path.read_text() for path in pids), 120)
        process.send_signal(number)
        process.wait(timeout=30)
        until(lambda: all(gone(int(path.read_text())) for path in pids))
    finally:
        process.kill()
    failures, _ = run_local(tmp_path, *(fake(tmp_path, name) for name in "abcd"))
    assert failures == []


def test_where_the_kernel_cannot_tell_a_watcher_does(tmp_path, monkeypatch):
    monkeypatch.setattr(leash, "POLL_SECONDS", 0.01)
    assert leash.watched(os.getppid(), [sys.executable, "-c", "raise SystemExit(3)"]) == 3
    assert leash.watched(os.getppid(), [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 128 + 9
    started = time.monotonic()
    assert (
        leash.watched(1 if os.getppid() != 1 else 2, [sys.executable, "-c", "import time; time.sleep(60)"]) == 128 + 9
    )
    assert time.monotonic() - started < 30


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen on this system")
def test_workers_get_cores_of_their_own(tmp_path):
    code = "import os, time; print(sorted(os.sched_getaffinity(0)), flush=True); time.sleep(1)"
    both = [workers.begin([sys.executable, "-c", code], tmp_path / str(i), 1, {}) for i in range(2)]
    assert [process.wait(timeout=30) for process in both] == [0, 0]
    lines = [workers.last_line(tmp_path / str(i)) for i in range(2)]
    assert all(len(json.loads(line)) == 1 for line in lines)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--processes=0"], "processes=0: expected at least 1"),
        (["--retries=-1"], "retries=-1: expected at least 0"),
        (["--only=abc"], "only='abc': expected the hash of one of the 10 trials"),
        (["--engine=ray", "--ray_resources=TPU"], "ray_resources='TPU': expected NAME=NUMBER"),
        (["--engine=cloud"], "should be one of <local|print|ray>"),
    ],
)
def test_bad_flags_are_one_line(arguments, part, tmp_path, capsys):
    assert part in one_line(launch_main([*arguments, f"--out={tmp_path / 'run'}"]), capsys.readouterr().err)


def test_a_missing_ray_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    plan = planned(tmp_path)
    values = launcher_flags()
    parse(values, ["--engine=ray"])
    engine = choice.workers({name: values[name].value for name in values}, lambda line: None)
    assert engine is not None
    with pytest.raises(UserError, match=r"engine=ray: Ray is not installed; expected pip install 'hccp_jax\[ray\]'"):
        engine(plan)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> bytes:
    """What one process finds."""
    out = tmp_path_factory.mktemp("engines") / "run"
    assert launch(*TINY, f"--out={out}").returncode == 0
    return (out / "results.jsonl").read_bytes()


@pytest.mark.slow
def test_printed_commands_make_the_table_of_one_process(undisturbed, tmp_path):
    out = tmp_path / "run"
    printed = launch(*TINY, f"--out={out}", "--engine=print", "--processes=2")
    assert printed.returncode == 0
    assert not (out / "trials").exists()
    for line in printed.stdout.splitlines():
        assert subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, check=True).stderr == b""
    assert not (out / "results.jsonl").exists()
    done = launch(*TINY, f"--out={out}")
    assert "8 of 8 trials are finished" in done.stdout
    assert (out / "results.jsonl").read_bytes() == undisturbed


def workers_of(out: Path) -> list[int]:
    found = subprocess.run(["pgrep", "-f", f"out={out} --only"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_launcher_change_nothing(undisturbed, tmp_path):
    out = tmp_path / "run"
    arguments = [*TINY, f"--out={out}", "--processes=2", "--train.checkpoint_every=10"]
    plain = tmp_path / "plain"
    assert launch(*TINY, f"--out={plain}", "--train.checkpoint_every=10").returncode == 0

    with begin(*arguments) as first:
        until(lambda: len(workers_of(out)) == 2 and bool(list(out.glob("trials/*/checkpoints"))), 300)
        os.kill(workers_of(out)[0], signal.SIGKILL)
        assert first.stdout is not None
        assert any("starting it again" in line for line in first.stdout)
        first.kill()
    until(lambda: not workers_of(out))
    done = launch(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "results.jsonl").read_bytes() == (plain / "results.jsonl").read_bytes()


@pytest.mark.slow
def test_a_table_is_made_of_what_finished(tmp_path):
    out = tmp_path / "run"
    arguments = [*TINY, f"--out={out}", "--processes=2", "--retries=0"]
    with begin(*arguments) as process:
        until(lambda: len(workers_of(out)) == 2)
        os.kill(workers_of(out)[1], signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    (line,) = errors.splitlines()
    assert re.fullmatch(rf"error: \d of 8 trials are missing: .*: signal 9 \(.*\); see {out}/logs/\S+\.log", line)
    assert len((out / "results.jsonl").read_text().splitlines()) == 8 - int(line.split()[1])
    assert (out / "table.md").exists()


@pytest.mark.slow
def test_a_lost_worker_of_ray_changes_nothing(undisturbed, tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install 'hccp_jax[ray]'")
    out = tmp_path / "run"
    with begin(*TINY, f"--out={out}", "--engine=ray", "--processes=2") as process:
        until(lambda: len(workers_of(out)) == 2 and bool(list(out.glob("trials/*/checkpoints"))), 300)
        parent = Path(f"/proc/{workers_of(out)[0]}/stat").read_text().rpartition(")")[2].split()[1]
        os.kill(int(parent), signal.SIGKILL)  # the process of Ray, whose child is the trial's
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "WorkerCrashedError" in said
    assert "starting it again, time 1 of 2" in said
    assert (out / "results.jsonl").read_bytes() == undisturbed


@pytest.mark.slow
def test_workers_share_one_teacher_and_the_tuning_of_a_row(tmp_path):
    arguments = ["--experiment=systems", "--smoke", "--seeds=2", "--rows=two_tower", TINY[-1]]
    found = []
    for name, more in (("here", []), ("workers", ["--processes=3"])):
        done = launch(*arguments, f"--out={tmp_path / name}", *more)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (tmp_path / name / "results.jsonl").read_text().splitlines()]
        found.append([{k: v for k, v in line["metrics"].items() if k not in TIMES} for line in lines])
    # workers have one device where the launcher has all: sums of float32 are rounded otherwise
    here = [{k: v if v is None else pytest.approx(v, rel=1e-5) for k, v in metrics.items()} for metrics in found[0]]
    assert here == found[1]
    logs = [path.read_text() for path in (tmp_path / "workers" / "logs").iterdir()]
    assert len(logs) == 3
    assert sum("the teacher: step 5/10" in log for log in logs) == 1
