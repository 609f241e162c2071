"""Runs a command on cores of its own for as long as its parent lives.

    python leash.py PARENT CORES COMMAND ...

PARENT is the process that started this; the command is killed when that is gone, however it ended. CORES is how many
cores the command may use: those that no other leashed command of this user has, as far as there are any.
"""

import ctypes
import fcntl
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.5


def main(parent: int, cores: int, command: list[str]) -> int:
    """Become the command, or watch it and return its exit code where the kernel cannot."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, claimed(cores))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:  # else it was gone before the kernel was told
            os.execvp(command[0], command)
        return 1
    return watched(parent, command)


def claimed(count: int) -> set[int]:
    """So many cores: free ones first. A claim is a lock, which passes to the command and is gone with it."""
    file = os.open(Path(tempfile.gettempdir()) / f"hccp_jax-cores-{os.getuid()}", os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(file, True)
    allowed = sorted(os.sched_getaffinity(0))
    count = min(count, len(allowed))
    mine: set[int] = set()
    for core in allowed:
        if len(mine) < count:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, core)
                mine.add(core)
            except OSError:  # another command's
                pass
    return mine | set(random.sample([core for core in allowed if core not in mine], count - len(mine)))


def watched(parent: int, command: list[str]) -> int:
    """Run the command as a child and kill it when the parent is gone."""
    with subprocess.Popen(command) as process:
        while (code := process.poll()) is None:
            if os.getppid() != parent:
                process.kill()
            time.sleep(POLL_SECONDS)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
