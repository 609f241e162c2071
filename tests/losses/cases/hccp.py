"""The kernels of HCCP: calibration, consistency and contrast."""

from hccp_jax.losses.contrastive import info_nce, margin_info_nce
from hccp_jax.losses.listwise import list_mle, list_net
from hccp_jax.losses.pointwise import binary_cross_entropy
from hccp_jax.losses.reduction import log_sum_exp

from .. import oracles
from .case import EASY, EXTRA, HARD, POSITIVE, Case

MARGIN, TEMPERATURE = 0.4, 0.5


def _info_nce(s, a, where, **kw):
    chosen = {"positive_where": where & (a["kind"] == POSITIVE), "negative_where": where & (a["kind"] == HARD)}
    return info_nce(s / TEMPERATURE, s / TEMPERATURE, **chosen, **kw)


def _margin(s, a, where, **kw):
    chosen = {name: where & (a["kind"] == kind) for name, kind in [("positive", 1), ("hard", 2), ("easy", 3)]}
    extra = log_sum_exp(s / TEMPERATURE, where & (a["kind"] == EXTRA))
    numbers = {"margin": MARGIN, "temperature": TEMPERATURE}
    return margin_info_nce(s, a["products"], **chosen, easy_log_sum_exp=extra, **numbers, **kw)


def _info_nce_oracle(s, a):
    return oracles.info_nce(s[a["kind"] == POSITIVE] / TEMPERATURE, s[a["kind"] == HARD] / TEMPERATURE)


def _margin_oracle(s, a):
    kind, easy = a["kind"], (a["kind"] == EASY) | (a["kind"] == EXTRA)
    return oracles.margin_info_nce(s, a["products"], kind == POSITIVE, kind == HARD, easy, MARGIN, TEMPERATURE)


CASES = [
    Case(
        "binary_cross_entropy",
        lambda s, a, where, **kw: binary_cross_entropy(s, a["labels"], where=where, **kw),
        lambda s, a: oracles.binary_cross_entropy(s, a["labels"]),
        shifts=False,
    ),
    Case(
        "weighted_cross_entropy",
        lambda s, a, where, **kw: binary_cross_entropy(s, a["labels"], weights=a["weights"], where=where, **kw),
        lambda s, a: oracles.binary_cross_entropy(s, a["labels"], a["weights"]),
        shifts=False,
    ),
    Case(
        "list_mle_arranged",
        lambda s, a, where, **kw: list_mle(s, where=where, **kw),
        lambda s, a: oracles.list_mle(s),
        arranged=True,
    ),
    Case(
        "list_mle_ranked",
        lambda s, a, where, **kw: list_mle(s, a["rank"], where=where, **kw),
        lambda s, a: oracles.list_mle(s, a["rank"]),
    ),
    Case(
        "list_net",
        lambda s, a, where, **kw: list_net(s, a["labels"], where=where, **kw),
        lambda s, a: oracles.list_net(s, a["labels"]),
        needs_positive=True,
    ),
    Case("info_nce", _info_nce, _info_nce_oracle, needs_positive=True),
    Case("margin_info_nce", _margin, _margin_oracle, needs_positive=True),
]
