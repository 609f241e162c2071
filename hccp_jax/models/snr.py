"""SNR (Ma et al., AAAI 2019): layers of parallel sub-networks whose connections are gated, so that tasks share in part.

Only the connections are gated, those into the tasks included; all blocks of the first layer see the whole input. The
paper's matrix of a connection, W_ij of SNR-Trans, is also the matrix of the block it leads into: a second one after it
would merge with it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from hccp_jax.models.gates import BETA, GAMMA, ZETA, hard_concrete_expected_gate, hard_concrete_gate

TRANS, AVER = "trans", "aver"
GATES = "gates"
"""Name of the random stream; a model that is given it draws its gates, one that is not is as served."""


class Connections(nn.Module):
    r"""Gated connections from I blocks to J.

    SNR-Trans: input_j = sum_i z_ij W_ij h_i; SNR-Aver: input_j = sum_i z_ij h_i. z are hard concrete gates, one draw a
    connection and a call, shared by the batch, where the module has the random stream "gates"; else the gates of test
    time, min(1, max(0, sigmoid(log alpha) (zeta - gamma) + gamma)).

    Attributes:
        outputs: J.
        width: of each input_j; SNR-Aver keeps that of the blocks.
        kind: "trans" or "aver".
        beta: temperature of the gates.
        gamma: lower end of their stretched interval.
        zeta: upper end.
        dtype: compute type; sums are float32.
    """

    outputs: int
    width: int
    kind: str
    beta: float
    gamma: float
    zeta: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[..., I, d] to the inputs [..., J, width] float32, and log alpha [I, J]."""
        inputs, depth = blocks.shape[-2:]
        # sigmoid(0) is the middle of the stretched interval: a new gate is closed as often as it is fully open
        log_alpha = self.param("log_alpha", nn.initializers.normal(0.01), (inputs, self.outputs))
        if self.has_rng(GATES):
            gates = hard_concrete_gate(
                log_alpha, self.make_rng(GATES), beta=self.beta, gamma=self.gamma, zeta=self.zeta
            )
        else:
            gates = hard_concrete_expected_gate(log_alpha, gamma=self.gamma, zeta=self.zeta)
        if self.kind == AVER:
            weights = gates.astype(self.dtype)
            mixed = jnp.einsum("...id,ij->...jd", blocks, weights, preferred_element_type=jnp.float32)
        else:
            start = nn.initializers.lecun_normal(in_axis=(0, 1), out_axis=(2, 3))
            kernel = self.param("kernel", start, (inputs, depth, self.outputs, self.width))
            # the gates go into the matrix once a batch, not into the products of each pair
            mixed = _joined(blocks, (gates[:, None, :, None] * kernel).astype(self.dtype))
        return mixed, log_alpha


def _joined(blocks: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., I, d] by [I, d, J, w] to [..., J, w] float32, as one product of matrices.

    The einsum over both axes costs twice as much in XLA on a CPU, gradient included.
    """
    (inputs, depth, outputs, width), leading = kernel.shape, blocks.shape[:-2]
    rows, matrix = blocks.reshape(-1, inputs * depth), kernel.reshape(inputs * depth, outputs * width)
    return jnp.matmul(rows, matrix, preferred_element_type=jnp.float32).reshape(*leading, outputs, width)


class Blocks(nn.Module):
    """J dense layers side by side, each with its own input, bias and matrix.

    Attributes:
        width: of each output.
        dtype: compute type; sums are float32.
    """

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., J, d] to [..., J, width] float32."""
        start = nn.initializers.lecun_normal(batch_axis=0)
        kernel = self.param("kernel", start, (*x.shape[-2:], self.width))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-2], self.width))
        # float32 products of rounded numbers: a CPU has no batched ones of bfloat16 with float32 sums
        x, kernel = (operand.astype(self.dtype).astype(jnp.float32) for operand in (x, kernel))
        return jnp.einsum("...jd,jdw->...jw", x, kernel) + bias


class SubNetworkRouting(nn.Module):
    """SNR: layers of parallel blocks, then one input a task.

    Block j of the first layer is h_j = ReLU(V_j x + b_j); of a later one ReLU(input_j + b_j) with SNR-Trans and
    ReLU(V_j input_j + b_j) with SNR-Aver. The inputs of the tasks come through gates as well, without a nonlinearity.

    Attributes:
        tasks: T.
        layers: layers of blocks.
        blocks: blocks in a layer.
        width: of each block.
        kind: "trans" or "aver".
        dtype: compute type.
        beta: temperature of the gates.
        gamma: lower end of their stretched interval, below 0.
        zeta: upper end, above 1.

    Raises:
        UserError: on constants under which no gate could close, or open fully.
    """

    tasks: int
    layers: int = 2
    blocks: int = 4
    width: int = 32
    kind: str = TRANS
    dtype: jnp.dtype = jnp.float32
    beta: float = BETA
    gamma: float = GAMMA
    zeta: float = ZETA

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[..., D] to the inputs of the tasks [..., T, width] float32, and log alpha of all connections [G] float32."""
        first = nn.Dense(self.blocks * self.width, dtype=self.dtype, name="first")(x)
        blocks = nn.relu(first).reshape(*x.shape[:-1], self.blocks, self.width)
        parameters = []
        for layer in range(1, self.layers):
            mixed, log_alpha = self._connections(self.blocks, f"connections_{layer}")(blocks)
            if self.kind == AVER:
                mixed = Blocks(self.width, self.dtype, name=f"blocks_{layer}")(mixed)
            else:
                mixed = mixed + self.param(f"bias_{layer}", nn.initializers.zeros, (self.blocks, self.width))
            blocks = nn.relu(mixed).astype(self.dtype)
            parameters.append(log_alpha.ravel())
        towers, log_alpha = self._connections(self.tasks, "connections_tasks")(blocks)
        return towers, jnp.concatenate([*parameters, log_alpha.ravel()])

    def _connections(self, outputs: int, name: str) -> Connections:
        return Connections(outputs, self.width, self.kind, self.beta, self.gamma, self.zeta, self.dtype, name=name)
