"""AUC of each task on held-out lists that hold impressions and negatives sampled from the funnel's stages.

What an AUC says depends on its negatives: items that no stage retrieved are told apart by anyone. So positives are set
against each kind of negatives alone, and against a set of kinds together with the impressions without feedback, which
are the lists a model of SDCL trains on. AUC is over all entries together (decision: SDCL cites DIN for it, which
weighs users, and does not say whether it follows).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from hccp_jax.data.catalogue import Catalogue
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.evaluation import exposures
from hccp_jax.methods.base import Method

STAGES = {"ranked": Stage.RANKED, "preranked": Stage.PRERANKED, "pool": Stage.POOL}
"""Kinds of negatives: SDCL's Ranking, Pre-ranking and Matching NS."""


@dataclass(frozen=True)
class StagedLists:
    """Lists as the training log has them.

    Attributes:
        requests: leaves [blocks, U, ...]: impressions with labels [blocks, U, K], and sampled negatives by stage.
        catalogue: feature tables.
        featurise: attaches features to a stored batch.
    """

    requests: RequestBatch
    catalogue: Catalogue
    featurise: Callable[[RequestBatch, Catalogue], RequestBatch]

    def scorer(self, method: Method) -> Callable[[Any], dict[str, np.ndarray]]:
        """A function parameters -> task -> logits [blocks, U, K] of its own head; compiled once."""

        @jax.jit
        def run(parameters: Any, requests: RequestBatch, catalogue: Catalogue) -> dict[str, jax.Array]:
            return jax.lax.map(lambda block: method.heads(parameters, self.featurise(block, catalogue)), requests)

        return lambda parameters: jax.device_get(run(parameters, self.requests, self.catalogue))

    def measure(self, logits: dict[str, Any], kept: Collection[str] = tuple(STAGES)) -> dict[str, float]:
        """AUC of task -> [blocks, U, K] scores; NaN where a class is missing.

        Args:
            logits: order matters only.
            kept: the kinds of negatives of "<task>/AUC".

        Returns:
            "<task>/AUC" against the impressions without feedback and the kept kinds, "<task>/AUC/<kind>" against each
            kind alone, "<task>/AUC/impressions" against the impressions alone.
        """
        requests = self.requests
        exposed = np.asarray(requests.exposed)
        at = {kind: np.asarray(requests.mask & (requests.stage == STAGES[kind])) for kind in STAGES}
        sampled = np.any([at[kind] for kind in kept], axis=0) if kept else np.zeros_like(exposed)
        found: dict[str, float] = {}
        for task, labels in requests.labels.items():
            if task not in logits:
                continue
            label = np.where(exposed, labels, 0.0)
            entries = {"": exposed | sampled, "/impressions": exposed}
            entries |= {f"/{kind}": at[kind] | (label > 0) for kind in STAGES}
            found |= {
                f"{task}/AUC{name}": exposures.auc(logits[task], label, chosen) for name, chosen in entries.items()
            }
        return found
