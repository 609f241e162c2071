"""Literal float64 NumPy versions of the losses: one list, no mask, loops where the papers have sums."""

import numpy as np


def _log_softmax(x):
    return x - x.max() - np.log(np.sum(np.exp(x - x.max())))


def binary_cross_entropy(logits, labels, weights=None):
    """HCCP Eq 1 with sigmoid(logits) for y."""
    if not len(logits):
        return None
    p = 1 / (1 + np.exp(-logits))
    weights = np.ones(len(p)) if weights is None else weights
    return -sum(w * (y * np.log(q) + (1 - y) * np.log(1 - q)) for w, y, q in zip(weights, labels, p, strict=True))


def list_mle(scores, rank=None):
    """HCCP Eq 3, position by position."""
    if not len(scores):
        return None
    if rank is not None:
        scores = scores[np.argsort(rank, kind="stable")]
    return -sum(_log_softmax(scores[j:])[0] for j in range(len(scores)))


def list_mle_gradient(scores):
    """Derivative of Eq 3: item k is in the denominators of the positions up to its own."""
    slopes = -np.ones(len(scores))
    for j in range(len(scores)):
        slopes[j:] += np.exp(_log_softmax(scores[j:]))
    return slopes


def list_net(scores, labels):
    if labels.sum() == 0:
        return None
    return -np.sum(labels / labels.sum() * _log_softmax(scores))


def info_nce(positives, negatives):
    if not len(positives):
        return None
    return -sum(_log_softmax(np.append(p, negatives))[0] for p in positives)


def margin_info_nce(logits, products, positive, hard, easy, margin, temperature):
    """HCCP Eq 5 as printed, with v (cos - m); products of zero are not for it."""
    cos = logits / products
    moved, plain = products * (cos - margin) / temperature, products * cos / temperature
    return info_nce(moved[positive], np.append(moved[hard], plain[easy]))


def algorithm_1(logits, u_norm, i_norm, p_mask, n_hard_mask, n_easy_mask, margin, beta, t, shape):
    """Algorithm 1 of HCCP line by line, arrays flat [B*K]; a sum over all positives.

    Two slips of the print are put right: line 6 means where(p_mask, l_update, neg_min), and the l_n of line 9 is
    [B, 2K], so that line 10 repeats [B, 1, 2K].
    """
    B, K = shape
    neg_min = -1e30
    cos_theta = logits / (u_norm * i_norm + 1e-10)
    logits_m = (cos_theta - margin) * (u_norm * i_norm + 1e-10)
    l_update = (logits_m + beta * logits) / (1 + beta)
    l_p = np.reshape(np.where(p_mask, l_update, np.full(p_mask.shape, neg_min)), [-1, 1])
    l_n_hard = np.where(n_hard_mask, l_update, np.full(n_hard_mask.shape, neg_min))
    l_n_easy = np.where(n_easy_mask, logits, np.full(n_easy_mask.shape, neg_min))
    l_n = np.concatenate((np.reshape(l_n_hard, [B, K]), np.reshape(l_n_easy, [B, K])), axis=1)
    l_n = np.reshape(np.repeat(np.reshape(l_n, [B, 1, 2 * K]), K, axis=1), [-1, 2 * K])
    l_all = np.concatenate([l_p, l_n], axis=1)[np.where(p_mask)]
    return sum(-_log_softmax(row / t)[0] for row in l_all)
