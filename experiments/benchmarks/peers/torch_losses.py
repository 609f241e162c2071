"""Eager PyTorch forms of the losses as published code computes them, written from the formulas.

Each is what a reader of the paper, or of its released code, would run: plain tensors, autograd, matrices held in full.
They are rivals to time against, not references: some overflow or lose digits where the project's kernels do not, and
the docstrings say which. Every function returns a scalar, the sum over a list's terms averaged over the lists, so that
values compare with the kernels of `hccp_jax.losses` under `mean_valid`. Only the kernel benchmark imports this file.

    pip install -r experiments/benchmarks/peers/requirements.txt
"""

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  # its customary name
from torch import Tensor

POSITIVES = 2
"""Positives a user in the Margin InfoNCE benchmark: the first ones of its block of items."""


def _in_batch(users: Tensor, items: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Positive logits with their margin [U, P], and dot products with other users' items [U, U R], own ones -inf."""
    rows, per_user = len(users), len(items) // len(users)
    positives = items.view(rows, per_user, -1)[:, :POSITIVES]
    norms = users.norm(dim=-1, keepdim=True) * positives.norm(dim=-1)
    logits = torch.einsum("ud,upd->up", users, positives) - margin * norms
    owner = torch.arange(len(items), device=users.device) // per_user
    own = owner[None, :] == torch.arange(rows, device=users.device)[:, None]
    return logits, (users @ items.T).masked_fill(own, float("-inf"))


def margin_info_nce_one_lse(users: Tensor, items: Tensor, margin: float, temperature: float) -> Tensor:
    """Margin InfoNCE of HCCP (Eq 5) with in-batch negatives, the careful form: one log-sum-exp a user.

    All items of the other users are easy negatives; there are no hard ones. Memory O(U^2 R).

    Args:
        users: [U, d].
        items: [U R, d], the R items of user 0, then those of user 1, ...; the first two of each are its positives.
        margin: m of Eq 5.
        temperature: tau of Eq 5.
    """
    positives, negatives = _in_batch(users, items, margin)
    normalizer = torch.logsumexp(negatives / temperature, dim=-1)
    return F.softplus(normalizer[:, None] - positives / temperature).sum(dim=-1).mean()


def margin_info_nce_algorithm_1(users: Tensor, items: Tensor, margin: float, temperature: float) -> Tensor:
    """The same as HCCP's Algorithm 1 prints it: the row of negatives is repeated for every positive.

    Its slips of shape are put right ([U, N] negatives, not [U, K]), its cosine is formed and multiplied out again, and
    the annealing (lines 4 and 5) is left out. The repeat covers the positives alone: the printed one covers every slot
    of the list and throws most rows away. Algorithm 1 sums; here the sum is divided by U. Memory O(P U^2 R).

    Args:
        users: [U, d].
        items: [U R, d], as in `margin_info_nce_one_lse`.
        margin: m.
        temperature: t of the algorithm.
    """
    rows, per_user = len(users), len(items) // len(users)
    logits = users @ items.T
    positives = items.view(rows, per_user, -1)[:, :POSITIVES]
    scale = users.norm(dim=-1, keepdim=True) * positives.norm(dim=-1) + 1e-10
    cosines = torch.einsum("ud,upd->up", users, positives) / scale
    moved = ((cosines - margin) * scale).reshape(-1, 1)
    owner = torch.arange(len(items), device=users.device) // per_user
    own = owner[None, :] == torch.arange(rows, device=users.device)[:, None]
    easy = logits.masked_fill(own, torch.finfo(logits.dtype).min)
    negatives = easy[:, None, :].repeat(1, POSITIVES, 1).reshape(rows * POSITIVES, -1)
    table = torch.cat([moved, negatives], dim=1)
    return -torch.log_softmax(table / temperature, dim=-1)[:, 0].sum() / rows


def margin_info_nce_random_mask(
    users: Tensor,
    items: Tensor,
    margin: float,
    temperature: float,
    rate: float = 0.05,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`margin_info_nce_one_lse` over a random share of the negatives, drawn as a mask of the whole matrix.

    Args:
        users: [U, d].
        items: [U R, d], as in `margin_info_nce_one_lse`.
        margin: m.
        temperature: tau.
        rate: share of the negatives kept; HCCP keeps 5 %.
        generator: of the draw; None for torch's global one.
    """
    positives, negatives = _in_batch(users, items, margin)
    kept = torch.rand(negatives.shape, generator=generator, device=users.device) < rate
    normalizer = torch.logsumexp(negatives.masked_fill(~kept, float("-inf")) / temperature, dim=-1)
    return F.softplus(normalizer[:, None] - positives / temperature).sum(dim=-1).mean()


def croloss_lambda_public(
    users: Tensor, positives: Tensor, negatives: Tensor, alpha: float, items: int, scale: float = 10.0
) -> Tensor:
    """CROLoss by the Lambda method (Eq 23) with the sampled rank of Eq 24, as its authors released it.

    phi_1 is the sigmoid, phi_2 the softplus written log(1 + exp(x)), which overflows beyond 88: normalised vectors and
    the scale of 10 keep x below 20. As released, weights carry a factor log(items + 1), so that alpha = 1 is 1 / R;
    the rank inside the weight is scaled up to the item pool and the rank it multiplies is not. Memory O(B N).

    Args:
        users: [B, d], of norm 1.
        positives: [B, d], of norm 1.
        negatives: [N, d], of norm 1, shared by the batch.
        alpha: exponent of the weight.
        items: size of the item pool.
        scale: factor on the cosine.
    """
    gaps = scale * (users @ negatives.T - (users * positives).sum(dim=-1, keepdim=True))
    rank = 1.0 + torch.sigmoid(gaps).sum(dim=-1)
    surrogate = 1.0 + torch.log(1.0 + torch.exp(gaps)).sum(dim=-1)
    if alpha == 1:
        weight = 1.0 / rank
    else:
        everything = torch.tensor(items + 1.0, dtype=users.dtype, device=users.device)
        mass = (everything ** (1.0 - alpha) - 1.0) / (1.0 - alpha)
        weight = torch.log(everything) / mass * (rank * (items / len(negatives))) ** -alpha
    return (weight.detach() * surrogate).mean()


def soft_sort_cross_entropy(scores: Tensor, labels: Tensor, tau: float, tau_y: float) -> Tensor:
    """RankTower's sorting loss (Eq 10 and 11) at p = 1, both n x n SoftSort matrices built.

    Args:
        scores: [B, n].
        labels: [B, n], integer levels.
        tau: temperature of the scores.
        tau_y: temperature of the labels.
    """

    def exponents(values: Tensor, temperature: float) -> Tensor:
        ordered = values.sort(dim=-1, descending=True).values
        return -(ordered[:, :, None] - values[:, None, :]).abs() / temperature

    target = torch.softmax(exponents(labels.to(scores.dtype), tau_y), dim=-1)
    return -(target * torch.log_softmax(exponents(scores, tau), dim=-1)).sum(dim=(1, 2)).mean()


def am_rankmax(
    scores: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 1.0,
    kind: Literal["linear", "constant"] = "linear",
) -> Tensor:
    """RankTower's AM-Rankmax (Eq 13 and 14) with the 1 of Rankmax kept inside the log, n x n hinges.

    Args:
        scores: [B, n].
        labels: [B, n], integer levels.
        alpha: extra margin against items of level 0.
        beta: slope of the linear margin.
        kind: delta(y_i, y_j) = beta |y_i - y_j|, or 1.
    """
    levels = labels.to(scores.dtype)
    distance = (levels[:, :, None] - levels[:, None, :]).abs()
    margins = alpha * (levels == 0).to(levels.dtype)[:, :, None] + (beta * distance if kind == "linear" else 1.0)
    hinges = torch.relu(scores[:, :, None] - scores[:, None, :] + margins)
    below = levels[:, :, None] < levels[:, None, :]
    per_item = torch.log(1.0 + (hinges * below).sum(dim=1))
    return (per_item * (levels > 0)).sum(dim=-1).mean()


def _best_first(scores: Tensor, labels: Tensor) -> Tensor:
    return scores.gather(-1, labels.argsort(dim=-1, descending=True))


def list_mle_cumsum(scores: Tensor, labels: Tensor, eps: float = 1e-10) -> Tensor:
    """ListMLE the way allRank writes it: sort by label, shift by the maximum, log of a cumulative sum plus `eps`.

    Loses the gradient of items some 20 below the best. Its random shuffle before the sort, which breaks ties, and its
    padding are left out. Memory O(B n).

    Args:
        scores: [B, n].
        labels: [B, n], larger is better.
        eps: added to the sums.
    """
    ordered = _best_first(scores, labels)
    shifted = ordered - ordered.max(dim=-1, keepdim=True).values
    suffix = shifted.exp().flip(dims=[-1]).cumsum(dim=-1).flip(dims=[-1])
    return (torch.log(suffix + eps) - shifted).sum(dim=-1).mean()


def list_mle_logcumsumexp(scores: Tensor, labels: Tensor) -> Tensor:
    """ListMLE with `torch.logcumsumexp`, accurate at any range of scores.

    Args:
        scores: [B, n].
        labels: [B, n], larger is better.
    """
    ordered = _best_first(scores, labels)
    suffix = torch.logcumsumexp(ordered.flip(dims=[-1]), dim=-1).flip(dims=[-1])
    return (suffix - ordered).sum(dim=-1).mean()


def pairwise_logistic(scores: Tensor, labels: Tensor) -> Tensor:
    """RankNet's loss log(1 + e^-(z_i - z_j)) over the pairs with y_i > y_j, n x n.

    Args:
        scores: [B, n].
        labels: [B, n], larger is better.
    """
    losses = F.softplus(scores[:, None, :] - scores[:, :, None])
    better = labels[:, :, None] > labels[:, None, :]
    return (losses * better).sum(dim=(1, 2)).mean()


def _weighted_contrast(cosines: Tensor, positives: Tensor, negatives: Tensor, tau: float) -> Tensor:
    """Eq 7 of SDCL with the weights of Eq 8 at delta = 1; cosines [B, P, N], logits [B, P] and [B, N]."""
    weights = torch.softmax(cosines, dim=-1) + torch.sigmoid(negatives)[:, None, :]
    normalizer = torch.logsumexp(negatives[:, None, :] / tau + weights.log(), dim=-1)
    return F.softplus(normalizer - positives / tau).sum(dim=-1).mean()


def sdcl_einsum(
    positive_vectors: Tensor, negative_vectors: Tensor, positive_logits: Tensor, negative_logits: Tensor, tau: float
) -> Tensor:
    """SDCL's adaptive weighted contrast (Eq 7 and 8), cosines by normalising and one batched product.

    Gradients reach all four tensors: nothing is detached.

    Args:
        positive_vectors: [B, P, D].
        negative_vectors: [B, N, D].
        positive_logits: [B, P].
        negative_logits: [B, N].
        tau: temperature of the logits.
    """
    cosines = torch.einsum("bpd,bnd->bpn", F.normalize(positive_vectors, dim=-1), F.normalize(negative_vectors, dim=-1))
    return _weighted_contrast(cosines, positive_logits, negative_logits, tau)


def sdcl_broadcast(
    positive_vectors: Tensor, negative_vectors: Tensor, positive_logits: Tensor, negative_logits: Tensor, tau: float
) -> Tensor:
    """`sdcl_einsum` with `torch.cosine_similarity` broadcast over all pairs: memory O(B P N D).

    Args:
        positive_vectors: [B, P, D].
        negative_vectors: [B, N, D].
        positive_logits: [B, P].
        negative_logits: [B, N].
        tau: temperature of the logits.
    """
    cosines = torch.cosine_similarity(positive_vectors[:, :, None], negative_vectors[:, None, :], dim=-1)
    return _weighted_contrast(cosines, positive_logits, negative_logits, tau)
