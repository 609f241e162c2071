"""Locks of trials: two launchers on one directory do not run a trial twice.

A lock is the kernel's, on one byte of a file that all launchers of a directory open, so that it is gone with its
process however that ends: nothing is left to clean up after a kill. It holds between processes of one machine, and of
several on a file system with POSIX locks (NFS 4, Lustre, GPFS).
"""

import fcntl
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hccp_jax.errors import UserError
from hccp_jax.training import hosts

POLL_SECONDS = 0.5


class Locks:
    """Locks by name, in one file."""

    def __init__(self, path: Path) -> None:
        """Open (and create) the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")

    def take(self, name: str) -> bool:
        """Take a lock; False where another process has it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(name))
        except (BlockingIOError, PermissionError):  # which of the two is up to the system
            return False
        return True

    def release(self, name: str) -> None:
        """Give a lock back."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _byte(name))

    def close(self) -> None:
        """Give all locks back."""
        self._file.close()


def _byte(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")


@contextmanager
def alone(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a whole file, which nothing else of this process may open; first wait for whoever has it.

    Args:
        path: the file, made if it is not there.
        waiting: told once that another process has it.
    """
    locks = Locks(path)
    try:
        if not locks.take(""):
            waiting()
            while not locks.take(""):
                time.sleep(POLL_SECONDS)
        yield
    finally:
        locks.close()


def run_each_once(
    path: Path,
    names: Sequence[str],
    finished: Callable[[str], bool],
    run: Callable[[list[str]], None],
    waiting: Callable[[int], None],
) -> None:
    """Run all items that are not finished, together, except those that another process runs; then wait for those.

    Args:
        path: file of the locks.
        names: what is to be finished when this returns.
        finished: whether an item is, asked only while its lock is held.
        run: finishes the items that it is given; called again for what another process left unfinished.
        waiting: told once how many items others run.
    """
    locks, left, told = Locks(path), list(names), False
    try:
        while left:
            held = [name for name in left if locks.take(name)]
            mine = [name for name in held if not finished(name)]
            if mine:
                run(mine)
            for name in held:
                locks.release(name)
            left = [name for name in left if name not in held]
            if left:
                if not told:
                    waiting(len(left))
                    told = True
                time.sleep(POLL_SECONDS)
    finally:
        locks.close()


def run_together(path: Path, names: Sequence[str], run: Callable[[list[str]], None]) -> None:
    """Run all items on several hosts, which all call this; the primary holds the locks.

    Raises:
        UserError: if another process runs one of them.
    """
    locks = Locks(path)
    try:
        taken = all(locks.take(name) for name in names) if hosts.is_primary() else True
        if not hosts.same_everywhere(np.array(taken)):
            raise UserError(f"out={path.parent}: another command runs some of these trials; wait for it or end it")
        run(list(names))
    finally:
        locks.close()
