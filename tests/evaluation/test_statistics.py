import math

import numpy as np
import pytest
import scipy.stats

from hccp_jax.evaluation.statistics import (
    Interval,
    crossed_interval,
    holm,
    mean_interval,
    nested_interval,
)


def test_the_interval_is_students():
    values = np.random.default_rng(0).normal(size=7)
    low, high = scipy.stats.t.interval(0.95, 6, loc=values.mean(), scale=scipy.stats.sem(values))
    found = mean_interval(values)
    assert (found.mean, found.low, found.high, found.count) == pytest.approx((values.mean(), low, high, 7))


def test_too_few_seeds_have_no_interval():
    assert mean_interval([3.0]) == Interval(3.0, None, None, 1)
    assert crossed_interval(np.ones((1, 5)), np.zeros((1, 5)), np.ones(5, bool)) == Interval(1.0, None, None, 1)
    assert crossed_interval(np.ones((3, 1)), np.zeros((3, 1)), [True]) == Interval(1.0, None, None, 3)
    empty = mean_interval([])
    assert math.isnan(empty.mean)
    assert (empty.low, empty.high, empty.count) == (None, None, 0)
    nothing = crossed_interval(np.ones((2, 3)), np.ones((2, 3)), np.zeros(3, bool))
    assert math.isnan(nothing.mean)
    assert nothing.count == 0


def test_an_undefined_value_has_no_interval():
    found = mean_interval([1.0, math.nan, 2.0])
    assert math.isnan(found.mean)
    assert (found.low, found.high, found.count) == (None, None, 3)


def test_crossed_error_is_the_sum_of_both():
    rng = np.random.default_rng(1)
    a, b, valid = rng.normal(size=(4, 9)), rng.normal(size=(4, 9)), rng.random((4, 9)) < 0.7
    valid[:, 0], valid[2, 1] = False, True
    by_seed = [np.mean([a[s, r] - b[s, r] for r in range(9) if valid[s, r]]) for s in range(4)]
    by_request = [np.mean([a[s, r] - b[s, r] for s in range(4) if valid[s, r]]) for r in range(9) if valid[:, r].any()]
    error = np.hypot(scipy.stats.sem(by_seed), scipy.stats.sem(by_request))
    found = crossed_interval(np.where(valid, a, np.nan), b, valid)  # what is not valid is not looked at
    half = scipy.stats.t.ppf(0.975, 3) * error
    assert (found.mean, found.low, found.high) == pytest.approx(
        (np.mean(by_seed), found.mean - half, found.mean + half)
    )
    with pytest.raises(ValueError, match="requests"):
        crossed_interval(a, b[:, :3], valid)


def covers(interval, centre):
    return interval.low <= centre <= interval.high


def test_intervals_cover_the_mean():
    rng = np.random.default_rng(2)
    draws = rng.normal(3.0, 2.0, (2000, 5))
    assert np.mean([covers(mean_interval(draw), 3.0) for draw in draws]) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("seed_spread", "request_spread"), [(1.0, 0.0), (0.0, 4.0), (1.0, 4.0), (0.0, 0.0)])
def test_crossed_intervals_cover_the_mean_whatever_dominates(seed_spread, request_spread):
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(500):
        seeds, requests = rng.normal(0, seed_spread, (5, 1)), rng.normal(0, request_spread, (1, 40))
        a = 0.5 + seeds + requests + rng.normal(size=(5, 40))
        covered.append(covers(crossed_interval(a, np.zeros_like(a), np.ones(40, bool)), 0.5))
    assert np.mean(covered) > 0.93


def test_nested_interval_is_students_over_the_means():
    drawn = np.random.default_rng(0).normal(size=(4, 5))
    level = drawn - drawn.mean(axis=1, keepdims=True) + [[0.01], [0.0], [0.0], [-0.01]]
    for values in (drawn + np.array([[-3.0], [0.0], [1.0], [4.0]]), level):  # worlds that differ, and that do not
        found, means = nested_interval(list(values)), values.mean(axis=1)
        half = scipy.stats.t.ppf(0.975, 3) * scipy.stats.sem(means)
        assert (found.mean, found.low, found.high) == pytest.approx(
            (means.mean(), means.mean() - half, means.mean() + half)
        )
        assert found.chance(0.0) == pytest.approx(scipy.stats.ttest_1samp(means, 0.0).pvalue)
        assert found.count == 20
    assert nested_interval([[1.0, 3.0], [], [4.0]]).mean == 3.0


@pytest.mark.parametrize("between", [0.0, 0.5, 2.0])
def test_nested_p_values_are_exact_at_every_level(between):
    """Small ones, too: Holm's adjustment over a dozen claims turns on them."""
    random, draws = np.random.default_rng(1), 4000
    worlds = random.normal(scale=between, size=(draws, 3, 1))
    chances = np.array([nested_interval(list(x)).chance(0.0) for x in worlds + random.normal(size=(draws, 3, 5))])
    for level in (0.05, 0.05 / 12):
        within = 4 * np.sqrt(level * (1 - level) / draws)
        assert np.mean(chances < level) == pytest.approx(level, abs=within)


def test_holm_is_the_bound_for_one_and_never_less_than_the_chance():
    assert holm([0.03]) == [0.03]
    chances = list(np.random.default_rng(2).uniform(size=20))
    adjusted = holm(chances)
    assert all(a >= c for a, c in zip(adjusted, chances, strict=True))
    assert min(adjusted) == pytest.approx(min(1.0, 20 * min(chances)))
    assert holm([]) == []
