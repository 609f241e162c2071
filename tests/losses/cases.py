"""Every kernel under one calling convention: `loss(scores, aux, where)`, all arrays [..., K]."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from hccp_jax.losses.contrastive import info_nce, margin_info_nce
from hccp_jax.losses.listwise import list_mle, list_net
from hccp_jax.losses.pointwise import binary_cross_entropy

from . import oracles

MARGIN, TEMPERATURE = 0.4, 0.5
OTHER, POSITIVE, HARD, EASY, EXTRA = range(5)


@dataclasses.dataclass(frozen=True)
class Case:
    """A kernel and its oracle.

    Attributes:
        oracle: of one list without masked slots; None if the list is not valid.
        arranged: the order of the slots has a meaning.
        shifts: adding a constant to all scores changes nothing.
        needs_positive: a list without a positive is not valid.
    """

    name: str
    loss: Callable
    oracle: Callable
    arranged: bool = False
    shifts: bool = True
    needs_positive: bool = False


def _info_nce(s, a, where, **kw):
    chosen = {"positive_where": where & (a["kind"] == POSITIVE), "negative_where": where & (a["kind"] == HARD)}
    return info_nce(s / TEMPERATURE, s / TEMPERATURE, **chosen, **kw)


def _margin(s, a, where, **kw):
    chosen = {name: where & (a["kind"] == kind) for name, kind in [("positive", 1), ("hard", 2), ("easy", 3)]}
    extra = {"extra_easy_logits": s, "extra_easy_where": where & (a["kind"] == EXTRA)}
    return margin_info_nce(s, a["products"], **chosen, **extra, margin=MARGIN, temperature=TEMPERATURE, **kw)


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


def draw(seed: int, shape: tuple[int, ...], spread: float = 2.0, full: bool = False):
    """Scores, the side arrays of every kernel, and a mask; with `full` each list has all kinds and no padding."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, spread, shape).astype(np.float32)
    kind = rng.integers(0, 5, shape)
    if full:
        kind = rng.permuted(np.broadcast_to(np.arange(shape[-1]) % 5, shape), axis=-1)
    aux = {
        "labels": (kind == POSITIVE).astype(np.float32),
        "weights": rng.uniform(0, 2, shape).astype(np.float32),
        "rank": np.argsort(rng.random(shape), axis=-1).astype(np.int32) - 1,
        "kind": kind,
        "products": rng.uniform(0.1, 2, shape).astype(np.float32),
    }
    mask = np.ones(shape, bool) if full else rng.random(shape) < rng.choice([0.3, 0.8])
    return jnp.asarray(scores), jax.tree.map(jnp.asarray, aux), jnp.asarray(mask)


def expected(case: Case, scores, aux, mask) -> float:
    """The oracle's mean over the valid lists, in float64; 0 if there is none."""
    size = scores.shape[-1]
    scores, mask = np.asarray(scores, np.float64).reshape(-1, size), np.asarray(mask).reshape(-1, size)
    aux = {name: np.asarray(value).reshape(-1, size) for name, value in aux.items()}
    values = [
        case.oracle(scores[i, mask[i]], {name: value[i, mask[i]] for name, value in aux.items()})
        for i in range(len(scores))
    ]
    valid = [value for value in values if value is not None]
    return float(np.mean(valid)) if valid else 0.0
