"""Means over seeds and requests with 95 % intervals. Host code, float64.

Two rows of a table are compared by their difference, paired by whatever they share: the seed, and where per-request
values were kept, the request too. A difference that a single seed shows has no interval.

Axes: S seeds, R requests.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over `count` values and its 95 % interval; low and high are None where the spread is unknown.

    `error` is the standard error of the mean and `freedom` its degrees of freedom.
    """

    mean: float
    low: float | None
    high: float | None
    count: int
    error: float | None = dataclasses.field(default=None, repr=False, compare=False)
    freedom: int = dataclasses.field(default=0, repr=False, compare=False)

    def chance(self, value: float) -> float:
        """Two-sided p-value of a true mean of `value` by Student's t; 1 where the spread is unknown.

        >>> round(mean_interval([1.0, 2.0, 3.0]).chance(0.0), 3)
        0.074

        """
        if self.error is None:
            return 1.0
        if self.error == 0:
            return 1.0 if self.mean == value else 0.0
        return float(2 * stdtr(self.freedom, -abs(self.mean - value) / self.error))


def _interval(mean: float, squared_error: float, count: int, freedom: int | None = None) -> Interval:
    """Student's t interval, by default with count - 1 degrees of freedom; no bounds where that is 0."""
    freedom = count - 1 if freedom is None else freedom
    if freedom < 1 or not np.isfinite(squared_error):
        return Interval(mean, None, None, count)
    error = float(np.sqrt(squared_error))
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    return Interval(mean, mean - half, mean + half, count, error, freedom)


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


def nested_interval(groups: Sequence[ArrayLike]) -> Interval:
    """Mean of the means of W groups of values, such as training seeds within simulated worlds.

    The interval is Student's over the W means, with W - 1 degrees of freedom, which is exact for groups of equal size,
    whether groups differ or not: a few worlds give a wide interval, however many seeds each has. Pooling all values
    where worlds seem to agree would be a test before the test, whose small p-values are wrong by a factor of ten. One
    group alone has the interval of its values.

    >>> nested_interval([[1.0, 2.0, 3.0]]) == mean_interval([1.0, 2.0, 3.0])
    True
    >>> nested_interval([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]).high == mean_interval([1.0, 2.0, 3.0]).high
    True

    """
    values = [array for group in groups if (array := np.asarray(group, np.float64)).size]
    if len(values) < 2:
        return mean_interval(values[0] if values else [])
    means = np.array([group.mean() for group in values])
    return _interval(float(means.mean()), _squared_error(means), sum(map(len, values)), len(values) - 1)


def holm(chances: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values: the chance of any false rejection is at most the level.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [1.0] * len(chances), 0.0
    for place, index in enumerate(sorted(range(len(chances)), key=lambda i: chances[i])):
        highest = max(highest, min(1.0, (len(chances) - place) * chances[index]))
        adjusted[index] = highest
    return adjusted


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float | None:
    """Spearman's rank correlation of two equally long lists, ties at their mean rank; None where one has no order.

    >>> rank_correlation([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 40.0, 30.0])
    0.8
    """
    centred = [ranks - ranks.mean() for ranks in map(_ranks, (a, b))]
    spread = float(np.sqrt(np.prod([np.sum(values**2) for values in centred])))
    return float(np.dot(*centred)) / spread if spread > 0 else None


def _ranks(values: ArrayLike) -> np.ndarray:
    """Rank of each value from 1, the mean rank for ties."""
    here, others = np.asarray(values, np.float64)[:, None], np.asarray(values, np.float64)
    return (here > others).sum(1) + ((here == others).sum(1) + 1) / 2


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
