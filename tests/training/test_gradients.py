"""Group gradients, their angles, and the two combiners: published rules in float64 loops, identities and optimality."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.optimize import minimize

from hccp_jax.collectives import global_mean, pmean
from hccp_jax.training.gradients import (
    cagrad,
    gradient_cosines,
    gradient_norms,
    gradient_products,
    group_gradients,
    pcgrad,
)

KEY = jax.random.key(0)
surgery = jax.jit(pcgrad)
averse = jax.jit(cagrad, static_argnames=("rescale", "iterations"))


@pytest.fixture(autouse=True)
def _strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def stack(seed, groups, spread=1.0):
    """Random gradients over two leaves, and the same as a float64 matrix [G, n]."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.uniform(-spread, spread, groups)).astype(np.float32)
    tree = {
        "w": (rng.normal(size=(groups, 3, 2)) * scale[:, None, None]).astype(np.float32),
        "b": (rng.normal(size=(groups, 2)) * scale[:, None]).astype(np.float32),
    }
    return jax.tree.map(jnp.asarray, tree), flat(tree, groups)


def flat(tree, groups):
    return np.concatenate([np.asarray(leaf, np.float64).reshape(groups, -1) for leaf in jax.tree.leaves(tree)], axis=1)


def joined(tree):
    return flat(jax.tree.map(lambda leaf: leaf[None], tree), 1)[0]


# --- measuring


def test_group_gradients_are_those_of_the_losses_from_one_forward_pass():
    traces = []

    def losses(parameters):
        traces.append(1)
        hidden = jnp.tanh(parameters["w"] @ jnp.arange(3.0))
        return jnp.stack([jnp.sum(hidden), jnp.sum(hidden * parameters["b"]), jnp.sum(jnp.square(parameters["b"]))])

    parameters = {"w": jnp.arange(6.0).reshape(2, 3) / 7, "b": jnp.array([0.3, -2.0])}
    gradients = jax.jit(lambda p: group_gradients(losses, p))(parameters)
    assert len(traces) == 1
    for group in range(3):
        alone = jax.grad(lambda p, group=group: losses(p)[group])(parameters)
        jax.tree.map(lambda a, b, g=group: np.testing.assert_allclose(a[g], b, rtol=1e-6), gradients, alone)


def test_losses_that_are_not_stacked_are_refused():
    with pytest.raises(ValueError, match=r"shape \(\), expected one axis"):
        group_gradients(jnp.sum, jnp.ones(3))


@settings(deadline=None, max_examples=20, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), groups=st.sampled_from([1, 4]))
def test_norms_and_cosines(seed, groups):
    tree, matrix = stack(seed, groups, spread=6.0)
    norms = np.linalg.norm(matrix, axis=1)
    np.testing.assert_allclose(gradient_norms(tree), norms, rtol=1e-6)
    np.testing.assert_allclose(gradient_cosines(tree), matrix @ matrix.T / np.outer(norms, norms), atol=1e-6)


def test_a_zero_gradient_has_no_angle_and_nan_stays_visible():
    tree = jax.tree.map(lambda leaf: leaf.at[1].set(0), stack(0, 3)[0])
    cosines = gradient_cosines(tree)
    np.testing.assert_array_equal(cosines[1], 0)
    np.testing.assert_array_equal(cosines[:, 1], 0)
    np.testing.assert_allclose(jnp.diagonal(cosines), [1, 0, 1], rtol=1e-6)
    assert gradient_norms(tree)[1] == 0
    bad = tree | {"b": tree["b"].at[2, 0].set(jnp.nan)}
    assert jnp.isnan(gradient_cosines(bad)[0, 2])
    assert jnp.isnan(joined(surgery(bad, KEY))).all()
    assert jnp.isnan(joined(averse(bad))).all()


def test_bfloat16_is_summed_in_float32_and_types_are_kept():
    # 4096 terms of 1 + 1/128: a sum in bfloat16 would stop at 256
    one = jnp.full((2, 4096), 1 + 2**-7, jnp.bfloat16)
    products = gradient_products({"a": one, "b": jnp.zeros((2, 3))})
    assert products.dtype == jnp.float32
    np.testing.assert_allclose(products, 4096 * (1 + 2**-7) ** 2, rtol=1e-6)
    for combined in (surgery({"a": one, "b": jnp.ones((2, 3))}, KEY), averse({"a": one, "b": jnp.ones((2, 3))})):
        assert combined["a"].dtype == jnp.bfloat16
        assert combined["b"].dtype == jnp.float32
        assert combined["a"].shape == (4096,)


# --- PCGrad


def projected(matrix, orders):
    """The rule as published, g_j being the gradients as they came; the mean."""
    result = []
    for i, order in enumerate(orders):
        own = matrix[i].copy()
        for j in order:
            if own @ matrix[j] < 0:
                own -= own @ matrix[j] / (matrix[j] @ matrix[j]) * matrix[j]
        result.append(own)
    return np.mean(result, axis=0)


def all_orders(groups):
    others = [itertools.permutations([j for j in range(groups) if j != i]) for i in range(groups)]
    return itertools.product(*others)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), groups=st.sampled_from([2, 3]))
def test_pcgrad_is_the_published_rule_in_some_order(seed, groups):
    tree, matrix = stack(seed, groups)
    result = joined(surgery(tree, jax.random.key(seed)))
    distance = min(np.abs(result - projected(matrix, orders)).max() for orders in all_orders(groups))
    assert distance < 2e-6 * np.linalg.norm(matrix, axis=1).max()


def test_pcgrad_draws_every_order_of_every_group():
    # 0, 150 and 200 degrees: the order decides what is left, and the first can end up more than 90 degrees from where
    # it began, so that it would be in conflict with itself
    angle = np.deg2rad([0, 150, 200])
    matrix = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    candidates = np.array([projected(matrix, orders) for orders in all_orders(3)])
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(candidates, 2)) > 1e-3
    keys = jax.random.split(KEY, 200)
    results = jax.jit(jax.vmap(lambda key: pcgrad(jnp.asarray(matrix, jnp.float32), key)))(keys)
    near = np.abs(results[:, None] - candidates[None]).max(axis=-1) < 1e-5
    np.testing.assert_array_equal(near.sum(axis=1), 1)
    counts = near.sum(axis=0)
    assert counts.min() > 8  # 25 expected of each of the 8
    np.testing.assert_array_equal(surgery(jnp.asarray(matrix), KEY), surgery(jnp.asarray(matrix), KEY))


def test_pcgrad_without_conflict_is_the_mean():
    tree, matrix = stack(1, 4)
    tree, matrix = jax.tree.map(jnp.abs, tree), np.abs(matrix)
    np.testing.assert_allclose(joined(surgery(tree, KEY)), matrix.mean(axis=0), rtol=1e-6)
    alone = jax.tree.map(lambda leaf: leaf[:1], tree)
    np.testing.assert_allclose(joined(surgery(alone, KEY)), matrix[0], rtol=1e-6)


def test_pcgrad_of_opposed_vectors_is_zero_and_a_zero_vector_opposes_nothing():
    one = jnp.array([[3.0, -1.0, 2.0]])
    np.testing.assert_allclose(surgery(jnp.concatenate([one, -4 * one]), KEY), 0, atol=1e-6)
    np.testing.assert_allclose(surgery(jnp.concatenate([one, 0 * one]), KEY), one[0] / 2, rtol=1e-6)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_pcgrad_of_two_hurts_neither(seed):
    tree, matrix = stack(seed, 2)
    result = joined(surgery(tree, KEY))
    assert (matrix @ result >= -1e-5 * np.square(np.linalg.norm(matrix, axis=1))).all()


# --- CAGrad


def objective(matrix, w, c):
    mean = matrix.mean(axis=0)
    return (w @ matrix) @ mean + c * np.linalg.norm(mean) * np.linalg.norm(w @ matrix)


def direction(matrix, w, c):
    mean, own = matrix.mean(axis=0), w @ matrix
    return mean + c * np.linalg.norm(mean) * own / np.linalg.norm(own)


def solved(matrix, c):
    """SciPy's minimum over the simplex."""
    return minimize(
        lambda w: objective(matrix, w, c),
        np.full(len(matrix), 1 / len(matrix)),
        method="SLSQP",
        bounds=[(0, 1)] * len(matrix),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-16, "maxiter": 500},
    )


@settings(deadline=None, max_examples=30, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), groups=st.sampled_from([2, 4]), c=st.sampled_from([0.2, 0.5, 0.9]))
def test_cagrad_is_optimal(seed, groups, c):
    """By duality: the worst-served loss gets what the problem over the simplex promises, and no d can give more."""
    tree, matrix = stack(seed, groups)
    d, mean = joined(averse(tree, c, rescale=False)), matrix.mean(axis=0)
    scale = np.linalg.norm(mean) * np.linalg.norm(matrix, axis=1).max()
    np.testing.assert_allclose(np.linalg.norm(d - mean), c * np.linalg.norm(mean), rtol=1e-4)
    np.testing.assert_allclose((matrix @ d).min(), solved(matrix, c).fun, atol=2e-4 * scale)


def test_cagrad_in_float64_is_the_solution_of_scipy():
    with jax.enable_x64(True):
        for seed in range(5):
            matrix = np.random.default_rng(seed).normal(size=(4, 30))
            solution = solved(matrix, 0.5)
            d = averse(jnp.asarray(matrix), rescale=False)
            assert d.dtype == jnp.float64
            np.testing.assert_allclose(d, direction(matrix, solution.x, 0.5), atol=1e-5)
            assert (matrix @ d).min() >= objective(matrix, solution.x, 0.5) - 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_cagrad_of_two_losses_is_one_exchange_of_weight(seed):
    tree, matrix = stack(seed, 2)
    share = np.linspace(0, 1, 20_001)
    best = share[np.argmin([objective(matrix, np.array([p, 1 - p]), 0.5) for p in share])]
    expected = direction(matrix, np.array([best, 1 - best]), 0.5) / 1.5
    for iterations in (1, 50):
        d = joined(averse(tree, iterations=iterations))
        np.testing.assert_allclose(d, expected, atol=2e-3 * np.linalg.norm(expected))


def test_cagrad_at_its_limits():
    tree, matrix = stack(3, 4)
    mean = matrix.mean(axis=0)
    np.testing.assert_allclose(joined(averse(tree, 0.0)), mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(joined(averse(tree, 0.4)) * 1.4, joined(averse(tree, 0.4, rescale=False)), rtol=1e-5)
    # equal gradients leave nothing to weigh: the mean, (1 + c) / (1 + c) long
    same = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], 3, axis=0), tree)
    np.testing.assert_allclose(joined(averse(same)), matrix[0], rtol=1e-5)
    zero = jax.tree.map(jnp.zeros_like, tree)
    np.testing.assert_array_equal(joined(averse(zero)), 0)
    # opposed vectors and a third across them: g_w is zero, and so is the correction
    cross = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0]])
    np.testing.assert_allclose(averse(cross, rescale=False), [0, 1], atol=1e-6)
    # the same in a general position, where rounding leaves a g_w whose direction means nothing
    one, two = np.random.default_rng(1).normal(size=(2, 50))
    two -= one * (one @ two) / (one @ one)
    balanced = jnp.asarray(np.stack([one, -3.3 * one, two + 2.3 * one]), jnp.float32)
    np.testing.assert_allclose(averse(balanced, rescale=False), two / 3, atol=5e-6)


def test_cagrad_follows_the_scale():
    tree, _ = stack(4, 4)
    base = joined(averse(tree))
    for scale in (1e-12, 1e9):
        np.testing.assert_allclose(
            joined(averse(jax.tree.map(lambda leaf, s=scale: s * leaf, tree))), scale * base, rtol=1e-4
        )


def test_cagrad_serves_the_worst_served_loss_better_than_the_mean():
    matrix = np.array([[10.0, 0.0], [-1.0, 1.0]])
    d = averse(jnp.asarray(matrix, jnp.float32), rescale=False)
    assert (matrix @ d).min() > (matrix @ matrix.mean(axis=0)).min() + 1


# --- devices


def test_on_two_devices_the_stack_is_that_of_one():
    mesh = jax.make_mesh((2,), ("devices",))
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(8, 3)), jnp.float32), jnp.asarray(rng.normal(size=(3, 8)), jnp.float32)
    parameters = jnp.array([0.1, -0.4, 0.7])

    def step(parameters, x, y, axis):
        mean = global_mean(axis)

        def losses(parameters):
            gap = jnp.square((x @ parameters)[None] - y)
            return jnp.stack([mean(values, jnp.ones_like(values, bool)) for values in gap])

        gradients = pmean(group_gradients(losses, parameters), axis)
        return gradients, pcgrad(gradients, KEY), cagrad(gradients)

    alone = jax.jit(lambda *args: step(*args, None))(parameters, x, y)
    layout = (P(), P("devices"), P(None, "devices"))
    spread = [jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in zip((parameters, x, y), layout, strict=True)]
    split = jax.shard_map(
        lambda *args: step(*args, "devices"), mesh=mesh, in_specs=layout, out_specs=P(), check_vma=True
    )
    for one, two in zip(alone, jax.device_get(jax.jit(split)(*spread)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
