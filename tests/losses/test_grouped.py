"""HAP-style grouped InfoNCE: one group, several, their weights, and how they even out the gradients."""

from math import exp, log

import jax
import jax.numpy as jnp
import numpy as np

from hccp_jax.losses.contrastive import info_nce
from hccp_jax.losses.grouped import grouped_info_nce

U, K = 3, 10


def draw(seed=0):
    rng = np.random.default_rng(seed)
    kind = rng.permuted(np.broadcast_to(np.arange(K) % 4, (U, K)), axis=-1)  # 0 counts nowhere
    groups = np.stack([kind == 2, kind == 3], axis=-2)
    return rng.normal(size=(U, K)).astype(np.float32), kind == 1, groups


grouped = jax.jit(jax.value_and_grad(grouped_info_nce), static_argnames="average_positives")


def plain(z, positive, negative, temperature=1.0):
    def loss(z):
        return info_nce(z / temperature, z / temperature, positive_where=positive, negative_where=negative)

    return jax.jit(jax.value_and_grad(loss))(z)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), a, b)


def test_one_group_is_info_nce():
    z, positive, groups = draw()
    found = grouped(z, positive=positive, groups=groups.any(-2, keepdims=True), temperature=0.3)
    close(found, plain(z, positive, groups.any(-2), 0.3))


def test_groups_add_up_with_their_weights_and_temperatures():
    z, positive, groups = draw(1)
    hard, easy = (plain(z, positive, groups[:, g], t) for g, t in enumerate((0.5, 2.0)))
    rest = {"positive": positive, "groups": groups, "temperature": jnp.array([0.5, 2.0])}
    close(grouped(z, **rest), jax.tree.map(lambda a, b: a + b, hard, easy))
    found = grouped(z, **rest, group_weights=jnp.array([3.0, 0.25]))
    close(found, jax.tree.map(lambda a, b: 3 * a + 0.25 * b, hard, easy))
    close(grouped(z, **rest, group_weights=jnp.array([1.0, 0.0])), hard)


def test_average_over_positives():
    z, positive, groups = draw(2)
    positive[0], groups[0, :, :5] = np.arange(K) < 5, False
    rest = {"positive": positive, "groups": groups, "temperature": 1.0}
    lists = jax.jit(lambda z: grouped_info_nce(z, **rest, reduce_fn=lambda values, valid: values))(z)
    assert len(set(positive.sum(-1))) > 1
    averaged = grouped(z, **rest, average_positives=True)[0]
    np.testing.assert_allclose(averaged, np.mean(lists / positive.sum(-1)), rtol=1e-6)


def test_a_group_without_negatives_costs_nothing():
    z, positive, groups = draw(3)
    groups[:, 1] = False
    rest = {"positive": positive, "temperature": 1.0}
    close(grouped(z, groups=groups, **rest), grouped(z, groups=groups[:, :1], **rest))
    value, grad = grouped(z, groups=np.zeros_like(groups), **rest)
    assert value == 0
    np.testing.assert_array_equal(grad, 0)


def test_separate_denominators_even_out_the_gradients():
    """Ten hard negatives at 4 and ten easy ones at -1 beside a positive at 3: a ratio of 148 becomes 6.2."""
    z = jnp.array([3.0] + [4.0] * 10 + [-1.0] * 10)
    positive, hard, easy = (jnp.array([1] + [0] * 20, bool), *(jnp.arange(21) // 10.01 == g for g in (0, 1)))
    hard &= ~positive
    assert (hard.sum(), easy.sum()) == (10, 10)
    mixed = grouped(z, positive=positive, groups=(hard | easy)[None], temperature=1.0)[1]
    apart = grouped(z, positive=positive, groups=jnp.stack([hard, easy]), temperature=1.0)[1]
    np.testing.assert_allclose(mixed[1] / mixed[20], exp(5), rtol=1e-4)
    factor = (exp(3) + 10 * exp(-1)) / (exp(3) + 10 * exp(4))
    np.testing.assert_allclose(apart[1] / apart[20], exp(5) * factor, rtol=1e-4)
    np.testing.assert_allclose((exp(5), exp(5) * factor), (148, 6.2), rtol=0.01)


def test_a_slot_may_be_in_several_groups():
    z = jnp.log(jnp.array([1.0, 3.0]))
    groups = jnp.array([[False, True], [False, True]])
    loss = grouped_info_nce(z, positive=jnp.array([True, False]), groups=groups, temperature=1.0)
    np.testing.assert_allclose(loss, 2 * log(4), rtol=1e-6)
