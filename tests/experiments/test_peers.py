"""The PyTorch rivals of the kernel benchmark compute what they are said to: float64 loops over the formulas."""

from math import exp, log

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs experiments/benchmarks/peers/requirements.txt")
peers = pytest.importorskip("experiments.benchmarks.peers.torch_losses")

U, R, D, MARGIN, TAU = 4, 5, 3, 0.3, 0.5


def sigmoid(x):
    return 1 / (1 + exp(-x))


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def tensors(*arrays):
    return [torch.tensor(a, requires_grad=np.issubdtype(a.dtype, np.floating)) for a in arrays]


def levels(batch=3, n=7):
    return np.random.default_rng(1).integers(0, 3, (batch, n))


def margin_info_nce(users, items, kept):
    """Mean over users of the sum over its first two items; `kept` [U, U R] are the negatives that were drawn."""
    total = 0.0
    for u in range(U):
        others = [k for k in range(U * R) if k // R != u and kept[u, k]]
        for p in (u * R, u * R + 1):
            norms = np.linalg.norm(users[u]) * np.linalg.norm(items[p])
            own = exp((users[u] @ items[p] - MARGIN * norms) / TAU)
            total += -log(own / (own + sum(exp(users[u] @ items[k] / TAU) for k in others)))
    return total / U


@pytest.mark.parametrize("form", ["margin_info_nce_one_lse", "margin_info_nce_algorithm_1"])
def test_margin_info_nce(form):
    users, items = drawn(U, D), drawn(U * R, D, seed=1)
    everything = np.ones((U, U * R), bool)
    value = getattr(peers, form)(*tensors(users, items), MARGIN, TAU)
    np.testing.assert_allclose(value.item(), margin_info_nce(users, items, everything), rtol=1e-9)


def test_margin_info_nce_of_drawn_negatives():
    users, items = drawn(U, D), drawn(U * R, D, seed=1)
    kept = (torch.rand((U, U * R), generator=torch.Generator().manual_seed(3)) < 0.4).numpy()
    assert 0 < kept.sum() < kept.size
    value = peers.margin_info_nce_random_mask(
        *tensors(users, items), MARGIN, TAU, rate=0.4, generator=torch.Generator().manual_seed(3)
    )
    np.testing.assert_allclose(value.item(), margin_info_nce(users, items, kept), rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.6, 1.0, 1.4])
def test_croloss_lambda(alpha):
    users, positives, negatives = drawn(U, D), drawn(U, D, seed=1), drawn(9, D, seed=2)
    users, positives, negatives = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (users, positives, negatives))
    items, total = 1000, 0.0
    mass = log(items + 1) if alpha == 1 else ((items + 1) ** (1 - alpha) - 1) / (1 - alpha)
    for u in range(U):
        gaps = [10 * (users[u] @ v - users[u] @ positives[u]) for v in negatives]
        rank = items / 9 * (1 + sum(map(sigmoid, gaps)))
        surrogate = 1 + sum(log(1 + exp(g)) for g in gaps)
        total += log(items + 1) / mass * rank**-alpha * surrogate
    if alpha == 1:  # as released, this weight alone has no items / negatives in it
        total *= items / 9
    value = peers.croloss_lambda_public(*tensors(users, positives, negatives), alpha, items)
    np.testing.assert_allclose(value.item(), total / U, rtol=1e-9)


def test_the_weight_of_croloss_lambda_is_detached():
    def slope(users, positives, negatives):
        """Of the rank alone, weighted by hand."""
        gaps = 10 * (users @ negatives.T - (users * positives).sum(-1, keepdim=True))
        weight = 1 / (1 + torch.sigmoid(gaps).sum(-1)).detach()
        return torch.autograd.grad((weight * torch.nn.functional.softplus(gaps).sum(-1)).mean(), users)[0]

    batch = tensors(*(0.3 * drawn(n, D, seed=s) for s, n in enumerate((U, U, 9))))
    (own,) = torch.autograd.grad(peers.croloss_lambda_public(*batch, 1.0, 1000), batch[0])
    np.testing.assert_allclose(own.numpy(), slope(*batch).numpy(), rtol=1e-7)


def test_soft_sort_cross_entropy():
    scores, labels, tau, tau_y = drawn(3, 7), levels(), 0.7, 0.3
    total = 0.0
    for z, y in zip(scores, labels, strict=True):
        for a, b in zip(sorted(z, reverse=True), sorted(y, reverse=True), strict=True):
            p, q = np.exp(-abs(a - z) / tau), np.exp(-abs(b - y) / tau_y)
            total -= np.sum(q / q.sum() * np.log(p / p.sum()))
    value = peers.soft_sort_cross_entropy(*tensors(scores, labels), tau, tau_y)
    np.testing.assert_allclose(value.item(), total / 3, rtol=1e-9)


@pytest.mark.parametrize("kind", ["linear", "constant"])
def test_am_rankmax(kind):
    scores, labels, alpha, beta = drawn(3, 7), levels(), 0.8, 0.6
    total = 0.0
    for z, y in zip(scores, labels, strict=True):
        for j in np.flatnonzero(y > 0):
            inner = 1.0
            for i in np.flatnonzero(y < y[j]):
                margin = alpha * (y[i] == 0) + (beta * abs(y[i] - y[j]) if kind == "linear" else 1.0)
                inner += max(z[i] - z[j] + margin, 0.0)
            total += log(inner)
    value = peers.am_rankmax(*tensors(scores, labels), alpha, beta, kind)
    np.testing.assert_allclose(value.item(), total / 3, rtol=1e-9)


@pytest.mark.parametrize("form", ["list_mle_cumsum", "list_mle_logcumsumexp"])
def test_list_mle(form):
    scores = drawn(3, 7)
    labels = np.argsort(drawn(3, 7, seed=1), axis=-1)
    total = 0.0
    for z, y in zip(scores, labels, strict=True):
        ordered = z[np.argsort(-y)]
        total += sum(log(np.exp(ordered[k:]).sum()) - ordered[k] for k in range(7))
    value = getattr(peers, form)(*tensors(scores, labels))
    np.testing.assert_allclose(value.item(), total / 3, rtol=1e-8)


def test_pairwise_logistic():
    scores, labels = drawn(3, 7), levels()
    total = sum(
        log(1 + exp(-(z[i] - z[j])))
        for z, y in zip(scores, labels, strict=True)
        for i in range(7)
        for j in range(7)
        if y[i] > y[j]
    )
    np.testing.assert_allclose(peers.pairwise_logistic(*tensors(scores, labels)).item(), total / 3, rtol=1e-9)


@pytest.mark.parametrize("form", ["sdcl_einsum", "sdcl_broadcast"])
def test_sdcl(form):
    xp, xn, lp, ln = drawn(2, 3, D), drawn(2, 6, D, seed=1), drawn(2, 3, seed=2), drawn(2, 6, seed=3)
    total = 0.0
    for b in range(2):
        for p in range(3):
            cosines = xn[b] @ xp[b, p] / np.linalg.norm(xn[b], axis=-1) / np.linalg.norm(xp[b, p])
            weights = np.exp(cosines) / np.exp(cosines).sum() + [sigmoid(z) for z in ln[b]]
            own = exp(lp[b, p] / TAU)
            total -= log(own / (own + np.sum(weights * np.exp(ln[b] / TAU))))
    batch = tensors(xp, xn, lp, ln)
    value = getattr(peers, form)(*batch, TAU)
    np.testing.assert_allclose(value.item(), total / 2, rtol=1e-9)
    assert all(slope.abs().max() > 1e-4 for slope in torch.autograd.grad(value, batch))


def test_the_forms_are_smooth():
    """Their gradients are their slopes, so that none has detached by accident what it should not."""
    scores, labels = tensors(drawn(2, 5), np.array([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0]]))
    order = torch.tensor([[3, 1, 4, 0, 2], [0, 1, 2, 3, 4]])
    checks = [
        (lambda u, v: peers.margin_info_nce_one_lse(u, v, MARGIN, TAU), tensors(drawn(U, D), drawn(U * R, D, seed=1))),
        (lambda u, v: peers.margin_info_nce_algorithm_1(u, v, MARGIN, TAU), tensors(drawn(U, D), drawn(U * R, D))),
        (lambda z: peers.soft_sort_cross_entropy(z, labels, 0.7, 0.3), [scores]),
        (lambda z: peers.am_rankmax(z, labels), [scores]),
        (lambda z: peers.list_mle_cumsum(z, order), [scores]),
        (lambda z: peers.list_mle_logcumsumexp(z, order), [scores]),
        (lambda z: peers.pairwise_logistic(z, labels), [scores]),
    ]
    for loss, inputs in checks:
        assert torch.autograd.gradcheck(loss, inputs)
