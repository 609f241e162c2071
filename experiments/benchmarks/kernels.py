"""How fast the loss kernels are, against what others compute the same losses with.

    pip install -r experiments/benchmarks/peers/requirements.txt
    python -m experiments.benchmarks.kernels                    a line a bar; exit code 1 if any is short
    python -m experiments.benchmarks.kernels --json=kernels.json
    python -m experiments.benchmarks.kernels --only=SoftSort,ListMLE

Loss and all gradients are taken. Time is CPU time of the process with every library held to one thread; the rivals
are interleaved in rounds within one process, each called in a round until 50 ms have passed, and a ratio is the median
over the rounds. Temporary memory is what XLA reports for the compiled program. About five minutes.
"""

import time
from collections.abc import Sequence
from typing import Any

from experiments.benchmarks.bars import (
    SHORTEST,
    Outcome,
    Times,
    asked,
    exit_with,
    finish,
    hold_to_one_thread,
    interleaved,
    line,
    missing,
    outcome,
    parse,
    quickest,
    times_slower,
)


def measured(group: Any, rounds: int) -> Times:
    """CPU seconds of every contender in each round; raises if one computes another loss."""
    values = {name: call() for name, call in group.calls.items()}
    for name, value in values.items():
        if name not in group.sampled and abs(value - values["ours"]) > 1e-4 * abs(values["ours"]):
            raise AssertionError(f"{group.kernel} {group.shape}: {name} is {value}, ours {values['ours']}")
    return interleaved(group.calls, rounds, time.process_time, SHORTEST)


def judged(group: Any, times: Times) -> list[Outcome]:
    """One outcome a bar."""
    found = []
    for bar in group.bars:
        against, faster = bar.against, bar.quantity == "times faster"
        if against == "best torch":
            against = quickest(times, [name for name in times if name.startswith("torch")])
        if faster:
            value = times_slower(times, against, bar.ours)
        elif bar.quantity.startswith("cost"):
            value = times_slower(times, bar.ours, against)
        elif bar.quantity.startswith("MiB"):
            value = group.temporary[bar.ours] / 2**20
        else:
            value = group.temporary["ours without the gradients"] / group.temporary[against]
        what, sense = (bar.ours, "at least") if faster else (bar.quantity, "at most")
        found.append(outcome(group.kernel, group.shape, what, against, value, bar.bar, sense, times))
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure, print and judge; the exit code."""
    values = parse("kernels", arguments, 7, "kernels")
    try:
        import torch

        from experiments.benchmarks import contenders
    except ImportError as error:
        raise missing(error) from None
    torch.set_num_threads(1)
    found: list[Outcome] = []
    for name, build in contenders.groups():
        if asked(name, values["only"]):
            group = build()
            judgements = judged(group, measured(group, values["rounds"]))
            found += judgements
            print("\n".join(map(line, judgements)), flush=True)
    return finish(found, values, "kernel")


if __name__ == "__main__":
    hold_to_one_thread("experiments.benchmarks.kernels")
    exit_with(main)
