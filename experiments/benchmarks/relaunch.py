"""A sweep whose trials are all finished, launched again: reading, tables, pictures and the report. Wall time.

The sweep is trained once, shrunk to seconds; then the same command is timed as a fresh process, all of it.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.benchmarks.bars import Outcome, outcome
from hccp_jax.errors import UserError

SWEEP = "hyper.margin=0,0.3,0.6,0.9 x hyper.learning_rate=1e-3,2e-3,3e-3,4e-3 x hyper.negatives=0.1,0.5"
SEEDS = 2  # 32 points with two seeds: 64 trials


def finished_sweep(rounds: int) -> list[Outcome]:
    """Seconds of the command that finds 64 trials and the four references finished."""
    with tempfile.TemporaryDirectory() as folder:
        _launch(Path(folder))
        times = []
        for _ in range(rounds):
            begin = time.perf_counter()
            told = _launch(Path(folder))
            times.append(time.perf_counter() - begin)
            if "68 of 68 trials are finished" not in told:
                raise AssertionError(f"the sweep was not finished: {told[:200]}")
    seconds = statistics.median(times)
    return [outcome("relaunch", "64 finished trials", "seconds", "", seconds, 3.0, "at most", {"ours": times})]


def _launch(folder: Path) -> str:
    """Run the sweep in a folder and return what it prints."""
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "launch.py", "--smoke", "--rows=hccp", f"--seeds={SEEDS}", f"--sweep={SWEEP}"]
    command += [f"--out={folder / 'sweep'}", f"--cache_dir={folder / 'cache'}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the sweep failed: {done.stderr.strip()[-300:]}")
    return done.stdout
