"""InfoNCE over groups of negatives of different difficulty, each with a denominator of its own: HAP-style."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.losses.reduction import ReduceFn, accumulated, log_sum_exp, mean_valid


def grouped_info_nce(
    logits: jax.Array,
    *,
    positive: jax.Array,
    groups: jax.Array,
    temperature: ArrayLike,
    group_weights: ArrayLike = 1.0,
    average_positives: bool = False,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""HAP-style gradient-harmonised contrast (Tong et al., WWW 2026): one InfoNCE a group of negatives.

    .. math::
        \ell = \sum_g w_g \sum_p -\log \frac{e^{z_p/\tau_g}}{e^{z_p/\tau_g} + \sum_{n \in N_g} e^{z_n/\tau_g}}

    All groups share the positives. In one common denominator the gradient of a hard negative is e^((z_h - z_e) / tau)
    times that of an easy one; in separate ones that ratio is multiplied by (e^(z_p / tau) + Z_e) / (e^(z_p / tau) +
    Z_h), Z_g the sum of a group, which is below 1 where the hard group is the larger.

    What is inferred: the paper's equations were not at hand. Its public figure shows one box of shared positives and
    one kind of negatives for each kind, labelled InfoNCE; that each box is a softmax of its own, one temperature and
    equal weights are a reading of it. The figure's cross entropy is the caller's to add.

    Args:
        logits: [..., K] floats, not divided by the temperature; computed in float32 or wider.
        positive: [..., K] bool, exposed with feedback; in HAP the same for all groups.
        groups: [..., G, K] bool, the negatives of each group; in HAP the exposed without feedback, the ranked, the
            pre-ranked and the pool, for its light model, and the first two for its heavy one. A slot may be in several.
        temperature: tau, a scalar, or [G] with one a group; possibly traced.
        group_weights: w, a scalar, or [G]; possibly traced.
        average_positives: divide by the number of positives, as the reading of the paper does; the sum is what
            `contrastive.info_nce` takes, which one group with weight 1 equals.
        reduce_fn: reduction of the per-list values [...]; a list is valid if it has a positive.

    Returns:
        A scalar, or what `reduce_fn` makes. 0 with zero gradient if no list has a positive; a group without negatives
        costs its list 0, with zero gradient.

    Time O(G K), memory O(G K) a list.

    >>> masks = jnp.eye(3, dtype=bool)
    >>> z = jnp.log(jnp.array([2.0, 4.0, 1.0]))
    >>> loss = grouped_info_nce(z, positive=masks[0], groups=masks[1:], temperature=1.0)
    >>> print(f"{loss:.4f}")  # log(6/2) + log(3/2)
    1.5041

    """
    count = groups.shape[-2]
    tau = jnp.broadcast_to(jnp.asarray(temperature), (count,))[:, None]
    weights = jnp.broadcast_to(jnp.asarray(group_weights), (count,))[:, None]
    real = positive | jnp.any(groups, axis=-2)
    z = jnp.where(real, accumulated(logits), 0.0)[..., None, :]
    z = z / tau.reshape((1,) * (z.ndim - 2) + tau.shape)
    shared = positive[..., None, :]
    terms = jnp.where(shared, jax.nn.softplus(log_sum_exp(z, groups)[..., None] - z), 0.0)
    values = jnp.sum(terms * weights.reshape((1,) * (z.ndim - 2) + weights.shape), axis=(-2, -1))
    if average_positives:
        values = values / jnp.maximum(jnp.sum(positive, axis=-1), 1)
    return reduce_fn(values, jnp.any(positive, axis=-1))
