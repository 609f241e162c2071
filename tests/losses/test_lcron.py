"""LCRON: survival, its detached gradient, the identity of one stage, and the released code's weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.losses import lcron as kernels
from hccp_jax.losses.arf import uncertainty_weighted
from hccp_jax.losses.lcron import lcron
from hccp_jax.losses.permutation import neural_sort, soft_sort
from hccp_jax.losses.reduction import no_reduction

from .cases import permutation as oracles

EPSILON = 1e-6
STATIC = ("k", "sort", "released", "reduce_fn")
survival = jax.jit(kernels.survival, static_argnums=1)
end_to_end = jax.jit(kernels.end_to_end, static_argnames=("cuts", *STATIC))
single_stage = jax.jit(kernels.single_stage, static_argnames=("cut", *STATIC))
NEURAL = {"temperature": oracles.NEURAL}
SOFT = {"temperature": oracles.SOFT, "sort": soft_sort}


def both(values, valid):
    return values, valid


def draw(seed=0, stages=2, lists=3, items=7):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (lists, items))
    return [rng.normal(size=(lists, items)).astype(np.float32) for _ in range(stages)], labels


def slope_by_differences(value, x, step=1e-6):
    grad = np.zeros_like(x)
    for i in np.ndindex(*x.shape):
        move = np.zeros_like(x)
        move[i] = step
        grad[i] = (value(x + move) - value(x - move)) / (2 * step)
    return grad


def test_survival_adds_up_and_saturates():
    matrix = jax.jit(neural_sort)(draw()[0][0], temperature=4.0)
    for cut in (0, 2, 7, 9):
        kept, dropped = survival(matrix, cut)
        np.testing.assert_allclose(kept + dropped, 1, rtol=3e-6)
    np.testing.assert_allclose(survival(matrix, 9)[1], 0)
    np.testing.assert_allclose(survival(matrix, 0)[0], 0)
    kept, dropped = survival(jnp.eye(4)[jnp.array([2, 0, 3, 1])], 2)
    np.testing.assert_allclose(kept, [1, 0, 1, 0], atol=2e-6)
    np.testing.assert_allclose(dropped, [0, 1, 0, 1], atol=2e-6)


@pytest.mark.parametrize(("rest", "relax"), [(NEURAL, oracles.neural_sort), (SOFT, oracles.soft_sort_oracle)])
def test_gradient_takes_the_column_sums_for_constants(rest, relax):
    with jax.enable_x64(True):
        scores, labels = draw(1, stages=2, lists=1)
        a, b, y = scores[0][0].astype(np.float64), scores[1][0].astype(np.float64), labels[0]
        sums = [relax(a).sum(0), relax(b).sum(0)]
        joint = jax.jit(jax.grad(lambda a: end_to_end([a, b], y, cuts=(4, 2), k=3, **rest)))(a)
        exact = slope_by_differences(lambda a: oracles.end_to_end_oracle([relax(a), relax(b)], y, (4, 2), 3, sums), a)
        np.testing.assert_allclose(joint, exact, rtol=1e-6, atol=1e-8)
        single = jax.jit(jax.grad(lambda a: single_stage(a, y, cut=2, k=3, **rest)))(a)
        exact = slope_by_differences(lambda a: oracles.single_stage_oracle(relax(a), y, 2, 3, sums[0]), a)
        np.testing.assert_allclose(single, exact, rtol=1e-6, atol=1e-8)
        free = slope_by_differences(lambda a: oracles.single_stage_oracle(relax(a), y, 2, 3), a)
        assert np.abs(free - single).max() > 1e-3  # detaching matters


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_one_stage_is_single_stage(size):
    (scores,), labels = draw(2, stages=1)
    mask = np.random.default_rng(0).random(scores.shape) < 0.8
    rest = {"k": 3, "temperature": 5.0, "where": mask}
    joint = jax.jit(jax.value_and_grad(lambda s: end_to_end([s], labels, cuts=(2,), **rest)))(scores * size)
    single = jax.jit(jax.value_and_grad(lambda s: single_stage(s, labels, cut=2, **rest)))(scores * size)
    assert joint[1].any()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), joint, single)


def test_stages_come_in_any_order():
    scores, labels = draw(3, stages=3)
    forward = end_to_end(scores, labels, cuts=(5, 3, 2), k=2, **NEURAL)
    np.testing.assert_allclose(forward, end_to_end(scores[::-1], labels, cuts=(2, 3, 5), k=2, **NEURAL), rtol=1e-6)


def test_hard_cascade():
    """Near temperature 0 an item is lost if any stage drops it, and each mistake costs -log epsilon."""
    labels = jnp.array([[4, 3, 2, 1, 0]])
    good, bad = labels * 1.0, jnp.array([[4.0, 1.0, 2.0, 3.0, 0.0]])  # drops item 1 and keeps item 2 at cut 3
    hard = partial(end_to_end, labels=labels, cuts=(3, 3), k=2, temperature=1e-3)
    mistake = -np.log(EPSILON) / 5
    np.testing.assert_allclose(hard([good, good]), mistake, rtol=1e-4)  # item 2 is kept by both
    np.testing.assert_allclose(hard([good, bad]), 2 * mistake, rtol=1e-4)  # so it is here, and item 1 is lost
    hard = partial(end_to_end, labels=labels, cuts=(3, 2), k=2, temperature=1e-3)
    np.testing.assert_allclose(hard([good, good]), 0, atol=2e-6)
    np.testing.assert_allclose(hard([bad, good]), mistake, rtol=1e-4)


def test_lists_count_that_some_stage_cuts():
    scores, labels = draw(4)
    mask = np.arange(7) < np.array([[2], [3], [6]])
    rest = {"k": 2, "where": mask, "reduce_fn": both} | NEURAL
    assert end_to_end(scores, labels, cuts=(4, 2), **rest)[1].tolist() == [False, True, True]
    assert single_stage(scores[0], labels, cut=4, **rest)[1].tolist() == [False, False, True]
    assert single_stage(scores[0], labels, cut=4, released=True, **rest)[1].tolist() == [True, True, True]
    assert single_stage(scores[0], labels, cut=4, released=True, **rest)[0].tolist()[:2] == [0, 0]


def released_by_hand(stages, labels, mask, cuts, k):
    """L_e2e and the L_single of the released code, means over the padded length and over all lists."""
    joint, single, size = 0.0, np.zeros(len(stages)), labels.shape[-1]
    for u in range(len(labels)):
        y = labels[u, mask[u]]
        rows = (oracles.sort_matrix(y) > 0.001).astype(float)
        up, down = rows[:k].sum(0), rows[k:].sum(0)
        survives, passes = 1, 1
        for i, (stage, q) in enumerate(zip(stages, cuts, strict=True)):
            matrix = oracles.neural_sort(stage[u, mask[u]].astype(np.float64))
            kept = matrix[:q].sum(0) / (matrix.sum(0) + EPSILON)
            dropped = matrix[q:].sum(0) / (matrix.sum(0) + EPSILON)
            survives, passes = survives * kept, passes * (1 - dropped)
            if len(y) > q:
                single[i] -= np.sum(up * np.log(kept + EPSILON) + down * np.log(dropped + EPSILON)) / size
        if len(y) > min(cuts):
            rest = np.clip(1 - up, 0, 1)
            joint -= np.sum(up * np.log(survives + EPSILON) + rest * np.log(1 - passes + EPSILON)) / size
    return joint / len(labels), single / len(labels)


def test_released_form():
    scores, labels = draw(5)
    mask = np.arange(7) < np.array([[7], [3], [6]])
    rest = {"k": 3, "where": mask, "released": True} | NEURAL
    joint, single = released_by_hand(scores, labels, mask, (4, 3), 3)
    np.testing.assert_allclose(end_to_end(scores, labels, cuts=(4, 3), **rest), joint, rtol=2e-6)
    for stage, cut, exact in zip(scores, (4, 3), single, strict=True):
        np.testing.assert_allclose(single_stage(stage, labels, cut=cut, **rest), exact, rtol=2e-6)


def test_released_counts_an_item_of_a_tie_of_ten_ten_times():
    labels = jnp.array([[9] + [1] * 10])
    scores = jnp.asarray(np.random.default_rng(6).normal(size=(1, 11)).astype(np.float32))
    rest = {"cut": 1, "k": 1, "temperature": 8.0, "reduce_fn": no_reduction}
    # The one best item has no equals: all of the difference is the term of the dropped items.
    kept, dropped = survival(jax.jit(neural_sort)(scores, temperature=8.0), 1)
    down = -jnp.sum(jnp.log(dropped[0, 1:] + EPSILON)) / 11
    paper, released = single_stage(scores, labels, **rest), single_stage(scores, labels, released=True, **rest)
    np.testing.assert_allclose(released - paper, 9 * down, rtol=1e-5)
    np.testing.assert_allclose(paper, down - jnp.log(kept[0, 0] + EPSILON) / 11, rtol=1e-5)


def test_lcron_adds_its_terms():
    scores, labels = draw(7)
    rest = {"k": 2} | NEURAL
    log_weights = jnp.array([-0.3, 0.4])
    joint = end_to_end(scores, labels, cuts=(4, 2), **rest)
    single = jnp.stack([single_stage(s, labels, cut=q, **rest) for s, q in zip(scores, (4, 2), strict=True)])
    total = jax.jit(lambda w: lcron(scores, labels, w, cuts=(4, 2), **rest))
    found = total(log_weights)
    np.testing.assert_allclose(found, joint + jnp.sum(single * jnp.exp(-2 * log_weights) / 2 + log_weights), rtol=1e-6)
    np.testing.assert_allclose(found, uncertainty_weighted(joint, single, log_weights), rtol=1e-6)
    slope = jax.grad(total)(jnp.log(single) / 2)
    np.testing.assert_allclose(slope, 0, atol=1e-5)
    with pytest.raises(ValueError, match="zip"):
        lcron(scores, labels, log_weights, cuts=(4,), **rest)
