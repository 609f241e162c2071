"""FS-LTR: full-stage learning to rank (Zheng et al., WWW 2024, Kuaishou), pairs by the priority of the stages.

An item that got further down the funnel is preferred to one that did not: click > exposed > ranked > pre-ranked > pool
(RecFlow's DSSM baseline), each pair by the logistic loss. A second task's feedback counts above a click alone.
"""

from dataclasses import dataclass
from typing import Any

import jax

from hccp_jax.collectives import Axis, global_mean
from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.requests import RequestBatch
from hccp_jax.losses.pairwise import pairwise_logistic
from hccp_jax.methods.base import Method, Parameters, scored_method, scorer
from hccp_jax.methods.levels import stage_levels
from hccp_jax.models.pair_model import PairModel


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FsLtrHyper:
    """The numbers of FS-LTR."""

    temperature: float = field(1.0, "divides the logit in the pairwise loss", above=0)
    learning_rate: float = field(3e-3, "Adam step size", above=0)


def fs_ltr(spec: FeatureSpec, model: PairModel) -> Method:
    """FS-LTR on any architecture; the first logit is the score."""
    of = scorer(model)

    def loss(
        parameters: Parameters, hyper: Any, batch: RequestBatch, key: jax.Array, progress: jax.Array, axis: Axis
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        scores = of.logits(parameters, batch)[:, 0] / hyper.temperature
        value = pairwise_logistic(scores, stage_levels(batch), where=batch.mask, reduce_fn=global_mean(axis))
        return value, {"pairs": value}

    return scored_method(of, spec, loss, frozenset({"ranked", "preranked"}))
