"""Jobs as tasks of Ray, on this machine or a cluster, whose nodes all see this directory and that of the results."""

import logging
import os
import re
import socket
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from experiments.engines import workers
from experiments.engines.waiting import Attempt, Waiting
from hccp_jax.errors import UserError

POLL_SECONDS = 1.0
CONNECT_SECONDS = 5
MEMORY_SHARE = 0.9  # of the GPU memory that a task asks for, which JAX may reserve


def run_on_ray(waiting: Waiting, address: str, cpus: float, gpus: float, resources: Mapping[str, float]) -> None:
    """Run all jobs. One whose Ray worker or node is lost is one that died: `Waiting` starts it again.

    Args:
        waiting: the jobs.
        address: of a cluster; empty: RAY_ADDRESS, or else a Ray of its own on this machine, which needs no network.
        cpus: cores of a job.
        gpus: GPUs of a job; a fraction shares one.
        resources: what else a job needs, such as {"TPU": 4}.

    Raises:
        UserError: if Ray is missing, or has never what a job asks for, and for a mistake that a worker reports.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError("engine=ray: Ray is not installed; expected pip install 'hccp_jax[ray]'") from None
    address = address or os.environ.get("RAY_ADDRESS", "")
    try:
        _knock(address)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # the dashboard of a cluster is its own affair
            dashboard = None if address else False
            ray.init(address or "local", include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"ray_address={address!r}: no Ray cluster could be joined there ({str(error).splitlines()[0]})"
        ) from None
    try:
        if not address:  # a cluster may grow
            _check({"CPU": cpus, "GPU": gpus, **resources}, ray.cluster_resources())
        ray.cloudpickle.register_pickle_by_value(workers)  # a node need not import this package for it
        environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{MEMORY_SHARE * min(gpus, 1):.3g}"} if gpus else {}
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, resources=dict(resources), max_retries=0)(workers.run)
        _run(ray, waiting, partial(task.remote, max(1, int(cpus)), os.getcwd(), environment))
    finally:
        ray.shutdown()


def _run(ray: Any, waiting: Waiting, start: Callable[..., Any]) -> None:
    running: dict[Any, Attempt] = {}
    while waiting or running:
        while (attempt := waiting.take(not running)) is not None:
            running[start(attempt.job.words, str(attempt.job.log.absolute()))] = attempt
        if not running:
            time.sleep(POLL_SECONDS)
            continue
        done, _ = ray.wait([*running], num_returns=1, timeout=POLL_SECONDS)
        for task in done:
            attempt, code, message = running.pop(task), 1, ""
            try:
                code = ray.get(task)
            except ray.exceptions.RayError as error:
                message = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            waiting.ended(attempt, code, message)


def _knock(address: str) -> None:
    """Ray itself would try for many minutes."""
    if found := re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address):
        socket.create_connection((found[1], int(found[2])), CONNECT_SECONDS).close()


def _check(asked: Mapping[str, float], there: Mapping[str, float]) -> None:
    for name, amount in asked.items():
        if amount > there.get(name, 0):
            raise UserError(f"engine=ray: a job asks for {name}={amount:g}, the cluster has {there.get(name, 0):g}")
