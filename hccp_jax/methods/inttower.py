"""IntTower (Li et al., CIKM 2022, Huawei): log-loss on impressions and its contrastive interaction regulariser.

The released code computes the regulariser and leaves it out of the loss, and takes the 0/1 label for a column index;
here it is InfoNCE along the diagonal of the positive pairs, in the loss with the weight 0.1.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from hccp_jax.collectives import Axis, all_gather, pmean
from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.requests import RequestBatch
from hccp_jax.losses.regularizers import contrastive_interaction
from hccp_jax.methods.base import Method, Parameters, inputs, scored_method, scorer, weighted
from hccp_jax.methods.pointwise import pointwise_loss
from hccp_jax.models.inttower import IntTower


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IntTowerHyper:
    """The numbers of IntTower."""

    interaction: float = field(0.1, "weight of the contrastive interaction regulariser", at_least=0)
    interaction_temperature: float = field(0.07, "its temperature", above=0)
    negatives: float = field(0.0, "weight of the log-loss of unexposed items, as items without feedback", at_least=0)
    learning_rate: float = field(3e-3, "Adam step size", above=0)


def inttower(spec: FeatureSpec, model: IntTower, exposed: int) -> Method:
    """IntTower on clicks.

    Args:
        spec: feature sizes.
        model: the towers and the FE-block.
        exposed: how many leading slots can hold impressions. The pairs of the regulariser are one a request, its first
            clicked impression, against those of the other requests on all devices: of several clicks of one request
            each would be the other's negative.
    """
    of = scorer(model)

    def loss(
        parameters: Parameters, hyper: Any, batch: RequestBatch, key: jax.Array, progress: jax.Array, axis: Axis
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        user, item, logits = of.apply(parameters, *inputs(batch), method=IntTower.everything)
        total, terms = pointwise_loss(logits, spec, batch, hyper.negatives, axis)
        clicked = ((batch.labels[spec.tasks[0]] > 0) & batch.exposed)[:, :exposed]
        first = jnp.argmax(clicked, axis=-1)
        pairs = {"user": user, "item": item[jnp.arange(len(first)), first], "where": jnp.any(clicked, axis=-1)}
        pairs = all_gather(pairs, axis)
        gathered = contrastive_interaction(
            pairs["user"],
            pairs["item"],
            pairs["where"],
            where=pairs["where"],
            temperature=hyper.interaction_temperature,
        )
        interaction = pmean(gathered, axis)  # the same number on every device
        return total + weighted(hyper.interaction, interaction), terms | {"interaction": interaction}

    return scored_method(of, spec, loss)
