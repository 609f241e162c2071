"""Stochastic gates and what they cost: the hard concrete gate of SNR and the field gate of FSCD."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.errors import UserError
from hccp_jax.losses.reduction import ReduceFn, accumulated, list_mask, mean_valid, sum_valid

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""Temperature and ends of the stretched interval (Louizos et al. 2018), which SNR takes over.

The ends decide whether a gate can close: with gamma = 1.1 and zeta = 2, as one published configuration has them, every
gate is exactly 1 and nothing is routed. The functions below refuse such ends.
"""


def hard_concrete_gate(
    log_alpha: jax.Array,
    key_or_uniform: jax.Array,
    *,
    beta: float = BETA,
    gamma: float = GAMMA,
    zeta: float = ZETA,
) -> jax.Array:
    r"""Sample of the hard concrete distribution (Louizos et al. 2018, Eq 10-11), the gate of SNR (Ma et al. 2019).

    .. math::
        s = \sigma((\log u - \log(1 - u) + \log \alpha) / \beta), \quad
        z = \min(1, \max(0, s (\zeta - \gamma) + \gamma))

    Exactly 0 and exactly 1 have positive probability; in between, z is differentiable in log alpha.

    Args:
        log_alpha: [...] floats, the free parameter of each gate; computed in float32 or wider.
        key_or_uniform: a key of `jax.random.key`, which gives each entry of `log_alpha` a draw of its own, shared by
            the batch as in SNR; or u itself, floats in [0, 1) broadcastable to `log_alpha`.
        beta: temperature, static and above 0.
        gamma: lower end of the stretched interval, static and below 0.
        zeta: upper end, static and above 1.

    Returns:
        z, of the shape of `log_alpha`, in [0, 1].

    Raises:
        UserError: on an end that keeps every gate open or closed.

    Time O(gates), memory O(gates).

    >>> print(f"{hard_concrete_gate(jnp.array(0.0), jnp.array(0.5)):.4f}")  # s = 1/2, the middle of (-0.1, 1.1)
    0.5000

    """
    _check(beta, gamma, zeta)
    return _stretched((accumulated(log_alpha) + _logistic(key_or_uniform, log_alpha)) / beta, gamma, zeta)


def hard_concrete_expected_gate(log_alpha: jax.Array, *, gamma: float = GAMMA, zeta: float = ZETA) -> jax.Array:
    r"""The gate at test time (Louizos et al. 2018, Eq 13): no noise and no temperature.

    .. math::
        z = \min(1, \max(0, \sigma(\log \alpha)(\zeta - \gamma) + \gamma))

    The paper's estimate of the mean, not the mean itself.

    Args:
        log_alpha: [...] floats; computed in float32 or wider.
        gamma: as in `hard_concrete_gate`.
        zeta: as in `hard_concrete_gate`.

    Returns:
        z, of the shape of `log_alpha`, in [0, 1].

    Raises:
        UserError: as `hard_concrete_gate`.

    Time O(gates), memory O(gates).

    >>> print(hard_concrete_expected_gate(jnp.array([-9.0, 0.0, 9.0])))
    [0.  0.5 1. ]

    """
    _check(BETA, gamma, zeta)
    return _stretched(accumulated(log_alpha), gamma, zeta)


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
        beta: as in `hard_concrete_gate`.
        gamma: as in `hard_concrete_gate`.
        zeta: as in `hard_concrete_gate`.
        reduce_fn: reduction of the sums over the last axis [...]: by default their sum, since these are parameters
            and no lists of a batch. A sum is valid if it has a gate that counts.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no gate counts.

    Raises:
        UserError: as `hard_concrete_gate`.

    Time O(gates), memory O(gates).

    >>> print(f"{hard_concrete_l0(jnp.zeros(2)):.4f}")  # 2 / (1 + 11^(-2/3))
    1.6636

    """
    _check(beta, gamma, zeta)
    mask = list_mask(log_alpha, where)
    shift = beta * math.log(-gamma / zeta)
    opened = jax.nn.sigmoid(jnp.where(mask, accumulated(log_alpha), 0.0) - shift)
    return reduce_fn(jnp.sum(jnp.where(mask, opened, 0.0), axis=-1), jnp.any(mask, axis=-1))


def fscd_keep_gate(logits: jax.Array, key_or_uniform: jax.Array, *, temperature: ArrayLike = 0.1) -> jax.Array:
    r"""Relaxed Bernoulli gate of a feature field, FSCD (Ma et al. 2021): the field's embedding is multiplied by it.

    .. math::
        z_j = \sigma\big([\log \delta_j - \log(1 - \delta_j) + \log u_j - \log(1 - u_j)] / t\big), \quad
        \delta_j = \sigma(\text{logit}_j)

    log delta - log(1 - delta) is the logit itself, so that no probability is formed. P(z_j > 1/2) = delta_j at every t.

    Args:
        logits: [...] floats, the free parameter of the keep probability; computed in float32 or wider.
        key_or_uniform: as in `hard_concrete_gate`.
        temperature: t, possibly traced; 0.1 in the paper's re-implementation.

    Returns:
        z, of the shape of `logits`, in [0, 1].

    Time O(fields), memory O(fields).

    >>> print(f"{fscd_keep_gate(jnp.array(0.2), jnp.array(0.5)):.4f}")  # sigmoid(0.2 / 0.1)
    0.8808

    """
    return jax.nn.sigmoid((accumulated(logits) + _logistic(key_or_uniform, logits)) / temperature)


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


def _logistic(key_or_uniform: jax.Array, gates: jax.Array) -> jax.Array:
    """Logistic noise log u - log(1 - u); u = 0 gives -inf, which closes a gate with zero gradient."""
    if jnp.issubdtype(key_or_uniform.dtype, jax.dtypes.prng_key):
        uniform = jax.random.uniform(key_or_uniform, gates.shape, jnp.promote_types(gates.dtype, jnp.float32))
    elif jnp.issubdtype(key_or_uniform.dtype, jnp.floating):
        uniform = jnp.broadcast_to(accumulated(key_or_uniform), gates.shape)
    else:
        raise TypeError(f"key_or_uniform of type {key_or_uniform.dtype}, expected a key of jax.random.key or floats")
    return jnp.log(uniform) - jnp.log1p(-uniform)


def _stretched(logits: jax.Array, gamma: float, zeta: float) -> jax.Array:
    return jnp.clip(jax.nn.sigmoid(logits) * (zeta - gamma) + gamma, 0.0, 1.0)


def _check(beta: float, gamma: float, zeta: float) -> None:
    """The comparisons are written so that NaN fails them."""
    if not beta > 0:
        raise UserError(f"beta={beta}: expected a value above 0")
    if not gamma < 0:
        raise UserError(f"gamma={gamma}: expected a value below 0, or no gate of the hard concrete can close")
    if not zeta > 1:
        raise UserError(f"zeta={zeta}: expected a value above 1, or no gate of the hard concrete can open fully")
