"""Gates: the hard concrete gate of SNR, the field gate of FSCD, and the gate unit of PEPNet, which SDCL takes over.

What the stochastic gates cost is in `losses/gates.py`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.errors import UserError
from hccp_jax.numerics import accumulated

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""Temperature and ends of the stretched interval (Louizos et al. 2018), which SNR takes over.

The ends decide whether a gate can close: with gamma = 1.1 and zeta = 2, as one published configuration has them, every
gate is exactly 1 and nothing is routed. The functions below refuse such ends.
"""


class GateUnit(nn.Module):
    r"""The gate of PEPNet (Chang et al. 2023), SDCL's Negative Sample Gate Unit, Eq 6.

    .. math::
        \text{Gate}(x) = \gamma \, \sigma(\text{ReLU}(x W_1 + b_1) W_2 + b_2)

    in (0, gamma). SDCL multiplies x itself by it. The input may be given in parts, x = [x_0, x_1, ...]: x W_1 is then
    the sum of the parts' shares, of which the user's and the item's can be computed before the pair is known. Between
    W_1 and W_2 nothing can be split.

    Departure: with several parts W_1 begins with the variance of LeCun for the parts' own widths over their number,
    since a part does not know the width of the others.

    Attributes:
        hidden: width of the hidden layer.
        scale: gamma, 2 in both papers.
        parts: in how many parts the input comes; only the first has the bias b_1.
        stop_gate_grad: no gradient to the input through the gate, as in PEPNet; SDCL says nothing of it.
        dtype: compute type; shares and gates are float32.
    """

    hidden: int
    scale: float = 2.0
    parts: int = 1
    stop_gate_grad: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """Create W_1, a block for each part."""
        start = nn.initializers.variance_scaling(1 / self.parts, "fan_in", "truncated_normal")
        self.first = [
            nn.Dense(self.hidden, use_bias=part == 0, dtype=self.dtype, kernel_init=start) for part in range(self.parts)
        ]

    def share(self, part: int, x: jax.Array) -> jax.Array:
        """[..., D_part] to the part's share [..., hidden] of x W_1 + b_1, float32."""
        x = jax.lax.stop_gradient(x) if self.stop_gate_grad else x
        return self.first[part](x).astype(jnp.float32)

    @nn.compact
    def gate(self, shares: jax.Array, width: int) -> jax.Array:
        """The gate [..., width] float32, in (0, gamma), of the sum [..., hidden] of all shares."""
        hidden = nn.relu(shares).astype(self.dtype)
        return self.scale * nn.sigmoid(nn.Dense(width, dtype=self.dtype, name="second")(hidden).astype(jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to its gate [..., D]; for an input in one part."""
        return self.gate(self.share(0, x), x.shape[-1])


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
    check_hard_concrete(beta, gamma, zeta)
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
    check_hard_concrete(BETA, gamma, zeta)
    return _stretched(accumulated(log_alpha), gamma, zeta)


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


def check_hard_concrete(beta: float, gamma: float, zeta: float) -> None:
    """Refuse constants under which a gate of the hard concrete cannot close, or cannot open fully.

    Raises:
        UserError: naming the constant.

    """
    # written so that NaN fails them
    if not beta > 0:
        raise UserError(f"beta={beta}: expected a value above 0")
    if not gamma < 0:
        raise UserError(f"gamma={gamma}: expected a value below 0, or no gate of the hard concrete can close")
    if not zeta > 1:
        raise UserError(f"zeta={zeta}: expected a value above 1, or no gate of the hard concrete can open fully")


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
