"""Several processes as one program: how they find each other, and how they stop at one step.

A process belongs to the first one, the primary, for all that is there once: logs, results, what is printed. States are
the same on all of them, or sharded; each makes only its own rows of a batch.
"""

import signal
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from hccp_jax.errors import UserError


def join(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Connect this process with the others; before anything else of JAX is used.

    Args:
        coordinator: host:port of the first process; None finds the others by what Slurm, Open MPI, GKE or a TPU says.
        count: how many there are; with `coordinator`.
        index: of this one, from 0; with `coordinator`.

    Raises:
        UserError: if only some of the three are given, nothing can be found, or the others do not come.
    """
    given = {"coordinator": coordinator, "host_count": count, "host_index": index}
    missing = [name for name, value in given.items() if value in (None, "")]
    if 0 < len(missing) < len(given):
        raise UserError(f"{missing[0]}: expected with the other two of {', '.join(given)}")
    if not missing and (count is None or index is None or not 0 <= index < count):
        raise UserError(f"host_index={index}: expected 0 to {(count or 1) - 1}")
    jax.config.update("jax_enable_preemption_service", True)
    try:
        jax.distributed.initialize(coordinator or None, count, index, initialization_timeout=120)
    except (ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"distributed: the hosts cannot find each other ({first}); expected Slurm, Open MPI, GKE or a TPU to tell, "
            "or --coordinator, --host_count and --host_index"
        ) from None


def is_primary() -> bool:
    """Whether this process writes and prints."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0  # asking alone starts no backend


def is_alone() -> bool:
    """Whether this is the only process."""
    return jax.process_count() == 1


def same_everywhere(value: np.ndarray) -> np.ndarray:
    """The primary's value, on all processes."""
    return value if is_alone() else np.asarray(multihost_utils.broadcast_one_to_all(value))


def wait_for_all(name: str) -> None:
    """Return when all processes have come here."""
    if not is_alone():
        multihost_utils.sync_global_devices(name)


def stop_on_signal() -> Callable[[], bool]:
    """A `stop` for training: True, on all processes at one step, after any of them got SIGTERM.

    With several processes JAX's preemption service listens; alone, a handler does, from the main thread.
    """
    if not is_alone():
        asked = iter(range(1 << 62))
        return lambda: multihost_utils.reached_preemption_sync_point(next(asked))
    heard = []

    def hear(number: int, frame: Any) -> None:
        heard.append(number)

    signal.signal(signal.SIGTERM, hear)
    return lambda: bool(heard)
