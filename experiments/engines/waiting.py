"""The jobs that wait for a worker: which is next, which is tried again, which are another launcher's."""

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.engines import workers
from experiments.engines.jobs import Failure, Job
from experiments.locks import Locks
from hccp_jax.errors import UserError


class Attempt(NamedTuple):
    """A job and how often it was started before."""

    job: Job
    before: int = 0


class Waiting:
    """The jobs of a launcher.

    A launcher claims the trials of a job before it starts it, so that a second launcher on the directory gives its
    workers something else to do. A claim is a lock: it goes with its launcher, however that ends.
    """

    def __init__(self, jobs: Sequence[Job], out: Path, retries: int, say: Callable[[str], None]) -> None:
        """Queue the jobs.

        Args:
            jobs: in the order to start them.
            out: directory of the results.
            retries: how often a job whose worker died is started again; it goes on from its checkpoints.
            say: shows a line.
        """
        self._queue = deque(Attempt(job) for job in jobs)
        self._claims, self._retries, self._say = Locks(out / "jobs"), retries, say
        self._total, self._done, self._told = len(jobs), 0, False
        self.failures: list[Failure] = []

    def __bool__(self) -> bool:
        return bool(self._queue)

    def take(self, idle: bool) -> Attempt | None:
        """The first job that is neither finished nor another launcher's; None where there is none now.

        Args:
            idle: whether no worker is running: then waiting is worth a line.
        """
        for attempt in [*self._queue]:
            claimed = self._claim(attempt.job)
            if claimed and not attempt.job.finished:
                self._queue.remove(attempt)
                return attempt
            if claimed:
                self._queue.remove(attempt)
                self._close(attempt.job, "was finished by another command")
        if self._queue and idle and not self._told:
            self._say(f"jobs that another command runs: {len(self._queue)}; waiting for them")
            self._told = True
        return None

    def ended(self, attempt: Attempt, code: int, message: str = "") -> None:
        """Note that a worker ended; its job is queued again, finished, or one of the failures.

        Args:
            attempt: what `take` gave.
            code: exit code of the worker, negative for a signal.
            message: why it ended, where its log cannot say so.

        Raises:
            UserError: where the worker refused its command.
        """
        job = attempt.job
        if code == workers.USERS_MISTAKE:
            raise UserError(workers.last_line(job.log))
        if code == 0 and job.finished:
            self._close(job, "finished")
            return
        failure = Failure(job, code, message or workers.last_line(job.log))
        if attempt.before < self._retries and code != workers.DIVERGED:
            self._say(f"warning: {failure}; starting it again, time {attempt.before + 1} of {self._retries}")
            self._queue.appendleft(Attempt(job, attempt.before + 1))
        else:
            self.failures.append(failure)
            self._close(job, "failed")

    def close(self) -> None:
        """Give all claims back."""
        self._claims.close()

    def _claim(self, job: Job) -> bool:
        """Claim all trials of a job or none."""
        names = [trial.directory.name for trial in job.trials]
        taken = [name for name in names if self._claims.take(name)]
        if len(taken) == len(names):
            return True
        for name in taken:
            self._claims.release(name)
        return False

    def _close(self, job: Job, how: str) -> None:
        self._done += 1
        self._say(f"[{self._done}/{self._total}] {job.label} {how}")
        for trial in job.trials:
            self._claims.release(trial.directory.name)
