"""Multi-positive softmax: clicked items against everything else of the list, positives not competing.

The loss of ASMOL ("Rethinking the Role of Pre-ranking", Zhang et al. 2023) for one task, alone: what is left of that
system without its exposure task, its distillation and its sampling.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from hccp_jax.collectives import Axis, global_mean
from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.requests import RequestBatch
from hccp_jax.losses.softmax import multi_positive_softmax
from hccp_jax.methods.base import Method, Parameters, scored_method, scorer
from hccp_jax.models.pair_model import PairModel


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MultiPositiveHyper:
    """The numbers of the multi-positive softmax."""

    temperature: float = field(1.0, "divides the logit", above=0)
    learning_rate: float = field(3e-3, "Adam step size", above=0)


def multi_positive(spec: FeatureSpec, model: PairModel) -> Method:
    """Multi-positive softmax over the whole list on any architecture, for each of its logits."""
    of = scorer(model)

    def loss(
        parameters: Parameters, hyper: Any, batch: RequestBatch, key: jax.Array, progress: jax.Array, axis: Axis
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits = jnp.moveaxis(of.logits(parameters, batch), 1, 0) / hyper.temperature
        names = spec.tasks[: len(logits)]
        labels = jnp.stack([batch.labels[name] * batch.exposed for name in names])
        real = jnp.broadcast_to(batch.mask, labels.shape)
        values = multi_positive_softmax(logits, labels, where=real, reduce_fn=global_mean(axis))
        return jnp.sum(values), {f"softmax/{name}": values[index] for index, name in enumerate(names)}

    return scored_method(of, spec, loss, frozenset({"ranked", "preranked", "pool"}))
