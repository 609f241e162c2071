"""Which engine the flags ask for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.engines.jobs import Failure, jobs
from experiments.engines.local import run_local
from experiments.engines.ray_cluster import run_on_ray
from experiments.engines.waiting import Waiting
from experiments.plan import Plan
from hccp_jax.errors import UserError

Engine = Callable[[Plan], Sequence[Failure | str]]


def workers(given: Mapping[str, Any], say: Callable[[str], None]) -> Engine | None:
    """The engine that runs a plan's jobs in workers and returns those that failed; None for trials in this process.

    Args:
        given: the flags.
        say: shows a line.

    Raises:
        UserError: for resources that are none.
    """
    if given["only"] or given["engine"] == "print" or (given["engine"] == "local" and given["processes"] == 1):
        return None
    resources = _resources(given["ray_resources"])

    def run(plan: Plan) -> list[Failure]:
        todo = jobs(plan, given["processes"])
        if not todo:
            return []
        say(f"jobs: {len(todo)}; what their workers say is in {plan.out / 'logs'}")
        waiting = Waiting(todo, plan.out, given["retries"], say)
        try:
            if given["engine"] == "ray":
                run_on_ray(waiting, given["ray_address"], given["ray_cpus"], given["ray_gpus"], resources)
            else:
                run_local(waiting, given["processes"])
        finally:
            waiting.close()
        return waiting.failures

    return run


def _resources(items: list[str]) -> dict[str, float]:
    found = {}
    for item in items:
        name, _, amount = item.partition("=")
        try:
            found[name] = float(amount)
        except ValueError:
            raise UserError(f"ray_resources={item!r}: expected NAME=NUMBER, such as TPU=4") from None
    return found
