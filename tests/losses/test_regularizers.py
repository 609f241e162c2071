"""Mimic, category alignment and in-batch contrast: float64 loops, masks, empty cases, and the laws of each."""

from math import exp, log

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from hccp_jax.losses.reduction import no_reduction, sum_valid
from hccp_jax.losses.regularizers import adaptive_mimic, category_alignment, contrastive_interaction

CATEGORIES, TAU = 4, 0.4
SHAPES = [(9,), (2, 9)]


@pytest.fixture(autouse=True)
def _strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


# Every term as loss(x, other, labels, where), its oracle as [the values of the valid units] of one batch without masked
# slots; labels are 0 to 3 and serve as categories, and as feedback where they are above 1.
def mimic(x, other, labels, where, **kw):
    return adaptive_mimic(x, other, (labels > 1).astype(x.dtype), where=where, **kw)


def mimic_oracle(x, other, labels):
    return [sum((a - p) ** 2 for a, p in zip(x[i], other[i], strict=True)) * (labels[i] > 1) for i in range(len(x))]


def alignment(x, other, labels, where, **kw):
    return category_alignment(x, labels, num_categories=CATEGORIES, where=where, **kw)


def alignment_oracle(x, other, labels):
    members = [x[labels == c] for c in range(CATEGORIES)]
    major = max(range(CATEGORIES), key=lambda c: (len(members[c]), -c))
    others = [c for c in range(CATEGORIES) if c != major and len(members[c]) >= 2]
    covariance = {c: np.cov(members[c], rowvar=False) for c in [*others, major] if len(members[c]) >= 2}
    return [sum(np.sum((covariance[c] - covariance[major]) ** 2) for c in others)] if others else []


def contrast(x, other, labels, where, **kw):
    return contrastive_interaction(x, other, labels > 1, where=where, temperature=TAU, **kw)


def contrast_oracle(x, other, labels):
    def similarity(i, j):
        return exp(x[i] @ other[j] / np.linalg.norm(x[i]) / np.linalg.norm(other[j]) / TAU)

    rows = range(len(x))
    return [-log(similarity(i, i) / sum(similarity(i, j) for j in rows)) for i in rows if labels[i] > 1]


TERMS = {
    "mimic": (mimic, mimic_oracle),
    "alignment": (alignment, alignment_oracle),
    "contrast": (contrast, contrast_oracle),
}
every = pytest.mark.parametrize("name", TERMS)
value_and_grad = jax.jit(
    lambda name, *batch: jax.value_and_grad(TERMS[name][0], argnums=(0, 1))(*batch), static_argnums=0
)


def draw(seed, lead, width=3):
    rng = np.random.default_rng(seed)
    x, other = rng.normal(size=(2, *lead, width)).astype(np.float32)
    labels = rng.integers(0, CATEGORIES, lead).astype(np.int32)
    return jax.tree.map(jnp.asarray, (x, other, labels, rng.random(lead) < rng.choice([0.2, 0.7, 1.0])))


def expected(name, x, other, labels, where):
    size, width = x.shape[-2:]
    x, other = (np.asarray(v, np.float64).reshape(-1, size, width) for v in (x, other))
    labels, where = np.asarray(labels).reshape(-1, size), np.asarray(where).reshape(-1, size)
    units = [TERMS[name][1](x[i, w], other[i, w], labels[i, w]) for i, w in enumerate(where)]
    units = [value for batch in units for value in batch]
    return np.mean(units) if units else 0.0


@every
@settings(deadline=None, max_examples=25, derandomize=True)
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 2**32 - 1))
def test_equals_the_float64_oracle(name, shape, seed):
    batch = draw(seed, shape)
    np.testing.assert_allclose(value_and_grad(name, *batch)[0], expected(name, *batch), rtol=3e-6, atol=2e-6)


@every
def test_gradient_is_the_slope(name, x64):
    x, other, labels, where = draw(1, (9,))
    loss = jax.jit(lambda x, other: TERMS[name][0](x, other, labels, where))
    x, other = x.astype(jnp.float64), other.astype(jnp.float64)
    if name == "mimic":  # the other side has a gradient of zero by definition, not by its slope
        check_grads(lambda x: loss(x, other), (x,), order=1, modes=("rev",), atol=1e-7, rtol=1e-7)
    else:
        check_grads(loss, (x, other), order=1, modes=("rev",), atol=1e-7, rtol=1e-7)


@every
def test_masked_slots_may_hold_anything(name):
    x, other, labels, _ = draw(2, (2, 9))
    where = jnp.ones((2, 9), bool).at[:, jnp.array([1, 4])].set(False)
    clean = value_and_grad(name, x, other, labels, where)
    assert clean[0] > 0
    x, other = (jnp.where(where[..., None], v, jnp.nan) for v in (x, other))
    dirty = value_and_grad(name, x, other, jnp.where(where, labels, 2**30), where)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    for slope in dirty[1]:
        np.testing.assert_array_equal(slope[~where], 0)


@every
@pytest.mark.parametrize("empty", ["masked", "of one kind"])
def test_nothing_to_compare_costs_nothing(name, empty):
    x, other, labels, where = draw(3, (2, 9))
    where = jnp.full_like(where, empty != "masked")
    value, slopes = value_and_grad(name, x, other, labels if empty == "masked" else jnp.zeros_like(labels), where)
    assert value == 0
    for slope in slopes:
        np.testing.assert_array_equal(slope, 0)
    assert value_and_grad(name, *(a[:, :0] for a in (x, other, labels, where)))[0] == 0


@every
def test_nan_stays_visible(name):
    x, other, labels, where = draw(4, (9,))
    slot = int(jnp.argmax(labels == jnp.argmax(jnp.bincount(labels, length=CATEGORIES)[2:]) + 2))
    bad = value_and_grad(name, x.at[slot, 0].set(jnp.nan), other, labels, jnp.ones_like(where))[0]
    assert jnp.isnan(bad)


@every
def test_bfloat16_is_summed_in_float32(name):
    x, other, labels, where = draw(5, (9,))
    x, other, where = x.astype(jnp.bfloat16), other.astype(jnp.bfloat16), jnp.ones_like(where)
    value, slopes = value_and_grad(name, x, other, labels, where)
    wide = value_and_grad(name, x.astype(jnp.float32), other.astype(jnp.float32), labels, where)
    assert value.dtype == jnp.float32
    assert {slope.dtype for slope in slopes} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(value, wide[0], rtol=1e-2)


@every
def test_leading_axes_jit_and_vmap_agree(name):
    batch = (*draw(6, (2, 9))[:3], jnp.ones((2, 9), bool).at[1, 3].set(False))
    alone = jax.jit(jax.vmap(lambda *one: TERMS[name][0](*one, reduce_fn=no_reduction)))(*batch)
    together, valid = jax.jit(lambda *batch: TERMS[name][0](*batch, reduce_fn=lambda *args: args))(*batch)
    assert valid.any()
    np.testing.assert_allclose(jnp.where(valid, together, 0), alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(together[valid].mean(), value_and_grad(name, *batch)[0], rtol=1e-5)


@every
def test_under_shard_map(name):
    mesh = jax.make_mesh((2,), ("devices",))
    batch = (*draw(7, (2, 9))[:3], jnp.ones((2, 9), bool).at[1, :4].set(False))

    def step(*batch):
        def loss(x, other):
            return jax.lax.psum(TERMS[name][0](x, other, *batch[2:], reduce_fn=sum_valid), "devices")

        return jax.value_and_grad(loss, argnums=(0, 1))(*batch[:2])

    specs = {"in_specs": P("devices"), "out_specs": (P(), P("devices"))}
    step = jax.jit(jax.shard_map(step, mesh=mesh, **specs, check_vma=True))
    spread = jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, P("devices"))), batch)
    value, slopes = jax.device_get(step(*spread))
    alone = [value_and_grad(name, *jax.tree.map(lambda a, i=i: a[i], batch)) for i in range(2)]
    count = jax.jit(lambda *one: TERMS[name][0](*one, reduce_fn=lambda values, valid: valid.sum()))
    counts = [count(*(a[i] for a in batch)) for i in range(2)]
    np.testing.assert_allclose(value, sum(a[0] * n for a, n in zip(alone, counts, strict=True)), rtol=1e-5)
    for i in range(2):
        for own, slope in zip(alone[i][1], slopes, strict=True):
            np.testing.assert_allclose(own * counts[i], slope[i], rtol=1e-4, atol=1e-6)


def test_mimic_leaves_the_other_tower_alone_and_draws_the_augmented_vector_to_it():
    x, other, labels, _ = draw(8, (9,))
    (toward, untouched) = value_and_grad("mimic", x, other, labels, jnp.ones(9, bool))[1]
    np.testing.assert_array_equal(untouched, 0)
    np.testing.assert_allclose(toward, 2 / 9 * (labels > 1)[:, None] * (x - other), rtol=1e-6, atol=1e-7)


def test_mimic_takes_one_user_against_a_list_and_soft_labels():
    user, items, _, where = draw(9, (2, 9))
    user, soft = user[:, :1], jnp.linspace(0, 1, 18).reshape(2, 9)
    printed = [
        np.sum((y * a + (1 - y) * p - p) ** 2)
        for u in range(2)
        for a, p, y, w in zip([user[u, 0]] * 9, items[u], soft[u], where[u], strict=True)
        if w
    ]
    np.testing.assert_allclose(adaptive_mimic(user, items, soft, where=where), np.mean(printed), rtol=1e-5)


def test_alignment_takes_the_largest_category_and_the_smallest_id_among_equals():
    # variances: category 0 has 8, category 1 has 2, category 2 has 0.5
    x = jnp.array([0.0, 4.0, 0.0, 2.0, 0.0, 1.0])[:, None]
    pairs = jnp.array([0, 0, 1, 1, 2, 2])
    loss = jax.jit(lambda x, categories: category_alignment(x, categories, num_categories=3))
    np.testing.assert_allclose(loss(x, pairs), (8 - 2) ** 2 + (8 - 0.5) ** 2, rtol=1e-6)
    # a third vector at the mean halves the variance of category 2 and makes it the largest
    x, more = jnp.append(x, jnp.array([[0.5]]), axis=0), jnp.append(pairs, 2)
    np.testing.assert_allclose(loss(x, more), 7.75**2 + 1.75**2, rtol=1e-6)


def test_alignment_ignores_shifts_of_a_category_and_ids_out_of_range():
    x, other, _, _ = draw(10, (9,))
    labels, where = jnp.array([0, 0, 0, 1, 1, 1, 1, 3, 3]), jnp.ones(9, bool)
    value = value_and_grad("alignment", x, other, labels, where)[0]
    moved = value_and_grad("alignment", x + 3.0 * labels[:, None], other, labels, where)[0]
    np.testing.assert_allclose(value, moved, rtol=1e-5)
    without = value_and_grad("alignment", x, other, labels, where.at[0].set(False))
    for outside in (-1, CATEGORIES):
        gone = value_and_grad("alignment", x.at[0].set(jnp.nan), other, labels.at[0].set(outside), where)
        jax.tree.map(np.testing.assert_array_equal, gone, without)


def test_a_category_of_one_vector_reaches_no_gradient():
    x, other, _, where = draw(11, (9,))
    labels = jnp.array([0, 0, 0, 1, 1, 1, 1, 2, 0])
    where = jnp.ones_like(where)
    clean = value_and_grad("alignment", x, other, labels, where)
    single = value_and_grad("alignment", x.at[7].set(jnp.nan), other, labels, where)
    jax.tree.map(np.testing.assert_array_equal, clean, single)
    np.testing.assert_array_equal(single[1][0][7], 0)


def test_contrast_knows_no_lengths_and_has_closed_forms():
    x, other, labels, where = draw(12, (9,))
    long = value_and_grad("contrast", 5 * x, 0.1 * other, labels, where)[0]
    np.testing.assert_allclose(long, value_and_grad("contrast", x, other, labels, where)[0], rtol=1e-5)
    # one direction for all: the items cannot be told apart
    loss = jax.jit(contrastive_interaction)
    same = loss(jnp.ones((5, 2)), jnp.ones((5, 2)))
    np.testing.assert_allclose(same, log(5), rtol=1e-6)
    # opposed pairs at the published temperature of 0.07: log(1 + e^(-2 / 0.07)), far below float32's 1
    ends = jnp.array([[1.0], [-1.0]])
    np.testing.assert_allclose(loss(ends, ends), exp(-2 / 0.07), rtol=1e-4)
    assert loss(ends[:1], ends[:1]) == 0


def test_contrast_counts_items_of_negative_pairs_among_the_negatives():
    u, v = jnp.ones((3, 1)), jnp.array([[1.0], [1.0], [-1.0]])
    first = jnp.array([True, False, False])
    loss = jax.jit(lambda where: contrastive_interaction(u, v, first, where=where, temperature=1.0))
    np.testing.assert_allclose(loss(jnp.array([True, True, True])), log(2 + exp(-2)), rtol=1e-6)
    np.testing.assert_allclose(loss(jnp.array([True, False, True])), log(1 + exp(-2)), rtol=1e-6)


def test_a_zero_vector_has_a_finite_gradient():
    x, other, labels, where = draw(13, (9,))
    _, slopes = value_and_grad("contrast", x.at[2].set(0), other.at[3].set(0), labels, jnp.ones_like(where))
    assert all(jnp.isfinite(slope).all() for slope in slopes)
