"""What stochastic gates cost: the L0 penalty of SNR's hard concrete gates and the field prices of FSCD.

The gates themselves are in `models/gates.py`.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.losses.reduction import ReduceFn, accumulated, list_mask, mean_valid, sum_valid
from hccp_jax.models.gates import BETA, GAMMA, ZETA, check_hard_concrete


def hard_concrete_l0(
    log_alpha: jax.Array,
    *,
    where: jax.Array | None = None,
    beta: float = BETA,
    gamma: float = GAMMA,
    zeta: float = ZETA,
    reduce_fn: ReduceFn = sum_valid,
) -> jax.Array:
    r"""Expected number of open gates (Louizos et al. 2018, Eq 12), the L0 penalty of SNR.

    .. math::
        \sum_j P(z_j \ne 0) = \sum_j \sigma(\log \alpha_j - \beta \log(-\gamma / \zeta))

    Args:
        log_alpha: [..., J] floats; computed in float32 or wider.
        where: [..., J] bool, the gates that count.
        beta: as in `models.gates.hard_concrete_gate`.
        gamma: as in `models.gates.hard_concrete_gate`.
        zeta: as in `models.gates.hard_concrete_gate`.
        reduce_fn: reduction of the sums over the last axis [...]: by default their sum, since these are parameters
            and no lists of a batch. A sum is valid if it has a gate that counts.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no gate counts.

    Raises:
        UserError: as `models.gates.hard_concrete_gate`.

    Time O(gates), memory O(gates).

    >>> print(f"{hard_concrete_l0(jnp.zeros(2)):.4f}")  # 2 / (1 + 11^(-2/3))
    1.6636

    """
    check_hard_concrete(beta, gamma, zeta)
    mask = list_mask(log_alpha, where)
    shift = beta * math.log(-gamma / zeta)
    opened = jax.nn.sigmoid(jnp.where(mask, accumulated(log_alpha), 0.0) - shift)
    return reduce_fn(jnp.sum(jnp.where(mask, opened, 0.0), axis=-1), jnp.any(mask, axis=-1))


def fscd_complexity(
    online_cost: ArrayLike, embedding_size: ArrayLike, *, gamma1: ArrayLike = 1.0, gamma2: ArrayLike = 0.01
) -> jax.Array:
    r"""Complexity of a feature field, FSCD (Ma et al. 2021).

    .. math::
        c_j = \gamma_1 o_j + \gamma_2 n_j

    Args:
        online_cost: o_j [...], what the field's kind costs to serve; the re-implementation has 0.4 for user, 1.5 for
            item and 3 for cross fields.
        embedding_size: n_j [...].
        gamma1: weight of the cost.
        gamma2: weight of the size.

    Returns:
        c, broadcast of the two, float32 or wider.

    Time O(fields), memory O(fields).

    >>> print(f"{fscd_complexity(1.5, 8):.2f}")  # 1.5 + 0.01 * 8
    1.58

    """
    cost, size = accumulated(jnp.asarray(online_cost)), accumulated(jnp.asarray(embedding_size))
    return jnp.asarray(gamma1) * cost + jnp.asarray(gamma2) * size


def fscd_penalty(
    gates: jax.Array,
    complexity: ArrayLike,
    *,
    where: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""Price of the open fields, FSCD (Ma et al. 2021).

    .. math::
        \sum_j \alpha_j z_j, \quad \alpha_j = \log \frac{1 - \theta_j}{\theta_j}, \quad \theta_j = 1 - \sigma(c_j)

    With that prior alpha_j is c_j: a field pays its complexity. The paper weighs the sum by 1 / (number of training
    samples) against a mean cross entropy; the weight is left to the caller.

    Args:
        gates: z [..., F] in [0, 1]; computed in float32 or wider.
        complexity: c, broadcastable to the gates.
        where: [..., F] bool, the fields that count.
        reduce_fn: reduction of the sums over fields [...]; a sum is valid if it has a field that counts.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no field counts.

    Time O(fields), memory O(fields).

    >>> print(f"{fscd_penalty(jnp.array([1.0, 0.5]), jnp.array([0.4, 3.0])):.2f}")  # 0.4 + 3 / 2
    1.90

    """
    mask = list_mask(gates, where)
    price = jnp.where(mask, jnp.broadcast_to(accumulated(jnp.asarray(complexity)), mask.shape), 0.0)
    return reduce_fn(jnp.sum(price * jnp.where(mask, accumulated(gates), 0.0), axis=-1), jnp.any(mask, axis=-1))
