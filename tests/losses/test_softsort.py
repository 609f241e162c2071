"""SoftSort cross entropy: all forms at real lengths, ties, outliers, its known minimum, and what each mode asks for."""

from math import log

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hccp_jax.losses import row_blocks
from hccp_jax.losses.reduction import no_reduction
from hccp_jax.losses.softsort import SMALL, soft_sort_cross_entropy

from .cases.sorting import ACCELERATOR, FAST, STREAMED, holding, log_sum, soft_sort_slopes, traced
from .cases.sorting import soft_sort_cross_entropy as oracle

LISTS = 2
BLOCKS = ((row_blocks, "BLOCK_BYTES", 4 * LISTS * 300 * 43),)
"""43 rows of lists of 300 at a time: six blocks and a shorter one."""
R1_LABELS = np.array([2, 1, 1, 0, 0, 0])
R1_MINIMUM = 2 * log(2) + 3 * log(3)


@pytest.fixture(autouse=True)
def _strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def loss(scores, labels, teacher=None, mask=None, temperature=1.0, label_temperature=0.05, mode="literal", **kw):
    kw |= {"temperature": temperature, "label_temperature": label_temperature, "mode": mode}
    return soft_sort_cross_entropy(scores, labels, where=mask, teacher=teacher if mode == "teacher" else None, **kw)


def total(scores, temperature, *rest, **kw):
    labels, teacher, mask, label_temperature = rest
    values = loss(scores, labels, teacher, mask, temperature, label_temperature, reduce_fn=no_reduction, **kw)
    return values.sum(), values


def compiled(**kw):
    """(scores, temperature, labels, teacher, mask, label temperature) to ((_, values), slopes of the first two)."""
    return jax.jit(traced(BLOCKS, lambda *a: jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(*a, **kw)))


def drawn(size, levels, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, (LISTS, size)).astype(np.float32)
    labels = rng.integers(0, levels, scores.shape).astype(np.float32)
    teacher = rng.uniform(0, 1, scores.shape).astype(np.float32)
    mask = np.ones(scores.shape, bool)
    mask[1:] = rng.random(size) < 0.7
    return scores, labels, teacher, mask


def check(run, batch, temperature=1.0, label_temperature=0.05, mode="literal", power=1, tolerance=5e-6):
    """Value, slope and slope of the temperature of every list against float64; masked slots hold garbage."""
    scores, labels, teacher, mask = batch
    dirty = [np.where(mask, x, np.float32(np.nan)) for x in (scores, labels, teacher)]
    (_, values), (slopes, along) = run(dirty[0], temperature, *dirty[1:], mask, label_temperature)
    expected_along = 0.0
    for i, kept in enumerate(mask):
        s, y, t = (x[i, kept].astype(np.float64) for x in (scores, labels, teacher))
        value = oracle(s, y, mode, t, temperature, label_temperature, power)
        np.testing.assert_allclose(values[i], value, rtol=tolerance)
        slope, along_one = soft_sort_slopes(s, y, mode, t, temperature, label_temperature, power)
        expected_along += along_one
        np.testing.assert_allclose(slopes[i, kept], slope, rtol=0, atol=tolerance * np.abs(slope).max())
        np.testing.assert_array_equal(slopes[i, ~kept], 0)
    np.testing.assert_allclose(along, expected_along, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "items", "levels"),
    [(SMALL + 1, 4, 4), (300, 3, 7), (300, 4, None),
     *(pytest.param(*long, marks=pytest.mark.slow)
       for long in [(300, 2, 2), (300, 4, 4), (300, 6, 6), (700, 4, 4), (300, 1, 1), (700, 6, None)])],
)  # fmt: skip
def test_levels_at_any_length_and_temperature(size, items, levels):
    """Fast with levels, and streamed without."""
    run = compiled(levels=levels)
    for temperature in (0.1, 1.0, 5.0):
        for label_temperature in (0.05, 0.5):
            # With one level target and P nearly cancel.
            check(run, drawn(size, items), temperature, label_temperature, tolerance=5e-6 if items > 1 else 2e-5)


@pytest.mark.parametrize(
    ("mode", "power", "size"),
    [("teacher", 1, 300), ("block", 2, 300),
     *(pytest.param(*long, marks=pytest.mark.slow)
       for long in [("teacher", 1, 700), ("teacher", 2, 300), ("block", 1, 300), ("literal", 2, 300)])],
)  # fmt: skip
def test_other_modes_at_any_temperature(mode, power, size):
    run = compiled(mode=mode, power=power)
    for temperature in (0.1, 1.0, 5.0):
        check(run, drawn(size, 3), temperature, 0.5, mode, power)


forms = pytest.mark.parametrize(
    "kw",
    [{"levels": 3}, {"levels": None}, {"mode": "teacher"}, {"mode": "block"}],
    ids=["fast", "streamed", "teacher", "block"],
)


@forms
def test_equal_scores_have_no_force_between_them(kw):
    run = compiled(**kw)
    scores, labels, teacher, mask = drawn(300, 3)
    mode = kw.get("mode", "literal")
    for grid in (0.5, 2.0, 20.0):
        batch = np.round(scores / grid) * grid, labels, teacher, mask
        # Blocks on a coarse grid have hardly any force left.
        check(run, batch, mode=mode, tolerance=2e-5 if mode == "block" else 5e-6)
    constant = np.where(mask, np.float32(3.7), scores)
    (_, values), (slopes, along) = run(constant, 1.0, labels, teacher, mask, 0.05)
    np.testing.assert_array_equal(slopes, 0)
    assert along == 0
    if mode != "block":
        np.testing.assert_allclose(values, [n * log(n) for n in mask.sum(-1)], rtol=1e-6)


@forms
def test_outliers_cost_no_accuracy(kw):
    scores, labels, teacher, mask = drawn(300, 3, seed=1)
    scores[:, 5], scores[:, 17] = 1e3, -1e4
    mask[:, 5] = mask[:, 17] = True
    run, mode = compiled(**kw), kw.get("mode", "literal")
    check(run, (scores, labels, teacher, mask), mode=mode)
    # The other items are as accurate as without the two, whose slopes may be larger.
    slopes = run(scores, 1.0, labels, teacher, mask, 0.05)[1][0]
    for i, kept in enumerate(mask):
        exact = soft_sort_slopes(scores[i, kept], labels[i, kept], mode, teacher[i, kept], 1.0, 0.05, 1)[0]
        rest = ~np.isin(np.flatnonzero(kept), (5, 17))
        np.testing.assert_allclose(slopes[i, kept][rest], exact[rest], rtol=0, atol=5e-6 * np.abs(exact[rest]).max())


def test_accelerator_forms_are_the_same_functions():
    for kw in ({"levels": 4}, {"mode": "teacher"}):
        run, batch = compiled(**kw), drawn(SMALL + 30, 4)
        for scores in (batch[0], np.round(batch[0])):
            with holding(ACCELERATOR):
                check(run, (scores, *batch[1:]), 0.5, 0.5, kw.get("mode", "literal"))


@pytest.mark.parametrize("patches", [(), FAST], ids=["pairs", "fast"])
def test_known_minimum_of_labels_with_ties(patches):
    """4.682, the sum over items of the log of the block's size: scores of a block equal, and the blocks apart."""
    run = jax.jit(jax.value_and_grad(traced(patches, lambda s: loss(s, R1_LABELS, levels=3, label_temperature=0.01))))
    far = np.array([60.0, 30, 30, 0, 0, 0], np.float32)
    value, slope = run(far)
    np.testing.assert_allclose(value, R1_MINIMUM, rtol=1e-6)
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    rng = np.random.default_rng(0)
    for width in (0.1, 1.0, 10.0):
        assert run(far + width * rng.normal(size=6).astype(np.float32))[0] > R1_MINIMUM + 1e-3
    for nearer in (1.0, 3.0, 6.0):
        assert run(far * nearer / 30)[0] > R1_MINIMUM + 1e-3
    # The loss contracts a block: the upper of two is pushed down, and the lower up.
    slope = run(far + np.array([0, 0.2, 0, 0.3, 0, 0], np.float32))[1]
    assert slope[1] > 0.05 > -0.05 > slope[2]
    assert slope[3] > 0.05


def test_block_mode_has_no_force_within_a_block():
    run = jax.jit(jax.value_and_grad(lambda s, y: loss(s, y, mode="block")))
    spread = np.array([60.0, 33, 30, 5, 0, -4], np.float32)
    value, slope = run(spread, R1_LABELS)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    one = run(spread, np.ones(6, int))
    assert abs(one[0]) < 1e-6
    np.testing.assert_allclose(one[1], 0, atol=1e-6)
    value, slope = run(np.zeros(6, np.float32) + np.array([0, 0.5, 0, 0, 0, 0], np.float32), R1_LABELS)
    assert value > 1
    assert slope[0] < -0.1 < 0.1 < slope[1]
    # The label temperature is not used, and the label's scale has no meaning.
    scaled = loss(spread / 20, R1_LABELS * 7.0 - 3, mode="block", label_temperature=9.0)
    np.testing.assert_allclose(scaled, run(spread / 20, R1_LABELS)[0], rtol=1e-6)


@pytest.mark.parametrize("power", [1, 2])
def test_teacher_mode_is_the_cross_entropy_of_a_permutation(power):
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=40).astype(np.float32), rng.integers(0, 3, 40)
    teacher = np.round(rng.uniform(0, 1, 40), 1).astype(np.float32)  # ties of the teacher go by the slot
    order = sorted(range(40), key=lambda j: (-labels[j], -teacher[j], j))
    top = np.sort(scores.astype(np.float64))[::-1]
    value = 0.0
    for r, item in enumerate(order):
        logits = -(np.abs(top[r] - scores) ** power) / 0.5
        value += log_sum(logits) - logits[item]
    fixed = {"mode": "teacher", "power": power, "temperature": 0.5}
    np.testing.assert_allclose(loss(scores, labels, teacher, **fixed), value, rtol=2e-6)
    # Distinct labels leave a teacher nothing to say, and are one permutation in literal mode too.
    place = np.empty(40)
    place[order] = np.arange(40)
    literal = loss(scores, -place, power=power, temperature=0.5, label_temperature=0.01)
    np.testing.assert_allclose(loss(scores, -place, teacher, **fixed), value, rtol=2e-6)
    np.testing.assert_allclose(literal, value, rtol=2e-6)
    np.testing.assert_allclose(loss(scores, -place, mode="block", power=power, temperature=0.5), value, rtol=2e-6)


@pytest.mark.parametrize("patches", [(), FAST, STREAMED], ids=["pairs", "fast", "streamed"])
@pytest.mark.parametrize("mode", ["literal", "block", "teacher"])
def test_a_label_that_is_no_level_makes_the_list_nan(mode, patches):
    scores, labels, teacher, mask = drawn(9, 3)
    mask[:, 3] = True

    def values(y, where, levels):
        return loss(scores, y, teacher, where, mode=mode, levels=levels, reduce_fn=no_reduction)

    run = jax.jit(traced(patches, values), static_argnums=2)
    clean = run(labels, mask, 3)
    assert np.isfinite(clean).all()
    for wrong in (3.0, 0.5, -1.0, np.nan, np.inf, 1e9):
        y = labels.copy()
        y[1, 3] = wrong
        got = run(y, mask, 3)
        assert np.isnan(got[1])
        assert got[0] == clean[0]
        hidden = mask.copy()
        hidden[1, 3] = False
        assert np.isfinite(run(y, hidden, 3)).all()
        if not np.isfinite(wrong):
            assert np.isnan(run(y, mask, None)[1])
        y[1] = wrong  # a list of nothing else
        assert np.isnan(run(y, mask, 3)[1])


@pytest.mark.parametrize("kw", [{"levels": 3}, {}, {"mode": "teacher"}, {"mode": "block"}])
@pytest.mark.parametrize("size", [9, SMALL + 8])
def test_what_is_not_a_number_is_seen(size, kw):
    scores, labels, teacher, mask = drawn(size, 3)
    mask[:, 3] = True
    run = jax.jit(lambda s, t: loss(s, labels, t, mask, reduce_fn=no_reduction, **kw))
    clean = run(scores, teacher)
    for wrong in (np.nan, np.inf, -np.inf):
        broken, hint = scores.copy(), teacher.copy()
        broken[1, 3] = hint[1, 3] = wrong
        got = run(broken, teacher)
        assert got[0] == clean[0]
        assert np.isnan(got[1])
        assert np.isnan(run(scores, hint)[1]) == (kw.get("mode") == "teacher")


def test_lists_of_no_item_and_wrong_arguments():
    empty = jnp.zeros((3, 0))
    assert jax.value_and_grad(loss)(empty, empty)[0] == 0
    none = jnp.zeros((0, 40))
    assert jax.value_and_grad(loss)(none, none)[1].shape == (0, 40)
    x = jnp.zeros(4)
    with pytest.raises(ValueError, match="teacher is given with mode='literal'"):
        soft_sort_cross_entropy(x, x, teacher=x)
    for kw, said in [
        ({"mode": "rows"}, "mode='rows'"),
        ({"power": 3}, "power=3"),
        ({"power": 1.5}, "power=1.5"),
        ({"mode": "teacher"}, "teacher is missing"),
    ]:
        with pytest.raises(ValueError, match=said):
            loss(x, x, **kw)


@pytest.mark.slow
@pytest.mark.parametrize("kw", [{"levels": 3}, {}, {"mode": "teacher"}, {"mode": "block", "power": 2}],
                         ids=["fast", "streamed", "teacher", "block"])  # fmt: skip
def test_inside_shard_map_with_a_shared_temperature(kw):
    """Lists spread over a mesh, the temperature on all devices: its slope is the sum over all lists."""
    mesh = jax.make_mesh((1,), ("devices",))
    *batch, mask = drawn(SMALL + 8, 3)
    batch = jax.device_put((*batch, mask), NamedSharding(mesh, P("devices")))
    temperature = jax.device_put(jnp.float32(0.7), NamedSharding(mesh, P()))

    def step(s, y, t, w, temperature):
        def mean(s, temperature):
            return jax.lax.psum(loss(s, y, t, w, temperature, 0.3, **kw), "devices")

        return jax.value_and_grad(mean, argnums=(0, 1))(s, temperature)

    lists = P("devices")
    specs = {"in_specs": (lists,) * 4 + (P(),), "out_specs": (P(), (lists, P()))}
    spread = jax.jit(traced(STREAMED, jax.shard_map(step, mesh=mesh, **specs, check_vma=True)))
    value, slopes = spread(*batch, temperature)
    s, y, t, w = (np.asarray(x) for x in batch)
    alone = jax.jit(jax.value_and_grad(lambda s, c: loss(s, y, t, w, c, 0.3, **kw), argnums=(0, 1)))(s, 0.7)
    np.testing.assert_allclose(value, alone[0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), slopes, alone[1])


@pytest.mark.slow
@pytest.mark.usefixtures("fully_optimized")
@pytest.mark.parametrize(("lists", "size", "mebibytes"), [(64, 500, 10), (8, 2000, 5)])
def test_memory(lists, size, mebibytes):
    x = jax.ShapeDtypeStruct((lists, size), jnp.float32)
    square = 4 * lists * size**2
    for kw, bound in ({"levels": 4}, mebibytes * 2**20), ({}, square / 4), ({"mode": "block", "power": 2}, square / 4):
        step = jax.jit(jax.value_and_grad(lambda s, y, kw=kw: loss(s, y, **kw)))
        assert step.lower(x, x).compile().memory_analysis().temp_size_in_bytes <= bound
