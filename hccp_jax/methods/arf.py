"""ARF: the adaptive neural ranking framework (Wang et al., WWW 2024, Kuaishou), and ARF-v2, on any architecture.

Definitions are those of the authors' code; the ground truth is the downstream order, unranked items tied by stage.
RankTower compares to "ARF" without naming its network: ARF is a loss.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hccp_jax.collectives import Axis, global_mean
from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.requests import RequestBatch
from hccp_jax.losses.arf import global_ranking, relaxed_recall, uncertainty_weighted
from hccp_jax.losses.lcron import single_stage
from hccp_jax.methods.base import Method, Parameters, scored_method, scorer
from hccp_jax.methods.levels import downstream_order
from hccp_jax.models.pair_model import PairModel


@dataclass(frozen=True)
class ArfConfig:
    """Cuts of Recall@m@k; static."""

    m: int = field(20, "how many items of a training list the stage keeps", at_least=1)
    k: int = field(10, "how many best items of a list are looked for", at_least=1)
    version: str = field("v1", "v1: L_relax; v2: the two-sided L_single of LCRON in its place", choices=("v1", "v2"))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ArfHyper:
    """The numbers of ARF."""

    temperature: float = field(50.0, "of NeuralSort, whose logits grow with the list (200 in the code)", above=0)
    learning_rate: float = field(3e-3, "Adam step size", above=0)


def arf(spec: FeatureSpec, model: PairModel, config: ArfConfig) -> Method:
    """ARF; the first logit is the score. The learned uncertainty is the parameter "log_uncertainty"."""
    of = scorer(model)

    def init(key: jax.Array, batch: RequestBatch) -> Parameters:
        return {**of.init(key, batch), "log_uncertainty": jnp.zeros(())}

    def loss(
        parameters: Parameters, hyper: Any, batch: RequestBatch, key: jax.Array, progress: jax.Array, axis: Axis
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        mean, truth = global_mean(axis), downstream_order(batch)
        scores = of.logits(parameters, batch)[:, 0]
        cut = partial(relaxed_recall, m=config.m) if config.version == "v1" else partial(single_stage, cut=config.m)
        given = {"temperature": hyper.temperature, "where": batch.mask, "reduce_fn": mean}
        relaxed = cut(scores, truth, k=config.k, **given)
        ranking = global_ranking(scores, truth, **given)
        # L_relax + L_global / (2 w^2) + log w
        total = uncertainty_weighted(relaxed, ranking, parameters["log_uncertainty"])
        return total, {"relaxed_recall": relaxed, "global_ranking": ranking}

    return scored_method(of._replace(init=init), spec, loss, frozenset({"ranked", "preranked"}))
