"""Jobs: the trials of a command, cut into what one worker runs."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.plan import Plan
from experiments.trials import Trial, groups
from hccp_jax import config

LAUNCHER = Path(__file__).parent.parent.parent / "launch.py"


@dataclass(frozen=True)
class Job:
    """Trials that share a compiled program.

    Attributes:
        label: for messages, such as `base, hccp (6 trials)`.
        trials: those that are not finished.
        words: the command line of its worker.
        log: file that the worker's output goes to.
    """

    label: str
    trials: tuple[Trial, ...]
    words: tuple[str, ...]
    log: Path

    @property
    def finished(self) -> bool:
        """Whether nothing is left of it."""
        return all(trial.finished for trial in self.trials)


@dataclass(frozen=True)
class Failure:
    """A job that did not end well.

    Attributes:
        job: which.
        code: exit code of its worker, negative for a signal.
        message: the last line that the worker wrote.
    """

    job: Job
    code: int
    message: str

    def __str__(self) -> str:
        ended = f"signal {-self.code}" if self.code < 0 else f"exit code {self.code}"
        return f"{self.job.label}: {ended} ({self.message}); see {self.job.log}"


def jobs(plan: Plan, least: int = 1) -> list[Job]:
    """The jobs of a plan, the largest first, so that workers end together.

    They are cut from all trials and then the finished ones are left out: a continued command has the same populations.

    Args:
        plan: what is asked for.
        least: split programs until there are so many jobs, as far as there are trained trials.
    """
    found = groups(plan.trials())
    trained = [sum(not trial.row.reference for trial in group) for group in found]
    parts = [1] * len(found)
    while sum(parts) < least and any(part < most for part, most in zip(parts, trained, strict=True)):
        parts[int(np.argmax([n / p if p < n else 0 for n, p in zip(trained, parts, strict=True)]))] += 1
    pieces = [piece for group, count in zip(found, parts, strict=True) for piece in _split(group, count)]
    left = [tuple(trial for trial in piece if not trial.finished) for piece in pieces]
    return [_job(plan, trials) for trials in sorted(left, key=len, reverse=True) if trials]


def _split(group: list[Trial], count: int) -> list[list[Trial]]:
    """The seeds of a row stay together if that makes enough pieces; the references go to the smallest piece."""
    if count == 1:
        return [group]
    of_row: dict[str, list[Trial]] = {}
    for trial in group:
        if not trial.row.reference:
            of_row.setdefault(trial.row.name, []).append(trial)
    units = list(of_row.values())
    if len(units) < count:
        units = [[trial] for unit in units for trial in unit]
    pieces = [[t for index in part for t in units[index]] for part in np.array_split(np.arange(len(units)), count)]
    pieces[-1] += [trial for trial in group if trial.row.reference]
    return pieces


def _job(plan: Plan, trials: tuple[Trial, ...]) -> Job:
    names = [trial.directory.name for trial in trials]
    rows = list(dict.fromkeys(trial.row.name for trial in trials))
    shown = ", ".join(rows[:2]) + (f" and {len(rows) - 2} more rows" if len(rows) > 2 else "")
    out = plan.out.absolute()
    words = (sys.executable, str(LAUNCHER), *plan.words, f"--out={out}", f"--only={','.join(names)}")
    log = plan.out / "logs" / f"{rows[0]}-{config.digest(names)[:8]}.log"
    return Job(f"{shown} ({len(trials)} trial{'s' * (len(trials) > 1)})", trials, words, log)
