"""A three-tower model with COPR's relaxation net: a positive factor on the predicted click rate, learned for ranking.

"-style": the equations of COPR (Zhao et al., CIKM 2023) could not be read. That a relaxation net exists is sure; that
it is a small network of the pair with alpha = exp(net), 1 at the start, is our choice.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.models.pair_model import PairModel
from hccp_jax.models.three_tower import ModelConfig, ThreeTower, UserSide


class RelaxedThreeTower(PairModel):
    """Three towers, and log alpha as one more output.

    Attributes:
        config: sizes of the towers; the net's hidden layer is `cross_hidden` wide.
        spec: vocabulary sizes.
    """

    config: ModelConfig
    spec: FeatureSpec

    def setup(self) -> None:
        """Create the layers."""
        self.towers = ThreeTower(self.config, self.spec, self.spec.tasks)
        self.relax_hidden = nn.Dense(self.config.cross_hidden)
        # alpha = 1 at the start
        self.relax_output = nn.Dense(1, kernel_init=nn.initializers.zeros)

    def user_side(self, user: dict, history: dict, history_mask: jax.Array) -> UserSide:
        """As `ThreeTower`."""
        return self.towers.user_side(user, history, history_mask)

    def item_side(self, items: dict) -> jax.Array:
        """As `ThreeTower`."""
        return self.towers.item_side(items)

    def pair_logits(self, users: UserSide, items: jax.Array, cross: jax.Array | None) -> jax.Array:
        """[U, T + 1, K]: the logits of the tasks, then log alpha."""
        logits = self.towers.pair_logits(users, items, cross)
        if items.ndim == 2:
            items = items[None]
        product = users.vectors[:, 0, None, :] * items
        if self.spec.cross:
            shape = (*product.shape[:-1], self.spec.cross)
            known = jnp.zeros(shape) if cross is None else cross
            product = jnp.concatenate([product, known], axis=-1)
        relax = self.relax_output(nn.relu(self.relax_hidden(product)))
        return jnp.concatenate([logits, jnp.moveaxis(relax, -1, 1)], axis=1)
