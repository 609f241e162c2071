"""What every benchmark command shares: its flags, bars as lines and as JSON, interleaved rounds, and the exit code."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from absl import flags

from hccp_jax.errors import UserError

Times = dict[str, list[float]]
"""Seconds of each contender in each round."""

ONE_THREAD = {
    "NPROC": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
}
"""What holds every library to one thread of the CPU."""

SHORTEST = 0.05
"""Seconds of calls in a round: below it the clock and cold caches are measured."""

PEERS = "experiments/benchmarks/peers/requirements.txt"


@dataclass(frozen=True)
class Outcome:
    """A bar and what was measured; a JSON record has these fields.

    Attributes:
        kernel: what was measured, such as a kernel or a part of training.
        shape: on what sizes.
        what: the quantity, or the name of ours.
        against: the rival.
        ratio: the figure; a ratio, or in the unit that `what` names.
        bar: what it must reach.
        sense: "at least" or "at most".
        ok: whether it does.
        milliseconds: median of every contender.
    """

    kernel: str
    shape: str
    what: str
    against: str
    ratio: float
    bar: float
    sense: str
    ok: bool
    milliseconds: dict[str, float] = field(default_factory=dict)


def outcome(
    kernel: str, shape: str, what: str, against: str, ratio: float, bar: float, sense: str, times: Mapping | None = None
) -> Outcome:
    """A bar judged."""
    ok = ratio >= bar if sense == "at least" else ratio <= bar
    milliseconds = {name: 1e3 * statistics.median(x) for name, x in (times or {}).items()}
    return Outcome(kernel, shape, what, against, float(ratio), bar, sense, bool(ok), milliseconds)


def line(found: Outcome) -> str:
    """A bar as one line of the table."""
    what = found.against if found.sense == "at least" else found.what
    if found.what not in ("ours", what):
        what = f"{found.what}: {what}"
    sign = "x" if found.sense == "at least" else " "
    verdict = "ok" if found.ok else "short"
    figures = f"{found.ratio:8.2f}{sign} {found.sense:>8} {found.bar:6.4g}{sign}"
    return f"{found.kernel:27}{found.shape:22}{what:52}{figures}  {verdict}"


def interleaved(
    calls: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float], shortest: float
) -> Times:
    """Seconds of a call of every contender, round after round; in a round each is called until `shortest` passed."""
    times: Times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin, count = clock(), 0
            while (passed := clock() - begin) < shortest or not count:
                call()
                count += 1
            times[name].append(passed / count)
    return times


def times_slower(times: Times, one: str, other: str) -> float:
    """How many times the seconds of `other` those of `one` are: the median over the rounds."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def quickest(times: Times, names: Collection[str]) -> str:
    """Of these contenders the one with the smallest median."""
    return min((name for name in times if name in names), key=lambda name: statistics.median(times[name]))


def parse(command: str, arguments: Sequence[str], rounds: int, of: str) -> dict[str, Any]:
    """The flags of a benchmark command.

    Args:
        command: its name.
        arguments: what it was given.
        rounds: default number of rounds.
        of: what --only chooses, in the plural.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("json", None, "file to write the same records to", flag_values=values)
    flags.DEFINE_integer("rounds", rounds, "rounds of interleaved measurements", lower_bound=1, flag_values=values)
    flags.DEFINE_list("only", [], f"{of} to measure, by the beginning of their names", flag_values=values)
    return parsed(values, command, arguments)


def parsed(values: flags.FlagValues, command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Values of the defined flags; raises a UserError for anything else, and where --json cannot be written."""
    try:
        rest = values([command, *arguments])[1:]
    except flags.Error as error:
        raise UserError(str(error)) from None
    names = [f"--{name}" for name in values]
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}: flags are {', '.join(names[:-1])} and {names[-1]}")
    found = {name: values[name].value for name in values}
    target = Path(found["json"]) if found["json"] else None
    if target is not None and not target.absolute().parent.is_dir():
        raise UserError(f"json={target}: the folder {target.absolute().parent} is not there")
    return found | {"json": target}


def asked(name: str, only: Sequence[str]) -> bool:
    """Whether --only lets a name through."""
    return not only or any(name.lower().startswith(x.lower()) for x in only)


def write_json(target: Path | None, content: Any) -> None:
    """Write the file of --json, whole or not at all."""
    if target is not None:
        partial = target.with_name(target.name + ".partial")
        partial.write_text(json.dumps(content, indent=1) + "\n")
        partial.replace(target)


def finish(found: Sequence[Outcome], values: Mapping[str, Any], of: str) -> int:
    """Print how many bars are reached, write them, and return the exit code.

    Raises:
        UserError: if --only chose nothing.
    """
    if not found:
        raise UserError(f"only={','.join(values['only'])}: no {of} begins so")
    short = sum(not one.ok for one in found)
    print(f"{len(found) - short} of {len(found)} bars reached")
    write_json(values["json"], [asdict(one) for one in found])
    return 1 if short else 0


def missing(error: ImportError) -> UserError:
    """What to say where a rival is not installed."""
    return UserError(f"{error.name} is missing: pip install -r {PEERS}")


def exit_with(main: Callable[[Sequence[str]], int]) -> None:
    """Run a command on the arguments of this process; a user's mistake is told in one line, with exit code 2."""
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def hold_to_one_thread(module: str) -> None:
    """Start this command anew where a library could use more threads: they read their settings when they are loaded."""
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], os.environ | ONE_THREAD)


class Neighbours:
    """How busy other processes kept the machine since this was made: figures of a shared machine say so."""

    def __init__(self) -> None:
        self._before = self._ticks()
        self._began = time.monotonic()

    def cores(self) -> float | None:
        """Cores that others used on average; None where the system does not tell."""
        after = self._ticks()
        if after is None or self._before is None:
            return None
        return max(0.0, (after - self._before) / (time.monotonic() - self._began))

    @staticmethod
    def _ticks() -> float | None:
        """Seconds that all processes but this one and its children have run."""
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        except OSError:
            return None
        user, nice, system, _, _, irq, soft = map(float, fields[:7])
        everything = (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")
        return everything - sum(os.times()[:4])
