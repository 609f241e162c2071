"""Scores exposed lists of held-out real requests: AUC, AUC by user, log-loss."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from hccp_jax.data.catalogue import Catalogue
from hccp_jax.data.requests import RequestBatch
from hccp_jax.evaluation import exposures
from hccp_jax.methods.base import Method

BLOCK = 512


@dataclass(frozen=True)
class ExposedLists:
    """Evaluates scores of exposed items.

    Attributes:
        requests: NumPy leaves [n, ...], exposures only.
        catalogue: feature tables.
        featurise: attaches features to a stored batch.
        cutoffs: K of in-scenario hit rates within the lists; none unless told.
    """

    requests: RequestBatch
    catalogue: Catalogue
    featurise: Callable[[RequestBatch, Catalogue], RequestBatch]
    cutoffs: tuple[int, ...] = ()

    def measure(self, logits: dict[str, Any], probabilistic: bool = True) -> dict[str, float]:
        """Metrics of task -> [n, K] logits; without log-loss where they are no logits."""
        found = {}
        exposed = np.asarray(self.requests.exposed)
        users = np.broadcast_to(self.requests.user["id"][:, None], exposed.shape)
        for task, label in self.requests.labels.items():
            if task not in logits:
                continue
            found[f"{task}/AUC"] = exposures.auc(logits[task], label, exposed)
            found[f"{task}/GAUC"] = exposures.gauc(logits[task], label, users, exposed).value
            for k in self.cutoffs:
                found[f"{task}/ISH@{k}"] = exposures.hit_rate(logits[task], label, k, exposed).value
            if probabilistic:
                found[f"{task}/log_loss"] = exposures.log_loss(logits[task], label, exposed)
        return found

    def measurer(self, method: Method) -> Callable[[Any], dict[str, float]]:
        """A function parameters -> metrics of one member, each task by its own head; compiled once."""
        run = jax.jit(partial(_heads, method, self.featurise))
        total = len(self.requests.mask)
        # the last block begins earlier rather than being shorter: one program, no padding
        starts = [min(start, max(total - BLOCK, 0)) for start in range(0, total, BLOCK)]
        blocks = [jax.tree.map(lambda leaf, s=start: leaf[s : s + BLOCK], self.requests) for start in starts]

        def measure(parameters: Any) -> dict[str, float]:
            logits: dict[str, np.ndarray] = {}
            for start, block in zip(starts, blocks, strict=True):
                for head, found in jax.device_get(run(parameters, block, self.catalogue)).items():
                    scores = logits.setdefault(head, np.empty(self.requests.mask.shape, np.float32))
                    scores[start : start + BLOCK] = found
            return self.measure(logits)

        return measure

    def population(self, method: Method, parameters: Any) -> list[dict[str, float]]:
        """Metrics of members with parameters [M, ...]; each task by its own head."""
        measure = self.measurer(method)
        members = range(len(jax.tree.leaves(parameters)[0]))
        return [measure(jax.tree.map(lambda leaf, m=member: leaf[m], parameters)) for member in members]


def _heads(method: Method, featurise: Any, parameters: Any, block: RequestBatch, catalogue: Catalogue) -> Any:
    return method.heads(parameters, featurise(block, catalogue))
