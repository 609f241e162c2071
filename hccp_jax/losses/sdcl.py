"""SDCL's adaptively weighted contrastive loss, its weights, and the cosines they need."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.losses.reduction import NEGATIVE, ReduceFn, accumulated, list_mask, log_sum_exp, mean_valid

_SMALLEST = 1e-12  # A squared norm at or below it is zero, as in `numerics.normalize`.
_UNROLLED = 8  # Up to so many positives their sum is faster written out than as a product of thin matrices.


def adaptive_weighted_contrastive(
    positive_logits: jax.Array,
    negative_logits: jax.Array,
    positive_vectors: jax.Array,
    negative_vectors: jax.Array,
    *,
    positive_where: jax.Array | None = None,
    negative_where: jax.Array | None = None,
    temperature: ArrayLike,
    similarity_temperature: ArrayLike = 1.0,
    delta: ArrayLike = 1.0,
    stop_weight_gradient: bool = True,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""Weighted contrastive loss of SDCL (Gao et al.), Eq 7 with the weights of Eq 8, for one task.

    .. math::
        \ell = \sum_i -\log \frac{e^{y_i/\tau}}{e^{y_i/\tau} + \sum_z w_{iz} e^{y_z/\tau}}, \quad
        w_{iz} = \delta \Big( \frac{e^{\cos(x_i, x_z)}}{\sum_j e^{\cos(x_i, x_j)}} + \sigma(y_z) \Big)

    `weighted_info_nce` of `adaptive_weights`. Only negatives of the positive's own list count. Choices where the paper
    is silent: y are logits, as its text says of the last layer; w keeps both indices though the paper prints w_z; x is
    whatever vector the caller compares, in SDCL the gated input g of Eq 6; the weight beta of the task is the caller's.

    Departures: no gradient flows through w by default, since a model could otherwise lower the loss by lowering w;
    `stop_weight_gradient=False` is Eq 7 to the letter. `similarity_temperature` divides the cosine, whose softmax over
    n negatives is else nearly 1 / n (the largest ratio is e^2). A zero vector has cosine 0 with everything, with zero
    gradient, where Eq 8 divides by zero.

    Args:
        positive_logits: [..., P] floats y_i, not divided by the temperature; computed in float32 or wider.
        negative_logits: [..., N] floats y_z, the same leading axes.
        positive_vectors: [..., P, D] floats x_i, of any norm.
        negative_vectors: [..., N, D] floats x_z.
        positive_where: [..., P] bool, the positives that count.
        negative_where: [..., N] bool, the negatives that count.
        temperature: tau, a scalar, possibly traced; the sigmoid of Eq 8 is not divided by it.
        similarity_temperature: a scalar, possibly traced; 1 is Eq 8.
        delta: multiplies all weights, a scalar, possibly traced; the same as log(delta) added to y_z / tau.
        stop_weight_gradient: whether w counts as a constant.
        reduce_fn: reduction of the per-list sums [...] over positives; a list is valid if it has a positive.

    Returns:
        A scalar, or what `reduce_fn` makes. 0 with zero gradient if no list has a positive; a list with positives and
        no negatives is valid and costs 0, with zero gradient. Differentiable in reverse mode only, unless the gradient
        of the weights is stopped.

    Time O((P + N) D + P N D), memory O(P N) a list besides the arrays: no normalised copy of a vector is made.

    >>> loss = adaptive_weighted_contrastive(
    ...     jnp.zeros((1, 1)), jnp.zeros((1, 2)), jnp.ones((1, 1, 4)), jnp.ones((1, 2, 4)), temperature=1.0
    ... )
    >>> print(f"{loss:.4f}")  # both weights are 1/2 + 1/2: log(1 + 1 + 1)
    1.0986

    """
    weights = adaptive_weights(
        negative_logits,
        positive_vectors,
        negative_vectors,
        positive_where=positive_where,
        negative_where=negative_where,
        similarity_temperature=similarity_temperature,
        delta=delta,
    )
    return weighted_info_nce(
        accumulated(positive_logits) / temperature,
        accumulated(negative_logits) / temperature,
        jax.lax.stop_gradient(weights) if stop_weight_gradient else weights,
        positive_where=positive_where,
        negative_where=negative_where,
        reduce_fn=reduce_fn,
    )


def weighted_info_nce(
    positive_logits: jax.Array,
    negative_logits: jax.Array,
    weights: jax.Array,
    *,
    positive_where: jax.Array | None = None,
    negative_where: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""InfoNCE whose negatives count `weights` times, another number for each positive: SDCL Eq 7 with w given.

    .. math::
        \ell = \sum_p -\log \frac{e^{l_p}}{e^{l_p} + \sum_n w_{pn} e^{l_n}}

    With all weights 1 it is `contrastive.info_nce`.

    Args:
        positive_logits: [..., P] floats, divided by the temperature; computed in float32 or wider.
        negative_logits: [..., N] floats, the same leading axes.
        weights: [..., P, N], not negative; 0 leaves the negative out.
        positive_where: [..., P] bool, the positives that count.
        negative_where: [..., N] bool, the negatives that count.
        reduce_fn: reduction of the per-list sums [...] over positives; a list is valid if it has a positive.

    Returns:
        A scalar, or what `reduce_fn` makes, with the empty cases of `info_nce`.

    Time O(P N), memory O(P N) a list.

    >>> weights = jnp.array([[[3.0, 1.0]]])
    >>> print(f"{weighted_info_nce(jnp.zeros((1, 1)), jnp.zeros((1, 2)), weights):.4f}")  # log(1 + 3 + 1)
    1.6094

    """
    positive = list_mask(positive_logits, positive_where)
    pairs = positive[..., :, None] & list_mask(negative_logits, negative_where)[..., None, :]
    some = pairs & ~(weights <= 0)  # Not `weights > 0`: a NaN is to stay one.
    shifts = jnp.log(jnp.where(some, accumulated(weights), 1.0))
    negatives = log_sum_exp(accumulated(negative_logits)[..., None, :] + shifts, some)
    logits = jnp.where(positive, accumulated(positive_logits), 0.0)
    terms = jax.nn.softplus(negatives - logits)
    return reduce_fn(jnp.sum(jnp.where(positive, terms, 0.0), axis=-1), jnp.any(positive, axis=-1))


def adaptive_weights(
    negative_logits: jax.Array,
    positive_vectors: jax.Array,
    negative_vectors: jax.Array,
    *,
    positive_where: jax.Array | None = None,
    negative_where: jax.Array | None = None,
    similarity_temperature: ArrayLike = 1.0,
    delta: ArrayLike = 1.0,
) -> jax.Array:
    r"""The weights of SDCL, Eq 8: how much each negative counts against each positive; its Table 7 averages them.

    .. math::
        w_{iz} = \delta \Big( \frac{e^{\cos(x_i, x_z) / t}}{\sum_j e^{\cos(x_i, x_j) / t}} + \sigma(y_z) \Big)

    For departures from the paper see `adaptive_weighted_contrastive`.

    Args:
        negative_logits: [..., N] floats y_z.
        positive_vectors: [..., P, D] floats x_i.
        negative_vectors: [..., N, D] floats x_z.
        positive_where: [..., P] bool, the positives that count.
        negative_where: [..., N] bool, the negatives that count.
        similarity_temperature: t, a scalar, possibly traced.
        delta: a scalar, possibly traced.

    Returns:
        [..., P, N], float32 or wider, in [0, 2 delta]; 0 for a pair that does not count. The gradient flows through
        everything.

    Time O((P + N) D + P N D), memory O(P N) a list besides the arrays.

    >>> w = adaptive_weights(jnp.array([0.0, 100.0]), jnp.array([[2.0, 0.0]]), jnp.array([[3.0, 0.0], [0.0, 1.0]]))
    >>> print(*(f"{x:.4f}" for x in w[0]))  # e / (e + 1) + 1/2 and 1 / (e + 1) + 1
    1.2311 1.2689

    """
    positive = list_mask(positive_vectors[..., 0], positive_where)
    negative = list_mask(negative_logits, negative_where)
    pairs = negative[..., :, None] & positive[..., None, :]
    # Without a mask there is nothing to blank out, and the backward pass is spared a copy of the vectors.
    cosines = _cosines(
        positive_vectors,
        negative_vectors,
        None if positive_where is None else positive,
        None if negative_where is None else negative,
    )
    x = jnp.where(pairs, cosines / similarity_temperature, NEGATIVE)
    peak = jax.lax.stop_gradient(jnp.max(x, axis=-2, keepdims=True, initial=NEGATIVE))
    shares = jnp.where(pairs, jnp.exp(x - peak), 0.0)
    total = jnp.sum(shares, axis=-2, keepdims=True)
    shares = shares / jnp.where(jnp.any(pairs, axis=-2, keepdims=True), total, 1.0)
    confidence = jax.nn.sigmoid(jnp.where(negative, accumulated(negative_logits), 0.0))
    weights = delta * jnp.where(pairs, shares + confidence[..., :, None], 0.0)
    return jnp.swapaxes(weights, -1, -2)


@jax.custom_vjp
def _cosines(a: jax.Array, b: jax.Array, a_where: jax.Array | None, b_where: jax.Array | None) -> jax.Array:
    """[..., P, D] and [..., N, D] to the cosines [..., N, P], 0 where a vector is zero or masked.

    N before P: with the few positives last, XLA's products on the CPU are three times faster, here and in the gradient.
    """
    return _cosines_fwd(a, b, a_where, b_where)[0]


def _cosines_fwd(a, b, a_where, b_where):
    a_scale, b_scale = _inverse_norm(a, a_where), _inverse_norm(b, b_where)
    dots = jnp.einsum("...pd,...nd->...np", a, b, preferred_element_type=a_scale.dtype)
    scales = a_scale[..., None, :] * b_scale[..., :, None]
    # What a masked vector holds reaches no dot product but its own, which has scale 0.
    cosines = jnp.where(scales == 0, 0.0, dots * scales)
    return cosines, (a, b, a_where, b_where, a_scale, b_scale, cosines)


def _cosines_bwd(residuals, cotangent):
    """With M = g / (|a| |b|), the gradients are M^T b - a sum_n(g cos) / |a|^2 and M a - b sum_p(g cos) / |b|^2."""
    a, b, a_where, b_where, a_scale, b_scale, cosines = residuals
    a, b = _blank(a, a_where), _blank(b, b_where)
    mixed = cotangent * (a_scale[..., None, :] * b_scale[..., :, None])
    pull = cotangent * cosines
    a_slope = jnp.einsum("...np,...nd->...pd", mixed, b) - (jnp.sum(pull, axis=-2) * jnp.square(a_scale))[..., None] * a
    if (size := a.shape[-2]) <= _UNROLLED:
        # A `sum` over p would not do: XLA on the CPU fuses it with the large array and takes twice as long.
        b_pull = sum(pull[..., p] for p in range(size)) * jnp.square(b_scale)
        b_slope = -b_pull[..., None] * b
        b_slope = sum((mixed[..., :, p, None] * a[..., None, p, :] for p in range(size)), b_slope)
    else:
        b_pull = jnp.sum(pull, axis=-1) * jnp.square(b_scale)
        b_slope = jnp.einsum("...np,...pd->...nd", mixed, a) - b_pull[..., None] * b
    return a_slope.astype(a.dtype), b_slope.astype(b.dtype), None, None


_cosines.defvjp(_cosines_fwd, _cosines_bwd)


def _inverse_norm(x: jax.Array, where: jax.Array | None) -> jax.Array:
    """[..., K, D] to 1 / norm [..., K], 0 where a vector is zero or masked."""
    square = jnp.sum(jnp.square(accumulated(x)), axis=-1)
    some = ~(square <= _SMALLEST)  # Not `>`: a NaN is to stay one.
    some = some if where is None else some & where
    return jnp.where(some, jax.lax.rsqrt(jnp.where(some, square, 1.0)), 0.0)


def _blank(x: jax.Array, where: jax.Array | None) -> jax.Array:
    return x if where is None else jnp.where(where[..., None], x, jnp.zeros_like(x))
