"""The softmax kernels and their float64 oracles."""

import numpy as np

from hccp_jax.losses.softmax import multi_positive_softmax, softmax_cross_entropy

from .case import Case


def log_sum_exp(x):
    return max(x) + np.log(sum(np.exp(x - max(x))))


def softmax_oracle(z, y):
    """Labels as they are; None without a positive one."""
    return sum(label * (log_sum_exp(z) - score) for label, score in zip(y, z, strict=True)) if (y > 0).any() else None


def multi_positive_oracle(z, y):
    """Each positive with all negatives; None without a positive."""
    negatives = z[y <= 0]
    return sum(log_sum_exp(np.append(negatives, p)) - p for p in z[y > 0]) if (y > 0).any() else None


CASES = [
    Case(
        "softmax_cross_entropy",
        lambda s, a, where, **kw: softmax_cross_entropy(s, a["grades"], where=where, **kw),
        lambda s, a: softmax_oracle(s, a["grades"]),
        needs_positive=True,
        modes=("rev", "fwd"),
    ),
    Case(
        "multi_positive_softmax",
        lambda s, a, where, **kw: multi_positive_softmax(s, a["grades"], where=where, **kw),
        lambda s, a: multi_positive_oracle(s, a["grades"]),
        needs_positive=True,
    ),
]
