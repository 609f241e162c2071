"""A ranker trained on the log of the simulated world: an option beside the synthetic rankers of `funnel`."""

import jax
import jax.numpy as jnp
import optax

from hccp_jax.cascade.world import RECENT, World


def observables(world: World, user: jax.Array, history: jax.Array, ids: jax.Array) -> jax.Array:
    """[U, P, 15] what a ranker sees of user and item: content match by dimension, statistics, categories, price."""
    past = world.content[history]
    wish = jnp.stack([past.mean(axis=1), past[:, -RECENT:].mean(axis=1)], axis=1)
    content = world.content[ids]
    seen = world.category[history]
    category = world.category[ids]
    long_match = jnp.mean(category[:, :, None] == seen[:, None, :], axis=-1)
    recent_match = jnp.mean(category[:, :, None] == seen[:, None, -RECENT:], axis=-1)
    gap = jnp.abs(world.price[ids] - world.observed_budget[user][:, None])
    dots = jnp.einsum("upc,ugc->upg", content, wish)
    scalars = jnp.stack([world.appeal[ids], long_match, recent_match, gap, world.rarity[ids]], axis=-1)
    return jnp.concatenate([content * wish[:, 1:2], dots, scalars], axis=-1)


def _network(parameters: dict, features: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(features @ parameters["w1"] + parameters["b1"])
    hidden = jax.nn.relu(hidden @ parameters["w2"] + parameters["b2"])
    return (hidden @ parameters["w3"])[..., 0] + parameters["b3"]


def trained_score(world: World, user: jax.Array, history: jax.Array, ids: jax.Array) -> jax.Array:
    """[U, P] click logits of the trained ranker."""
    if world.ranker is None:
        raise ValueError("the world has no trained ranker; build it with cascade.logs.open_world")
    return _network(world.ranker, observables(world, user, history, ids))


def fit(features: jax.Array, clicks: jax.Array, key: jax.Array, epochs: int = 2, batch: int = 1024) -> dict:
    """Fit the network to impressions by the click log-loss.

    Args:
        features: [N, 15] observables of impressions.
        clicks: [N] bool.
        key: PRNG key.
        epochs: passes over the impressions.
        batch: rows a step.

    Returns:
        The parameters.
    """
    width = features.shape[-1]
    keys = jax.random.split(key, 4)
    parameters = {
        "w1": jax.random.normal(keys[0], (width, 64)) * (2 / width) ** 0.5,
        "b1": jnp.zeros(64),
        "w2": jax.random.normal(keys[1], (64, 32)) * (2 / 64) ** 0.5,
        "b2": jnp.zeros(32),
        "w3": jax.random.normal(keys[2], (32, 1)) * 0.1,
        "b3": jnp.float32(-2.5),
    }
    optimizer = optax.adam(3e-3)

    def step(state: tuple, rows: jax.Array) -> tuple[tuple, None]:
        parameters, moments = state

        def loss(parameters: dict) -> jax.Array:
            logits = _network(parameters, features[rows])
            return optax.losses.sigmoid_binary_cross_entropy(logits, clicks[rows].astype(jnp.float32)).mean()

        updates, moments = optimizer.update(jax.grad(loss)(parameters), moments)
        return (optax.apply_updates(parameters, updates), moments), None

    steps = max(1, len(features) * epochs // batch)
    rows = jax.random.randint(keys[3], (steps, batch), 0, len(features))
    (parameters, _), _ = jax.lax.scan(step, (parameters, optimizer.init(parameters)), rows)
    return parameters
