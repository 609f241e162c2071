"""Rankmax and AM-Rankmax: all forms at real lengths, their identity, met margins, ties, outliers and wrong labels."""

from math import log

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hccp_jax.losses import row_blocks
from hccp_jax.losses.rankmax import SMALL, am_rankmax, rankmax
from hccp_jax.losses.reduction import no_reduction

from .cases.sorting import ACCELERATOR, FAST, STREAMED, am_rankmax_loss, holding, rankmax_loss, rankmax_slopes, traced

LISTS, LEVELS = 2, 4
BLOCKS = ((row_blocks, "BLOCK_BYTES", 4 * LISTS * 300 * 43),)
"""43 rows of lists of 300 at a time: six blocks and a shorter one."""
every_form = pytest.mark.parametrize("patches", [(), FAST, STREAMED], ids=["pairs", "fast", "streamed"])


@pytest.fixture(autouse=True)
def _strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def total(scores, alpha, beta, labels, mask, power, levels):
    """Power None is Rankmax, whose positives are the labels above 1."""
    if power is None:
        values = rankmax(scores, labels - 1, where=mask, reduce_fn=no_reduction)
    else:
        values = am_rankmax(
            scores, labels, where=mask, levels=levels, alpha=alpha, beta=beta, power=power, reduce_fn=no_reduction
        )
    return values.sum(), values


def compiled(power, levels, patches=BLOCKS):
    """(scores, alpha, beta, labels, mask) to ((_, values), slopes of the first three)."""
    graded = jax.value_and_grad(lambda *a: total(*a, power, levels), argnums=(0, 1, 2), has_aux=True)
    return jax.jit(traced(patches, lambda *a: graded(*a)))


def drawn(size, seed=0, positives=0.5):
    """Labels 0 .. 3 in shares that fall."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, (LISTS, size)).astype(np.float32)
    labels = np.where(rng.random(scores.shape) < positives, rng.integers(1, LEVELS, scores.shape), 0)
    mask = np.ones(scores.shape, bool)
    mask[1:] = rng.random(size) < 0.7
    return scores, labels.astype(np.float32), mask


def check(run, batch, power, alpha=0.5, beta=0.8, tolerance=5e-6):
    scores, labels, mask = batch
    dirty = [np.where(mask, x, np.float32(np.nan)) for x in (scores, labels)]
    (_, values), (slopes, *along) = run(dirty[0], alpha, beta, dirty[1], mask)
    shared = np.zeros(2)
    for i, kept in enumerate(mask):
        value, slope, *one = rankmax_slopes(scores[i, kept], labels[i, kept], alpha, beta, power)
        shared += one
        np.testing.assert_allclose(values[i], value, rtol=tolerance)
        np.testing.assert_allclose(slopes[i, kept], slope, rtol=0, atol=tolerance * np.abs(slope).max())
        np.testing.assert_array_equal(slopes[i, ~kept], 0)
    if power is not None:
        np.testing.assert_allclose(along, shared, rtol=1e-5)


@pytest.mark.parametrize("power", [None, 0, 1, 2])
def test_the_matrix_oracle_is_the_loops(power):
    scores, labels, _ = drawn(30)
    for s, y in zip(scores.astype(np.float64), labels, strict=True):
        loops = rankmax_loss(s, y > 1) if power is None else am_rankmax_loss(s, y, 0.5, 0.8, power)
        np.testing.assert_allclose(rankmax_slopes(s, y, 0.5, 0.8, power)[0], loops, rtol=1e-7)


@pytest.mark.parametrize(
    ("power", "levels", "size"),
    [(None, None, SMALL), (0, LEVELS, 300), (1, LEVELS, 300), (1, 6, SMALL + 1), (2, LEVELS, 300),
     *(pytest.param(*long, marks=pytest.mark.slow)
       for long in [(None, None, 300), (None, None, 700), (0, LEVELS, 700), (1, LEVELS, 700), (0, None, 300),
                    (1, None, 300), (1, None, 700)])],
)  # fmt: skip
def test_any_length_margin_and_form(power, levels, size):
    """Fast with levels and power 0 or 1, streamed otherwise."""
    run = compiled(power, levels)
    for alpha, beta in ((1.0, 1.0), (0.0, 0.3), (2.0, 0.0)):
        for positives in (0.03, 0.5):
            check(run, drawn(size, 1, positives), power, alpha, beta)


forms = pytest.mark.parametrize(("power", "levels"), [(None, None), (0, LEVELS), (1, LEVELS), (1, None)])


@forms
@pytest.mark.parametrize("patches", [FAST, STREAMED], ids=["fast", "streamed"])
def test_ties_and_hinges_that_just_begin(power, levels, patches):
    """On a grid many scores are equal and many hinges are exactly 0, where their slope is 0."""
    run = compiled(power, levels, patches)
    scores, labels, mask = drawn(60)
    for grid in (0.5, 1.0, 16.0):
        check(run, (np.round(scores / grid) * grid, labels, mask), power, alpha=1.0, beta=0.5)


@forms
@pytest.mark.parametrize("size", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_outliers_cost_no_accuracy(power, levels, size):
    scores, labels, mask = drawn(size, seed=3)
    scores[:, 5], scores[:, 17] = 1e3, -1e4
    mask[:, 5] = mask[:, 17] = True
    run = compiled(power, levels)
    for high, low in ((0, 3), (3, 0), (2, 2), (0, 0)):
        labels[:, 5], labels[:, 17] = high, low
        # In Rankmax the upper one's share of its own sum, which is 1, cancels in its slope.
        check(run, (scores, labels, mask), power, tolerance=5e-6 if power is not None else 1e-5)


def test_accelerator_forms_are_the_same_functions():
    for power, levels in ((None, None), (1, LEVELS)):
        run, batch = compiled(power, levels, FAST), drawn(50)
        for scores in (batch[0], np.round(batch[0])):
            with holding(ACCELERATOR):
                check(run, (scores, *batch[1:]), power, 1.0, 0.5)


@every_form
def test_one_positive_and_a_margin_of_one_are_rankmax(patches):
    scores, _, mask = drawn(40)
    labels = np.zeros_like(scores)
    labels[:, 7] = 1
    mask[:, 7] = True

    def margins(s):
        fixed = {"alpha": 0.0, "beta": 1.0, "power": 0, "levels": 2}
        return am_rankmax(s, labels, where=mask, **fixed)

    ours = jax.jit(traced(patches, jax.value_and_grad(margins)))(scores)
    other = jax.jit(traced(patches, jax.value_and_grad(lambda s: rankmax(s, labels, where=mask))))(scores)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), ours, other)
    exact = [rankmax_loss(s[kept].astype(float), y[kept]) for s, y, kept in zip(scores, labels, mask, strict=True)]
    np.testing.assert_allclose(ours[0], np.mean(exact), rtol=2e-6)


@every_form
def test_met_margins_cost_nothing_and_have_no_force(patches):
    labels = np.array([[2, 1, 1, 0, 0], [0, 0, 3, 1, 1]], np.float32)
    met = 5.0 * labels + np.random.default_rng(0).uniform(0, 0.4, labels.shape).astype(np.float32)
    ours = jax.jit(traced(patches, jax.value_and_grad(lambda s: am_rankmax(s, labels, levels=4))))
    value, slope = ours(met)
    assert value == 0
    np.testing.assert_array_equal(slope, 0)
    # Just before it is met a margin of 2 has a slope that is finite: the paper's form would have 1 / 1e-3.
    near = np.array([[2 - 1e-3, 0, -9, -9, -9], [0, 0, 9, 9, 9]], np.float32)
    graded = np.array([[1, 0, 0, 0, 0]] * 2, np.float32)
    run = jax.jit(traced(patches, jax.value_and_grad(lambda s: am_rankmax(s, graded, levels=2, reduce_fn=no_sum))))
    value, slope = run(near)
    np.testing.assert_allclose(value, np.log1p(1e-3), rtol=1e-3)
    np.testing.assert_allclose(slope[0, :2], [-1, 1], rtol=2e-3)
    # Rankmax's own item is 1 inside the logarithm.
    alone = jax.jit(traced(patches, jax.value_and_grad(lambda s: rankmax(s, graded))))
    value, slope = alone(np.array([[3.3, 2.2, 0, -1, 1]] * 2, np.float32))
    assert 0 <= value <= 1e-6
    np.testing.assert_allclose(slope, 0, atol=1e-6)


def no_sum(values, valid):
    """The first list alone."""
    return jnp.where(valid, values, 0.0)[0]


@every_form
def test_never_below_zero(patches):
    run = jax.jit(traced(patches, lambda s, y: (rankmax(s, y, reduce_fn=lambda v, _: v), am_rankmax(s, y, levels=4,
                                                reduce_fn=lambda v, _: v))))  # fmt: skip
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 30.0, 4e3):
        labels = rng.integers(0, 4, (50, 12)).astype(np.float32)
        scores = (scale * (labels + rng.normal(0, 0.3, labels.shape))).astype(np.float32)
        first = np.eye(1, 12, dtype=np.float32)
        alone = (scale * rng.normal(0, 1, (50, 1))).astype(np.float32) + 9 * (first - 1)  # the first alone in its sum
        for values in (*run(scores, labels), *run(alone, first.repeat(50, axis=0))):
            assert (values >= 0).all()


@every_form
def test_positives_of_one_level_do_not_compete(patches):
    """R5: without lower items above its margins a positive feels nothing of its equals, unlike in Rankmax."""
    labels = np.array([1, 1, 1, 0], np.float32)
    scores = np.array([10.0, 10.3, 12.0, 0.0], np.float32)
    ours = jax.jit(traced(patches, jax.value_and_grad(lambda s: am_rankmax(s, labels, levels=2))))
    value, slope = ours(scores)
    assert value == 0
    np.testing.assert_array_equal(slope, 0)
    other = jax.jit(traced(patches, jax.value_and_grad(lambda s: rankmax(s, labels))))(scores)
    np.testing.assert_allclose(other[0], log(1 + 1.3 + 3.0) + log(0.7 + 1 + 2.7), rtol=1e-6)
    assert abs(other[1][0]) > 0.1
    # A margin that is not met acts on each positive alone.
    labels, lower = np.array([1, 1, 0], np.float32), np.array([3.0, 1.0, 2.5], np.float32)
    ours = jax.jit(traced(patches, jax.grad(lambda s: am_rankmax(s, labels, levels=2))))(lower)
    pulls = 1 / (1 + 1.5), 1 / (1 + 3.5)
    np.testing.assert_allclose(ours, [-pulls[0], -pulls[1], sum(pulls)], rtol=1e-6)


@every_form
@pytest.mark.parametrize("power", [0, 1])
def test_a_label_that_is_no_level_makes_the_list_nan(power, patches):
    scores, labels, mask = drawn(9)
    mask[:, 3] = True

    def values(y, where, levels):
        return am_rankmax(scores, y, where=where, power=power, levels=levels, reduce_fn=no_reduction)

    run = jax.jit(traced(patches, values), static_argnums=2)
    clean = run(labels, mask, LEVELS)
    for wrong in (float(LEVELS), 0.5, -1.0, np.nan, np.inf, 1e9):
        y = labels.copy()
        y[1, 3] = wrong
        got = run(y, mask, LEVELS)
        assert np.isnan(got[1])
        assert got[0] == clean[0]
        hidden = mask.copy()
        hidden[1, 3] = False
        assert np.isfinite(run(y, hidden, LEVELS)).all()
        if np.isnan(wrong):
            assert np.isnan(run(y, mask, None)[1])
        y[1] = wrong  # a list of nothing else, in which nothing is above anything
        assert np.isnan(run(y, mask, LEVELS)[1])


@every_form
def test_what_is_not_a_number_is_seen(patches):
    scores, labels, mask = drawn(9)
    mask[:, 3] = True
    run = jax.jit(traced(patches, lambda s, y, a: (
        rankmax(s, y, where=mask, reduce_fn=no_reduction),
        am_rankmax(s, y, where=mask, levels=LEVELS, alpha=a, reduce_fn=no_reduction),
    )))  # fmt: skip
    clean = run(scores, labels, 1.0)
    for label in range(LEVELS):
        graded = labels.copy()
        graded[1, 3] = label
        broken = scores.copy()
        broken[1, 3] = np.nan
        for got, before in zip(run(broken, graded, 1.0), clean, strict=True):
            assert got[0] == before[0]
            assert np.isnan(got[1])
    alone = np.zeros_like(labels)
    alone[1, 3] = np.nan  # were it no positive, the list would not count
    assert all(np.isnan(values[1]) for values in run(scores, alone, 1.0))
    assert np.isnan(run(scores, labels, np.nan)[1]).all()


def test_lists_of_no_item_one_level_and_wrong_arguments():
    for loss in (rankmax, am_rankmax):
        for shape in ((3, 0), (0, 9), (0,)):
            value, slope = jax.value_and_grad(loss)(jnp.zeros(shape), jnp.zeros(shape))
            assert value == 0
            assert slope.shape == shape
    run = jax.jit(traced(FAST, lambda s: am_rankmax(s, jnp.zeros(5), levels=1)))
    assert run(np.arange(5.0, dtype=np.float32)) == 0
    with pytest.raises(ValueError, match="power=-1"):
        am_rankmax(jnp.zeros(3), jnp.zeros(3), power=-1)


@pytest.mark.parametrize(("power", "levels", "patches"), [(1, LEVELS, FAST), (0, LEVELS, FAST), (2, None, STREAMED)])
def test_inside_shard_map_with_shared_margins(power, levels, patches):
    """Lists spread over a mesh, alpha and beta on all devices: their slopes are sums over all lists."""
    mesh = jax.make_mesh((1,), ("devices",))
    *batch, mask = drawn(20)

    def step(s, alpha, beta, y, w):
        def mean(*a):
            return jax.lax.psum(total(*a, y, w, power, levels)[0], "devices")

        return jax.value_and_grad(mean, argnums=(0, 1, 2))(s, alpha, beta)

    lists, shared = P("devices"), P()
    specs = {"in_specs": (lists, shared, shared, lists, lists), "out_specs": (shared, (lists, shared, shared))}
    spread = jax.jit(traced(patches, jax.shard_map(step, mesh=mesh, **specs, check_vma=True)))
    placed = [jax.device_put(x, NamedSharding(mesh, lists)) for x in (*batch, mask)]
    margins = [jax.device_put(jnp.float32(x), NamedSharding(mesh, shared)) for x in (0.5, 0.8)]
    value, slopes = spread(placed[0], *margins, *placed[1:])
    (alone, _), expected = compiled(power, levels, patches)(batch[0], 0.5, 0.8, batch[1], mask)
    np.testing.assert_allclose(value, alone, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), slopes, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("fully_optimized")
def test_memory():
    lists, size = 8, 2000
    x = jax.ShapeDtypeStruct((lists, size), jnp.float32)
    for power, levels, bound in ((1, LEVELS, 4 * 2**20), (None, None, 4 * 2**20), (2, None, 4 * lists * size**2 / 8)):
        step = compiled(power, levels, ()).lower(x, 1.0, 1.0, x, jax.ShapeDtypeStruct(x.shape, bool))
        assert step.compile().memory_analysis().temp_size_in_bytes <= bound
