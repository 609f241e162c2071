"""Lifts, their intervals and the size of a test, against closed forms and simulated tests."""

import math

import numpy as np
import pytest
import scipy.stats

from hccp_jax.evaluation import lift
from hccp_jax.evaluation.statistics import crossed_interval

Z = scipy.stats.norm.ppf(0.975)


def drawn(rng, shape, shared=1.0):
    """Values of two arms, [..., R] each, with means 3.3 and 3 and a part that requests share."""
    common = rng.gamma(4.0, 0.5, shape) * shared
    return 3.3 - 2 * shared + common + rng.normal(0, 0.4, shape), 3 - 2 * shared + common + rng.normal(0, 0.4, shape)


def test_the_paired_interval_is_the_delta_methods():
    """Gradient of mean(a) / mean(b) times the covariance of the two means."""
    a, b = drawn(np.random.default_rng(0), 500)
    gradient = np.array([1 / b.mean(), -a.mean() / b.mean() ** 2])
    error = np.sqrt(gradient @ np.cov(a, b) @ gradient / 500)
    found = lift.paired_lift(a, b)
    want = a.mean() / b.mean() - 1
    assert (found.mean, found.low, found.high) == pytest.approx((want, want - Z * error, want + Z * error))
    assert found.count == 500
    assert lift.paired_deviation(a, b) == pytest.approx(error * 500**0.5)


def test_the_unpaired_interval_leaves_the_covariance_out():
    rng = np.random.default_rng(1)
    a, b = drawn(rng, 300)[0], drawn(rng, 400)[1]
    gradient = np.array([1 / b.mean(), -a.mean() / b.mean() ** 2])
    error = np.sqrt(gradient**2 @ np.array([a.var(ddof=1) / 300, b.var(ddof=1) / 400]))
    found = lift.unpaired_lift(a, b)
    assert (found.high - found.low) / 2 == pytest.approx(Z * error)
    assert found.count == 300
    same = drawn(rng, 200)
    one = lift.unpaired_lift(*same)
    assert (one.high - one.low) / 2 == pytest.approx(Z * lift.unpaired_deviation(*same) / 200**0.5)


def test_pairing_helps_by_what_requests_share():
    a, b = drawn(np.random.default_rng(2), 4000)
    assert lift.unpaired_deviation(a, b) > 2 * lift.paired_deviation(a, b)
    alone = drawn(np.random.default_rng(2), 4000, shared=0.0)
    assert lift.unpaired_deviation(*alone) == pytest.approx(lift.paired_deviation(*alone), rel=0.05)


def test_equal_arms_have_no_lift_and_a_scaled_arm_has_no_error():
    b = np.random.default_rng(3).gamma(2.0, 1.0, 50)
    same = lift.paired_lift(b, b)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    scaled = lift.paired_lift(1.07 * b, b)
    assert (scaled.low, scaled.mean, scaled.high) == pytest.approx((0.07, 0.07, 0.07))


def test_a_lift_has_no_unit():
    a, b = drawn(np.random.default_rng(4), 100)
    one, other = lift.paired_lift(a, b), lift.paired_lift(60 * a, 60 * b)
    assert (one.mean, one.low, one.high) == pytest.approx((other.mean, other.low, other.high))


def test_a_mean_of_zero_has_no_lift():
    for found in (lift.paired_lift([1, 2], [0, 0]), lift.unpaired_lift([1, 2, 3], [1, -1])):
        assert math.isnan(found.mean)
        assert (found.low, found.high, found.count) == (None, None, 2)


@pytest.mark.parametrize("bad", [([1.0], [1.0]), ([1.0, 2.0], [1.0, 2.0, 3.0]), ([[1.0, 2.0]], [[1.0, 2.0]])])
def test_what_cannot_be_paired_is_refused(bad):
    with pytest.raises(ValueError, match="shape"):
        lift.paired_lift(*bad)


@pytest.mark.parametrize(("interval", "paired"), [(lift.paired_lift, True), (lift.unpaired_lift, False)])
def test_intervals_cover_the_true_lift(interval, paired):
    rng = np.random.default_rng(5)
    a, b = drawn(rng, (1500, 200))
    if not paired:
        b = drawn(rng, (1500, 200))[1]
    found = [interval(*values) for values in zip(a, b, strict=True)]
    covered = np.mean([low.low <= 0.1 <= low.high for low in found])
    assert covered == pytest.approx(0.95, abs=0.02)  # 3.5 standard errors


def test_unpaired_intervals_of_paired_arms_are_too_wide():
    a, b = drawn(np.random.default_rng(6), (400, 200))
    found = [lift.unpaired_lift(*values) for values in zip(a, b, strict=True)]
    assert np.mean([each.low <= 0.1 <= each.high for each in found]) == 1


def test_seeds_that_share_requests():
    rng = np.random.default_rng(7)
    a, b = rng.normal(5, 1, (4, 60)), rng.normal(4, 1, (4, 60))
    found = lift.crossed_lift(a, b)
    ratio = a.mean() / b.mean()
    by_hand = crossed_interval((a - ratio * b) / b.mean(), np.zeros_like(a), np.ones(a.shape, bool))
    assert found.mean == pytest.approx(ratio - 1)
    assert (found.low, found.high) == pytest.approx((by_hand.low + ratio - 1, by_hand.high + ratio - 1))
    assert found.count == 4
    alone = lift.crossed_lift(a[:1], b[:1])
    assert alone.mean == pytest.approx(a[0].mean() / b[0].mean() - 1)
    assert (alone.low, alone.high, alone.count) == (None, None, 1)
    assert math.isnan(lift.crossed_lift(a, 0 * b).mean)
    with pytest.raises(ValueError, match="seeds"):
        lift.crossed_lift(a, b[:2])


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(8)
    b = rng.normal(4, 1, (1, 400)) + np.zeros((5, 1))
    a = 1.1 * b + rng.normal(0, 0.3, (5, 1))
    found, alone = lift.crossed_lift(a, b), lift.paired_lift(a[0], b[0])
    assert found.high - found.low > 5 * (alone.high - alone.low)
    assert found.low <= 0.1 <= found.high


def test_the_requests_asked_for_give_the_half_width():
    a, b = drawn(np.random.default_rng(9), 2000)
    deviation = lift.paired_deviation(a, b)
    n = lift.requests_for_half_width(deviation, 0.01)
    assert Z * deviation / n**0.5 <= 0.01 < Z * deviation / (n - 1) ** 0.5
    ratio = lift.requests_for_power(deviation) / n
    assert ratio == pytest.approx(((Z + scipy.stats.norm.ppf(0.8)) / Z) ** 2, rel=1e-3)  # 2.04


def test_a_test_of_the_size_asked_for_has_its_power():
    rng = np.random.default_rng(10)
    deviation = lift.paired_deviation(*drawn(rng, 20000))
    n = lift.requests_for_power(deviation, lift=0.1, power=0.8)
    a, b = drawn(rng, (1500, n))
    found = np.mean([lift.paired_lift(*values).low > 0 for values in zip(a, b, strict=True)])
    assert found == pytest.approx(0.8, abs=0.05)


def test_arms_without_a_difference_need_two_requests():
    assert lift.requests_for_half_width(0.0) == 2


def test_meaningless_questions_are_refused():
    for deviation in (-1.0, math.nan):
        with pytest.raises(ValueError, match="deviation"):
            lift.requests_for_half_width(deviation)
    with pytest.raises(ValueError, match="resolution"):
        lift.requests_for_half_width(1.0, 0.0)
    with pytest.raises(ValueError, match="power"):
        lift.requests_for_power(1.0, power=1.0)
