"""DAT, the dual augmented two-tower (Yu et al., DLP-KDD 2021, Meituan): the true one, with learned augmented vectors.

Known from a published summary; its losses are in `losses.regularizers`. The paper draws random negatives for each
positive: here the pool items of the list count as such. Category alignment takes the first categorical field.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from hccp_jax.collectives import Axis, all_gather, global_mean, pmean
from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.losses.pointwise import binary_cross_entropy
from hccp_jax.losses.regularizers import adaptive_mimic, category_alignment
from hccp_jax.methods.base import Method, Parameters, inputs, scored_method, scorer, weighted
from hccp_jax.models.dat import DualAugmentedTower


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DatHyper:
    """The numbers of DAT; the first three are the paper's."""

    mimic_user: float = field(0.5, "weight of the user's mimic loss", at_least=0)
    mimic_item: float = field(0.5, "weight of the item's mimic loss", at_least=0)
    alignment: float = field(1.0, "weight of category alignment", at_least=0)
    negatives: float = field(1.0, "weight of the log-loss of pool items, as items without feedback", at_least=0)
    learning_rate: float = field(3e-3, "Adam step size", above=0)


def dat(spec: FeatureSpec, model: DualAugmentedTower, exposed: int) -> Method:
    """DAT on clicks.

    Args:
        spec: feature sizes.
        model: the towers.
        exposed: how many leading slots can hold impressions.
    """
    of = scorer(model)

    def loss(
        parameters: Parameters, hyper: Any, batch: RequestBatch, key: jax.Array, progress: jax.Array, axis: Axis
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        mean, shown = global_mean(axis), batch.exposed
        user, user_augmented, item, item_augmented, logits = of.apply(
            parameters, *inputs(batch), method=type(model).everything
        )
        label = batch.labels[spec.tasks[0]]
        scores, pool = logits[:, 0], batch.stage == Stage.POOL
        calibration = binary_cross_entropy(scores, label, where=shown, reduce_fn=mean)
        unexposed = binary_cross_entropy(scores, jnp.zeros_like(label), where=pool, reduce_fn=mean)
        # loss_u = |y a_u + (1 - y) p_v - p_v|^2 and loss_v likewise, over the pairs of the log-loss
        pairs = (shown | pool).ravel()

        def mimic(augmented: jax.Array, other: jax.Array) -> jax.Array:
            values = adaptive_mimic(augmented, other, label, where=shown | pool, reduce_fn=lambda v, _: v)
            return mean(values.ravel(), pairs)

        of_user, of_item = mimic(user_augmented[:, None], item), mimic(item_augmented, user[:, None])
        # over the impressions of all devices
        columns = all_gather(
            {
                "vector": item[:, :exposed].reshape(-1, item.shape[-1]),
                "category": batch.items["categorical"][:, :exposed, 0].ravel(),
                "where": shown[:, :exposed].ravel(),
            },
            axis,
        )
        gathered = category_alignment(
            columns["vector"],
            columns["category"],
            num_categories=spec.item_categories,
            where=columns["where"],
            reduce_fn=lambda value, valid: jnp.where(valid, value, 0.0),
        )
        alignment = pmean(gathered, axis)  # the same number on every device
        total = calibration + hyper.mimic_user * of_user + hyper.mimic_item * of_item
        total += weighted(hyper.negatives, unexposed) + weighted(hyper.alignment, alignment)
        terms = {"calibration": calibration, "unexposed": unexposed, "mimic/user": of_user, "mimic/item": of_item}
        return total, terms | {"alignment": alignment}

    return scored_method(of, spec, loss, frozenset({"pool"}))
