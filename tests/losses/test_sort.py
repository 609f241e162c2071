"""The stable sort against NumPy's: every type, every special value, every transformation, both forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hccp_jax.losses import sort
from hccp_jax.losses.listwise import list_mle
from hccp_jax.losses.sort import LARGEST, _packed, _paired, argsort, ascending_key, positions, sort_descending

from . import oracles
from .cases.sorting import ACCELERATOR, holding

LISTS, SIZE, CODES = 3, 9, 4
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-45, -1e-45, 3.4e38, -3.4e38, 1.0, 1.0000001, -1.0]
WHOLE = [-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 2, 2**31 - 1]

numbers = st.one_of(st.sampled_from(SPECIAL), st.floats(-2, 2, width=32))
some = settings(deadline=None, max_examples=60, derandomize=True)
argsort_jit = jax.jit(argsort)
positions_jit = jax.jit(positions)
descending_jit = jax.jit(sort_descending, static_argnums=3)
both_forms = jax.jit(
    lambda axis, key, payload: (_packed(axis, key, payload), _paired(axis, key, payload)), static_argnums=0
)


@pytest.fixture(autouse=True)
def _strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def lists(elements, dtype=np.float32):
    one = st.lists(elements, min_size=SIZE, max_size=SIZE)
    return st.lists(one, min_size=LISTS, max_size=LISTS).map(lambda rows: np.array(rows, dtype))


def stable(x):
    return np.argsort(x, axis=-1, kind="stable")


def check_order(x):
    np.testing.assert_array_equal(argsort_jit(x), stable(x))
    np.testing.assert_array_equal(positions_jit(x), stable(stable(x)))


def descending_by_hand(x, code, mask):
    """Values and codes [K, B], list by list."""
    values, codes = np.zeros(x.shape[::-1], x.dtype), np.zeros(x.shape[::-1], int)
    for row, (number, sign, real) in enumerate(zip(x, code, mask, strict=True)):
        kept = np.flatnonzero(real)
        order = kept[stable(-number[kept])]
        values[: len(order), row], codes[: len(order), row] = number[order], sign[order]
    return values, codes


def batch(seed=0, ties=True):
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (LISTS, SIZE)).astype(np.float32)
    mask = rng.random(x.shape) < 0.7
    return np.round(x) if ties else x, rng.integers(0, CODES, x.shape), mask


@some
@given(x=lists(numbers))
def test_floats_in_numpys_stable_order(x):
    check_order(x)


@some
@given(x=lists(st.one_of(st.sampled_from(WHOLE), st.integers(-(2**31), 2**31 - 1)), np.int32))
def test_whole_numbers_in_numpys_stable_order(x):
    check_order(x)
    check_order(x.view(np.uint32))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, np.int8, np.uint16, bool])
def test_narrow_types(dtype):
    x = np.random.default_rng(0).integers(-3, 4, (LISTS, SIZE))
    x = x.astype(bool) if dtype is bool else jnp.asarray(np.abs(x) if dtype == np.uint16 else x, dtype)
    if dtype in (jnp.bfloat16, jnp.float16):
        x = x.at[:, 2].set(jnp.nan).at[:, 4].set(-jnp.inf).at[:, 6].set(-0.0).at[:, 7].set(0.0)
    order = stable(np.asarray(x).astype(np.float32))
    np.testing.assert_array_equal(argsort_jit(x), order)
    np.testing.assert_array_equal(positions_jit(x), stable(order))


def test_types_of_64_bits():
    near = np.array([[1 + 2e-16, 1.0, np.nan, 1 - 1e-16, -0.0, 0.0]])  # one number in float32
    whole = np.array([[2**40 + 1, 2**40, -(2**62), 2**62, 0, 0]])
    with jax.enable_x64(True):
        assert argsort(jnp.asarray(near)).dtype == jnp.int32
        np.testing.assert_array_equal(argsort(jnp.asarray(near)), stable(near))
        np.testing.assert_array_equal(argsort(jnp.asarray(whole)), stable(whole))
        np.testing.assert_array_equal(positions(jnp.asarray(whole)), stable(stable(whole)))
        code, mask = np.arange(6)[None], np.array([[True, True, False, True, True, True]])
        x = jnp.where(mask, near, 0.0)
        values, codes = sort_descending(x, jnp.asarray(code), jnp.asarray(mask), 6)
        assert values.dtype == jnp.float64
        np.testing.assert_array_equal(codes[:5, 0], [0, 1, 3, 4, 5])
        np.testing.assert_array_equal(values[:, 0], [near[0, 0], near[0, 1], near[0, 3], 0, 0, 0])
        weights = jnp.arange(1.0, 7.0)[:, None]
        slope = jax.grad(lambda x: jnp.sum(weights * sort_descending(x, jnp.asarray(code), jnp.asarray(mask), 6)[0]))(x)
        np.testing.assert_array_equal(slope[0], [1, 2, 0, 3, 4, 5])


@some
@given(x=lists(numbers.filter(np.isfinite)), seed=st.integers(0, 99))
def test_descending_lists_with_their_codes(x, seed):
    _, code, mask = batch(seed)
    dirty = np.where(mask, x, np.nan).astype(np.float32)
    values, codes = descending_jit(dirty, code, mask, CODES)
    expected_values, expected_codes = descending_by_hand(x, code, mask)
    np.testing.assert_array_equal(values, expected_values)
    count = np.sum(mask, axis=-1)
    for row in range(LISTS):
        np.testing.assert_array_equal(codes[: count[row], row], expected_codes[: count[row], row])


def test_positions_of_long_lists_invert_the_order(monkeypatch):
    x = np.round(np.random.default_rng(5).normal(0, 20, (2, 2, 301))).astype(np.float32)
    for counted in (0, 301):
        monkeypatch.setattr(sort, "COUNTED", counted)
        place = jax.jit(lambda x: positions(x))(x)
        assert place.dtype == jnp.int32
        np.testing.assert_array_equal(place, stable(stable(x)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_descending_narrow_floats_keep_their_type(dtype):
    x, code, mask = batch(1, ties=False)
    x = jnp.asarray(x, dtype)
    values, codes = descending_jit(x, code.astype(np.float32), mask, CODES)
    expected_values, expected_codes = descending_by_hand(np.asarray(x).astype(np.float32), code, mask)
    assert values.dtype == dtype
    np.testing.assert_array_equal(values.astype(jnp.float32), expected_values)
    assert codes.dtype == jnp.int32
    real = np.arange(SIZE)[:, None] < mask.sum(-1)
    np.testing.assert_array_equal(np.where(real, codes, 0), expected_codes)


@some
@given(key=lists(st.one_of(st.sampled_from(WHOLE), st.integers(-3, 3)), np.int32), seed=st.integers(0, 99))
def test_the_packed_and_the_paired_form_agree(key, seed):
    payload = np.random.default_rng(seed).integers(0, LARGEST, key.shape).astype(np.int32)
    for axis in (0, 1):
        both = both_forms(axis, key, payload)
        order = np.lexsort((payload, key), axis=axis)
        expected = [np.take_along_axis(x, order, axis=axis) for x in (key, payload)]
        jax.tree.map(np.testing.assert_array_equal, both, (tuple(expected), tuple(expected)))


def test_accelerators_sort_32_bits():
    x, code, mask = batch(2)

    def whole(x, code, mask):
        return argsort(jnp.where(mask, x, jnp.nan)), sort_descending(x, code, mask, CODES)

    here = jax.jit(lambda *a: whole(*a)).lower(x, code, mask)
    assert "xi64>" in here.as_text()
    with holding(ACCELERATOR):
        there = jax.jit(lambda *a: whole(*a)).lower(x, code, mask)
    assert "xi64>" not in there.as_text()
    here, there = here.compile()(x, code, mask), there.compile()(x, code, mask)
    np.testing.assert_array_equal(there[0], stable(np.where(mask, x, np.nan)))
    jax.tree.map(np.testing.assert_array_equal, there, here)


def by_gather(x, code, mask):
    """What sort_descending replaces: JAX differentiates the gather."""
    order = jnp.argsort(jnp.where(mask, -x, jnp.inf), axis=-1, stable=True)
    real = jnp.arange(SIZE)[None] < jnp.sum(mask, axis=-1, keepdims=True)
    return jnp.where(real, jnp.take_along_axis(x, order, axis=-1), 0.0).T


def score(values):
    return jnp.sum(jnp.sin(values) * jnp.arange(1.0, 1.0 + SIZE)[:, None])


def ours(x, code, mask):
    values, codes = sort_descending(x, code, mask, CODES)
    return score(values + 0.0 * codes)


slope_of = jax.jit(jax.grad(ours))


@pytest.mark.parametrize("ties", [False, True])
def test_gradient_scatters_as_the_gather_does(ties):
    x, code, mask = batch(3, ties)
    expected = jax.jit(jax.grad(lambda x: score(by_gather(x, code, mask))))(x)
    np.testing.assert_allclose(slope_of(x, code, mask), expected, rtol=1e-6)
    assert np.any(slope_of(x, code, mask) != 0)
    np.testing.assert_array_equal(np.asarray(slope_of(x, code, mask))[~mask], 0)


def test_vmap_of_everything():
    stack = [np.stack([batch(seed)[i] for seed in range(4)]) for i in range(3)]
    alone = [batch(seed) for seed in range(4)]
    for function in (argsort, jax.jit(argsort), argsort_jit):
        np.testing.assert_array_equal(jax.vmap(function)(stack[0]), stable(stack[0]))
    np.testing.assert_array_equal(jax.jit(jax.vmap(argsort))(stack[0]), stable(stack[0]))
    values, codes = jax.vmap(lambda *a: descending_jit(*a, CODES))(*stack)
    for i, one in enumerate(alone):
        jax.tree.map(np.testing.assert_array_equal, (values[i], codes[i]), descending_jit(*one, CODES))
    slopes = jax.jit(jax.vmap(jax.grad(ours)))(*stack)
    through = jax.jit(jax.grad(lambda x: jax.vmap(ours)(x, *stack[1:]).sum()))(stack[0])
    for i, one in enumerate(alone):
        np.testing.assert_allclose(slopes[i], slope_of(*one), rtol=1e-6)
        np.testing.assert_allclose(through[i], slope_of(*one), rtol=1e-6)


def test_inside_a_scan():
    stack = [np.stack([batch(seed)[i] for seed in range(4)]) for i in range(3)]
    slopes = jax.jit(lambda *a: lax.scan(lambda carry, now: (carry, jax.grad(ours)(*now)), 0, a)[1])(*stack)
    orders = lax.scan(lambda carry, x: (carry, argsort(x)), 0, stack[0])[1]
    np.testing.assert_array_equal(orders, stable(stack[0]))
    for i in range(4):
        np.testing.assert_allclose(slopes[i], slope_of(*batch(i)), rtol=1e-6)


def test_inside_shard_map():
    mesh = jax.make_mesh((1,), ("devices",))
    spread = NamedSharding(mesh, P("devices"))
    x, code, mask = (jax.device_put(leaf, spread) for leaf in batch(4))

    def step(x, code, mask):
        value, slope = jax.value_and_grad(ours)(x, code, mask)
        return argsort(x), lax.psum(value, "devices"), slope

    specs = {"in_specs": P("devices"), "out_specs": (P("devices"), P(), P("devices"))}
    step = jax.jit(jax.shard_map(step, mesh=mesh, **specs, check_vma=True))
    order, value, slope = step(x, code, mask)
    np.testing.assert_array_equal(order, stable(np.asarray(x)))
    np.testing.assert_allclose(value, jax.jit(ours)(*batch(4)), rtol=1e-6)
    np.testing.assert_allclose(slope, slope_of(*batch(4)), rtol=1e-6)


def test_keys_ascend_and_codes_have_a_limit():
    ladder = np.array([-np.inf, -3.4e38, -1.5, -1e-45, 0.0, 1e-45, 1.5, 3.4e38, np.inf, np.nan], np.float32)
    keys = np.asarray(ascending_key(jnp.asarray(ladder))).astype(np.int64)
    assert (np.diff(keys) > 0).all()
    assert ascending_key(jnp.float32(-0.0)) == ascending_key(jnp.float32(0.0))
    empty = jnp.zeros((LISTS, 0))
    assert argsort(empty).shape == positions(empty).shape == (LISTS, 0)
    value, slope = jax.value_and_grad(list_mle)(empty, empty)
    assert value == 0
    assert slope.shape == empty.shape
    x = jnp.zeros((1, 2**16))
    with pytest.raises(ValueError, match="codes=32768"):
        jax.eval_shape(lambda x: sort_descending(x, x, x == 0, 2**15), x)
    jax.eval_shape(lambda x: sort_descending(x, x, x == 0, 2**15 - 1), x)


def test_the_largest_codes_survive():
    x, code = np.array([[1.0, 2.0, 2.0]], np.float32), np.array([[7e8 - 1, 0, 3e8]]).astype(np.int32)
    _, codes = descending_jit(x, code, np.ones((1, 3), bool), 7 * 10**8)
    assert codes[:, 0].tolist() == [0, 3e8, 7e8 - 1]


@pytest.mark.parametrize(
    "rank",
    [
        np.array([[2**30, -(2**30), 5, 5, 2**31 - 1, -(2**31)]], np.int32),
        np.array([[2**32 - 1, 2**31, 5, 5, 0, 2**31 - 1]], np.uint32),
        np.array([[1e30, -1e30, 0.5, 0.5, np.inf, -np.inf]], np.float32),
        np.array([[5, 1, 5, 5, 5, 1]], np.int32),
        np.array([[0.0, -0.0, 0.0, -1e-38, 1e-38, -0.0]], np.float32),
    ],
)
def test_list_mle_takes_any_ranks(rank):
    """Equal ranks in slot order."""
    scores = np.random.default_rng(0).normal(0, 2, rank.shape).astype(np.float32)
    mask = np.array([[True, True, True, True, True, False]])
    exact = scores.astype(np.float64)
    value = jax.jit(list_mle)(scores, rank)
    np.testing.assert_allclose(value, oracles.list_mle(exact[0], rank[0]), rtol=1e-6)
    value = jax.jit(lambda s: list_mle(s, rank, where=mask))(scores)
    np.testing.assert_allclose(value, oracles.list_mle(exact[0, :5], rank[0, :5]), rtol=1e-6)
