"""How fast the loss kernels are, against what others compute the same losses with.

    pip install -r experiments/benchmarks/peers/requirements.txt
    python -m experiments.benchmarks.kernels                    a line a bar; exit code 1 if any is short
    python -m experiments.benchmarks.kernels --json=kernels.json
    python -m experiments.benchmarks.kernels --only=SoftSort,ListMLE

Loss and all gradients are taken. Time is CPU time of the process with every library held to one thread; the rivals
are interleaved in rounds within one process, each called in a round until 50 ms have passed, and a ratio is the median
over the rounds. Temporary memory is what XLA reports for the compiled program. About five minutes.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from hccp_jax.errors import UserError

ONE_THREAD = {
    "NPROC": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
}
SHORTEST = 0.05
"""Seconds of calls in a round: below it the clock and cold caches are measured."""


def seconds(call: Any) -> float:
    """CPU seconds of one call, over as many as fill `SHORTEST`."""
    begin, calls = time.process_time(), 0
    while (passed := time.process_time() - begin) < SHORTEST or not calls:
        call()
        calls += 1
    return passed / calls


def measured(group: Any, rounds: int) -> dict[str, list[float]]:
    """Seconds of every contender in each round; raises if one computes another loss."""
    values = {name: call() for name, call in group.calls.items()}
    for name, value in values.items():
        if name not in group.sampled and abs(value - values["ours"]) > 1e-4 * abs(values["ours"]):
            raise AssertionError(f"{group.kernel} {group.shape}: {name} is {value}, ours {values['ours']}")
    times: dict[str, list[float]] = {name: [] for name in group.calls}
    for _ in range(rounds):
        for name, call in group.calls.items():
            times[name].append(seconds(call))
    return times


def judged(group: Any, times: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One record a bar."""
    records = []
    for bar in group.bars:
        against = bar.against
        if against == "best torch":
            against = min(
                (name for name in times if name.startswith("torch")), key=lambda n: statistics.median(times[n])
            )
        if bar.quantity == "times faster":
            value = statistics.median(b / a for a, b in zip(times[bar.ours], times[against], strict=True))
        elif bar.quantity.startswith("cost"):
            value = statistics.median(a / b for a, b in zip(times[bar.ours], times[against], strict=True))
        elif bar.quantity.startswith("MiB"):
            value = group.temporary[bar.ours] / 2**20
        else:
            value = group.temporary["ours without the gradients"] / group.temporary[against]
        passed = value >= bar.bar if bar.quantity == "times faster" else value <= bar.bar
        records.append(
            {
                "kernel": group.kernel,
                "shape": group.shape,
                "what": bar.ours if bar.quantity == "times faster" else bar.quantity,
                "against": against,
                "ratio": value,
                "bar": bar.bar,
                "sense": "at least" if bar.quantity == "times faster" else "at most",
                "ok": bool(passed),
                "milliseconds": {name: 1e3 * statistics.median(x) for name, x in times.items()},
            }
        )
    return records


def line(record: dict[str, Any]) -> str:
    """A bar as one line of the table."""
    what = record["against"] if record["sense"] == "at least" else record["what"]
    if record["what"] not in ("ours", what):
        what = f"{record['what']}: {what}"
    sign = "x" if record["sense"] == "at least" else " "
    verdict = "ok" if record["ok"] else "short"
    figures = f"{record['ratio']:8.2f}{sign} {record['sense']:>8} {record['bar']:6.4g}{sign}"
    return f"{record['kernel']:27}{record['shape']:22}{what:52}{figures}  {verdict}"


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The command's flags."""
    values = flags.FlagValues()
    flags.DEFINE_string("json", None, "file to write the same records to", flag_values=values)
    flags.DEFINE_integer("rounds", 7, "rounds of interleaved measurements", lower_bound=1, flag_values=values)
    flags.DEFINE_list("only", [], "kernels to measure, by the beginning of their names", flag_values=values)
    try:
        rest = values(["kernels", *arguments])[1:]
    except flags.Error as error:
        raise UserError(str(error)) from None
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}: flags are --json, --rounds and --only")
    return {name: values[name].value for name in values}


def main(arguments: Sequence[str]) -> int:
    """Measure, print and judge; the exit code."""
    values = parse(arguments)
    target = Path(values["json"]) if values["json"] else None
    if target is not None and not target.absolute().parent.is_dir():
        raise UserError(f"json={target}: the folder {target.absolute().parent} is not there")
    try:
        import torch

        from experiments.benchmarks import contenders
    except ImportError as error:
        raise UserError(
            f"{error.name} is missing: pip install -r experiments/benchmarks/peers/requirements.txt"
        ) from None
    torch.set_num_threads(1)
    records: list[dict[str, Any]] = []
    for name, build in contenders.groups():
        if values["only"] and not any(name.lower().startswith(x.lower()) for x in values["only"]):
            continue
        group = build()
        found = judged(group, measured(group, values["rounds"]))
        records += found
        print("\n".join(map(line, found)), flush=True)
    if not records:
        raise UserError(f"only={','.join(values['only'].value)}: no kernel begins so")
    short = sum(not record["ok"] for record in records)
    print(f"{len(records) - short} of {len(records)} bars reached")
    if target is not None:
        partial = target.with_name(target.name + ".partial")
        partial.write_text(json.dumps(records, indent=1) + "\n")
        partial.replace(target)
    return 1 if short else 0


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        # The libraries read these when they are loaded.
        again = [sys.executable, "-m", "experiments.benchmarks.kernels", *sys.argv[1:]]
        os.execve(sys.executable, again, os.environ | ONE_THREAD)
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
