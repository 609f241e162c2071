"""One of several processes that train the toy together; see test_hosts.py.

    python two_processes.py DIRECTORY [--kind=mesh] [--devices=2] [--slow=0] [distributed flags]

Prints each chunk that is done with its loss, and at the end the parameters, as JSON lines.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
from toy import CONFIG, Hyper, Toy, members

from hccp_jax.errors import Stopped, UserError
from hccp_jax.training import hosts
from hccp_jax.training.loop import train
from hccp_jax.training.program import Placement


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kind", default="mesh")
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--distributed", action="store_true")
    parser.add_argument("--coordinator")
    parser.add_argument("--host_count", type=int)
    parser.add_argument("--host_index", type=int)
    given = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", given.devices)
    jax.config.update("jax_disable_most_optimizations", True)
    if given.distributed or given.coordinator:
        try:
            hosts.join(given.coordinator, given.host_count, given.host_index)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    stop = hosts.stop_on_signal()

    def say(step, values):
        print(json.dumps({"step": step, "loss": values["loss"]}), flush=True)
        time.sleep(given.slow)

    def refuse(line):
        raise AssertionError(line)

    toy = Toy(size=16)
    config = dataclasses.replace(CONFIG, batch=16)
    placement = Placement(given.kind, jax.device_count() if given.kind != "single" else 1)
    who = members(given.directory, (0, Hyper()), (1, Hyper(learning_rate=0.02)))
    try:
        trained = train(toy.method, toy.source, who, config, placement, say, refuse, stop=stop)
    except Stopped as stopped:
        print(json.dumps({"stopped": stopped.step}), flush=True)
        return 143
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(trained.states.parameters)]
    print(json.dumps({"process": jax.process_index(), "parameters": np.concatenate(leaves).tolist()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
