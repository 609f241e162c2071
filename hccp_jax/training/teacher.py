"""The teacher: a trained model whose calibrated predictions are written into a log, as a ranking stage would."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from hccp_jax.data.catalogue import Catalogue
from hccp_jax.data.requests import RequestBatch, first_slots
from hccp_jax.methods.base import Method

BLOCK = 256


class Calibration(NamedTuple):
    """Platt scaling of logits: sigmoid(scale * z + offset)."""

    scale: float
    offset: float


def predictor(
    method: Method,
    parameters: Any,
    featurise: Callable[[RequestBatch, Catalogue], RequestBatch],
    catalogue: Catalogue,
    slots: int,
) -> Callable[[RequestBatch], dict[str, np.ndarray]]:
    """A function from a log with NumPy leaves to head -> logits [n, slots] float32, compiled once a shape.

    Lists are cut to their first `slots` slots; shorter ones stay as they are.
    """

    @jax.jit
    def block(parameters: Any, part: RequestBatch, catalogue: Catalogue) -> dict[str, jax.Array]:
        return method.heads(parameters, featurise(part, catalogue))

    def predict(log: RequestBatch) -> dict[str, np.ndarray]:
        short = first_slots(log, slots)
        total, width = short.mask.shape
        size = min(BLOCK, total)
        # the last block begins earlier rather than being shorter: one program
        starts = [min(start, total - size) for start in range(0, total, size)]
        found: dict[str, np.ndarray] = {}
        for start in starts:
            part = jax.tree.map(lambda leaf, s=start: leaf[s : s + size], short)
            for name, logits in jax.device_get(block(parameters, part, catalogue)).items():
                found.setdefault(name, np.zeros((total, width), np.float32))[start : start + size] = logits
        return found

    return predict


def calibrate(logits: np.ndarray, labels: np.ndarray, where: np.ndarray, iterations: int = 25) -> Calibration:
    """Platt scaling (Platt 1999) on chosen entries, by Newton's method from the identity.

    Args:
        logits: [...] floats.
        labels: [...] in [0, 1].
        where: [...] bool.
        iterations: Newton steps.

    Returns:
        The scale and offset with the smallest log-loss; the identity where the entries hold one class only.

    >>> z = np.array([2.0, 2.0, 2.0, 2.0, -2.0, -2.0])
    >>> found = calibrate(z, np.array([1, 1, 1, 0, 1, 0]), np.ones(6, bool))  # rates 3/4 and 1/2
    >>> print(f"{found.scale:.3f} {found.offset:.3f}")  # half of logit(3/4) / 2, and logit(3/4) / 2
    0.275 0.549

    """
    z, y = np.asarray(logits, np.float64)[where], np.asarray(labels, np.float64)[where]
    if not len(y) or y.min() == y.max():
        return Calibration(1.0, 0.0)
    inputs = np.stack([z, np.ones_like(z)])
    weights = np.array([1.0, 0.0])
    for _ in range(iterations):
        p = 1.0 / (1.0 + np.exp(-np.clip(weights @ inputs, -30.0, 30.0)))
        slope = inputs @ (p - y)
        curvature = (inputs * (p * (1.0 - p))) @ inputs.T + 1e-9 * len(y) * np.eye(2)
        weights -= np.clip(np.linalg.solve(curvature, slope), -1.0, 1.0)
    return Calibration(float(weights[0]), float(weights[1]))


def write_teacher(
    log: RequestBatch, logits: dict[str, np.ndarray], calibrations: dict[str, Calibration], ranked: np.ndarray
) -> RequestBatch:
    """The log with `teacher` filled in: task -> [n, K] float32 calibrated probabilities.

    Args:
        log: NumPy leaves [n, K].
        logits: of `predictor`.
        calibrations: of `calibrate`, one for each task that is written.
        ranked: [n, K] bool, the items that the ranking stage scored; the others get 0.
    """
    teacher: Any = {}
    for task, (scale, offset) in calibrations.items():
        known = scale * logits[task] + offset
        padded = np.zeros(log.mask.shape, np.float32)
        padded[:, : known.shape[1]] = 1.0 / (1.0 + np.exp(-np.clip(known, -30.0, 30.0)))
        teacher[task] = np.where(ranked, padded, 0.0).astype(np.float32)
    return replace(log, teacher=teacher)
