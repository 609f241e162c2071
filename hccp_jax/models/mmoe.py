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
        """[..., D] -> [..., tasks, hidden]."""
        flat = x.reshape(-1, x.shape[-1])  # from two leading axes XLA makes transposes, which take as long as all else
        shared = nn.relu(nn.Dense(self.experts * self.hidden, dtype=self.dtype, name="experts")(flat))
        shared = shared.reshape(-1, self.experts, self.hidden)
        gates = nn.Dense(self.tasks * self.experts, dtype=self.dtype, name="gates")(flat).astype(jnp.float32)
        gates = nn.softmax(gates.reshape(-1, self.tasks, self.experts), axis=-1)
        mixed = jnp.einsum("ute,ueh->uth", gates, shared, preferred_element_type=jnp.float32)
        return mixed.astype(self.dtype).reshape(*x.shape[:-1], self.tasks, self.hidden)
