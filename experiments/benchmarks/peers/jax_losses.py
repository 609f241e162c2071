"""Materialised JAX forms of the kernels: what one writes first and jits, the rivals of the fast forms.

Each builds the whole square or matrix of pairs and leaves the gradient to autodiff; values equal those of
`hccp_jax.losses`, which a test holds.
"""

import jax
import jax.numpy as jnp


def soft_sort_cross_entropy(scores: jax.Array, labels: jax.Array, tau: float, tau_y: float) -> jax.Array:
    """Mean over lists of the literal loss on two [B, n, n] matrices."""

    def log_soft_sort(x, temperature):
        ordered = jnp.sort(x, axis=-1)[:, ::-1]
        return jax.nn.log_softmax(-jnp.abs(ordered[:, :, None] - x[:, None, :]) / temperature, axis=-1)

    target = jnp.exp(log_soft_sort(labels.astype(scores.dtype), tau_y))
    return -jnp.mean(jnp.sum(target * log_soft_sort(scores, tau), axis=(1, 2)))


def am_rankmax(scores: jax.Array, labels: jax.Array, linear: bool) -> jax.Array:
    """Mean over lists on [B, n, n] hinges, alpha = beta = 1; a linear or a constant margin."""
    y = labels.astype(scores.dtype)
    gap = y[:, :, None] - y[:, None, :]  # of row j over column i
    margin = (y == 0)[:, None, :] + (gap if linear else 1.0)
    hinges = jnp.where(gap > 0, jax.nn.relu(scores[:, None, :] - scores[:, :, None] + margin), 0.0)
    return jnp.mean(jnp.sum(jnp.log1p(jnp.sum(hinges, axis=-1)), axis=-1))


def margin_info_nce(users: jax.Array, items: jax.Array, margin: float, temperature: float) -> jax.Array:
    """Mean over users; items [U R, d] lie user by user, the first two are positive, all of others easy negatives."""
    count, per_user = len(users), len(items) // len(users)
    logits = users @ items.T
    own = jnp.arange(len(items))[None, :] // per_user == jnp.arange(count)[:, None]
    negatives = jax.nn.logsumexp(jnp.where(own, -1e30, logits / temperature), axis=-1)
    positives = items.reshape(count, per_user, -1)[:, :2]
    dots = jnp.einsum("ud,upd->up", users, positives)
    norms = jnp.sqrt(jnp.sum(users**2, -1))[:, None] * jnp.sqrt(jnp.sum(positives**2, -1))
    return jnp.mean(jnp.sum(jax.nn.softplus(negatives[:, None] - (dots - margin * norms) / temperature), axis=-1))


def croloss_lambda(users: jax.Array, positives: jax.Array, negatives: jax.Array, alpha: float, items: int) -> jax.Array:
    """Mean over users; weight from sigmoid ranks, loss on softplus ranks; scale 10, both ranks by Eq 24."""
    gaps = 10.0 * (users @ negatives.T - jnp.sum(users * positives, axis=-1, keepdims=True))
    share = items / len(negatives)
    rank = jax.lax.stop_gradient(share * (1.0 + jnp.sum(jax.nn.sigmoid(gaps), axis=-1)))
    weight = jnp.log(items + 1.0) * rank**-alpha * (1 - alpha) / jnp.expm1((1 - alpha) * jnp.log(items + 1.0))
    return jnp.mean(weight * share * (1.0 + jnp.sum(jnp.log1p(jnp.exp(gaps)), axis=-1)))
