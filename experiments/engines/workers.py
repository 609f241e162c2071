"""Worker processes: starting one, ending it, and what its log says. Nothing but the standard library: Ray sends it."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

USERS_MISTAKE = 2  # the exit code of a command that is refused: starting it again changes nothing
DIVERGED = 3  # of a worker with trials whose loss is not finite: nor does it here
GRACE_SECONDS = 10
LEASH = str(Path(__file__).with_name("leash.py"))


def begin(words: Sequence[str], log: str | Path, cores: int, environment: Mapping[str, str]) -> subprocess.Popen:
    """Start a worker that ends with this process.

    Args:
        words: its command line.
        log: its output is added to this file.
        cores: how many it may use.
        environment: variables that it gets where they are not set already.
    """
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with Path(log).open("ab") as file:
        return subprocess.Popen(
            [sys.executable, LEASH, str(os.getpid()), str(cores), *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**environment, **os.environ},
            start_new_session=True,  # Ctrl-C is the launcher's, which then ends its workers
        )


def run(cores: int, directory: str, environment: Mapping[str, str], words: Sequence[str], log: str) -> int:
    """Run a worker with the Python of this process, from a directory if it is there; returns its exit code."""
    if Path(directory).is_dir():
        os.chdir(directory)
    process = begin([sys.executable, *words[1:]], log, cores, environment)
    try:
        return process.wait()
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """End a worker, if it has not ended: politely, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE_SECONDS)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    process.wait()


def last_line(log: str | Path) -> str:
    """What a worker said last; of a refused command, the refusal."""
    lines = [line.strip() for line in Path(log).read_text(encoding="utf-8", errors="replace").splitlines()]
    refusals = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (refusals or [line for line in lines if line] or ["it wrote nothing"])[-1]
