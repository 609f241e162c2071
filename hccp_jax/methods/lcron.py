"""LCRON (Wang et al., ICML 2025, Kuaishou): a lower bound of surviving the cascade, on any architecture.

The pre-ranker is the one stage that is trained here, so the product over stages of the paper has one factor: L_e2e is
then L_single, and the learned weight decides how much of it counts twice. The ground truth is the downstream order.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from hccp_jax.collectives import Axis, global_mean
from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.requests import RequestBatch
from hccp_jax.losses import lcron as kernels
from hccp_jax.methods.base import Method, Parameters, scored_method, scorer
from hccp_jax.methods.levels import downstream_order
from hccp_jax.models.pair_model import PairModel


@dataclass(frozen=True)
class LcronConfig:
    """The stage's cut; static. The released code sets it to k."""

    cut: int = field(10, "how many items of a training list the stage keeps", at_least=1)
    k: int = field(10, "how many best items of a list are to survive", at_least=1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LcronHyper:
    """The numbers of LCRON."""

    temperature: float = field(50.0, "of NeuralSort, whose logits grow with the list", above=0)
    learning_rate: float = field(3e-3, "Adam step size", above=0)


def lcron(spec: FeatureSpec, model: PairModel, config: LcronConfig) -> Method:
    """LCRON; the first logit is the score. The learned uncertainty is the parameter "log_uncertainty"."""
    of = scorer(model)

    def init(key: jax.Array, batch: RequestBatch) -> Parameters:
        return {**of.init(key, batch), "log_uncertainty": jnp.zeros(1)}

    def loss(
        parameters: Parameters, hyper: Any, batch: RequestBatch, key: jax.Array, progress: jax.Array, axis: Axis
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        scores = of.logits(parameters, batch)[:, 0]
        value = kernels.lcron(
            [scores],
            downstream_order(batch),
            parameters["log_uncertainty"],
            cuts=(config.cut,),
            k=config.k,
            temperature=hyper.temperature,
            where=batch.mask,
            reduce_fn=global_mean(axis),
        )
        return value, {"survival": value}

    return scored_method(of._replace(init=init), spec, loss, frozenset({"ranked", "preranked"}))
