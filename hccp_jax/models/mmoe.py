"""Multi-gate mixture of experts: one output a task from experts that all tasks share."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class MixtureOfExperts(nn.Module):
    """MMoE: task input t is sum_k softmax(W_t x)_k E_k(x).

    Attributes:
        experts: number of experts.
        hidden: width of each expert, one ReLU layer.
        tasks: number of outputs.
        dtype: compute type.
    """

    experts: int
    hidden: int
    tasks: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[U, D] -> [U, tasks, hidden]."""
        shared = nn.relu(nn.Dense(self.experts * self.hidden, dtype=self.dtype, name="experts")(x))
        shared = shared.reshape(*x.shape[:-1], self.experts, self.hidden)
        gates = nn.Dense(self.tasks * self.experts, dtype=self.dtype, name="gates")(x).astype(jnp.float32)
        gates = nn.softmax(gates.reshape(*x.shape[:-1], self.tasks, self.experts), axis=-1)
        mixed = jnp.einsum("...te,...eh->...th", gates, shared, preferred_element_type=jnp.float32)
        return mixed.astype(self.dtype)
