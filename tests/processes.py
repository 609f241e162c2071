"""The command and its peers as processes of their own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def begin(*arguments: str, **environment: str) -> subprocess.Popen:
    """The command, running."""
    command = [sys.executable, str(ROOT / "launch.py"), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, text=True, **pipes)


def launch(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """The command, finished."""
    with begin(*arguments, **environment) as process:
        out, errors = process.communicate(timeout=600)
    return subprocess.CompletedProcess(arguments, process.returncode, out, errors)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
