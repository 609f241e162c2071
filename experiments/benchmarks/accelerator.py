"""HCCP trained on the accelerator of this machine, if there is one: requests per second, memory and utilisation.

python -m experiments.benchmarks.accelerator                    one JSON record, or null on a CPU
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from typing import Any

ROUNDS = 10


def main() -> None:
    """Print the record."""
    import jax

    print(json.dumps(None if jax.default_backend() == "cpu" else measured()))


def measured() -> dict[str, Any]:
    """Requests a second of one device, its peak memory in bytes, and what nvidia-smi says of its utilisation."""
    import jax

    from experiments.benchmarks.throughput import STEPS, Training
    from experiments.settings import SimulatedSettings

    training = Training(SimulatedSettings(), 512)
    smi = shutil.which("nvidia-smi")
    query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200"]
    watching = subprocess.Popen([smi, *query], stdout=subprocess.PIPE, text=True) if smi else None
    seconds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        training.train()
        seconds.append(time.perf_counter() - begin)
    shares = []
    if watching is not None:
        watching.terminate()
        told = watching.communicate()[0].split("\n")
        shares = [float(text) for text in told if text.strip().isdigit()]
    device = jax.devices()[0]
    memory = device.memory_stats() or {}
    return {
        "device": device.device_kind,
        "requests_per_second": STEPS * training.size / statistics.median(seconds),
        "peak_bytes": memory.get("peak_bytes_in_use"),
        "utilisation_percent": statistics.mean(shares) if shares else None,
    }


def asked_elsewhere() -> dict[str, Any] | None:
    """`measured` in a process of its own, where JAX may use the accelerator; None without one."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    command = [sys.executable, "-m", "experiments.benchmarks.accelerator"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
