"""Jobs in worker processes on this machine."""

import os
import subprocess
import time

from experiments.engines import workers
from experiments.engines.waiting import Attempt, Waiting

POLL_SECONDS = 0.2
# workers that share a GPU would each reserve most of it
ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def run_local(waiting: Waiting, processes: int) -> None:
    """Run all jobs; what finished stays, whatever becomes of the others.

    Args:
        waiting: the jobs.
        processes: workers at a time, each with its share of the cores.

    Raises:
        UserError: for a mistake that a worker reports; the other workers are ended.
    """
    running: list[tuple[Attempt, subprocess.Popen]] = []
    share = max(1, _cores() // processes)
    try:
        while waiting or running:
            while len(running) < processes and (attempt := waiting.take(not running)) is not None:
                running.append((attempt, workers.begin(attempt.job.words, attempt.job.log, share, ENVIRONMENT)))
            ended = [one for one in running if one[1].poll() is not None]
            for attempt, process in ended:
                running.remove((attempt, process))
                waiting.ended(attempt, process.returncode)
            if not ended:
                time.sleep(POLL_SECONDS)
    finally:
        for _, process in running:
            workers.end(process)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
