"""The distillation kernels and their float64 oracles."""

import numpy as np

from hccp_jax.losses.distillation import mse_on_logits, pairwise_log_loss, softmax_distillation, weighted_log_loss

from .. import oracles
from .case import Case
from .pairwise import pairwise_logistic_oracle
from .softmax import softmax_oracle


def mse_oracle(z, p):
    """Squared differences of logits; None without an item."""
    logits = np.log(np.maximum(p, 1e-6)) - np.log(np.maximum(1 - p, 1e-6))
    return sum((score - logit) ** 2 for score, logit in zip(z, logits, strict=True)) if len(z) else None


CASES = [
    Case(
        "softmax_distillation",
        lambda s, a, where, **kw: softmax_distillation(s, a["teacher"], where=where, **kw),
        lambda s, a: softmax_oracle(s, a["teacher"]),
        needs_positive=True,
    ),
    Case(
        "softmax_distillation_normalized",
        lambda s, a, where, **kw: softmax_distillation(s, a["teacher"], where=where, normalize=True, **kw),
        lambda s, a: softmax_oracle(s, a["teacher"] / a["teacher"].sum()) if len(s) else None,
        needs_positive=True,
    ),
    Case(
        "weighted_log_loss",
        lambda s, a, where, **kw: weighted_log_loss(s, a["teacher"], where=where, **kw),
        lambda s, a: oracles.binary_cross_entropy(s, a["teacher"]),
        shifts=False,
    ),
    Case(
        "pairwise_log_loss",
        lambda s, a, where, **kw: pairwise_log_loss(s, a["teacher"], where=where, **kw),
        lambda s, a: pairwise_logistic_oracle(s, a["teacher"]),
        needs_positive=True,
    ),
    Case(
        "mse_on_logits",
        lambda s, a, where, **kw: mse_on_logits(s, a["teacher"], where=where, **kw),
        lambda s, a: mse_oracle(s, a["teacher"]),
        shifts=False,
    ),
]
