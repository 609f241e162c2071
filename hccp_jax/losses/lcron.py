"""LCRON: the probability that an item survives a cascade, from the relaxed permutation matrices of its stages."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.losses.arf import mean_of_items, uncertainty_weighted
from hccp_jax.losses.permutation import SortOperator, neural_sort, tied_positions, top_share
from hccp_jax.losses.reduction import ReduceFn, list_mask, mean_valid

_EPSILON = 1e-6


def survival(permutation: jax.Array, cut: int) -> tuple[jax.Array, jax.Array]:
    r"""Probability that an item is among the first `cut` of a stage, and that it is not: P_i and D_i of LCRON.

    .. math::
        P[j] = \frac{\sum_{r \le q} \hat P_{rj}}{\mathrm{sg}(\sum_r \hat P_{rj}) + \epsilon}, \quad
        D[j] = \frac{\sum_{r > q} \hat P_{rj}}{\mathrm{sg}(\sum_r \hat P_{rj}) + \epsilon}

    A relaxed permutation matrix has rows that sum to 1, and columns that do not: sg, the stopped gradient, makes the
    sums of the columns scales only. D is therefore no 1 - P for the gradient.

    Args:
        permutation: [..., K, K], rows are positions and columns are items; 0 for padding.
        cut: q, how many the stage keeps, static.

    Returns:
        P and D, both [..., K]; 0 for padding.

    Time O(K^2), memory O(K) a list besides the matrix.

    >>> kept, dropped = survival(jnp.array([[0.6, 0.4], [0.2, 0.8]]), 1)
    >>> print(*(f"{p:.4f}" for p in kept), *(f"{d:.4f}" for d in dropped))  # 6/8 and 4/12; 2/8 and 8/12
    0.7500 0.3333 0.2500 0.6667

    """
    total = jax.lax.stop_gradient(jnp.sum(permutation, axis=-2)) + _EPSILON
    return jnp.sum(permutation[..., :cut, :], axis=-2) / total, jnp.sum(permutation[..., cut:, :], axis=-2) / total


def end_to_end(
    scores: Sequence[jax.Array],
    labels: jax.Array,
    *,
    cuts: Sequence[int],
    k: int,
    temperature: ArrayLike,
    where: jax.Array | None = None,
    sort: SortOperator = neural_sort,
    released: bool = False,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""L_e2e of LCRON (Wang et al., ICML 2025): the k best items are to survive all stages, and no other.

    .. math::
        \ell = \frac{1}{n} \sum_j -t_j \log \Big( \prod_i P_i[j] + \epsilon \Big)
             - (1 - t_j) \log \Big( 1 - \prod_i (1 - D_i[j]) + \epsilon \Big)

    P_i and D_i are those of `survival`, t_j in [0, 1] is `top_share`: 1 for the k best by label, shared evenly by equal
    labels at the border. The product of the P_i is a lower bound of the probability of surviving. With one stage it is
    `single_stage`. Lists count if some stage drops an item, that is, if they are longer than the smallest cut.

    Departures from the released code: padding is left out of the sorts and of n; lists that no stage cuts are not
    counted (their terms are constants); t_j is a share, where the code counts the positions that an item of a tie may
    hold among the first k and clips 1 minus that count at 0. `released=True` restores the code's t_j, its divisor (the
    padded length) and its mean over all lists with an item. The code sets all cuts to k.

    Args:
        scores: one [..., K] array of floats a stage, in any order; computed in float32 or wider. Stages whose scores
            differ in scale can be divided beforehand, as `temperature` is one for all.
        labels: [..., K] numbers, larger is better; equal labels are tied. Constants.
        cuts: how many each stage keeps, static, in the order of `scores`.
        k: how many best items there are to find, static.
        temperature: of `sort`; NeuralSort's grows with the list, 50 for 40 items in the authors' runs.
        where: [..., K] bool, the items that count; every stage scores them all.
        sort: `neural_sort` or `soft_sort`.
        released: see above.
        reduce_fn: reduction of the per-list values [...].

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list counts.

    Time O(S K^2), memory O(S K^2) a list, for S stages.

    >>> scores, labels = jnp.log(jnp.array([[1.0, 4.0]])), jnp.array([[1, 0]])
    >>> loss = end_to_end([scores, scores], labels, cuts=(1, 1), k=1, temperature=1.0)
    >>> print(f"{loss:.4f}")  # P = (1/5, 4/5), D = (4/5, 1/5): -(log(1/25) + log(1 - 16/25)) / 2
    2.1203

    """
    mask = list_mask(scores[0], where)
    survived, lost = jnp.ones((), jnp.float32), jnp.zeros((), jnp.float32)
    for stage, cut in zip(scores, cuts, strict=True):
        kept, dropped = survival(sort(stage, temperature=temperature, where=where), cut)
        survived = survived * kept
        lost = lost + dropped * (1.0 - lost)  # 1 - prod(1 - D), which as written has no digits for a small D
    best, rest = _targets(labels, k, mask, released)
    if released:
        rest = jnp.clip(1.0 - best, 0.0, 1.0)
    terms = _cross_entropy(survived, lost, best, rest)
    return mean_of_items(terms, mask, min(cuts) + 1, released=released, reduce_fn=reduce_fn)


def single_stage(
    scores: jax.Array,
    labels: jax.Array,
    *,
    cut: int,
    k: int,
    temperature: ArrayLike,
    where: jax.Array | None = None,
    sort: SortOperator = neural_sort,
    released: bool = False,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""L_single of LCRON (Wang et al., ICML 2025): one stage is to keep the k best items and to drop the others.

    .. math::
        \ell = \frac{1}{n} \sum_j -t_j \log(P[j] + \epsilon) - (1 - t_j) \log(D[j] + \epsilon)

    It tightens the bound of `end_to_end`, whose symbols these are. Lists count if they are longer than the cut. The
    paper writes no epsilon here, its code adds 1e-6 as in `end_to_end`; without it an item far from the cut would have
    an infinite loss. ARF-v2 is ARF with this for its L_relax.

    `released=True` restores three things of the code: the divisors, as in `end_to_end`; for t_j the number of positions
    among the first k that an item of a tie may hold; and for 1 - t_j the number among the others, so that an item in a
    tie of ten beyond k weighs ten times as much as one without equals.

    Args:
        scores: [..., K] floats; computed in float32 or wider.
        labels: [..., K] numbers, larger is better; equal labels are tied. Constants.
        cut: q, how many the stage keeps, static.
        k: how many best items there are to find, static.
        temperature: of `sort`.
        where: [..., K] bool, the items that count.
        sort: `neural_sort` or `soft_sort`.
        released: see above.
        reduce_fn: reduction of the per-list values [...].

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list counts.

    Time O(K^2), memory O(K^2) a list.

    >>> scores, labels = jnp.log(jnp.array([[1.0, 4.0]])), jnp.array([[1, 0]])
    >>> print(f"{single_stage(scores, labels, cut=1, k=1, temperature=1.0):.4f}")  # P_0 = D_1 = 1/5: log(5)
    1.6094

    """
    mask = list_mask(scores, where)
    kept, dropped = survival(sort(scores, temperature=temperature, where=where), cut)
    terms = _cross_entropy(kept, dropped, *_targets(labels, k, mask, released))
    return mean_of_items(terms, mask, cut + 1, released=released, reduce_fn=reduce_fn)


def lcron(
    scores: Sequence[jax.Array],
    labels: jax.Array,
    log_weights: jax.Array,
    *,
    cuts: Sequence[int],
    k: int,
    temperature: ArrayLike,
    where: jax.Array | None = None,
    sort: SortOperator = neural_sort,
    released: bool = False,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""LCRON (Wang et al., ICML 2025): L_e2e and the L_single of each stage, weighted by learned uncertainties.

    .. math::
        L = L_{e2e} + \sum_i \Big[ \frac{L_{single, i}}{2 w_i^2} + \log w_i \Big]

    See `end_to_end`, `single_stage` and `uncertainty_weighted`, which it adds up.

    Args:
        scores: one [..., K] array of floats a stage.
        labels: [..., K] numbers, larger is better.
        log_weights: [S] parameters log w_i, one a stage, in the order of `scores`; they start at 0.
        cuts: how many each stage keeps, static.
        k: how many best items there are to find, static.
        temperature: of `sort`.
        where: [..., K] bool, the items that count.
        sort: `neural_sort` or `soft_sort`.
        released: see the terms.
        reduce_fn: reduction of the per-list values of each term.

    Returns:
        A scalar, or what `reduce_fn` makes. The log w_i are added to whatever that is.

    Time O(S K^2), memory O(S K^2) a list, for S stages.

    >>> scores, labels = jnp.log(jnp.array([[1.0, 4.0]])), jnp.array([[1, 0]])
    >>> loss = lcron([scores], labels, jnp.zeros(1), cuts=(1,), k=1, temperature=1.0)
    >>> print(f"{loss:.4f}")  # log(5) + log(5) / 2
    2.4142

    """
    rest: dict[str, Any] = {"k": k, "temperature": temperature, "where": where, "sort": sort, "released": released}
    rest["reduce_fn"] = reduce_fn
    joint = end_to_end(scores, labels, cuts=cuts, **rest)
    single = [single_stage(stage, labels, cut=cut, **rest) for stage, cut in zip(scores, cuts, strict=True)]
    return uncertainty_weighted(joint, jnp.stack(single), log_weights)


def _targets(labels: jax.Array, k: int, mask: jax.Array, released: bool) -> tuple[jax.Array, jax.Array]:
    """Weights of being kept and of being dropped, both [..., K]."""
    if not released:
        best = top_share(labels, k, where=mask)
        return best, 1.0 - best
    above, ties = tied_positions(labels, where=mask)
    best = jnp.clip(k - above, 0.0, ties)
    return best, ties - best


def _cross_entropy(kept: jax.Array, dropped: jax.Array, best: jax.Array, rest: jax.Array) -> jax.Array:
    return -best * jnp.log(kept + _EPSILON) - rest * jnp.log(dropped + _EPSILON)
