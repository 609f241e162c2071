"""Losses of one item at a time."""

import jax
import jax.numpy as jnp

from hccp_jax.losses.reduction import ReduceFn, accumulated, list_mask, mean_valid


def binary_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""Calibration loss of HCCP, Eq 1: cross entropy of `sigmoid(logits)`, summed over the items of a list.

    .. math::
        \ell(z, y) = -\sum_j w_j [y_j \log \sigma(z_j) + (1 - y_j) \log(1 - \sigma(z_j))]

    The paper writes log(y) of what Eq 3 and 4 exponentiate; here y of those equations is the logit throughout, as in
    the paper's appendix. As in Eq 1 the items of a list are summed, not averaged.

    Args:
        logits: [..., K] floats; the sum is taken in float32 or wider. Exact at any magnitude.
        labels: [..., K], in [0, 1]; soft labels are allowed.
        where: [..., K] bool, the items that count (HCCP: the impressions).
        weights: [..., K] item weights, 1 if None.
        reduce_fn: reduction of the per-list sums [...]; a list is valid if it has an item that counts.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list has an item.

    Cost: time and memory O(K) a list.

    >>> loss = binary_cross_entropy(jnp.array([[0.0, 2.0]]), jnp.array([[1.0, 0.0]]))
    >>> print(f"{loss:.4f}")  # log(2) + log(1 + e^2)
    2.8201

    """
    mask = list_mask(logits, where)
    z = jnp.where(mask, accumulated(logits), 0.0)
    y = jnp.where(mask, accumulated(labels), 0.0)
    # max(z, 0) - z y first: it is exactly 0 for a confident, right z, and leaves the small term its digits. Both
    # corners at z = 0 go the same way, so that the derivative there is sigmoid(0) - y.
    above = z >= 0
    items = (jnp.where(above, z, 0.0) - z * y) + jnp.log1p(jnp.exp(jnp.where(above, -z, z)))
    if weights is not None:
        items = items * jnp.where(mask, accumulated(weights), 0.0)
    return reduce_fn(jnp.sum(jnp.where(mask, items, 0.0), axis=-1), jnp.any(mask, axis=-1))
