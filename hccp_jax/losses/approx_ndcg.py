"""ApproxNDCG, the NDCG of smooth ranks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.losses.reduction import NEGATIVE, ReduceFn, accumulated, list_mask, mean_valid
from hccp_jax.losses.slot_fold import fold_slots


def exponential_gain(labels: jax.Array) -> jax.Array:
    """Gain of a label in NDCG: 2^y - 1, [...] -> [...].

    >>> print(exponential_gain(jnp.array([0.0, 1.0, 2.0])))
    [0. 1. 3.]

    """
    return jnp.exp2(labels) - 1.0


def logarithmic_discount(rank: jax.Array) -> jax.Array:
    """Discount of a rank, from 1 on, in NDCG: 1 / log2(1 + rank), [...] -> [...].

    >>> print(logarithmic_discount(jnp.array([1.0, 3.0])))
    [1.  0.5]

    """
    return 1.0 / jnp.log2(1.0 + rank)


def approx_ndcg(
    scores: jax.Array,
    labels: jax.Array,
    *,
    temperature: ArrayLike = 0.1,
    where: jax.Array | None = None,
    gain: Callable[[jax.Array], jax.Array] = exponential_gain,
    discount: Callable[[jax.Array], jax.Array] = logarithmic_discount,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""ApproxNDCG (Qin et al. 2010): minus the NDCG of `approx_ranks`, from -1, the best, up to 0.

    .. math::
        \ell(z, y) = -\frac{1}{\mathrm{IDCG}} \sum_i \frac{2^{y_i} - 1}{\log_2(1 + \hat r_i)}, \quad
        \hat r_i = 1 + \sum_{j \ne i} \sigma((z_j - z_i) / T)

    with IDCG the value of the sum at the ranks of the labels. RankTower's Table 3 gives no temperature; 0.1 is that of
    TF-Ranking, Rax has 1. Differentiable in reverse mode only.
    Time O(K^2), memory O(K) a list.

    Args:
        scores: [..., K] floats; computed in float32 or wider.
        labels: [..., K], not negative.
        temperature: T, a scalar, possibly traced; the ranks become exact and their gradient vanishes as it falls to 0.
        where: [..., K] bool, the items that count; the others have no rank and take none.
        gain: gain of a label, elementwise, not negative and not falling.
        discount: discount of a rank, elementwise, not rising.
        reduce_fn: reduction of the per-list values [...]; a list is valid if it has an item of positive gain.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list has a positive gain.

    >>> loss = approx_ndcg(jnp.log(jnp.array([[1.0, 3.0]])), jnp.array([[0.0, 1.0]]), temperature=1.0)
    >>> print(f"{loss:.4f}")  # -1 / log2(1 + 1 + 1/4)
    -0.8548

    """
    mask = list_mask(scores, where)
    gains = jnp.where(mask, gain(jnp.where(mask, accumulated(labels), 0.0)), 0.0)
    position = jnp.arange(1, scores.shape[-1] + 1, dtype=gains.dtype)
    weights = jnp.broadcast_to(discount(position), gains.shape)
    ideal = jnp.sum(-jnp.sort(-gains, axis=-1) * weights, axis=-1)
    valid = ~(ideal <= 0)  # Not `> 0`: a NaN label must not drop its list in silence.
    ranks = approx_ranks(scores, temperature=temperature, where=where)
    reached = jnp.sum(jnp.where(mask, gains * discount(ranks), 0.0), axis=-1)
    return reduce_fn(-reached / jnp.where(valid, ideal, 1.0), valid)


def approx_ranks(scores: jax.Array, *, temperature: ArrayLike, where: jax.Array | None = None) -> jax.Array:
    r"""Smooth ranks from 1, the largest score first: 1 + sum over j != i of sigma((z_j - z_i) / T).

    Scores [..., K] floats and `where` [..., K] bool -> [..., K], float32 or wider; items that do not count are in no
    sum and have rank 1. Equal scores share the mean of their ranks. Time O(K^2), memory O(K) a list.

    >>> print(approx_ranks(jnp.log(jnp.array([1.0, 3.0, 1.0])), temperature=1.0))  # 1 + 3/4 + 1/2, 1 + 1/4 + 1/4
    [2.25 1.5  2.25]

    """
    mask = list_mask(scores, where)
    z = jnp.where(mask, accumulated(scores), 0.0) / temperature
    return jnp.where(mask, _ranks(jnp.where(mask, z, NEGATIVE)), 1.0)


@jax.custom_vjp
def _ranks(scores: jax.Array) -> jax.Array:
    """Ranks among the scores; `NEGATIVE` is behind all by more than any sigmoid sees."""

    def body(ranks, block):
        for other in block[0]:
            ahead = other - scores
            e = jnp.exp(-jnp.abs(ahead))
            ranks += jnp.where(ahead < 0, e, 1.0) / (1.0 + e)
        return ranks

    # Each item meets itself as well, which adds 1/2.
    return fold_slots(body, jnp.full_like(scores, 0.5), (scores, NEGATIVE))


def _ranks_fwd(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _ranks(scores), scores


def _ranks_bwd(scores: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    """A pair moves both its ranks by the same slope, since that of the sigmoid is even: z_i sees the difference."""

    def body(slope, block):
        for other, other_cotangent in zip(*block, strict=True):
            e = jnp.exp(-jnp.abs(other - scores))
            slope += e / jnp.square(1.0 + e) * (other_cotangent - cotangent)
        return slope

    return (fold_slots(body, jnp.zeros_like(cotangent), (scores, NEGATIVE), (cotangent, 0.0)),)


_ranks.defvjp(_ranks_fwd, _ranks_bwd)
