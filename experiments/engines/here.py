"""Trials in this process, which may be one of several hosts."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console

from experiments import locks, startup
from experiments.plan import Plan
from experiments.progress import profiled, reporter
from experiments.trials import Context
from hccp_jax.training import hosts
from hccp_jax.training.program import Placement


def run_plan(plan: Plan, placement: Placement, console: Console, given: Mapping[str, Any]) -> list[str]:
    """Finish the trials of a plan, or only some, waiting for those that another process runs.

    Args:
        plan: what is asked for.
        placement: devices.
        console: for progress.
        given: the flags.

    Returns:
        A line for each trial that has no result, because its loss was not finite.
    """
    only: Sequence[str] = given["only"]
    known = {trial.directory.name: trial for trial in plan.trials()}
    asked = {name: known[name] for name in only or known}
    # hosts must agree: one may look while another writes the first result
    pending = hosts.same_everywhere(np.array([not trial.finished for trial in asked.values()]))
    left = [name for name, is_pending in zip(asked, pending, strict=True) if is_pending]
    if not left:
        return []
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    say(startup.describe(placement))
    compiled = startup.count_compiled()
    report, failed = reporter(console), list[str]()
    if given["profile_steps"] and hosts.is_primary():
        report = profiled(report, plan.out / "profile", given["profile_steps"], say)
    stop = hosts.stop_on_signal()

    def run(names: list[str]) -> None:
        mine = tuple(known[name] for name in names)
        context = Context(plan.experiment, mine, placement, report, say, bool(plan.over), failed, stop)
        plan.experiment.run(context)

    def waiting(count: int) -> None:
        say(f"{count} trials are run by another process; waiting for them")

    if hosts.is_alone():
        locks.run_each_once(plan.out / "locks", left, lambda name: known[name].finished, run, waiting)
    else:
        locks.run_together(plan.out / "locks", left, run)
    say(compiled())
    return failed
