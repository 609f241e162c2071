"""What holds for every loss kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from hccp_jax.collectives import global_mean
from hccp_jax.losses.reduction import no_reduction

from .cases import CASES, POSITIVE, draw, expected

SHAPES = [(1,), (4, 9), (2, 2, 6)]  # Few, and used again below: each is compiled once a kernel.


def named(cases):
    """Variants of a kernel that has a case already are left to the slow tests."""
    marked = [pytest.param(case, marks=pytest.mark.slow if case.variant else (), id=case.name) for case in cases]
    return pytest.mark.parametrize("case", marked)


every = named(CASES)


@pytest.fixture(autouse=True)
def _strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


# One compilation a case and shape.
value_and_grad = jax.jit(lambda case, s, a, w: jax.value_and_grad(case.loss)(s, a, w), static_argnums=0)


@every
@settings(deadline=None, max_examples=20, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 2**32 - 1))
def test_equals_the_float64_oracle(case, shape, seed):
    scores, aux, mask = draw(seed, shape)
    np.testing.assert_allclose(
        value_and_grad(case, scores, aux, mask)[0], expected(case, scores, aux, mask), rtol=case.rtol, atol=2e-6
    )


@every
def test_gradient_is_the_slope(case, x64):
    scores, aux, mask = draw(1, (3, 7))
    wide = {name: value.astype(jnp.float64) for name, value in aux.items() if value.dtype == jnp.float32}
    loss = jax.jit(lambda s: case.loss(s, aux | wide, mask))
    check_grads(loss, (scores.astype(jnp.float64),), order=1, modes=case.modes, atol=1e-8, rtol=1e-8)


@every
def test_mask_is_deletion(case):
    scores, aux, mask = draw(2, (4, 9), full=True)
    mask = mask.at[:, jnp.array([0, 4, 8])].set(False)
    kept = np.flatnonzero(mask[0])
    value, grad = value_and_grad(case, scores, aux, mask)
    short_value, short_grad = value_and_grad(case, *jax.tree.map(lambda a: a[:, kept], (scores, aux, mask)))
    np.testing.assert_allclose(value, short_value, rtol=1e-6)
    np.testing.assert_allclose(grad[:, kept], short_grad, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(grad[~mask], 0)


@every
def test_masked_slots_may_hold_anything(case):
    scores, aux, mask = draw(3, (4, 9))
    clean = value_and_grad(case, scores, aux, mask)
    dirty = jax.tree.map(
        lambda a: jnp.where(mask, a, jnp.nan) if a.dtype == jnp.float32 else jnp.where(mask, a, 2**30), (scores, aux)
    )
    np.testing.assert_array_equal(clean[0], value_and_grad(case, *dirty, mask)[0])
    np.testing.assert_array_equal(clean[1], value_and_grad(case, *dirty, mask)[1])


@named([case for case in CASES if not case.arranged])
def test_order_of_the_slots_is_free(case):
    scores, aux, mask = draw(4, (4, 9))
    order = np.random.default_rng(0).permutation(9)
    value, grad = value_and_grad(case, scores, aux, mask)
    moved = value_and_grad(case, *jax.tree.map(lambda a: a[..., order], (scores, aux, mask)))
    np.testing.assert_allclose(value, moved[0], rtol=1e-6)
    np.testing.assert_allclose(grad[..., order], moved[1], rtol=1e-5, atol=1e-7)


@named([case for case in CASES if case.shifts])
def test_shift_law(case):
    scores, aux, mask = draw(5, (4, 9))
    value, grad = value_and_grad(case, scores, aux, mask)
    shifted = value_and_grad(case, scores + 8, aux, mask)  # A power of two costs the scores few digits.
    np.testing.assert_allclose(value, shifted[0], rtol=2e-6)
    np.testing.assert_allclose(grad, shifted[1], rtol=1e-5, atol=5e-6)
    rounding = 1e-6 * np.maximum(np.abs(grad).sum(axis=-1), 1.0)
    assert (np.abs(grad.sum(axis=-1)) <= rounding).all()


@every
def test_masked_lists_add_nothing(case):
    scores, aux, mask = draw(6, (4, 9), full=True)
    value, grad = value_and_grad(case, scores, aux, jnp.zeros_like(mask))
    assert value == 0
    np.testing.assert_array_equal(grad, 0)
    some = value_and_grad(case, scores, aux, mask.at[1::2].set(False))
    rest = jax.tree.map(lambda a: a[::2], (scores, aux, mask))
    np.testing.assert_allclose(some[0], value_and_grad(case, *rest)[0], rtol=1e-6)
    np.testing.assert_array_equal(some[1][1::2], 0)


@named([case for case in CASES if case.needs_positive])
def test_lists_without_a_positive_add_nothing(case):
    scores, aux, mask = draw(7, (4, 9), full=True)
    aux |= {"kind": jnp.where(aux["kind"] == POSITIVE, 0, aux["kind"])}
    aux |= {name: jnp.zeros_like(scores) for name in ("labels", "grades", "teacher")}
    value, grad = value_and_grad(case, scores, aux, mask)
    assert value == 0
    np.testing.assert_array_equal(grad, 0)


@every
def test_one_item(case):
    scores, aux, mask = draw(8, (1,), full=True)
    aux |= {"kind": jnp.full(1, POSITIVE)} | {name: jnp.ones(1) for name in ("labels", "grades", "teacher", "weights")}
    value, grad = value_and_grad(case, scores, aux, mask)
    np.testing.assert_allclose(value, expected(case, scores, aux, mask), rtol=1e-6, atol=1e-7)
    step = 1e-3
    around = [expected(case, scores + move, aux, mask) for move in (-step, step)]
    np.testing.assert_allclose(grad[0], (around[1] - around[0]) / (2 * step), rtol=1e-3, atol=1e-5)


@every
@pytest.mark.parametrize("size", [100.0, 1e4])
def test_large_scores(case, size):
    scores, aux, mask = draw(9, (4, 9), full=True)
    scores = jnp.sign(scores) * size
    value, grad = value_and_grad(case, scores, aux, mask)
    assert jnp.isfinite(value)
    assert jnp.isfinite(grad).all()
    if case.name == "binary_cross_entropy":
        wrong = np.asarray((scores > 0) != (aux["labels"] > 0)).sum(-1).mean()
        np.testing.assert_allclose(value, size * wrong, rtol=1e-6)


@every
def test_nan_stays_visible(case):
    scores, aux, mask = draw(10, (2, 9), full=True)
    for kind in (POSITIVE, 2):
        slot = int(jnp.argmax(aux["kind"][0] == kind))
        assert jnp.isnan(value_and_grad(case, scores.at[0, slot].set(jnp.nan), aux, mask)[0])


@every
def test_bfloat16_is_summed_in_float32(case):
    scores, aux, mask = draw(11, (4, 9), full=True)
    rounded = scores.astype(jnp.bfloat16)
    exact, exact_grad = value_and_grad(case, rounded.astype(jnp.float32), aux, mask)
    value, grad = value_and_grad(case, rounded, aux, mask)
    assert value.dtype == jnp.float32
    assert grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, exact, rtol=1e-2)
    np.testing.assert_allclose(grad.astype(jnp.float32), exact_grad, rtol=2e-2, atol=1e-2)


@pytest.mark.slow
@every
def test_vmap_changes_nothing(case):
    batch = draw(12, (4, 9))

    def total(scores, aux, mask):
        values = case.loss(scores, aux, mask, reduce_fn=no_reduction)
        return values.sum(), values

    whole = jax.jit(jax.grad(total, has_aux=True))(*batch)
    lists = jax.jit(jax.vmap(jax.grad(total, has_aux=True)))(*batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), whole, lists)


@every
def test_under_shard_map(case):
    mesh = jax.make_mesh((1,), ("devices",))
    spread = NamedSharding(mesh, P("devices"))
    batch = draw(13, (4, 9))

    def everywhere(values, valid):
        count = jax.lax.psum(jnp.sum(valid), "devices")
        return jax.lax.psum(jnp.sum(no_reduction(values, valid)), "devices") / jnp.maximum(count, 1)

    def step(scores, aux, mask):
        return jax.value_and_grad(case.loss)(scores, aux, mask, reduce_fn=everywhere)

    specs = {"in_specs": P("devices"), "out_specs": (P(), P("devices"))}
    step = jax.jit(jax.shard_map(step, mesh=mesh, **specs, check_vma=True))
    value, grad = step(*jax.tree.map(lambda a: jax.device_put(a, spread), batch))
    alone = value_and_grad(case, *batch)
    np.testing.assert_allclose(value, alone[0], rtol=1e-6)
    np.testing.assert_allclose(grad, alone[1], rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@every
def test_on_emulated_devices(case):
    """Vmap with an axis name: the global mean and its gradient are those of one device."""
    batch = draw(13, (4, 9))
    halves = jax.tree.map(lambda a: a.reshape(2, 2, 9), batch)

    def step(scores, aux, mask):
        loss, slope = jax.value_and_grad(case.loss)(scores, aux, mask, reduce_fn=global_mean("devices"))
        return loss, slope

    value, grad = jax.jit(jax.vmap(step, axis_name="devices"))(*halves)
    alone = value_and_grad(case, *batch)
    np.testing.assert_allclose(value, jnp.broadcast_to(alone[0], 2), rtol=1e-6)
    # the other device's share of the global loss reaches these scores through the sum's transpose as well
    np.testing.assert_allclose(grad.reshape(4, 9) / 2, alone[1], rtol=1e-5, atol=1e-7)


@every
def test_reduction_sees_lists_and_their_validity(case):
    batch = draw(14, (2, 2, 6))
    values, valid = jax.jit(lambda *args: case.loss(*args, reduce_fn=lambda *args: args))(*batch)
    assert values.shape == valid.shape == (2, 2)
    assert valid.dtype == bool
    np.testing.assert_allclose(values[valid].mean(), value_and_grad(case, *batch)[0], rtol=1e-6)
