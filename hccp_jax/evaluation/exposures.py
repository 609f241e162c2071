"""Metrics on the exposed lists, where the labels are known: AUC, GAUC and log-loss. Host code, exact, in float64.

They say how well a head predicts what was shown. They say little about the unexposed candidates, which is the paper's
point. Arguments may have any shape, the same for all; `where` [...] bool chooses the real entries.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Grouped(NamedTuple):
    """A mean over groups: its value, the groups used, and the groups left out because they hold one class only."""

    value: float
    groups: int
    left_out: int


def _chosen(where: ArrayLike | None, *arrays: ArrayLike) -> tuple[np.ndarray, ...]:
    first = np.asarray(arrays[0])
    keep = np.ones(first.shape, bool) if where is None else np.asarray(where, bool)
    return tuple(np.asarray(array)[keep] for array in arrays)


def _average_ranks(scores: np.ndarray, group: np.ndarray) -> np.ndarray:
    """[n] rank of a score within its group, from 1; equal scores share the mean of their ranks. Sorted by both."""
    n = len(scores)
    first = np.r_[True, (scores[1:] != scores[:-1]) | (group[1:] != group[:-1])]
    start = np.flatnonzero(first)
    length = np.diff(np.r_[start, n])
    overall = np.repeat(start + (length + 1) / 2, length)
    group_start = np.searchsorted(group, group, side="left")
    return overall - group_start


def hit_rate(scores: ArrayLike, labels: ArrayLike, k: int, where: ArrayLike | None = None) -> Grouped:
    """Mean over lists of the share of their positives among the k best-scored: ISH@K of HCCP 4.1.2 on exposed lists.

    Equal scores share their places: an item counts by the chance of being among the k best in a random order of them.
    Lists without a positive are left out and counted.

    Args:
        scores: [U, K] float; order matters only.
        labels: [U, K], positive above 0.5.
        k: how many are kept; a list of at most k items has 1.
        where: [U, K] bool, or None for all.

    Returns:
        The value is NaN where no list has a positive, or where a real score of a list with one is NaN.

    >>> hit_rate([[3.0, 2.0, 1.0], [1.0, 1.0, 0.0]], [[0, 0, 1], [0, 1, 0]], 1)
    Grouped(value=0.25, groups=2, left_out=0)

    """
    score, label = np.asarray(scores, np.float64), np.asarray(labels)
    real = np.ones(score.shape, bool) if where is None else np.asarray(where, bool)
    positive = (label > 0.5) & real
    some = positive.any(axis=-1)
    if not some.any():
        return Grouped(float("nan"), 0, len(some))
    score, real, positive = score[some], real[some], positive[some]
    better = ((score[:, None, :] > score[:, :, None]) & real[:, None, :]).sum(axis=-1)
    equal = ((score[:, None, :] == score[:, :, None]) & real[:, None, :]).sum(axis=-1)
    kept = np.clip((k - better) / np.maximum(equal, 1), 0, 1)
    undefined = (np.isnan(score) & real).any()
    value = float("nan") if undefined else float(((kept * positive).sum(-1) / positive.sum(-1)).mean())
    return Grouped(value, int(some.sum()), int((~some).sum()))


def gauc(scores: ArrayLike, labels: ArrayLike, group: ArrayLike, where: ArrayLike | None = None) -> Grouped:
    """Mean of the AUC of each group (user or request), weighted by the group's entries (impressions), as in DIN.

    Groups with one class only have no AUC; they are left out of both sums and counted. AUC is the Mann-Whitney
    statistic: the share of pairs (positive, negative) in the right order, an equal pair counting one half.

    Args:
        scores: [...] float; order matters only.
        labels: [...], positive above 0.5.
        group: [...] integers.
        where: [...] bool, or None for all.

    Returns:
        The value is NaN where no group has both classes, or where a chosen score is NaN.

    >>> gauc([0.1, 0.9, 0.4, 0.4, 0.3], [0, 1, 1, 0, 1], [7, 7, 8, 8, 9])
    Grouped(value=0.75, groups=2, left_out=1)

    """
    score, label, groups = _chosen(where, scores, labels, group)
    by_score = np.lexsort((score, groups))
    score, positive, groups = score[by_score], (label[by_score] > 0.5).astype(np.float64), groups[by_score]
    _, start, size = np.unique(groups, return_index=True, return_counts=True)
    if not len(score):
        return Grouped(float("nan"), 0, 0)
    positives = np.add.reduceat(positive, start)
    rank_sum = np.add.reduceat(positive * _average_ranks(score, groups), start)
    pairs = positives * (size - positives)
    used = pairs > 0
    wins = rank_sum[used] - positives[used] * (positives[used] + 1) / 2
    value = float(np.average(wins / pairs[used], weights=size[used])) if used.any() else float("nan")
    if np.isnan(score).any():
        value = float("nan")
    return Grouped(value, int(used.sum()), int((~used).sum()))


def auc(scores: ArrayLike, labels: ArrayLike, where: ArrayLike | None = None) -> float:
    """Area under the ROC curve over all entries together: the Mann-Whitney statistic, ties counting one half.

    Args:
        scores: [...] float.
        labels: [...], positive above 0.5.
        where: [...] bool, or None for all.

    Returns:
        NaN where a class is missing or a chosen score is NaN.

    >>> auc([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1])
    0.875

    """
    return gauc(scores, labels, np.zeros(np.shape(scores), np.int8), where).value


def log_loss(logits: ArrayLike, labels: ArrayLike, where: ArrayLike | None = None) -> float:
    """Mean binary cross-entropy of logits, in nats: log(1 + e^z) - y z.

    Args:
        logits: [...] float.
        labels: [...] in [0, 1].
        where: [...] bool, or None for all.

    Returns:
        NaN where nothing is chosen.

    >>> round(log_loss([0.0, 1000.0], [1.0, 1.0]), 6)  # half of log 2
    0.346574

    """
    logit, label = (np.asarray(x, np.float64) for x in _chosen(where, logits, labels))
    return float(np.mean(np.logaddexp(0, logit) - label * logit)) if logit.size else float("nan")
