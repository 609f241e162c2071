"""InfoNCE and HCCP's Margin InfoNCE, the annealing of its margin, and norms with a gradient at zero."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.losses.reduction import NEGATIVE, ReduceFn, accumulated, list_mask, log_sum_exp, mean_valid


def info_nce(
    positive_logits: jax.Array,
    negative_logits: jax.Array,
    *,
    positive_where: jax.Array | None = None,
    negative_where: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""InfoNCE (van den Oord et al. 2018) with several positives a list, as in HCCP Eq 5.

    .. math::
        \ell = \sum_p -\log \frac{e^{l_p}}{e^{l_p} + \sum_n e^{l_n}} = \sum_p \log(1 + e^{L - l_p}),
        \quad L = \log \sum_n e^{l_n}

    A denominator holds one positive and all negatives of the list; the other positives are in none. Logits come
    divided by the temperature. Linear in P + N: the paper's Algorithm 1 repeats the negatives for each positive.

    Args:
        positive_logits: [..., P] floats; computed in float32 or wider.
        negative_logits: [..., N] floats, the same leading axes.
        positive_where: [..., P] bool, the positives that count.
        negative_where: [..., N] bool, the negatives that count.
        reduce_fn: reduction of the per-list sums [...] over positives; a list is valid if it has a positive. Eq 5
            divides by all requests; `mean_valid` divides by those with a positive.

    Returns:
        A scalar, or what `reduce_fn` makes. 0 with zero gradient if no list has a positive; a list with positives and
        no negatives is valid and costs 0, with zero gradient.

    Cost: time and memory O(P + N) a list.

    >>> loss = info_nce(jnp.log(jnp.array([[2.0, 4.0]])), jnp.log(jnp.array([[1.0, 3.0]])))
    >>> print(f"{loss:.4f}")  # log(6/2) + log(8/4)
    1.7918

    """
    positive = list_mask(positive_logits, positive_where)
    negative = list_mask(negative_logits, negative_where)
    logits = jnp.where(positive, accumulated(positive_logits), 0.0)
    terms = jax.nn.softplus(log_sum_exp(negative_logits, negative)[..., None] - logits)
    return reduce_fn(jnp.sum(jnp.where(positive, terms, 0.0), axis=-1), jnp.any(positive, axis=-1))


def margin_info_nce(
    logits: jax.Array,
    products: jax.Array,
    *,
    positive: jax.Array,
    hard: jax.Array,
    easy: jax.Array,
    easy_log_sum_exp: jax.Array | None = None,
    margin: ArrayLike,
    temperature: ArrayLike,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""Margin InfoNCE, HCCP Eq 5: InfoNCE in which positives and hard negatives carry an additive cosine margin.

    .. math::
        \ell = \sum_{p \in B^t} -\log \frac{e^{(l_p - m v_p)/\tau}}
               {e^{(l_p - m v_p)/\tau} + \sum_{i \in B^h} e^{(l_i - m v_i)/\tau} + \sum_{k \in B^e} e^{l_k/\tau}}

    with l = u.i and v = |u||i|. It is Eq 5, since v (cos - m) = l - m v, without a division by a norm: Algorithm 1's
    cos = l / (v + 1e-10) has no gradient at a zero vector. With margin = `effective_margin(m, beta)` it is also
    Algorithm 1's (l_m + beta l) / (1 + beta). The margin holds positives away from easy negatives only: between a
    positive and a hard negative of the same norm it cancels. It counts in units of v, so that norms can pay for it;
    `normalize` the embeddings to prevent that (v = 1, or the square of a scale).

    Departures from the paper's text: Eq 5 prints v_i and i = k in its last sum, where v_k is meant; Algorithm 1
    reshapes [B, 2K] to [B, 1, K]. Neither exposed negatives nor other positives are in a denominator, as printed.

    Args:
        logits: [..., K] dot products u.i; computed in float32 or wider.
        products: [..., K] products of norms |u||i|; the gradient flows through them.
        positive: [..., K] bool, B^t: exposed, with feedback.
        hard: [..., K] bool, B^h: N2 and N3.
        easy: [..., K] bool, those of B^e in the list: N5. The three are disjoint; slots in none do not count.
        easy_log_sum_exp: [...] log of the sum of exp(l / tau) over easy negatives that are not in the list, N4: the
            list needs no more of them. `streaming.row_log_sum_exp` gives it, at most -1e30 (`NEGATIVE`) for none.
        margin: m, a scalar, possibly traced; 0 gives `info_nce`.
        temperature: tau, a scalar, possibly traced; divides everything.
        reduce_fn: as in `info_nce`; a list is valid if it has a positive.

    Returns:
        A scalar, or what `reduce_fn` makes, with the empty cases of `info_nce`.

    Cost: time and memory O(K) a list, and what `easy_log_sum_exp` cost.

    >>> l, v = jnp.log(jnp.array([[4.0, 2.0, 1.0]])), jnp.ones((1, 3))
    >>> positive, hard, easy = jnp.eye(3, dtype=bool)[:, None]
    >>> loss = margin_info_nce(
    ...     l, v, positive=positive, hard=hard, easy=easy, margin=jnp.log(2.0), temperature=1.0
    ... )
    >>> print(f"{loss:.4f}")  # log((2 + 1 + 1) / 2)
    0.6931

    """
    moved, negative = positive | hard, hard | easy
    real = moved | easy
    shift = margin * jnp.where(moved, accumulated(products), 0.0)
    z = (jnp.where(real, accumulated(logits), 0.0) - shift) / temperature
    negatives = z
    if easy_log_sum_exp is not None:
        outside = accumulated(easy_log_sum_exp)[..., None]
        negatives = jnp.concatenate([z, outside], axis=-1)
        negative = jnp.concatenate([negative, ~(outside <= NEGATIVE)], axis=-1)
    return info_nce(z, negatives, positive_where=positive, negative_where=negative, reduce_fn=reduce_fn)


def effective_margin(margin: ArrayLike, beta: ArrayLike) -> jax.Array:
    """The margin that Algorithm 1 of HCCP applies at weight `beta`: margin / (1 + beta).

    Its logit (l_m + beta l) / (1 + beta), with l_m = l - m v, is l - m v / (1 + beta): a margin that grows from
    almost nothing to m as beta falls. Scalars or arrays, traced or not.

    >>> print(f"{effective_margin(0.9, 2.0):.4f}")
    0.3000

    """
    return jnp.asarray(margin) / (1.0 + jnp.asarray(beta))


def anneal_beta(step: ArrayLike, scale: ArrayLike, start: ArrayLike = 9999.0) -> jax.Array:
    """Beta of Algorithm 1 of HCCP after `step` multiplications: start * scale^step, exactly `start` at step 0.

    Args:
        step: steps done, integer or float.
        scale: factor a step, in (0, 1]; the paper does not give it, see `anneal_scale`.
        start: beta at the beginning.

    >>> print(f"{anneal_beta(100, 0.99):.1f}")
    3660.0

    """
    return jnp.asarray(start, float) * jnp.exp(jnp.asarray(step) * jnp.log(jnp.asarray(scale, float)))


def anneal_scale(steps_to_one: ArrayLike, start: ArrayLike = 9999.0) -> jax.Array:
    """The `scale` with which beta falls from `start` to 1, half of the margin, in that many steps.

    start^(-1 / steps_to_one). In float32 a scale this near 1 holds beta to about 1e-8 * steps_to_one.

    >>> print(f"{anneal_scale(100):.4f}")
    0.9120

    """
    return jnp.exp(-jnp.log(jnp.asarray(start, float)) / steps_to_one)
