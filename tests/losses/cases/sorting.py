"""SoftSort cross entropy, Rankmax and AM-Rankmax, each in every form that the length of the list decides on.

Lists are short here, so that the fast and the streamed forms are asked for; which one a kernel takes is decided while
its forward pass is traced.
"""

import contextlib
import functools
from unittest import mock

import numpy as np
from jax import lax

from hccp_jax.losses import rankmax, row_blocks, softsort

from .case import Case

FAST = ((softsort, "SMALL", 1), (rankmax, "SMALL", 1))
STREAMED = ((row_blocks, "BLOCK_BYTES", 300),)
"""At most two rows of 4 lists of 9 at a time."""
ACCELERATOR = ((lax, "platform_dependent", lambda *args, default, **_: default(*args)),)
"""Read by backward passes too: hold it around the gradient."""


@contextlib.contextmanager
def holding(patches):
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(mock.patch.object(*patch))
        yield


def traced(patches, function):
    """`function` with a forward pass that is traced while `patches` hold."""

    @functools.wraps(function)
    def patched(*args, **kw):
        with holding(patches):
            return function(*args, **kw)

    return patched


def log_sum(x):
    return x.max() + np.log(np.sum(np.exp(x - x.max())))


def soft_sort_cross_entropy(s, y, mode, teacher=None, temperature=1.0, label_temperature=0.05, power=1):
    """RankTower Eq 11 row by row; `block` and `teacher` as their definitions."""
    n = len(s)
    if not n:
        return None
    top_scores, top_labels = np.sort(s)[::-1], np.sort(y)[::-1]
    order = None if teacher is None else sorted(range(n), key=lambda j: (-y[j], -teacher[j], j))
    total = 0.0
    for r in range(n):
        logits = -(np.abs(top_scores[r] - s) ** power) / temperature
        log_row = logits - log_sum(logits)
        if mode == "literal":
            target = -(np.abs(top_labels[r] - y) ** power) / label_temperature
            total -= np.sum(np.exp(target - log_sum(target)) * log_row)
        elif mode == "block":
            total -= log_sum(log_row[y == top_labels[r]])
        else:
            total -= log_row[order[r]]
    return total


def soft_sort_slopes(s, y, mode, teacher, temperature, label_temperature, power):
    """Slopes of one list with respect to scores and temperature: (target - P) times the slope of each distance.

    The slope of a distance of 0 is 0. In `block` the target is P itself within the block.
    """
    s = s.astype(np.float64)
    order = np.argsort(-s, kind="stable")
    gap = s[order][:, None] - s
    distance = np.abs(gap) ** power / temperature
    p = np.array([np.exp(-row - log_sum(-row)) for row in distance])
    rows = np.sort(y)[::-1]
    if mode == "literal":
        logits = -(np.abs(rows[:, None] - y) ** power) / label_temperature
        target = np.array([np.exp(row - log_sum(row)) for row in logits])
    elif mode == "block":
        logits = np.where(rows[:, None] == y, -distance, -np.inf)
        target = np.array([np.exp(row - log_sum(row)) for row in logits])
    else:
        target = np.zeros_like(p)
        target[np.arange(len(s)), np.lexsort((np.arange(len(s)), -teacher, -y))] = 1
    pull = (target - p) * power * np.sign(gap) * np.abs(gap) ** (power - 1) / temperature
    slope = -pull.sum(axis=0)
    slope[order] += pull.sum(axis=1)
    return slope, -np.sum((target - p) * distance) / temperature


def rankmax_loss(s, y):
    """RankTower Eq 12."""
    if not np.any(y > 0):
        return None
    return sum(np.log(sum(max(other - s[j] + 1, 0) for other in s)) for j in np.flatnonzero(y > 0))


def am_rankmax_loss(s, y, alpha=1.0, beta=1.0, power=1):
    """RankTower Eq 13 and 14, and 1 inside the logarithm."""
    n = len(s)
    if not n or y.max() == y.min():
        return None
    total = 0.0
    for j in range(n):
        inside = 1.0
        for i in range(n):
            if y[i] < y[j]:
                margin = alpha * (y[i] == 0) + beta * abs(y[i] - y[j]) ** power
                inside += max(s[i] - s[j] + margin, 0)
        total += np.log(inside)
    return total


def rankmax_slopes(s, y, alpha, beta, power):
    """Value and slopes of one list with respect to scores, alpha and beta, with a slope of 0 where a hinge begins.

    Power None is Rankmax, whose positives are the labels above 1.
    """
    s = s.astype(np.float64)
    if power is None:
        rows, pairs, margin, one = y > 1, np.ones((len(s), len(s)), bool), np.ones((len(s), len(s))), 0.0
        apart = zero = 0 * margin
    else:
        rows, pairs, one = np.ones(len(s), bool), y < y[:, None], 1.0
        apart, zero = np.abs(y[:, None] - y).astype(float) ** power, np.broadcast_to(y == 0, pairs.shape)
        margin = alpha * zero + beta * apart
    inside = s - s[:, None] + margin
    active = pairs & (inside > 0) & rows[:, None]
    sums = one + np.sum(np.where(active, inside, 0), axis=1)
    share = active / np.where(rows, sums, 1)[:, None]
    value = np.sum(np.log(np.where(rows, sums, 1)))
    return value, share.sum(0) - share.sum(1), np.sum(share * zero), np.sum(share * apart)


SETTINGS = {"temperature": 0.7, "label_temperature": 0.3}
MARGINS = {"alpha": 0.5, "beta": 0.8}


def _soft_sort_case(mode, power, levels=None, patches=(), form=""):
    def hint(a):
        return {"teacher": a["teacher"]} if mode == "teacher" else {}

    def loss(s, a, where, **kw):
        fixed = SETTINGS | hint(a) | {"mode": mode, "power": power, "levels": levels}
        return softsort.soft_sort_cross_entropy(s, a["grades"], where=where, **fixed, **kw)

    def oracle(s, a):
        return soft_sort_cross_entropy(s, a["grades"], mode, power=power, **SETTINGS, **hint(a))

    return Case(f"soft_sort_{mode}_power_{power}{form}", traced(patches, loss), oracle)


def _am_case(power, levels=None, patches=(), form=""):
    def loss(s, a, where, **kw):
        return rankmax.am_rankmax(s, a["grades"], where=where, power=power, levels=levels, **MARGINS, **kw)

    def oracle(s, a):
        return am_rankmax_loss(s, a["grades"], power=power, **MARGINS)

    return Case(f"am_rankmax_power_{power}{form}", traced(patches, loss), oracle, needs_positive=True)


def _rankmax_case(patches, form=""):
    def loss(s, a, where, **kw):
        return rankmax.rankmax(s, a["labels"], where=where, **kw)

    return Case(f"rankmax{form}", traced(patches, loss), lambda s, a: rankmax_loss(s, a["labels"]), needs_positive=True)


CASES = [
    _soft_sort_case("literal", 1),
    _soft_sort_case("literal", 1, 3, FAST, "_fast"),
    _soft_sort_case("literal", 2, 3, STREAMED, "_streamed"),
    _soft_sort_case("block", 1, None, STREAMED, "_streamed"),
    _soft_sort_case("block", 2, 3),
    _soft_sort_case("teacher", 1, None, FAST, "_fast"),
    _soft_sort_case("teacher", 2, 3, STREAMED, "_streamed"),
    _rankmax_case(()),
    _rankmax_case(FAST, "_fast"),
    _am_case(0, None, STREAMED, "_streamed"),
    _am_case(0, 3, FAST, "_fast"),
    _am_case(1),
    _am_case(1, 3, FAST, "_fast"),
    _am_case(2, 3, STREAMED, "_streamed"),
]
