"""Means over seeds and requests with 95 % intervals. Host code, float64.

Two rows of a table are compared by their difference, paired by whatever they share: the seed, and where per-request
values were kept, the request too. A difference that a single seed shows has no interval.

Axes: S seeds, R requests.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over `count` seeds and its 95 % interval; low and high are None where the spread is unknown."""

    mean: float
    low: float | None
    high: float | None
    count: int


def _interval(mean: float, squared_error: float, count: int) -> Interval:
    """Student's t interval with count - 1 degrees of freedom; no bounds where that or the error is undefined."""
    if count < 2 or not np.isfinite(squared_error):
        return Interval(mean, None, None, count)
    half = float(stdtrit(count - 1, (1 + LEVEL) / 2) * np.sqrt(squared_error))
    return Interval(mean, mean - half, mean + half, count)


def _squared_error(values: np.ndarray) -> float:
    """Squared standard error of the mean of independent values; NaN for fewer than two."""
    return float(np.var(values, ddof=1) / len(values)) if len(values) > 1 else float("nan")


def mean_interval(values: ArrayLike) -> Interval:
    """Mean of [S] independent values, one a seed, with Student's t interval.

    Returns:
        No bounds for one value; a NaN mean for none. A NaN value makes the mean NaN and drops the bounds.

    >>> round(mean_interval([1.0, 2.0, 3.0]).high, 3)  # 2 + 4.303 / sqrt(3)
    4.484
    >>> mean_interval([1.0])
    Interval(mean=1.0, low=None, high=None, count=1)

    """
    values = np.asarray(values, np.float64)
    mean = float(values.mean()) if values.size else float("nan")
    return _interval(mean, _squared_error(values), len(values))


def paired_difference(a: ArrayLike, b: ArrayLike) -> Interval:
    """Mean of a - b over seeds that both rows share, [S] each and in the same order; the interval of the differences.

    >>> paired_difference([3.0, 13.0], [1.0, 11.0])  # equal differences: the spread between seeds cancels
    Interval(mean=2.0, low=2.0, high=2.0, count=2)
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} cannot be paired")
    return mean_interval(a - b)


def crossed_interval(a: ArrayLike, b: ArrayLike, valid: ArrayLike) -> Interval:
    """Mean of a - b where every seed is evaluated on the same requests, so both are drawn and both must be allowed for.

    The squared error is that of the seed means plus that of the request means. Their sum counts the interaction of
    seed and request twice, hence it is conservative (two-way clustering would subtract it once). The quantile is
    Student's with S - 1 degrees of freedom, conservative as well where the requests dominate the error.

    Args:
        a: [S, R] values of one row, one a seed and request.
        b: [S, R] values of the other, for the same seeds and requests.
        valid: [S, R] or [R] bool; other entries are ignored. Seeds and requests without a valid entry are left out.

    Returns:
        The mean of the seed means; no bounds with fewer than two seeds or requests.

    >>> crossed_interval([[1.0, 2.0], [1.0, 2.0]], [[0.0, 1.0], [0.0, 1.0]], [True, True])
    Interval(mean=1.0, low=1.0, high=1.0, count=2)

    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"shapes {a.shape} and {b.shape}, expected the same [seeds, requests]")
    used = np.broadcast_to(np.asarray(valid, bool), a.shape)
    difference = np.where(used, a - b, 0)

    def means(axis: int) -> np.ndarray:
        count = used.sum(axis=axis)
        return difference.sum(axis=axis)[count > 0] / count[count > 0]

    seeds, requests = means(axis=1), means(axis=0)
    mean = float(seeds.mean()) if seeds.size else float("nan")
    return _interval(mean, _squared_error(seeds) + _squared_error(requests), len(seeds))
