"""Losses of a relaxed permutation matrix: ARF and LCRON.

The released divisors are not here: they know the padded length, which an oracle of the real items does not.
"""

import functools

import numpy as np

from hccp_jax.losses.arf import global_ranking, relaxed_recall
from hccp_jax.losses.lcron import end_to_end, single_stage
from hccp_jax.losses.permutation import soft_sort

from .case import Case

EPSILON = 1e-6
NEURAL, SOFT = 6.0, 0.7


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def neural_sort(s, temperature=NEURAL):
    n = len(s)
    spread = [sum(abs(a - b) for b in s) for a in s]
    return np.array([softmax(np.array([(n + 1 - 2 * r) * s[j] - spread[j] for j in range(n)]) / temperature)
                     for r in range(1, n + 1)])  # fmt: skip


def soft_sort_oracle(s, temperature=SOFT, power=1):
    return np.array([softmax(-(np.abs(top - s) ** power) / temperature) for top in np.sort(s)[::-1]])


def sort_matrix(labels):
    """Mean of the permutation matrices of all ways to break the ties, each tie's block alone."""
    matrix = np.zeros((len(labels), len(labels)))
    for j, label in enumerate(labels):
        above, ties = np.sum(labels > label), np.sum(labels == label)
        matrix[above : above + ties, j] = 1 / ties
    return matrix


def relaxed_recall_oracle(predicted, labels, m, k):
    n = len(labels)
    if n <= m:
        return None
    wanted = sort_matrix(labels)
    return sum(-np.log(predicted[:m, j].sum() / m + EPSILON) * wanted[:k, j].sum() for j in range(n)) / n


def global_ranking_oracle(predicted, labels):
    n = len(labels)
    if not n:
        return None
    wanted = sort_matrix(labels)
    return sum(-np.log(predicted[i, j] + EPSILON) * wanted[i, j] for i in range(n) for j in range(n)) / n**2


def end_to_end_oracle(stages, labels, cuts, k, sums=None):
    """Also with the sums of the columns given, which the gradient of the loss takes for constants."""
    n = len(labels)
    if n <= min(cuts):
        return None
    total, best = 0, sort_matrix(labels)[:k].sum(0)
    sums = [stage.sum(0) for stage in stages] if sums is None else sums
    for j in range(n):
        columns = [(stage[:, j] / (s[j] + EPSILON), q) for stage, s, q in zip(stages, sums, cuts, strict=True)]
        survives = np.prod([column[:q].sum() for column, q in columns])
        passes = np.prod([1 - column[q:].sum() for column, q in columns])
        total -= best[j] * np.log(survives + EPSILON) + (1 - best[j]) * np.log(1 - passes + EPSILON)
    return total / n


def single_stage_oracle(stage, labels, cut, k, sums=None):
    n = len(labels)
    if n <= cut:
        return None
    best, sums = sort_matrix(labels)[:k].sum(0), stage.sum(0) if sums is None else sums
    kept, dropped = stage[:cut].sum(0) / (sums + EPSILON), stage[cut:].sum(0) / (sums + EPSILON)
    return -np.sum(best * np.log(kept + EPSILON) + (1 - best) * np.log(dropped + EPSILON)) / n


def _stages(s, a):
    return [s, s + a["products"]]


CUTS = (4, 2)

CASES = [
    Case(
        "arf_relaxed_recall",
        lambda s, a, where, **kw: relaxed_recall(s, -a["rank"], m=2, k=3, temperature=NEURAL, where=where, **kw),
        lambda s, a: relaxed_recall_oracle(neural_sort(s), -a["rank"], 2, 3),
    ),
    Case(
        "arf_relaxed_recall_soft_sort",
        lambda s, a, where, **kw: relaxed_recall(
            s, a["grades"], m=1, k=2, temperature=SOFT, sort=functools.partial(soft_sort, power=2), where=where, **kw
        ),
        lambda s, a: relaxed_recall_oracle(soft_sort_oracle(s, power=2), a["grades"], 1, 2),
        modes=("fwd", "rev"),
    ),
    Case(
        "arf_global_ranking",
        lambda s, a, where, **kw: global_ranking(s, a["grades"], temperature=NEURAL, where=where, **kw),
        lambda s, a: global_ranking_oracle(neural_sort(s), a["grades"]),
        modes=("fwd", "rev"),
    ),
    # The sums of the columns are constants to LCRON's gradient, which is therefore not the slope of its value.
    Case(
        "lcron_single_stage",
        lambda s, a, where, **kw: single_stage(s, a["grades"], cut=2, k=3, temperature=NEURAL, where=where, **kw),
        lambda s, a: single_stage_oracle(neural_sort(s), a["grades"], 2, 3),
        modes=(),
    ),
    Case(
        "lcron_end_to_end",
        lambda s, a, where, **kw: end_to_end(
            _stages(s, a), a["grades"], cuts=CUTS, k=3, temperature=SOFT, sort=soft_sort, where=where, **kw
        ),
        lambda s, a: end_to_end_oracle([soft_sort_oracle(x) for x in _stages(s, a)], a["grades"], CUTS, 3),
        modes=(),
    ),
]
