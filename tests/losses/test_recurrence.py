"""Recurrences in both forms, of the CPU and of accelerators, against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hccp_jax.losses.recurrence import (
    _doubling,
    _stepwise,
    linear_recurrence,
    suffix_exponential_sums,
    suffix_maxima,
)
from hccp_jax.losses.reduction import NEGATIVE

from .cases.sorting import ACCELERATOR, holding

FORMS = {"stepwise": _stepwise, "doubling": _doubling}
directions = pytest.mark.parametrize("reverse", [False, True])
platforms = pytest.mark.parametrize("held", [(), ACCELERATOR], ids=["cpu", "accelerator"])


def by_loop(decay, increment, reverse):
    decay, increment = (np.asarray(x, np.float64)[:: -1 if reverse else 1] for x in (decay, increment))
    h = [np.zeros(decay.shape[1:])]
    for a, b in zip(decay, increment, strict=True):
        h.append(a * h[-1] + b)
    return np.array(h[1:])[:: -1 if reverse else 1]


def drawn(size, lists=3):
    """Decays of all kinds, resets (0) and plain sums (1) among them."""
    rng = np.random.default_rng(size)
    decay = rng.choice([0.0, 1.0, -1.0, 2.0], (size, lists), p=[0.1, 0.2, 0.05, 0.65])
    decay = np.where(decay == 2, rng.uniform(0, 1, decay.shape), decay).astype(np.float32)
    return decay, rng.normal(size=decay.shape).astype(np.float32)


@pytest.mark.parametrize("form", FORMS)
@directions
@pytest.mark.parametrize("size", [1, 2, 9, 64])
def test_linear_recurrence(form, reverse, size):
    decay, increment = drawn(size)
    run = jax.jit(FORMS[form], static_argnums=2)
    expected = by_loop(decay, increment, reverse)
    np.testing.assert_allclose(run(decay, increment, reverse), expected, rtol=2e-6, atol=2e-6)
    ones = np.ones_like(decay)
    sums = np.cumsum(increment[::-1] if reverse else increment, axis=0, dtype=np.float64)
    sums = sums[::-1] if reverse else sums
    np.testing.assert_allclose(run(ones, increment, reverse), sums, rtol=2e-6, atol=5e-6)
    np.testing.assert_array_equal(run(0 * ones, increment, reverse), increment)
    if size > 2:
        assert np.abs(by_loop(decay, increment, not reverse) - expected).max() > 0.1


@pytest.mark.parametrize("form", FORMS)
@directions
def test_sums_of_positive_terms_stay_accurate_relatively(form, reverse):
    """Counts are exact, and what decays keeps its digits however small it gets."""
    run = jax.jit(FORMS[form], static_argnums=2)
    ones = np.ones((500, 1), np.float32)
    counts = np.arange(1, 501)[:: -1 if reverse else 1, None]
    np.testing.assert_array_equal(run(ones, ones, reverse), counts)
    start = np.zeros((500, 1), np.float32)
    start[-1 if reverse else 0] = 1
    powers = run(np.full_like(start, 0.75), start, reverse)[:: -1 if reverse else 1]
    np.testing.assert_allclose(powers[:300, 0], 0.75 ** np.arange(300), rtol=5e-5)


@platforms
@directions
def test_the_public_function_takes_the_form_of_the_platform(held, reverse):
    decay, increment = drawn(33)
    weights = np.random.default_rng(0).normal(size=decay.shape).astype(np.float32)

    def weighted(decay, increment):
        h = linear_recurrence(decay, increment, reverse=reverse)
        return jnp.sum(weights * h), h

    with holding(held):
        run = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True)).lower(decay, increment)
    assert ("stablehlo.while" in run.as_text()) == (not held)
    (_, h), slopes = run.compile()(decay, increment)
    exact = by_loop(decay, increment, reverse)
    np.testing.assert_allclose(h, exact, rtol=2e-6, atol=2e-6)
    # The adjoint g_k = w_k + a_(k+1) g_(k+1) runs the other way; db = g, da = g h_(k-1).
    shift = 1 if reverse else -1
    later = np.roll(decay, shift, axis=0)
    later[0 if reverse else -1] = 0
    adjoint = by_loop(later, weights, not reverse)
    before = np.roll(exact, -shift, axis=0)
    before[-1 if reverse else 0] = 0
    np.testing.assert_allclose(slopes[1], adjoint, rtol=5e-6, atol=5e-6)
    np.testing.assert_allclose(slopes[0], adjoint * before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_float64_leading_axes_and_shard_map(form):
    decay, increment = drawn(12, 8)
    with jax.enable_x64(True):
        wide = (jnp.asarray(x, jnp.float64).reshape(12, 2, 4) for x in (decay, increment))
        h = FORMS[form](*wide, True)
        assert h.dtype == jnp.float64
        np.testing.assert_allclose(h.reshape(12, 8), by_loop(decay, increment, True), rtol=1e-14, atol=1e-14)
    mesh = jax.make_mesh((1,), ("devices",))
    spread = NamedSharding(mesh, P(None, "devices"))
    run = jax.shard_map(
        lambda a, b: FORMS[form](a, b, False),
        mesh=mesh,
        in_specs=P(None, "devices"),
        out_specs=P(None, "devices"),
        check_vma=True,
    )
    h = jax.jit(run)(*(jax.device_put(x, spread) for x in (decay, increment)))
    np.testing.assert_allclose(h, by_loop(decay, increment, False), rtol=2e-6, atol=2e-6)


def suffixes(held, x):
    with holding(held):
        run = jax.jit(lambda x: (suffix_maxima(x), suffix_exponential_sums(x))).lower(x)
    return run.compile()(x)


@platforms
@pytest.mark.parametrize(("size", "spread"), [(1, 1), (2, 400), (9, 3), (50, 400)])
def test_suffix_sums_at_any_range(held, size, spread):
    x = np.random.default_rng(size).uniform(-spread / 2, spread / 2, (size, 4)).astype(np.float32)
    x[:, 0] = x[0, 0]
    maxima, sums = suffixes(held, x)
    exact = x.astype(np.float64)
    peaks = np.array([exact[k:].max(0) for k in range(size)])
    np.testing.assert_array_equal(maxima, peaks)
    np.testing.assert_array_equal(sums.peak, peaks)
    totals = np.array([np.exp(exact[k:] - peaks[k]).sum(0) for k in range(size)])
    np.testing.assert_allclose(sums.total, totals, rtol=3e-6)
    np.testing.assert_allclose(sums.own, np.exp(exact - peaks), rtol=3e-6, atol=1e-37)
    after = np.vstack([peaks[1:], np.full((1, 4), -np.inf)])
    np.testing.assert_allclose(sums.shrink, np.exp(after - peaks), rtol=3e-6, atol=1e-37)


@platforms
def test_suffix_sums_beside_padding_and_nan(held):
    x = np.array([[1.0, NEGATIVE, 2.0, NEGATIVE, 3.0, NEGATIVE, NEGATIVE], [1, 0, np.nan, 5, 6, 7, 8]], np.float32).T
    sums = suffixes(held, x)[1]
    real = np.array([[1.0, 2.0, 3.0]])
    totals = [np.exp(real[0, k:] - 3).sum() for k in range(3)]
    np.testing.assert_allclose(sums.total[jnp.array([0, 2, 4]), 0], totals, rtol=1e-6)
    np.testing.assert_array_equal(sums.peak[:5, 0], 3)
    assert np.isfinite(np.asarray(sums)[:, :, 0]).all()
    assert np.isnan(sums.total[:3, 1]).all()
    np.testing.assert_allclose(sums.total[3:, 1], [np.exp(-np.arange(3 - k, -1.0, -1)).sum() for k in range(4)], 1e-6)


def test_suffix_sums_vary_over_the_devices_of_a_mesh():
    x = drawn(8, 2)[1]
    mesh = jax.make_mesh((1,), ("devices",))
    for held in ((), ACCELERATOR):
        with holding(held):
            run = jax.shard_map(
                lambda x: lax.psum(suffix_exponential_sums(x).total, "devices"),
                mesh=mesh,
                in_specs=P(None, "devices"),
                out_specs=P(),
                check_vma=True,
            )
            total = jax.jit(run)(jax.device_put(x, NamedSharding(mesh, P(None, "devices"))))
        np.testing.assert_allclose(total, suffix_exponential_sums(x).total, rtol=1e-6)
