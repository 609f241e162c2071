"""How many requests an online test needs: from the values by request that trials of a simulated one keep.

Two rows are compared on the same requests with the same luck (paired), and as if each had requests of its own
(unpaired), as in a live test; by expected counts given what is shown, which only a simulation knows, and by realised
ones. Formulas in `hccp_jax.evaluation.lift`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.claims import Record
from experiments.experiment import Experiment
from hccp_jax.evaluation.lift import (
    crossed_lift,
    paired_deviation,
    requests_for_half_width,
    requests_for_power,
    unpaired_deviation,
)
from hccp_jax.evaluation.statistics import Interval

Deviation = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Need:
    """Requests of each arm.

    Attributes:
        half_width: after which the 95 % interval of the lift is one per cent to each side.
        power: with which a two-sided test at 5 % finds a true lift of one per cent with a probability of 80 %.
    """

    half_width: int
    power: int


@dataclass(frozen=True)
class Power:
    """What one metric says about two rows.

    Attributes:
        lifts: world -> lift of the one row over the other, crossed over seeds and requests.
        paired, unpaired: requests needed.
    """

    lifts: dict[int, Interval]
    paired: Need
    unpaired: Need


def per_request(records: Sequence[Record], row: str, metric: str) -> dict[tuple[int, int], np.ndarray]:
    """(World, seed) -> [requests] float32 of a row, of the trials that keep them."""
    found = {}
    for record in records:
        path = record.directory / "per_request.npz"
        if record.row == row and path.exists():
            with np.load(path) as values:
                if metric in values:
                    found[record.world, record.seed] = values[metric]
    return found


def power(records: Sequence[Record], better: str, worse: str, metric: str) -> Power | None:
    """Lifts of a row over another and the requests that a test of them needs; None without values in common.

    The variance that decides is the mean over worlds and seeds. A trained model is one draw, so its own luck is in the
    intervals (crossed over seeds and requests) but not in the requests needed, which more requests could not reduce.
    """
    one, other = (per_request(records, row, metric) for row in (better, worse))
    keys = sorted(key for key in one.keys() & other.keys() if other[key].any())
    if not keys:
        return None
    lifts = {}
    for world in sorted({world for world, _ in keys}):
        seeds = [key for key in keys if key[0] == world]
        lifts[world] = crossed_lift(*(np.stack([values[key] for key in seeds]) for values in (one, other)))

    def need(deviation: Deviation) -> Need:
        mean = math.sqrt(float(np.mean([deviation(one[key], other[key]) ** 2 for key in keys])))
        return Need(requests_for_half_width(mean), requests_for_power(mean))

    return Power(lifts, need(paired_deviation), need(unpaired_deviation))


PAIRS = (("hccp", "base"), ("without_up", "base"), ("hccp", "without_up"))
METRICS = ("clicks", "purchases")


def power_notes(experiment: Experiment, records: Sequence[Record]) -> list[str]:
    """A line a pair of rows and metric: the lifts world by world, and how many requests a test of them needs."""
    lines = []
    for metric in METRICS:
        for better, worse in PAIRS:
            expected = power(records, better, worse, f"online/{metric}")
            realised = power(records, better, worse, f"online/realised_{metric}")
            if expected is None or realised is None:
                continue
            labels = f"{experiment.row(better).label} over {experiment.row(worse).label}"
            lifts = "; ".join(f"world {world} {lift_text(lift)}" for world, lift in expected.lifts.items())
            needs = ", ".join(
                f"{how} {kind} {need.half_width:,} / {need.power:,}"
                for kind, found in (("expected", expected), ("realised", realised))
                for how, need in (("paired", found.paired), ("unpaired", found.unpaired))
            )
            lines.append(f"Lift in {metric}, {labels}: {lifts}. Requests an arm needs: {needs}.")
    if lines:
        lines.insert(
            0,
            "Power. Lifts in expected counts with 95 % intervals crossed over seeds and requests. Requests an arm "
            "needs: for an interval of 1 % to each side / to find a lift of 1 % with 80 % power; paired: all arms "
            "answer the same requests with the same luck, unpaired: requests of their own, as in a live test; expected "
            "counts given what is shown, or realised ones.",
        )
    return lines


def lift_text(lift: Interval) -> str:
    """Such as `+1.2% [+0.4, +2.0]`."""
    text = f"{lift.mean:+.1%}"
    if lift.low is None or lift.high is None:
        return text
    return f"{text} [{100 * lift.low:+.1f}, {100 * lift.high:+.1f}]"
