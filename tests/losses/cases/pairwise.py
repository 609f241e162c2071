"""The kernels of pairs, ApproxNDCG among them, and their float64 oracles pair by pair."""

from math import exp, expm1, log1p, log2

import jax.numpy as jnp
import numpy as np

from hccp_jax.losses.approx_ndcg import approx_ndcg
from hccp_jax.losses.pairwise import SHORT, bpr, delta_ndcg_logistic, pairwise_logistic, triplet

from .case import HARD, POSITIVE, Case

MARGIN, TEMPERATURE, TOP = 0.7, 0.5, 3


def softplus(x):
    return max(x, 0) + log1p(exp(-abs(x)))


def pairwise_logistic_oracle(z, y, w=None):
    """RankNet; None without a pair."""
    w = np.ones(len(z)) if w is None else w
    pairs = [(i, j) for i in range(len(z)) for j in range(len(z)) if y[i] > y[j]]
    return sum(w[i] * softplus(z[j] - z[i]) for i, j in pairs) if pairs else None


def opposites_oracle(term, positives, negatives):
    """Sum of a term of z_n - z_p; None without a positive."""
    return sum(term(n - p) for p in positives for n in negatives) if len(positives) else None


def ranks_of(x):
    """From 1, the largest first, equal ones in slot order."""
    ranks = np.empty(len(x))
    ranks[np.argsort(-x, kind="stable")] = np.arange(1, len(x) + 1)
    return ranks


def delta_ndcg_oracle(z, g, top=None, ratio=False):
    def discount(rank):
        return 1 / log2(1 + rank) if top is None or rank <= top else 0.0

    rank, ideal = ranks_of(z), sum(g_i * discount(r) for g_i, r in zip(g, ranks_of(g), strict=True))
    pairs = [(i, j) for i in range(len(z)) for j in range(len(z)) if g[i] > g[j]]
    total = 0.0
    for i, j in pairs:
        behind = -expm1(z[i] - z[j]) if ratio else z[j] - z[i]
        total += (g[i] - g[j]) * abs(discount(rank[i]) - discount(rank[j])) / ideal * softplus(behind)
    return total if pairs else None


def approx_ndcg_oracle(z, y, temperature):
    if not (y > 0).any():
        return None
    size = len(z)
    rank = [1 + sum(1 / (1 + exp(-(z[j] - z[i]) / temperature)) for j in range(size) if j != i) for i in range(size)]
    ideal = sum((2**label - 1) / log2(2 + k) for k, label in enumerate(sorted(y, reverse=True)))
    return -sum((2**label - 1) / log2(1 + r) for label, r in zip(y, rank, strict=True)) / ideal


def _long(s, a, where, **kw):
    """With weights, and masked slots enough for the streamed form."""

    def grown(x, fill):
        return jnp.concatenate([x, jnp.full_like(x, fill, shape=(*x.shape[:-1], SHORT))], axis=-1)

    arrays = [grown(x, jnp.nan) for x in (s, a["grades"], a["weights"])]
    return pairwise_logistic(arrays[0], arrays[1], weights=arrays[2], where=grown(where, False), **kw)


def _opposites(loss, **options):
    def call(s, a, where, **kw):
        chosen = {"positive_where": where & (a["kind"] == POSITIVE), "negative_where": where & (a["kind"] == HARD)}
        return loss(s, s, **chosen, **options, **kw)

    return call


def _split(s, a):
    return s[a["kind"] == POSITIVE], s[a["kind"] == HARD]


CASES = [
    Case(
        "pairwise_logistic",
        lambda s, a, where, **kw: pairwise_logistic(s, a["grades"], where=where, **kw),
        lambda s, a: pairwise_logistic_oracle(s, a["grades"]),
        needs_positive=True,
    ),
    Case(
        "pairwise_logistic_long",
        _long,
        lambda s, a: pairwise_logistic_oracle(s, a["grades"], a["weights"]),
        needs_positive=True,
    ),
    Case("bpr", _opposites(bpr), lambda s, a: opposites_oracle(softplus, *_split(s, a)), needs_positive=True),
    Case(
        "triplet",
        _opposites(triplet, margin=MARGIN),
        lambda s, a: opposites_oracle(lambda x: max(MARGIN + x, 0), *_split(s, a)),
        needs_positive=True,
        modes=("rev", "fwd"),
    ),
    Case(
        "delta_ndcg_logistic",
        lambda s, a, where, **kw: delta_ndcg_logistic(s, a["grades"], where=where, **kw),
        lambda s, a: delta_ndcg_oracle(s, a["grades"]),
        needs_positive=True,
        modes=("rev", "fwd"),
    ),
    Case(
        "delta_ndcg_ratio_top",
        lambda s, a, where, **kw: delta_ndcg_logistic(s, a["grades"], where=where, top=TOP, ratio=True, **kw),
        lambda s, a: delta_ndcg_oracle(s, a["grades"], TOP, ratio=True),
        needs_positive=True,
    ),
    Case(
        "approx_ndcg",
        lambda s, a, where, **kw: approx_ndcg(s, a["grades"], temperature=TEMPERATURE, where=where, **kw),
        lambda s, a: approx_ndcg_oracle(s, a["grades"], TEMPERATURE),
        needs_positive=True,
    ),
]
