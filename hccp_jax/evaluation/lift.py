"""Relative lift of one arm of an online test over another, its interval, and how many requests a test needs.

The lift is a ratio of means, mean(a) / mean(b) - 1. Its error is that of the linearised values (the delta method)

    d_i = (a_i - r b_i) / mean(b),    r = mean(a) / mean(b),

whose mean is zero: se^2 = var(d) / n. Arms that answer the same requests with common random numbers are paired: what
they share cancels in d. As if they had answered different requests (unpaired), the variances add:
se^2 = (var(a) / n_a + r^2 var(b) / n_b) / mean(b)^2. The quantiles are the normal distribution's, as the linearisation
is itself for many requests only. Host code, float64.

Axes: S training seeds, R requests.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from hccp_jax.evaluation.statistics import LEVEL, Interval, crossed_interval

_QUANTILE = float(ndtri((1 + LEVEL) / 2))


def _vector(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"{name} of shape {array.shape}: expected [requests] with two or more")
    return array


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = _vector("a", a), _vector("b", b)
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} cannot be paired")
    return a, b


def _ratio(a: np.ndarray, b: np.ndarray) -> float:
    return float(a.mean() / b.mean()) if b.mean() else math.nan


def _interval(lift: float, error: float, count: int) -> Interval:
    if not math.isfinite(error):
        return Interval(lift, None, None, count)
    return Interval(lift, lift - _QUANTILE * error, lift + _QUANTILE * error, count)


def paired_deviation(a: ArrayLike, b: ArrayLike) -> float:
    """Standard deviation of the linearised values of two arms that answered the same requests.

    Divided by sqrt(n) it is the standard error of their lift.

    Args:
        a: [R] values of the one arm, such as expected clicks.
        b: [R] values of the other, request by request.
    """
    a, b = _pair(a, b)
    ratio = _ratio(a, b)
    return float(np.std(a - ratio * b, ddof=1) / abs(b.mean())) if math.isfinite(ratio) else math.nan


def unpaired_deviation(a: ArrayLike, b: ArrayLike) -> float:
    """The same for arms that answer requests of their own, n each: the error of the lift times sqrt(n)."""
    a, b = _vector("a", a), _vector("b", b)
    ratio = _ratio(a, b)
    variance = np.var(a, ddof=1) + ratio**2 * np.var(b, ddof=1)
    return float(np.sqrt(variance) / abs(b.mean())) if math.isfinite(ratio) else math.nan


def paired_lift(a: ArrayLike, b: ArrayLike) -> Interval:
    """Lift of a over b, [R] values of the same requests, with its 95 % interval.

    Returns:
        count is the number of requests. A NaN lift without bounds where mean(b) is zero.

    Raises:
        ValueError: for unequal shapes, or fewer than two requests.

    >>> paired_lift([2.2, 4.4], [2.0, 4.0]).low == paired_lift([2.2, 4.4], [2.0, 4.0]).high  # the same tenth everywhere
    True
    >>> round(paired_lift([2.2, 4.4], [2.0, 4.0]).mean, 6)
    0.1

    """
    a, b = _pair(a, b)
    return _interval(_ratio(a, b) - 1, paired_deviation(a, b) / len(a) ** 0.5, len(a))


def unpaired_lift(a: ArrayLike, b: ArrayLike) -> Interval:
    """Lift of a [R_a] over b [R_b], taken as answers to different requests; count is the smaller number."""
    a, b = _vector("a", a), _vector("b", b)
    ratio = _ratio(a, b)
    if not math.isfinite(ratio):
        return Interval(math.nan, None, None, min(len(a), len(b)))
    variance = np.var(a, ddof=1) / len(a) + ratio**2 * np.var(b, ddof=1) / len(b)
    return _interval(ratio - 1, float(np.sqrt(variance) / abs(b.mean())), min(len(a), len(b)))


def crossed_lift(a: ArrayLike, b: ArrayLike) -> Interval:
    """Lift over training seeds that all answer the same requests: both seeds and requests are drawn.

    The interval of `statistics.crossed_interval` for the linearised values: Student's t with S - 1 degrees of freedom.

    Args:
        a: [S, R] values of the one row, one a seed and request.
        b: [S, R] values of the other, for the same seeds and requests.

    Returns:
        count is the number of seeds; no bounds with fewer than two of seeds or requests.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 2 or not a.size:
        raise ValueError(f"shapes {a.shape} and {b.shape}, expected the same [seeds, requests]")
    ratio = _ratio(a, b)
    if not math.isfinite(ratio):
        return Interval(math.nan, None, None, len(a))
    spread = crossed_interval(a / b.mean(), ratio * b / b.mean(), np.ones(a.shape, bool))
    if spread.low is None or spread.high is None:
        return Interval(ratio - 1, None, None, spread.count)
    return dataclasses.replace(spread, mean=ratio - 1, low=spread.low + ratio - 1, high=spread.high + ratio - 1)


def requests_for_half_width(deviation: float, half_width: float = 0.01) -> int:
    """Requests (of each arm) after which the 95 % interval of the lift reaches `half_width` to each side.

    Args:
        deviation: of `paired_deviation` or `unpaired_deviation`.
        half_width: a lift; 0.01 is one per cent.

    >>> requests_for_half_width(0.5)  # (1.96 * 0.5 / 0.01) ** 2
    9604
    """
    return _requests(deviation, _QUANTILE, half_width)


def requests_for_power(deviation: float, lift: float = 0.01, power: float = 0.8) -> int:
    """Requests (of each arm) with which a two-sided test at 5 % finds a true lift with the given probability.

    (z_0.975 + z_power)^2 deviation^2 / lift^2; the chance of a significant result of the wrong sign is left out.

    >>> requests_for_power(0.5)  # ((1.96 + 0.84) * 0.5 / 0.01) ** 2
    19623
    """
    if not 0.5 <= power < 1:
        raise ValueError(f"power={power}: expected a value in [0.5, 1)")
    return _requests(deviation, _QUANTILE + float(ndtri(power)), lift)


def _requests(deviation: float, quantile: float, resolution: float) -> int:
    if not (math.isfinite(deviation) and deviation >= 0):
        raise ValueError(f"deviation={deviation}: expected a finite number >= 0")
    if not resolution > 0:
        raise ValueError(f"expected a resolution above 0, found {resolution}")
    return max(2, math.ceil((quantile * deviation / resolution) ** 2))
