"""ARF's losses of a relaxed permutation matrix, and weighting by a learned uncertainty."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.losses.permutation import SortOperator, neural_sort, sort_matrix, top_share
from hccp_jax.losses.reduction import ReduceFn, accumulated, list_mask, mean_valid

_LOWEST = -40.0  # exp(80) is still a float32.


def relaxed_recall(
    scores: jax.Array,
    labels: jax.Array,
    *,
    m: int,
    k: int,
    temperature: ArrayLike,
    where: jax.Array | None = None,
    sort: SortOperator = neural_sort,
    epsilon: float = 1e-6,
    released: bool = False,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""L_relax of ARF (Wang et al., WWW 2024): a surrogate of Recall@m@k, as its authors' code has it.

    .. math::
        \ell = \frac{1}{n} \sum_j -\log \Big( \frac{1}{m} \sum_{i \le m} \hat P_{ij} + \epsilon \Big)
               \sum_{i \le k} P^y_{ij}

    P-hat is the relaxed permutation matrix of the scores (row = position), P^y that of the labels, exact and with ties
    shared; the code takes NeuralSort at temperature 1e-4 for it. The k best items by label are to be among the first m
    by score. Only lists of more than m items count: a shorter one keeps everything.

    Departures from the released code: padding is left out of the sort and of n, which there is the padded length, and
    the mean over lists is over those that count, where the code divides by all. `released=True` restores both divisors
    (lists without an item are no lists in either case).

    Args:
        scores: [..., K] floats; computed in float32 or wider.
        labels: [..., K] numbers, larger is better; equal labels are tied. Constants: no gradient flows to them.
        m: how many the stage keeps, static.
        k: how many best items are looked for, static.
        temperature: of `sort`; NeuralSort's grows with the list, 200 for 40 items in the authors' runs.
        where: [..., K] bool, the items that count.
        sort: `neural_sort` or `soft_sort`.
        epsilon: keeps the logarithm finite and fades the gradient of items that are far from the first m.
        released: divide as the released code does.
        reduce_fn: reduction of the per-list values [...]; a list is valid if it has more than m items.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list is long enough.

    Time O(K^2), memory O(K^2) a list.

    >>> scores, labels = jnp.log(jnp.array([[1.0, 4.0]])), jnp.array([[1, 0]])
    >>> loss = relaxed_recall(scores, labels, m=1, k=1, temperature=1.0)
    >>> print(f"{loss:.4f}")  # item 0 is first with probability 1/5: log(5) / 2
    0.8047

    """
    mask = list_mask(scores, where)
    kept = jnp.mean(sort(scores, temperature=temperature, where=where)[..., :m, :], axis=-2)
    wanted = top_share(labels, k, where=mask)
    terms = -jnp.log(jnp.where(mask, kept, 0.0) + epsilon) * wanted
    return mean_of_items(terms, mask, m + 1, released=released, reduce_fn=reduce_fn)


def global_ranking(
    scores: jax.Array,
    labels: jax.Array,
    *,
    temperature: ArrayLike,
    where: jax.Array | None = None,
    size: int | None = None,
    sort: SortOperator = neural_sort,
    epsilon: float = 1e-6,
    released: bool = False,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""L_global of ARF (Wang et al., WWW 2024): cross entropy between permutation matrices, as in its authors' code.

    .. math::
        \ell = \frac{1}{n^2} \sum_{i, j} -\log(\hat P_{ij} + \epsilon) P^y_{ij}

    For the matrices see `relaxed_recall`. The code counts full lists only, since its sort sees the padding; here any
    length will do, and `size` restores the restriction: lists of at least so many items, and their first `size` rows.

    Args:
        scores: [..., K] floats; computed in float32 or wider.
        labels: [..., K] numbers, larger is better; equal labels are tied. Constants.
        temperature: of `sort`.
        where: [..., K] bool, the items that count.
        size: positions compared, static; None is all that a list has.
        sort: `neural_sort` or `soft_sort`.
        epsilon: as in `relaxed_recall`.
        released: divide by the padded lengths, and by all lists that have an item.
        reduce_fn: reduction of the per-list values [...]; a list is valid if it has an item, or `size` items.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list is valid.

    Time O(K^2), memory O(K^2) a list.

    >>> loss = global_ranking(jnp.log(jnp.array([[1.0, 4.0]])), jnp.array([[1, 0]]), temperature=1.0)
    >>> print(f"{loss:.4f}")  # both items are where they belong with probability 1/5: 2 log(5) / 4
    0.8047

    """
    mask = list_mask(scores, where)
    predicted = sort(scores, temperature=temperature, where=where)[..., :size, :]
    wanted = sort_matrix(labels, where=mask)[..., :size, :]
    terms = jnp.sum(-jnp.log(predicted + epsilon) * wanted, axis=-2)
    if size is None and not released:
        terms = terms / jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)
    else:
        terms = terms / (size or scores.shape[-1])
    return mean_of_items(terms, mask, size or 1, released=released, reduce_fn=reduce_fn)


def uncertainty_weighted(main: ArrayLike, auxiliary: ArrayLike, log_weight: ArrayLike) -> jax.Array:
    r"""A loss and auxiliary ones, weighted by learned uncertainties (Kendall et al. 2018) as in ARF and LCRON.

    .. math::
        L = L_{main} + \sum_i \Big[ rac{L_i}{2 w_i^2} + \log w_i \Big]

    ARF: L_relax and L_global. LCRON: L_e2e and the L_single of each stage. The parameter is log w, which starts at 0;
    the authors learn w itself, whose logarithm is NaN from the step on that takes w below zero. At the optimum w_i^2 is
    L_i. A list without anything to learn leaves L_i at 0, and log w then falls without end but stays finite: below -40
    it no longer enters the exponential. An L_i below 0, where `epsilon` can take it by 1e-6, counts as 0.

    Args:
        main: scalar, or any shape.
        auxiliary: scalar, or [S, ...] with one loss a row, each of the shape of `main`.
        log_weight: scalar, or [S].

    Returns:
        The shape of `main`, float32 or wider.

    Time O(S), memory O(S) a value.

    >>> print(f"{uncertainty_weighted(1.0, 4.0, jnp.log(2.0)):.4f}")  # 1 + 4 / 8 + log(2)
    2.1931

    """
    losses, log_w = accumulated(jnp.asarray(auxiliary)), accumulated(jnp.asarray(log_weight))
    rows = tuple(range(log_w.ndim))
    log_w = log_w.reshape(log_w.shape + (1,) * (losses.ndim - log_w.ndim))
    weighted = 0.5 * jnp.exp(-2.0 * jnp.maximum(log_w, _LOWEST)) * jnp.maximum(losses, 0.0)
    return accumulated(jnp.asarray(main)) + jnp.sum(weighted + log_w, axis=rows)


def mean_of_items(
    terms: jax.Array, mask: jax.Array, least: int, *, released: bool, reduce_fn: ReduceFn = mean_valid
) -> jax.Array:
    """Mean over the items of a list, then `reduce_fn` over the lists of at least `least` items. Time O(K), memory O(K).

    Args:
        terms: [..., K].
        mask: [..., K] bool, the items that count.
        least: items that a list must have, static.
        released: divide by K and count the shorter lists as 0, unless empty, as the code of ARF and LCRON does.
        reduce_fn: reduction of the per-list means [...].

    Returns:
        A scalar, or what `reduce_fn` makes.

    >>> terms = jnp.array([[1.0, 2.0, 9.0], [9.0, 9.0, 9.0]])
    >>> mask = jnp.array([[True, True, False], [True, False, False]])
    >>> print(*(f"{mean_of_items(terms, mask, 2, released=r):.4f}" for r in (False, True)))  # 3/2 and (3/3 + 0) / 2
    1.5000 0.5000

    """
    count = jnp.sum(mask, axis=-1)
    total = jnp.sum(jnp.where(mask, terms, 0.0), axis=-1)
    means = total / (terms.shape[-1] if released else jnp.maximum(count, 1))
    enough = count >= least
    return reduce_fn(jnp.where(enough, means, 0.0), count > 0 if released else enough)
