"""Permutation matrices of a list's descending order: relaxed by SoftSort and NeuralSort, and exact with ties shared."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.losses.reduction import NEGATIVE, accumulated, list_mask

SortOperator = Callable[..., jax.Array]
"""`(scores [..., K], *, temperature, where) -> [..., K, K]`: `neural_sort`, or `soft_sort`, its power perhaps bound."""


def soft_sort(
    scores: jax.Array,
    *,
    temperature: ArrayLike,
    power: float = 1,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""SoftSort (Prillo and Eisenschlos, ICML 2020): a row-stochastic relaxation of the sorting permutation.

    .. math::
        \hat P_{rj} = \frac{e^{-|s_{[r]} - s_j|^p / \tau}}{\sum_l e^{-|s_{[r]} - s_l|^p / \tau}},
        \quad s_{[r]} \text{ the r-th largest score}

    Row r is a position, best first, and column j an item. Equal scores share their rows evenly at any temperature, and
    the matrix tends to `sort_matrix(scores)` as the temperature falls to 0.

    Args:
        scores: [..., K] floats; computed in float32 or wider.
        temperature: tau > 0, a scalar, possibly traced, in units of |score difference|^p.
        power: p >= 1, static.
        where: [..., K] bool, the items that count, anywhere in the list. The n that do fill the first n rows.

    Returns:
        [..., K, K], float32 or wider, differentiable in both modes. Each of the first n rows sums to 1; the rows and
        columns of padding are 0 with zero gradient.

    Time O(K^2), memory O(K^2) a list.

    >>> print(soft_sort(jnp.log(jnp.array([1.0, 4.0])), temperature=1.0))  # e^-|log 4 - log 1| = 1/4 against 1
    [[0.2 0.8]
     [0.8 0.2]]

    """
    mask, rows = _real(scores, where)
    s = jnp.where(mask, accumulated(scores), 0.0)
    # Padding sorts behind every score and leaves the rows from n on, where they must be finite though masked.
    ranked = -jnp.sort(jnp.where(mask, -s, jnp.inf), axis=-1)
    ranked = jnp.where(rows, ranked, 0.0)
    distance = jnp.abs(ranked[..., :, None] - s[..., None, :])
    if power != 1:
        distance = jnp.square(distance) if power == 2 else distance**power
    return _row_softmax(-distance / temperature, mask, rows)


def neural_sort(
    scores: jax.Array,
    *,
    temperature: ArrayLike,
    where: jax.Array | None = None,
) -> jax.Array:
    r"""NeuralSort (Grover et al., ICLR 2019): a unimodal row-stochastic relaxation of the sorting permutation.

    .. math::
        \hat P_{rj} = \mathrm{softmax}_j \Big( \big[ (n + 1 - 2r) s_j - \sum_l |s_j - s_l| \big] / \tau \Big),
        \quad r = 1, \dots, n

    n is the number of items that count, so that padding changes nothing. The bracket grows as n: a temperature holds
    for one length of list (ARF takes 200, LCRON 50 for 40 items). Equal scores share their rows evenly.

    Args:
        scores: [..., K] floats; computed in float32 or wider.
        temperature: tau > 0, a scalar, possibly traced.
        where: [..., K] bool, the items that count, anywhere in the list. The n that do fill the first n rows.

    Returns:
        [..., K, K], float32 or wider, differentiable in both modes. Each of the first n rows sums to 1; the rows and
        columns of padding are 0 with zero gradient.

    Time O(K^2), memory O(K^2) a list.

    >>> print(neural_sort(jnp.log(jnp.array([1.0, 4.0])), temperature=1.0))  # rows (-s - d, s - d), (s - d, -s - d)
    [[0.2 0.8]
     [0.8 0.2]]

    """
    mask, rows = _real(scores, where)
    s = jnp.where(mask, accumulated(scores), 0.0)
    # A row does not change if all scores move; near zero they lose the fewest digits when multiplied by n.
    s = s - jax.lax.stop_gradient(jnp.max(jnp.where(mask, s, NEGATIVE), axis=-1, keepdims=True, initial=NEGATIVE))
    s = jnp.where(mask, s, 0.0)
    both = mask[..., :, None] & mask[..., None, :]
    spread = jnp.sum(jnp.where(both, jnp.abs(s[..., :, None] - s[..., None, :]), 0.0), axis=-1)
    count = jnp.sum(mask, axis=-1, dtype=jnp.int32, keepdims=True)
    slope = (count - 1 - 2 * _positions(scores.shape, -1)).astype(s.dtype)
    return _row_softmax((slope[..., :, None] * s[..., None, :] - spread[..., None, :]) / temperature, mask, rows)


def sort_matrix(labels: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """The permutation matrix of the descending order itself, equal labels sharing their positions evenly.

    What both relaxations tend to as the temperature falls to 0: entry (r, j) is 1 / m if item j is one of m equal items
    that hold position r.

    Args:
        labels: [..., K] numbers, larger is better.
        where: [..., K] bool, the items that count; the n that do fill the first n rows.

    Returns:
        [..., K, K], float32 or wider, without gradient. Rows and columns of padding are 0.

    Time O(K^2), memory O(K^2) a list.

    >>> print(sort_matrix(jnp.array([1, 3, 1])))
    [[0.  1.  0. ]
     [0.5 0.  0.5]
     [0.5 0.  0.5]]

    """
    above, ties = (x[..., None, :] for x in tied_positions(labels, where=where))
    row = _positions((*labels.shape[:-1], labels.shape[-1], labels.shape[-1]), -2).astype(above.dtype)
    held = jnp.clip(row + 1 - above, 0.0, 1.0) * jnp.clip(above + ties - row, 0.0, 1.0)
    mask, rows = _real(labels, where)
    return jnp.where(rows[..., :, None] & mask[..., None, :], held / jnp.where(mask[..., None, :], ties, 1.0), 0.0)


def top_share(labels: jax.Array, k: ArrayLike, *, where: jax.Array | None = None) -> jax.Array:
    """How much of each item is among the k best: the sum of the first k rows of `sort_matrix`, without that matrix.

    Args:
        labels: [..., K] numbers, larger is better.
        k: how many; a scalar, possibly traced.
        where: [..., K] bool, the items that count.

    Returns:
        [..., K] in [0, 1], float32 or wider, without gradient; it sums to min(k, n). 1 inside, 0 outside, a fraction
        where equal labels straddle the border; 0 for padding; NaN for a NaN label.

    Time O(K^2), memory O(K^2) a list.

    >>> print(top_share(jnp.array([1, 3, 1]), 2))
    [0.5 1.  0.5]

    """
    above, ties = tied_positions(labels, where=where)
    return jnp.clip(k - above, 0.0, ties) / jnp.where(list_mask(labels, where), ties, 1.0)


def tied_positions(labels: jax.Array, *, where: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """How many items are better than each, and how many, itself included, equal it; both [..., K] floats.

    Item j and its equals hold the positions from `above` to `above + ties`, counted from 0. Both are 0 for padding and
    NaN for a NaN label. Time O(K^2), memory O(K) a list where the comparisons are fused into their sums.

    >>> print(*tied_positions(jnp.array([1, 3, 1])))
    [1. 0. 1.] [2. 1. 2.]

    """
    mask = list_mask(labels, where)
    y = jnp.where(mask, labels, 0)
    both = mask[..., :, None] & mask[..., None, :]
    above = jnp.sum(both & (y[..., None, :] > y[..., :, None]), axis=-1)
    ties = jnp.sum(both & (y[..., None, :] == y[..., :, None]), axis=-1)
    missing = y != y
    return jnp.where(missing, jnp.nan, above), jnp.where(missing, jnp.nan, ties)


def _positions(shape: tuple[int, ...], axis: int) -> jax.Array:
    """0, 1, 2, ... along an axis."""
    return jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) + axis)


def _real(scores: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The mask of the items, and that of the positions: the first n, [..., K]."""
    mask = list_mask(scores, where)
    return mask, _positions(scores.shape, -1) < jnp.sum(mask, axis=-1, dtype=jnp.int32, keepdims=True)


def _row_softmax(logits: jax.Array, mask: jax.Array, rows: jax.Array) -> jax.Array:
    """Softmax over the items of each real row, 0 elsewhere."""
    cells = rows[..., :, None] & mask[..., None, :]
    logits = jnp.where(cells, logits, NEGATIVE)
    peak = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True, initial=NEGATIVE))
    shares = jnp.where(cells, jnp.exp(logits - peak), 0.0)
    return shares / jnp.where(rows[..., :, None], jnp.sum(shares, axis=-1, keepdims=True), 1.0)
