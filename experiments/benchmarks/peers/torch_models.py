"""The models of `table_models` in PyTorch, written as its users would, with each of its ways to train them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from experiments.benchmarks.table_models import RATE, Shape
from hccp_jax.data.requests import RequestBatch
from hccp_jax.models.table import ITEMS, USERS


class TwoTowers(nn.Module):
    """Two towers and their product."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.user_hidden, self.user_output = nn.Linear(shape.width, shape.hidden), nn.Linear(shape.hidden, shape.vector)
        self.item_hidden, self.item_output = nn.Linear(shape.width, shape.hidden), nn.Linear(shape.hidden, shape.vector)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """[B, 1] logits of rows [B, w] of users and items."""
        user = self.user_output(torch.relu(self.user_hidden(users)))
        item = self.item_output(torch.relu(self.item_hidden(items)))
        return (user * item).sum(-1, keepdim=True)


class Experts(nn.Module):
    """A mixture of experts; all experts are one product, all gates another."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_shape = (shape.tasks, shape.experts)
        self.experts = nn.Linear(2 * shape.width, shape.experts * shape.hidden)
        self.gates = nn.Linear(2 * shape.width, shape.tasks * shape.experts)
        self.output = nn.Parameter(torch.empty(shape.tasks, shape.hidden))

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """[B, T] logits of rows [B, w] of users and items."""
        x = torch.cat([users, items], -1)
        experts = torch.relu(self.experts(x)).unflatten(-1, (self.gate_shape[1], -1))
        gates = torch.softmax(self.gates(x).unflatten(-1, self.gate_shape), -1)
        mixed = torch.einsum("bte,beh->bth", gates, experts)
        return torch.einsum("bth,th->bt", mixed, self.output)


class Theirs:
    """One run in PyTorch from the parameters of one of ours.

    Attributes:
        users, items: tables.
        dense: the rest of the model.
    """

    def __init__(
        self, shape: Shape, how: str, parameters: Mapping[str, Any], batches: RequestBatch, compiled: bool = False
    ) -> None:
        """Copy the parameters and the batches.

        Args:
            shape: sizes.
            how: "Adam", "fused Adam", or "SparseAdam" of the tables with fused Adam of the rest.
            parameters: of our state, leaves [1, ...].
            batches: of `drawn`.
            compiled: whether torch.compile makes the dense part and the loss.
        """
        self.dense = TwoTowers(shape) if shape.model == "two-tower" else Experts(shape)
        self._load(parameters)
        sparse = how == "SparseAdam"
        self.users, self.items = (
            nn.Embedding.from_pretrained(_tensor(_leaf(parameters, name)), freeze=False, sparse=sparse)
            for name in (USERS, ITEMS)
        )
        tables, rest = [self.users.weight, self.items.weight], list(self.dense.parameters())
        if sparse:
            adam = torch.optim.Adam(rest, lr=RATE, fused=True)
            self._optimizers: list[torch.optim.Optimizer] = [torch.optim.SparseAdam(tables, lr=RATE), adam]
        else:
            self._optimizers = [torch.optim.Adam(tables + rest, lr=RATE, fused=how == "fused Adam")]
        labels = np.stack([label[0, ..., 0] for label in batches.labels.values()], -1)
        self._batches = [
            (_tensor(user).long(), _tensor(item).long(), _tensor(label))
            for user, item, label in zip(batches.user["id"][0], batches.items["id"][0, ..., 0], labels, strict=True)
        ]
        self._loss = torch.compile(self._plain_loss) if compiled else self._plain_loss

    def _plain_loss(self, users: torch.Tensor, items: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = self.dense(users, items)
        return logits.shape[-1] * nn.functional.binary_cross_entropy_with_logits(logits, labels)

    def train(self) -> np.ndarray:
        """Loss [steps] of one chunk."""
        losses = []
        for users, items, labels in self._batches:
            for optimizer in self._optimizers:
                optimizer.zero_grad()
            loss = self._loss(self.users(users), self.items(items), labels)
            loss.backward()
            for optimizer in self._optimizers:
                optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).numpy()

    def _load(self, parameters: Mapping[str, Any]) -> None:
        """Copy our dense parameters; a product of ours is x W, one of theirs x W^T."""
        ours = dict(parameters) | dict(parameters.get("mixture", {}))
        for name, module in self.dense.named_children():
            assert isinstance(module, nn.Linear)
            module.weight.data = _tensor(ours[name]["kernel"][0]).T.contiguous()
            module.bias.data = _tensor(ours[name]["bias"][0])
        if isinstance(self.dense, Experts):
            self.dense.output.data = _tensor(ours["output"][0])


def _leaf(parameters: Mapping[str, Any], name: str) -> Any:
    """The table of that name, wherever it is."""
    found = {USERS: "users", ITEMS: "items"}[name]
    return parameters[found][name][0]


def _tensor(x: Any) -> torch.Tensor:
    """A copy."""
    return torch.tensor(np.asarray(x))
