"""The part of RankTower and COLD that runs per candidate, in eager PyTorch as their users would write it.

Both take the flat parameters of ours; a product of ours is x W, and so it is here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import torch
from torch.nn import functional

from hccp_jax.models.gated_attention import Side

Parameters = Mapping[str, Any]


def tensors(tree: Any) -> Any:
    """A copy of each array of a tree."""
    return jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), tree)


def projections(p: Parameters, heads: torch.Tensor) -> Side:
    """Eq 5 of RankTower: heads [..., H, k] and their queries, gates, keys and values [..., H, w]."""
    product = {name: heads @ layer["kernel"] for name, layer in p.items()}
    query, key, value = (functional.silu(product[name]) for name in ("query", "key", "value"))
    return Side(heads, query, torch.sigmoid(product["gate"]), key, value)


def ranktower_logits(p: Parameters, user: Side, items: Side) -> torch.Tensor:
    """Eq 3, 4 and 6-8: logits [K] of a user's side [H_u, ...] and candidates' sides [K, H_i, ...]."""
    width = user.query.shape[-1] ** 0.5
    of_user = torch.softmax(torch.einsum("pw,kqw->kpq", user.query, items.key) / width, -1)
    of_items = torch.softmax(torch.einsum("kqw,pw->kqp", items.query, user.key) / width, -1)
    seen = user.gate * torch.einsum("kpq,kqw->kpw", of_user, items.value)
    told = items.gate * torch.einsum("kqp,pw->kqw", of_items, user.value)
    asking = _attended(p, "user", user.heads, seen)
    asked = _attended(p, "item", items.heads, told)
    best = torch.einsum("kpw,kqw->kpq", asking, asked).amax(-1)
    return best.sum(-1) * torch.exp(-p["log_temperature"])


def _attended(p: Parameters, side: str, heads: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    """Heads with what they read, normalised to length 1."""
    norm = p[f"{side}_norm"]
    x = heads + read @ p[f"{side}_attended"]["kernel"]
    x = functional.layer_norm(x, x.shape[-1:], norm["scale"], norm["bias"], 1e-6)
    return functional.normalize(x, dim=-1)


class ColdLogits:
    """COLD on joined fields: importances, scaled fields, and an MLP. Kernels are joined here once."""

    def __init__(self, p: Parameters) -> None:
        sides = ("user", "item", "cross")
        products = [p[f"{side}_products"] for side in sides]
        kernels = [side[f"field_{index}"]["kernel"] for side in products for index in range(len(side))]
        self.widths = torch.tensor([len(kernel) for kernel in kernels])
        self.excitation = torch.cat([p[f"{side}_excitation"]["share"]["kernel"] for side in sides])
        self.excitation_bias = p["user_excitation"]["share"]["bias"]
        self.first, self.first_bias = torch.cat(kernels), p["hidden_bias"]
        self.second, self.output = p["second"], p["output"]

    def __call__(self, user: Sequence[torch.Tensor], items: torch.Tensor, cross: torch.Tensor) -> torch.Tensor:
        """Logits [K] of a user's fields, joined fields [K, D] of items and cross features [K, F]."""
        joined = torch.cat(tuple(user))
        x = torch.cat([joined.expand(len(items), -1), items, cross], -1)
        importance = torch.sigmoid(x @ self.excitation + self.excitation_bias)
        scaled = x * torch.repeat_interleave(importance, self.widths, -1)
        hidden = torch.relu(scaled @ self.first + self.first_bias)
        hidden = torch.relu(hidden @ self.second["kernel"] + self.second["bias"])
        return (hidden @ self.output["kernel"] + self.output["bias"])[:, 0]
