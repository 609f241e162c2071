"""What each knob of a sweep does: least squares with one term a knob and one a seed, with 95 % intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from hccp_jax.evaluation.statistics import Interval

MOST_LEVELS = 6  # a knob with more values is a line, not a set of levels
TENFOLD = 20.0  # positive values that span as much are read on a logarithmic scale


@dataclass(frozen=True)
class Effect:
    """What a knob does to the validation value, all other knobs and the seed as they are.

    Attributes:
        knob: name of the field.
        change: such as "0 -> 0.9".
        interval: of the difference that the change makes; None where the sweep cannot tell.
        why: why it cannot; empty otherwise.
    """

    knob: str
    change: str
    interval: Interval | None
    why: str = ""


def knobs(points: Sequence[Mapping[str, str]]) -> list[str]:
    """The fields that take more than one value, in the order of their appearance."""
    names = list(dict.fromkeys(name for point in points for name in point))
    return [name for name in names if len({point.get(name) for point in points}) > 1]


def effects(points: Sequence[Mapping[str, str]], seeds: Sequence[int], values: Sequence[float]) -> list[Effect]:
    """The effect of each knob.

    A knob of few values has one effect for each value against its first; a numeric one of many has one from its lowest
    to its highest value, by a straight line. Knobs that always change together cannot be told apart, and say so.

    Args:
        points: [n] field -> value of each finished trial.
        seeds: [n] its seed.
        values: [n] its validation value.

    >>> points = [{"m": m, "r": r} for m in "12" for r in "34"]
    >>> for e in effects(points * 2, [0] * 4 + [1] * 4, [1.0, 2.0, 4.0, 5.0, 1.5, 2.5, 4.5, 5.5]):
    ...     print(e.knob, e.change, f"{e.interval.mean:.1f}")
    m 1 -> 2 3.0
    r 3 -> 4 1.0

    """
    y = np.asarray(values, np.float64)
    blocks = {name: _columns([point.get(name, "-") for point in points]) for name in knobs(points)}
    seed_terms = np.stack([np.equal(seeds, seed) for seed in sorted(set(seeds))], axis=1).astype(np.float64)
    design = np.concatenate([seed_terms, *(columns for _, columns in blocks.values())], axis=1)
    coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
    rank = int(np.linalg.matrix_rank(design))
    freedom = len(y) - rank
    spread = np.sum(np.square(y - design @ coefficients)) / freedom if freedom > 0 else math.nan
    inverse = np.linalg.pinv(design.T @ design)
    found, place = [], seed_terms.shape[1]
    for name, (changes, _) in blocks.items():
        others = np.delete(design, range(place, place + len(changes)), axis=1)
        known = rank - int(np.linalg.matrix_rank(others)) == len(changes)
        for index, change in enumerate(changes):
            if not known:
                found.append(Effect(name, change, None, "changes together with other knobs"))
                continue
            mean, error = coefficients[place + index], math.sqrt(spread * inverse[place + index, place + index])
            found.append(Effect(name, change, _interval(float(mean), error, freedom, len(y))))
        place += len(changes)
    return found


def _interval(mean: float, error: float, freedom: int, count: int) -> Interval:
    if not math.isfinite(error):
        return Interval(mean, None, None, count)
    half = float(stdtrit(freedom, 0.975)) * error
    return Interval(mean, mean - half, mean + half, count)


def _columns(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The changes of a knob and a column [n] for each."""
    levels = list(dict.fromkeys(texts))
    numbers = [number(text) for text in levels]
    if len(levels) > MOST_LEVELS and None not in numbers:
        scale = axis(texts)
        low, high = min(levels, key=float), max(levels, key=float)
        return [f"{low} -> {high}"], scale[:, None]
    return [f"{levels[0]} -> {level}" for level in levels[1:]], np.stack(
        [[float(text == level) for text in texts] for level in levels[1:]], axis=1
    )


def number(text: str) -> float | None:
    """The number that a value is, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def axis(texts: Sequence[str]) -> np.ndarray:
    """Values as places in [0, 1]: numbers by size, by their logarithm where they span much; others in their order."""
    levels = list(dict.fromkeys(texts))
    numbers = [number(text) for text in levels]
    if None in numbers:
        places = {level: float(index) for index, level in enumerate(levels)}
    else:
        known = np.array(numbers, np.float64)
        logarithmic = known.min() > 0 and known.max() / known.min() >= TENFOLD
        places = dict(zip(levels, np.log(known) if logarithmic else known, strict=True))
    return unit(np.array([places[text] for text in texts]))


def unit(values: np.ndarray) -> np.ndarray:
    """Values moved and stretched to [0, 1]; equal ones are 0."""
    return (values - values.min()) / max(float(np.ptp(values)), 1e-300)
