"""CROLoss: recall at any cut as a differentiable function of a positive's estimated rank."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.losses.pairs import Pairs, row_counts
from hccp_jax.losses.reduction import NEGATIVE, ReduceFn, accumulated, list_mask, log_sum_exp, mean_valid
from hccp_jax.losses.streaming import Phi, row_gap_sums, row_log_sum_exp
from hccp_jax.numerics import softplus_and_sigmoid

Kernel = Literal["hinge", "sigmoid", "exponential", "softplus", "unit_step"]
KERNELS = ("hinge", "sigmoid", "exponential", "softplus", "unit_step")


def kernel_function(kernel: Kernel, hinge_margin: float = 5.0) -> Phi:
    """A comparison kernel phi of CROLoss, Table 3 and 4, and its derivative: `gap -> (phi, phi')`.

    hinge (g + m)_+, sigmoid 1 / (1 + e^-g), exponential e^g, softplus log(1 + e^g), unit step [g >= 0]; softplus is
    exact at any gap, where log(1 + exp(g)) as written overflows. The paper's own condition 0.5 <= phi(0) <= 1 does not
    hold for its hinge, whose m is 5; m = 0.5 .. 1 is admissible.

    Args:
        kernel: one of `KERNELS`.
        hinge_margin: m.

    Raises:
        ValueError: for an unknown kernel.

    >>> value, slope = kernel_function("sigmoid")(jnp.array(0.0))
    >>> print(value, slope)
    0.5 0.25

    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel!r}: expected one of {', '.join(KERNELS)}")

    def hinge(gap):
        return jax.nn.relu(gap + hinge_margin), (gap > -hinge_margin).astype(gap.dtype)

    return {"hinge": hinge, "sigmoid": _sigmoid, "exponential": _exponential, "softplus": _softplus}.get(
        kernel, _unit_step
    )


def _sigmoid(gap):
    value = softplus_and_sigmoid(gap)[1]
    return value, value * (1.0 - value)


def _exponential(gap):
    value = jnp.exp(gap)
    return value, value


def _softplus(gap):
    return softplus_and_sigmoid(gap)


def _unit_step(gap):
    return (gap >= 0).astype(gap.dtype), jnp.zeros_like(gap)


def croloss(
    positive_logits: jax.Array,
    negative_logits: jax.Array,
    *,
    items: ArrayLike,
    alpha: ArrayLike = 1.0,
    kernel: Kernel = "softplus",
    weight_kernel: Kernel | None = None,
    hinge_margin: float = 5.0,
    rank: Literal["scaled", "unbiased"] = "scaled",
    scale: Literal["log", "none"] = "log",
    positive_where: jax.Array | None = None,
    negative_where: jax.Array | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    r"""CROLoss (Tang et al., CIKM 2022), Eq 13, 16 and 24, and its Lambda method, Eq 23.

    .. math::
        \ell = \sum_p W_\alpha(R_\phi(p)), \quad W_\alpha(R) = \frac{1 - R^{1 - \alpha}}{1 - (|I| + 1)^{1 - \alpha}},
        \quad R_\phi(p) = \frac{|I|}{|I'|} \Big( 1 + \sum_{n \in I'} \phi(l_n - l_p) \Big)

    W_1 is log R / log(|I| + 1). A larger alpha puts more weight on small cuts N of recall@N; the paper prints
    alpha <= 0 where >= 0 is meant. With `weight_kernel` it is the Lambda method: the sum over positives of
    w_alpha(R_weight) R_kernel, w = dW/dR being a constant for the gradient.

    Special cases, up to a factor and a constant: alpha 1 and the exponential kernel are the softmax cross entropy;
    alpha 0 is the triplet loss with the hinge and BPR with the softplus.

    Args:
        positive_logits: [..., P] floats, the scale (the paper's tau = 10 times a cosine) multiplied in.
        negative_logits: [..., N] floats, the same leading axes.
        items: |I|, the number of items ranked; a scalar.
        alpha: at least 0, possibly traced; stable around 1.
        kernel: phi, or phi2 of the Lambda method.
        weight_kernel: phi1 of the Lambda method; None for the plain loss.
        hinge_margin: m of the hinge.
        rank: `scaled` is Eq 24, at least |I| / |I'|; `unbiased` is 1 + |I| / |I'| times the sum. |I'| is the number of
            negatives that count.
        scale: `log` multiplies by log(|I| + 1) as the released code does, so that alpha = 1 is log R and a learning
            rate serves all alphas; `none` is the paper's formula.
        positive_where: [..., P] bool.
        negative_where: [..., N] bool; the paper's negatives hold the positive at times, ours need not.
        reduce_fn: reduction of the per-list sums over positives; a list is valid if it has a positive.

    Returns:
        A scalar, or what `reduce_fn` makes; 0 with zero gradient if no list has a positive. A positive without
        negatives has rank 1 and costs 0 in the plain loss.

    Raises:
        ValueError: for an unknown kernel, rank or scale.

    Cost: time and memory O(P N) a list; `croloss_in_batch` streams shared negatives.

    >>> loss = croloss(jnp.array([1.0]), jnp.array([1.0, 1.0]), items=2, kernel="exponential")
    >>> print(f"{loss:.4f}")  # log(1 + 1 + 1)
    1.0986

    """
    positive, negative = list_mask(positive_logits, positive_where), list_mask(negative_logits, negative_where)
    anchors = jnp.where(positive, accumulated(positive_logits), 0.0)
    others = jnp.where(negative, accumulated(negative_logits), 0.0)
    gaps = others[..., None, :] - anchors[..., :, None]
    where = jnp.broadcast_to(negative[..., None, :], gaps.shape)
    count = jnp.sum(negative, axis=-1, dtype=gaps.dtype)[..., None]

    def log_rank(kernel: Kernel, fixed: bool) -> jax.Array:
        gap = jax.lax.stop_gradient(gaps) if fixed else gaps
        if kernel == "exponential":
            log_sum = log_sum_exp(gap, where)
        else:
            phi = kernel_function(kernel, hinge_margin)(gap)[0]
            log_sum = _safe_log(jnp.sum(jnp.where(where, phi, 0.0), axis=-1))
        # W of a masked slot may overflow, and 0 times its slope would reach the gradients.
        return jnp.where(positive, _log_rank(log_sum, count, items, rank), 0.0)

    weight = None if weight_kernel is None else log_rank(weight_kernel, True)
    values = _weighted(log_rank(kernel, False), weight, alpha, items, scale)
    return reduce_fn(jnp.sum(jnp.where(positive, values, 0.0), axis=-1), jnp.any(positive, axis=-1))


def croloss_in_batch(
    users: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    items: ArrayLike,
    alpha: ArrayLike = 1.0,
    kernel: Kernel = "softplus",
    weight_kernel: Kernel | None = None,
    hinge_margin: float = 5.0,
    rank: Literal["scaled", "unbiased"] = "scaled",
    scale: Literal["log", "none"] = "log",
    where: jax.Array | None = None,
    pairs: Pairs = Pairs(),
    block: int | None = None,
    reduce_fn: ReduceFn = mean_valid,
) -> jax.Array:
    """`croloss` of one positive a row against negatives that all rows share, without storing a score.

    Args:
        users: [R, d] floats, the scale multiplied in (10 times unit vectors in the paper).
        positives: [R, d] floats, the row's positive item.
        negatives: [N, d] floats.
        items: |I|.
        alpha: as in `croloss`, likewise the next five.
        kernel: phi.
        weight_kernel: phi1 of the Lambda method.
        hinge_margin: m of the hinge.
        rank: estimate of the rank.
        scale: normalisation of W.
        where: [R] bool, rows that count.
        pairs: which negatives count for which row; give ids to leave a row's own positive out.
        block: negatives at a time; None decides by size.
        reduce_fn: reduction over rows.

    Returns:
        A scalar, or what `reduce_fn` makes. Differentiable in reverse mode only.

    Cost: time O(R N d); memory O(R block + N d).

    >>> one = jnp.ones((1, 1))
    >>> loss = croloss_in_batch(one, one, jnp.ones((2, 1)), items=2, kernel="exponential")
    >>> print(f"{loss:.4f}")  # log(1 + 1 + 1)
    1.0986

    """
    real = jnp.broadcast_to(True if where is None else where, users.shape[:1])
    # Both factors are masked: either's gradient is the other, which may hold anything.
    rows, positives = (jnp.where(real[:, None], vectors, 0) for vectors in (users, positives))
    shift = jnp.sum(accumulated(rows) * accumulated(positives), axis=-1)
    count = row_counts(len(rows), len(negatives), pairs).astype(shift.dtype)
    kinds = [(kernel, False)] + ([] if weight_kernel is None else [(weight_kernel, True)])
    logs: dict[bool, jax.Array] = {}
    summed = [(kind, fixed) for kind, fixed in kinds if kind != "exponential"]
    if summed:
        phis = [
            tuple(kernel_function(k, hinge_margin) for k, fixed in summed if fixed == side) for side in (False, True)
        ]
        sums = row_gap_sums(phis[0], rows, negatives, shift, constants=phis[1], pairs=pairs, block=block)
        logs = {fixed: _safe_log(total) for (_, fixed), total in zip(summed, sums, strict=True)}
    for kind, fixed in kinds:
        if kind == "exponential":
            inputs = jax.lax.stop_gradient((rows, negatives, shift)) if fixed else (rows, negatives, shift)
            total = row_log_sum_exp(inputs[0], inputs[1], pairs=pairs, block=block)
            logs[fixed] = jnp.where(total == NEGATIVE, NEGATIVE, total - inputs[2])
    ranks = {fixed: _log_rank(value, count, items, rank) for fixed, value in logs.items()}
    values = _weighted(ranks[False], ranks.get(True), alpha, items, scale)
    return reduce_fn(jnp.where(real, values, 0.0), real)


def _safe_log(x: jax.Array) -> jax.Array:
    """Log of sums that are not negative; `NEGATIVE` with zero gradient at 0."""
    return jnp.where(x == 0, NEGATIVE, jnp.log(jnp.where(x == 0, 1.0, x)))


def _log_rank(log_sum: jax.Array, count: jax.Array, items: ArrayLike, rank: str) -> jax.Array:
    """Log of the estimated rank from the log of the sum of phi; finite where exp of it is not."""
    share = jnp.log(jnp.asarray(items, log_sum.dtype)) - jnp.log(jnp.maximum(count, 1.0))
    if rank == "scaled":
        # Without a negative nothing was sampled, and the positive is first.
        return jnp.where(count > 0, share, 0.0) + _log_one_plus(log_sum)
    if rank == "unbiased":
        return _log_one_plus(log_sum + share)
    raise ValueError(f"rank={rank!r}: expected scaled or unbiased")


def _log_one_plus(log_x: jax.Array) -> jax.Array:
    return softplus_and_sigmoid(log_x)[0]


def _weighted(log_rank: jax.Array, log_weight_rank: jax.Array | None, alpha: ArrayLike, items: ArrayLike, scale: str):
    """W_alpha(R), or w_alpha(R_1) R_2 with the first factor a constant; both from log ranks."""
    if scale not in ("log", "none"):
        raise ValueError(f"scale={scale!r}: expected log or none")
    power = 1.0 - jnp.asarray(alpha, log_rank.dtype)
    whole = jnp.log1p(jnp.asarray(items, log_rank.dtype))
    normalizer = _expm1_over(power, whole) / (whole if scale == "log" else 1.0)
    if log_weight_rank is None:
        return _expm1_over(power, log_rank) / normalizer
    # w = R_1^-alpha / normalizer; the two exponents are added before the exponential.
    exponent = log_rank - jnp.asarray(alpha, log_rank.dtype) * jax.lax.stop_gradient(log_weight_rank)
    return jnp.exp(exponent) / normalizer


def _expm1_over(power: jax.Array, x: jax.Array) -> jax.Array:
    """(e^(power x) - 1) / power, and its limit x at power 0."""
    product = power * x
    small = jnp.abs(product) < 1e-4  # to second order: the next term is 1e-9 of the first
    # Both stay finite where they are not chosen, however large x is.
    exponential = jnp.expm1(jnp.where(small, 0.0, product)) / jnp.where(small, 1.0, power)
    return jnp.where(small, x * (1.0 + product / 2.0), exponential)
