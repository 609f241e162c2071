"""Gradients of several losses side by side: their norms and angles, and PCGrad and CAGrad, which combine them.

Tools of analysis and ablation. HAP says that groups of negatives of different difficulty pull with forces more than
ten times apart and in opposed directions: `gradient_norms` and `gradient_cosines` measure it, the two combiners are
what one would do about it without HAP. They cost one backward pass a group.

A stack of gradients is the pytree of the parameters with a leading axis of G groups in every leaf. Everything is a
function of the G x G matrix of dot products, so that a stack is read twice: for the matrix and for the combination.
On several devices the losses must be global and the stack averaged (`collectives.pmean`) before it comes here.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hccp_jax.numerics import accumulated

Gradients = Any


def group_gradients(losses_fn: Callable[[Any], jax.Array], parameters: Any) -> Gradients:
    """The gradient of each of several losses, from one forward pass and one backward pass a loss.

    The backward passes run one after the other (`lax.map`): a batch of them (`jax.jacrev`) would hold G times the
    activations, and batched scatters into embedding tables are slow on a CPU.

    Args:
        losses_fn: parameters -> [G], the losses stacked.
        parameters: a pytree.

    Returns:
        The parameters' pytree with leaves [G, ...].

    Time O(G) backward passes, memory O(G) copies of the parameters.

    >>> print(group_gradients(lambda w: jnp.stack([w @ w, w.sum()]), jnp.array([1.0, 2.0])))
    [[2. 4.]
     [1. 1.]]

    """
    losses, pull_back = jax.vjp(losses_fn, parameters)
    if losses.ndim != 1:
        raise ValueError(f"losses of shape {losses.shape}, expected one axis: stack the losses of the groups")
    return jax.lax.map(lambda chosen: pull_back(chosen)[0], jnp.diag(jnp.ones_like(losses)))


def gradient_products(gradients: Gradients) -> jax.Array:
    """The dot products g_i . g_j of a stack, [G, G], summed over all leaves in float32 or wider.

    >>> print(gradient_products({"a": jnp.array([3.0, 1.0]), "b": jnp.array([[4.0], [1.0]])}))
    [[25.  7.]
     [ 7.  2.]]

    """

    def products(leaf: jax.Array) -> jax.Array:
        flat = accumulated(leaf).reshape(leaf.shape[0], math.prod(leaf.shape[1:]))
        # On a GPU the default rounds to TF32, which is coarser than the angles at stake.
        return jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST)

    total, *rest = map(products, jax.tree.leaves(gradients))
    return sum(rest, total)


def gradient_norms(gradients: Gradients) -> jax.Array:
    """The Euclidean norm of each gradient of a stack over all leaves, [G]; not to be differentiated.

    >>> print(gradient_norms({"a": jnp.array([3.0, 1.0]), "b": jnp.array([[4.0], [0.0]])}))
    [5. 1.]

    """
    return jnp.sqrt(jnp.diagonal(gradient_products(gradients)))


def gradient_cosines(gradients: Gradients) -> jax.Array:
    """Cosines between the gradients of a stack, [G, G]; a zero gradient has cosine 0 with all, itself too.

    Squared norms must be normal numbers of the type: in float32, norms below 1e-19 count as zero.

    >>> print(gradient_cosines(jnp.array([[3.0, 4.0], [-4.0, 3.0], [-6.0, -8.0], [0.0, 0.0]])))
    [[ 1.  0. -1.  0.]
     [ 0.  1.  0.  0.]
     [-1.  0.  1.  0.]
     [ 0.  0.  0.  0.]]

    """
    products = gradient_products(gradients)
    inverse = jnp.sqrt(_inverse(jnp.diagonal(products)))
    return jnp.clip(products * inverse[:, None] * inverse[None, :], -1.0, 1.0)


def pcgrad(gradients: Gradients, key: jax.Array) -> Gradients:
    r"""Projecting conflicting gradients, PCGrad (Yu et al. 2020, Algorithm 1); the mean of the projected gradients.

    .. math::
        g_i' \leftarrow g_i' - \min\Big(0, \frac{g_i' \cdot g_j}{\| g_j \|^2}\Big) g_j
        \quad \text{for } j \ne i \text{ in random order}

    g_j is the gradient as it came, g_i' the one already projected. The order is drawn for each i on its own. The
    paper sums; the mean keeps the learning rate of the mean loss, which it equals where nothing conflicts.

    Args:
        gradients: leaves [G, ...]; leaves may differ in type, products are taken in float32 or wider.
        key: of `jax.random.key`; decides the orders, which matter from three groups on.

    Returns:
        One gradient: the leaves without their first axis, in their types.

    Time O(G^2 n + G^3), memory O(n), for n parameters.

    >>> print(pcgrad(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), jax.random.key(0)))  # the mean of (.5, .5) and (0, 1)
    [0.25 0.75]

    """
    products = gradient_products(gradients)
    groups = products.shape[0]
    orders = jax.vmap(lambda own: jax.random.permutation(own, groups))(jax.random.split(key, groups))
    inverse = _inverse(jnp.diagonal(products))

    def project(weights: jax.Array, other: jax.Array) -> tuple[jax.Array, None]:
        """Row i of `weights` is g_i' in terms of the gradients as they came; `other` [G] is each row's next j."""
        dot = jnp.sum(weights * products[other], axis=-1)
        conflict = ~(dot >= 0) & (other != jnp.arange(groups))  # Not `<`: a NaN is to stay one.
        step = jnp.where(conflict, dot * inverse[other], 0.0)
        return weights - step[:, None] * jax.nn.one_hot(other, groups, dtype=weights.dtype), None

    weights, _ = jax.lax.scan(project, jnp.diag(jnp.ones_like(inverse)), orders.T)
    return _combine(gradients, jnp.mean(weights, axis=0))


def cagrad(gradients: Gradients, c: ArrayLike = 0.5, *, rescale: bool = True, iterations: int = 200) -> Gradients:
    r"""Conflict-averse gradient, CAGrad (Liu et al. 2021, Algorithm 1).

    .. math::
        d = g_0 + \frac{c \| g_0 \|}{\| g_w \|} g_w, \quad g_0 = \tfrac{1}{G} \sum_i g_i, \quad
        g_w = \sum_i w_i g_i, \quad
        w = \arg\min_{w \in \Delta} \; g_w \cdot g_0 + c \| g_0 \| \| g_w \|

    d is the direction within c |g_0| of the mean that serves the worst-served loss best: max_d min_i g_i . d. Where
    g_w is zero (the losses are in balance already) d is g_0.

    The problem over the simplex is solved on the G x G products: each iteration moves weight from the worst vertex
    to the best one by as much as pays, in closed form. One iteration solves two groups; four need tens, and more the
    nearer the gradients are to balance and to linear dependence, where d is uncertain anyway.

    Args:
        gradients: leaves [G, ...]; leaves may differ in type, products are taken in float32 or wider.
        c: radius in units of |g_0|, possibly traced; 0 gives the mean, c < 1 keeps descent of the mean loss.
        rescale: divide by 1 + c, so that the length stays near that of the mean.
        iterations: static; each costs O(G^2).

    Returns:
        One gradient: the leaves without their first axis, in their types.

    Time O(G^2 (n + iterations)), memory O(n), for n parameters.

    >>> print(cagrad(jnp.array([[2.0, 0.0], [0.0, 2.0]])))  # no conflict: g_w is along g_0
    [1. 1.]

    """
    products = gradient_products(gradients)
    products = products * _inverse(jnp.max(jnp.diagonal(products)))  # The solution knows no scale.
    c = jnp.asarray(c, products.dtype)
    with_mean = jnp.mean(products, axis=1)  # g_i . g_0
    radius = c * jnp.sqrt(jnp.maximum(jnp.mean(with_mean), 0.0))
    weights = _least_served(products, with_mean, radius, iterations)
    square = _form(products, weights)
    # A |g_w| below the rounding of its own terms is zero: its direction would be noise of length c |g_0|.
    noise = 8 * jnp.finfo(products.dtype).eps * _form(jnp.abs(products), weights)
    square = jnp.where(square <= noise, 0.0, square)
    combined = 1.0 / len(weights) + radius * jnp.sqrt(_inverse(square)) * weights
    return _combine(gradients, combined / (1.0 + c) if rescale else combined)


def combined(gradients: Gradients, how: str, key: jax.Array) -> Gradients:
    """The gradients of a stack in one, at the scale of their sum.

    Args:
        gradients: leaves [G, ...].
        how: "pcgrad" or "cagrad".
        key: of `pcgrad`.

    Raises:
        ValueError: for another `how`.
    """
    if how not in ("pcgrad", "cagrad"):
        raise ValueError(f"combine={how!r}: expected pcgrad or cagrad")
    mean = pcgrad(gradients, key) if how == "pcgrad" else cagrad(gradients)
    groups = len(jax.tree.leaves(gradients)[0])
    return jax.tree.map(lambda leaf: groups * leaf, mean)


def _least_served(products: jax.Array, with_mean: jax.Array, radius: jax.Array, iterations: int) -> jax.Array:
    """The w on the simplex that minimises w . with_mean + radius * sqrt(w' products w): pairwise Frank-Wolfe."""

    def exchange(weights: jax.Array, _: None) -> tuple[jax.Array, None]:
        image = jnp.sum(products * weights[None], axis=-1)
        square = jnp.maximum(jnp.sum(weights * image), 0.0)
        slope = with_mean + radius * jnp.sqrt(_inverse(square)) * image
        to, source = jnp.argmin(slope), jnp.argmax(jnp.where(weights > 0, slope, -jnp.inf))
        # Along the edge the objective is t * rise + radius * sqrt(square + 2 t bend + t^2 length), with a minimum at
        # bend + t length = pull * sqrt(spread / (1 - pull^2)), and at an end of the edge if |pull| >= 1.
        rise, bend = with_mean[to] - with_mean[source], image[to] - image[source]
        length = products[to, to] - 2 * products[to, source] + products[source, source]
        spread = jnp.maximum(square * length - jnp.square(bend), 0.0)
        pull = -rise * jnp.sqrt(_inverse(jnp.square(radius) * length))
        inner = pull * jnp.sqrt(spread * _inverse(1.0 - jnp.square(pull)))
        moved = jnp.where(jnp.abs(pull) < 1, (inner - bend) * _inverse(length), jnp.where(pull > 0, 1.0, 0.0))
        moved = jnp.clip(moved, 0.0, weights[source])
        return weights.at[source].add(-moved).at[to].add(moved), None

    start = jnp.full_like(with_mean, 1.0 / len(with_mean))
    return jax.lax.scan(exchange, start, length=iterations)[0]


def _form(products: jax.Array, weights: jax.Array) -> jax.Array:
    """W' products w, as plain sums: a matrix product may be rounded to TF32."""
    return jnp.sum(products * weights[:, None] * weights[None])


def _combine(gradients: Gradients, weights: jax.Array) -> Gradients:
    """The weighted sum over the groups, leaf by leaf, in the leaves' types."""

    def combined(leaf: jax.Array) -> jax.Array:
        share = jax.lax.broadcast_in_dim(weights, leaf.shape, (0,))
        return jnp.sum(share * accumulated(leaf), axis=0).astype(leaf.dtype)

    return jax.tree.map(combined, gradients)


def _inverse(x: jax.Array) -> jax.Array:
    """1 / x, and 0 where x is not above the smallest normal number; NaN stays NaN."""
    nothing = x < jnp.finfo(x.dtype).tiny
    return jnp.where(nothing, 0.0, 1.0 / jnp.where(nothing, 1.0, x))
