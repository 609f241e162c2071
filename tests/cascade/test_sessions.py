"""The session model: closed forms, literal walks through sessions, and draws that average to expectations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from hccp_jax.cascade import funnel, logs
from hccp_jax.cascade.ab_test import Shown
from hccp_jax.cascade.sessions import SessionConfig, mean_dwell, session_outcomes, session_requests
from hccp_jax.data import hashing
from hccp_jax.errors import UserError

SESSION = SessionConfig(length=5)
walked = jax.jit(session_outcomes, static_argnums=(1, 2))
dwelt = jax.jit(mean_dwell, static_argnums=(1, 2))


def drawn_pages(config, sessions, length, seed=0):
    """Request numbers [G, S] and made-up pages with feedback drawn as the funnel draws it."""
    rng = np.random.default_rng(seed)
    request = np.arange(sessions * length, dtype=np.int32).reshape(sessions, length)
    ids = rng.integers(1, config.items + 1, (sessions * length, config.exposed)).astype(np.int32)
    chance = rng.beta(1.0, 6.0, ids.shape).astype(np.float32)
    click = np.asarray(hashing.uniform("click", config.seed, request.reshape(-1, 1), ids)) < chance
    return request, Shown(ids, chance, np.zeros_like(chance), click, np.zeros_like(click))


def numpy(tree):
    return jax.tree.map(np.asarray, tree)


@pytest.fixture(scope="module")
def case(small_world):
    world, config, _ = small_world
    request, shown = drawn_pages(config, 4096, SESSION.length)
    return request, shown, numpy(walked(world, config, SESSION, request, shown))


def test_requests_of_a_session_are_consecutive_ones_of_one_user(small_world):
    config = small_world[1]
    request = session_requests(config, SESSION, 64)
    user = np.asarray(funnel.user_of(config, jnp.asarray(request)))
    assert request.shape == (64, 5)
    assert request.dtype == np.int32
    np.testing.assert_array_equal(user, np.broadcast_to(user[:, :1], user.shape))
    assert len(np.unique(user[:, 0])) == 64
    assert np.all(request >> 25 == logs.STREAMS["sessions"])
    everyone = np.asarray(funnel.user_of(config, logs.request_ids(logs.STREAMS["sessions"], 0, 2000)))
    start = logs.STREAMS["sessions"] << 25
    for row, own in zip(request[:5], user[:5, 0], strict=True):
        np.testing.assert_array_equal(row - start, np.flatnonzero(everyone == own)[:5])  # none left out


def test_more_sessions_than_users_are_refused(small_world):
    with pytest.raises(UserError, match=r"sessions=81: .*world\.users=80"):
        session_requests(small_world[1], SESSION, 81)


def test_without_an_effect_of_the_page_requests_are_geometric(small_world, case):
    world, config, _ = small_world
    request, shown, _ = case
    flat = dataclasses.replace(SESSION, slope=0.0, bias=0.7)
    p = 1 / (1 + np.exp(-0.7))
    found = numpy(walked(world, config, flat, request, shown))
    np.testing.assert_allclose(found.expected_requests, (1 - p**5) / (1 - p), rtol=1e-5)
    counts = np.bincount(found.requests.astype(int), minlength=6)[1:]
    want = 4096 * np.array([(1 - p) * p**k for k in range(4)] + [p**4])
    assert scipy.stats.chisquare(counts, want).pvalue > 1e-3


def test_expectations_are_sums_over_where_sessions_end(small_world, case):
    """Literal enumeration of the request after which a session ends, in float64."""
    world, config, _ = small_world
    request, shown, found = case
    mean = np.asarray(dwelt(world, config, SESSION, request.ravel(), shown.ids), np.float64)
    lognormal = scipy.stats.lognorm(s=SESSION.spread, scale=mean * np.exp(-(SESSION.spread**2) / 2))
    np.testing.assert_allclose(lognormal.mean(), mean, rtol=1e-6)
    chance = shown.click_chance.astype(np.float64)
    reads = (chance * lognormal.sf(SESSION.valid_read)).sum(1).reshape(request.shape)
    seconds, clicks = (x.sum(1).reshape(request.shape) for x in (chance * mean, chance))
    go_on = 1 / (1 + np.exp(-SESSION.bias - SESSION.slope * clicks))
    for row in range(0, 4096, 64):
        wanted, alive = np.zeros(3), 1.0
        for last in range(5):
            ends = alive * (1 - go_on[row, last] if last < 4 else 1.0)
            alive *= go_on[row, last]
            wanted += ends * np.array([last + 1, seconds[row, : last + 1].sum(), reads[row, : last + 1].sum()])
        got = found.expected_requests[row], found.expected_watch_time[row], found.expected_valid_reads[row]
        np.testing.assert_allclose(got, wanted, rtol=1e-4)


def test_realised_sessions_are_literal_walks(small_world, case):
    world, config, _ = small_world
    request, shown, found = case
    mean = np.asarray(dwelt(world, config, SESSION, request.ravel(), shown.ids)).reshape(4096, 5, -1)
    keys = (config.seed, request.reshape(-1, 1), shown.ids)
    normal = np.asarray(hashing.normal("dwell", *keys)).reshape(mean.shape)
    dwell = mean * np.exp(SESSION.spread * normal - SESSION.spread**2 / 2)
    luck = np.asarray(hashing.uniform("go on", config.seed, request))
    pages = shown.click_chance.sum(1).reshape(request.shape)
    click = shown.click.reshape(mean.shape)
    for row in range(0, 4096, 64):
        requests = seconds = reads = 0
        for page in range(5):
            requests += 1
            seconds += dwell[row, page][click[row, page]].sum()
            reads += (dwell[row, page][click[row, page]] > SESSION.valid_read).sum()
            if luck[row, page] >= 1 / (1 + np.exp(-SESSION.bias - SESSION.slope * pages[row, page])):
                break
        got = found.requests[row], found.watch_time[row], found.valid_reads[row]
        np.testing.assert_allclose(got, (requests, seconds, reads), rtol=1e-4)


def test_realised_sessions_average_to_the_expected_ones(case):
    found = case[2]
    for name in ("requests", "watch_time", "valid_reads"):
        realised, expected = getattr(found, name), getattr(found, f"expected_{name}")
        gap = (realised - expected).astype(np.float64)
        assert abs(gap.mean()) < 4 * gap.std() / 64, name
        assert gap.std() > 0.1, name
        assert gap.std() / 64 < 0.1 * expected.mean(), name  # so the bound means something


def test_dwell_time_grows_with_value_and_fit(small_world, tables):
    world, config, _ = small_world
    request, shown = drawn_pages(config, 64, 5)
    mean = np.asarray(dwelt(world, config, SESSION, request.ravel(), shown.ids))
    only_value = dataclasses.replace(SESSION, fit_effect=0.0)
    by_value = np.asarray(dwelt(world, config, only_value, request.ravel(), shown.ids))
    np.testing.assert_allclose(by_value, 15 * np.exp(0.4 * tables.value[shown.ids]), rtol=1e-5)
    fit = np.log(mean / by_value) / SESSION.fit_effect
    assert -1.31 < fit.min() < fit.max() < 1.01  # a cosine, 0.3 less for an interest that is not active
    context = numpy(jax.jit(funnel.contexts, static_argnums=1)(world, config, request.ravel()))
    cosine = np.einsum("upd,ukd->upk", tables.taste[shown.ids], tables.interests[context.user])
    loss = np.where(np.arange(config.interests) == context.intent[:, None], 0, funnel.INACTIVE)
    np.testing.assert_allclose(fit, (cosine - loss[:, None]).max(-1), atol=1e-4)


def test_a_better_page_makes_every_expectation_larger(small_world, case):
    world, config, _ = small_world
    request, shown, found = case
    better = shown.replace(click_chance=np.minimum(1.5 * shown.click_chance, 1).astype(np.float32))
    other = numpy(walked(world, config, SESSION, request, better))
    for name in ("expected_requests", "expected_watch_time", "expected_valid_reads"):
        assert np.all(getattr(other, name) > getattr(found, name)), name


def test_padding_adds_nothing(small_world):
    world, config, _ = small_world
    request, shown = drawn_pages(config, 32, 5)

    def padded(leaf):
        return np.pad(leaf, ((0, 0), (0, 3)))

    one, other = (numpy(walked(world, config, SESSION, request, x)) for x in (shown, jax.tree.map(padded, shown)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, other)


def test_a_session_of_one_request_is_one_request(small_world):
    world, config, _ = small_world
    request, shown = drawn_pages(config, 32, 1)
    found = numpy(walked(world, config, dataclasses.replace(SESSION, length=1), request, shown))
    np.testing.assert_array_equal(found.expected_requests, 1)
    np.testing.assert_array_equal(found.requests, 1)
