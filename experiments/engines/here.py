"""Trials in this process."""

from collections.abc import Sequence
from functools import partial

from rich.console import Console

from experiments import locks
from experiments.engines.jobs import Failure
from experiments.plan import Plan
from experiments.progress import reporter
from experiments.trials import Context
from hccp_jax.errors import UserError
from hccp_jax.training.program import Placement


def placement(parallel: str, devices: int, spread: int) -> Placement:
    """Where trials train: runs that share batches use the wrapper asked for; others are spread over the devices.

    Args:
        parallel: of --parallel.
        devices: that share each batch.
        spread: to spread trials over.
    """
    if devices > 1:
        return Placement(parallel, devices, spread)
    return Placement("mesh" if spread > 1 else "single", devices, spread)


def run_plan(plan: Plan, placement: Placement, console: Console, only: Sequence[str] = ()) -> list[Failure]:
    """Finish the trials of a plan, or only some, waiting for those that another process runs; there are no failures.

    Raises:
        UserError: for an `only` that is no trial of the plan.
    """
    known = {trial.directory.name: trial for trial in plan.trials()}
    for name in only:
        if name not in known:
            raise UserError(f"only={name!r}: expected the hash of one of the {len(known)} trials of this command")
    asked = {name: known[name] for name in only or known}
    left = [name for name, trial in asked.items() if not trial.finished]
    if not left:
        return []
    say = partial(console.print, highlight=False, markup=False)

    def run(names: list[str]) -> None:
        mine = tuple(known[name] for name in names)
        plan.experiment.run(Context(plan.experiment, mine, placement, reporter(console), say, bool(plan.over)))

    def waiting(count: int) -> None:
        say(f"{count} trials are run by another process; waiting for them")

    locks.run_each_once(plan.out / "locks", left, lambda name: known[name].finished, run, waiting)
    return []
