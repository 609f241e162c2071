"""The command lines of a plan's jobs, for a scheduler that this program does not know."""

import shlex

from experiments.engines.jobs import jobs
from experiments.plan import Plan


def print_jobs(plan: Plan, least: int) -> None:
    """Print a complete command a line to the standard output, and nothing else."""
    for job in jobs(plan, least):
        print(shlex.join(job.words))
