"""A population in one program against the same runs in fresh processes, one after the other. Wall time, all cold.

A process starts Python, opens the world, writes the log, compiles, trains and leaves checkpoints. Nothing is cached
between processes: no compile cache is set.

    python -m experiments.benchmarks.one_program FIRST COUNT FOLDER      what a process runs: that many members
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from experiments.benchmarks.bars import Outcome, outcome
from hccp_jax.errors import UserError

MEMBERS, STEPS, BATCH, REQUESTS = 8, 400, 32, 1024


def population(rounds: int) -> list[Outcome]:
    """Eight runs at once and in turn; once, whatever the rounds: minutes long, they have no jitter to average."""
    with tempfile.TemporaryDirectory() as folder:
        together = _process(0, MEMBERS, Path(folder) / "together")
        in_turn = sum(_process(seed, 1, Path(folder) / f"alone-{seed}") for seed in range(MEMBERS))
    times = {"ours": [together], "one by one": [in_turn]}
    named = f"as many processes in turn: {in_turn:.0f} s, ours {together:.0f} s"
    shape = f"{MEMBERS} runs, {STEPS} steps"
    return [outcome("population", shape, "ours", named, in_turn / together, 3.0, "at least", times)]


def _process(first: int, count: int, folder: Path) -> float:
    """Wall seconds of a fresh process that trains some members."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "experiments.benchmarks.one_program", str(first), str(count), str(folder)]
    root = Path(__file__).parent.parent.parent
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"training members {first}..{first + count - 1} failed: {done.stderr.strip()[-300:]}")
    return time.perf_counter() - begin


def train_members(first: int, count: int, folder: Path) -> None:
    """Train members with the seeds from `first` on, as a launch would: over all cores where there are several."""
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    spread = min(cores, count)
    jax.config.update("jax_num_cpu_devices", spread)

    from experiments.quickstart import EXPERIMENT, SMOKE
    from hccp_jax import config
    from hccp_jax.cascade.logs import open_world
    from hccp_jax.cascade.source import fresh_source, recorded_log
    from hccp_jax.data.source import log_source
    from hccp_jax.methods.hccp import Layout, hccp
    from hccp_jax.training.config import Member
    from hccp_jax.training.loop import train
    from hccp_jax.training.program import Placement

    settings = config.override(EXPERIMENT.settings, SMOKE)
    length = replace(settings.train, steps=STEPS, batch=BATCH, chunk=25, checkpoint_every=200)
    world = open_world(settings.world)
    fresh = fresh_source(world, settings.world, settings.sampling, BATCH, 1, 1)
    log = recorded_log(BATCH, REQUESTS, fresh, 0)
    source = log_source(fresh.spec, fresh.catalogue, fresh.featurise, log, BATCH, fresh.frequency)
    layout = Layout(settings.world.exposed, settings.sampling.sequence)
    method = hccp(source.spec, settings.model, settings.negatives, layout)
    members = [Member(f"seed {seed}", settings.hyper, seed, folder / str(seed)) for seed in range(first, first + count)]
    placement = Placement("mesh", 1, spread) if spread > 1 else Placement()
    train(method, source, members, length, placement, lambda step, values: None, print)


if __name__ == "__main__":
    train_members(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
