"""Contrastive losses beyond HCCP's: SDCL's adaptive weights and HAP-style groups."""

import jax.numpy as jnp
import numpy as np

from hccp_jax.losses.grouped import grouped_info_nce
from hccp_jax.losses.sdcl import adaptive_weighted_contrastive

from .case import EASY, EXTRA, HARD, OTHER, POSITIVE, Case

TEMPERATURE, SIMILARITY, DELTA = 0.5, 0.3, 0.7
TEMPERATURES, WEIGHTS = (0.5, 1.0, 2.0), (1.0, 0.25, 3.0)
GROUPS = ((HARD,), (EASY, HARD), (EXTRA, OTHER))


def cosine(x, y):
    return x @ y / np.sqrt((x @ x) * (y @ y))


def adaptive_weights_oracle(negative_logits, x_positive, x_negative, temperature=SIMILARITY, delta=DELTA):
    """SDCL Eq 8, pair by pair."""
    w = np.zeros((len(x_positive), len(x_negative)))
    for i, x in enumerate(x_positive):
        similarity = [np.exp(cosine(x, y) / temperature) for y in x_negative]
        for z, logit in enumerate(negative_logits):
            w[i, z] = delta * (similarity[z] / sum(similarity) + np.exp(-np.logaddexp(0, -logit)))
    return w


def weighted_info_nce_oracle(positives, negatives, weights):
    """SDCL Eq 7, for logits divided by the temperature."""
    if not len(positives):
        return None
    return sum(
        np.logaddexp(0, np.logaddexp.reduce(np.append(-np.inf, np.log(w) + negatives)) - p)
        for p, w in zip(positives, weights, strict=True)
    )


def _vectors(a, stack):
    return stack([a["products"] - 1, a["weights"] - 1, a["teacher"] - 0.5], axis=-1)


def _sdcl(s, a, where, **kw):
    x = _vectors(a, jnp.stack)
    rest = {"temperature": TEMPERATURE, "similarity_temperature": SIMILARITY, "delta": DELTA}
    chosen = {"positive_where": where & (a["kind"] == POSITIVE), "negative_where": where & (a["kind"] > POSITIVE)}
    return adaptive_weighted_contrastive(s, s, x, x, **chosen, **rest, **kw)


def _sdcl_oracle(s, a):
    x, positive, negative = _vectors(a, np.stack), a["kind"] == POSITIVE, a["kind"] > POSITIVE
    weights = adaptive_weights_oracle(s[negative], x[positive], x[negative])
    return weighted_info_nce_oracle(s[positive] / TEMPERATURE, s[negative] / TEMPERATURE, weights)


def _grouped(s, a, where, **kw):
    positive = where & (a["kind"] == POSITIVE)
    groups = jnp.stack([where & sum(a["kind"] == kind for kind in group).astype(bool) for group in GROUPS], axis=-2)
    weights = {"temperature": jnp.array(TEMPERATURES), "group_weights": jnp.array(WEIGHTS)}
    return grouped_info_nce(s, positive=positive, groups=groups, **weights, **kw)


def grouped_oracle(s, positive, groups, temperatures=TEMPERATURES, weights=WEIGHTS):
    if not positive.any():
        return None
    ones = np.ones((positive.sum(), len(s)))
    return sum(
        w * weighted_info_nce_oracle(s[positive] / t, s[group] / t, ones[:, group])
        for group, t, w in zip(groups, temperatures, weights, strict=True)
    )


CASES = [
    # Its weights are constants to the gradient, which is therefore not the slope of the value.
    Case("sdcl", _sdcl, _sdcl_oracle, shifts=False, needs_positive=True, modes=()),
    Case(
        "sdcl_through_the_weights",
        lambda s, a, where, **kw: _sdcl(s, a, where, stop_weight_gradient=False, **kw),
        _sdcl_oracle,
        shifts=False,
        needs_positive=True,
    ),
    Case(
        "grouped_info_nce",
        _grouped,
        lambda s, a: grouped_oracle(s, a["kind"] == POSITIVE, [np.isin(a["kind"], group) for group in GROUPS]),
        needs_positive=True,
        modes=("fwd", "rev"),
    ),
]
