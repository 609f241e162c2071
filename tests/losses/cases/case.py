"""Every kernel under one calling convention: `loss(scores, aux, where)`, all arrays [..., K]."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

OTHER, POSITIVE, HARD, EASY, EXTRA = range(5)


@dataclasses.dataclass(frozen=True)
class Case:
    """A kernel and its oracle.

    Attributes:
        oracle: of one list without masked slots; None if the list is not valid.
        arranged: the order of the slots has a meaning.
        shifts: adding a constant to all scores changes nothing.
        needs_positive: a list without a positive is not valid.
        modes: of `jax.test_util.check_grads`.
        variant: another case has the same kernel; run with the slow tests.
        rtol: of the value and of the gradient against float64.
    """

    name: str
    loss: Callable
    oracle: Callable
    arranged: bool = False
    shifts: bool = True
    needs_positive: bool = False
    modes: tuple[str, ...] = ("rev",)
    variant: bool = False
    rtol: float = 2e-6


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
        "grades": np.select([kind == POSITIVE, kind == HARD], [2.0, 1.0], 0.0).astype(np.float32),
        "teacher": rng.uniform(0.05, 0.95, shape).astype(np.float32),
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
