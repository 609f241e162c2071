"""How unevenly impressions fall on items: the Matthew effect, in which what is shown is shown again. Host, float64."""

import numpy as np
from numpy.typing import ArrayLike


def gini(counts: ArrayLike) -> float:
    """Gini coefficient of non-negative counts: 0 if all are equal, (n - 1) / n if one of n has everything.

    With counts in ascending order x_1..x_n it is sum_i (2 i - n - 1) x_i / (n sum x), half the mean absolute difference
    over the mean.

    Args:
        counts: [n], n >= 1; impressions of each item of the catalogue, padding left out.

    Returns:
        NaN where all counts are zero.

    Raises:
        ValueError: where counts are not a non-empty vector, or one is negative or not finite.

    >>> gini([5, 5, 5, 5])
    0.0
    >>> gini([0, 0, 0, 7])
    0.75

    """
    values = np.sort(np.asarray(counts, np.float64))
    if values.ndim != 1 or not values.size or not np.isfinite(values).all() or values[0] < 0:
        raise ValueError("gini: expected a non-empty vector of counts >= 0")
    total, n = values.sum(), len(values)
    if not total:
        return float("nan")
    return float((2 * np.arange(1, n + 1) - n - 1) @ values / (n * total))
