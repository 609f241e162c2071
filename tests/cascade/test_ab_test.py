"""Arms of the simulated online test: the logging arm is the log, equal deliveries have equal outcomes."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.cascade import funnel
from hccp_jax.cascade.ab_test import logging_arm, outcomes, shown_by
from hccp_jax.data import hashing

REQUESTS = 256
served = jax.jit(shown_by, static_argnums=1)
counted = jax.jit(outcomes, static_argnums=1)


@pytest.fixture(scope="module")
def case(run, small_world):
    """The requests of `run` with their candidates in random slots."""
    config = small_world[1]
    slots = np.random.default_rng(0).permuted(np.tile(np.arange(config.candidates), (REQUESTS, 1)), axis=1)

    def moved(leaf):
        return np.take_along_axis(leaf, slots, axis=1)

    held = run.held
    flags = {name: moved(getattr(held, name)) for name in ("exposed", "clicked", "purchased", "truth", "ranker_scores")}
    return run.request, moved(held.requests.items["id"]), moved(held.requests.mask), flags


@pytest.fixture(scope="module")
def logged(case, small_world):
    world, config, _ = small_world
    request, ids, mask, _ = case
    scores = jax.jit(logging_arm, static_argnums=1)(world, config, request, ids, mask)
    return scores, jax.tree.map(np.asarray, served(world, config, request, ids, mask, scores))


def sets(ids, flags):
    return [set(row[flag]) for row, flag in zip(ids, flags, strict=True)]


def test_the_logging_arm_is_the_log(case, logged):
    _, ids, _, flags = case
    seen = logged[1]
    assert flags["clicked"].any()
    assert flags["purchased"].any()
    assert [set(row) for row in seen.ids] == sets(ids, flags["exposed"])
    assert sets(seen.ids, seen.click) == sets(ids, flags["clicked"])
    assert sets(seen.ids, seen.purchase) == sets(ids, flags["purchased"])


def test_the_logging_arm_does_not_depend_on_slots(case, logged, small_world, run):
    world, config, _ = small_world
    held = run.held.requests
    unmoved = jax.jit(logging_arm, static_argnums=1)(world, config, run.request, held.items["id"], held.mask)
    places = -np.arange(config.candidates)
    np.testing.assert_array_equal(np.asarray(unmoved)[held.mask], np.broadcast_to(places, held.mask.shape)[held.mask])


def test_the_click_chance_is_the_truth_less_the_position(case, logged, small_world):
    config = small_world[1]
    _, ids, _, flags = case
    seen = logged[1]
    for row in range(0, REQUESTS, 8):
        truth = dict(zip(ids[row], flags["truth"][row], strict=True))
        want = [truth[item] * (1 - config.position_decay * place) for place, item in enumerate(seen.ids[row])]
        np.testing.assert_allclose(seen.click_chance[row], want, rtol=1e-5)


def test_the_feedback_is_drawn_from_the_chances(case, logged, small_world):
    """Item by item the hash of request and item decides, so pairs of an item and a request are answered alike."""
    config, seen, request = small_world[1], logged[1], case[0]
    keys = (config.seed, request[:, None], seen.ids)
    np.testing.assert_array_equal(seen.click, hashing.uniform("click", *keys) < seen.click_chance)
    bought = np.asarray(hashing.uniform("purchase", *keys)) < seen.purchase_chance
    np.testing.assert_array_equal(seen.purchase, seen.click & bought)


@pytest.fixture(scope="module")
def arms(case, small_world):
    """Outcomes of an arm with random scores: [U, P] and the outcomes for any other scores."""
    world, config, _ = small_world
    request, ids, mask, _ = case
    tail = np.arange(config.items + 1) > 450
    scores = np.random.default_rng(1).normal(size=ids.shape).astype(np.float32)

    def of(scores, ids=ids, mask=mask):
        return jax.tree.map(np.asarray, counted(world, config, request, ids, mask, scores, tail))

    return scores, of


def test_arms_that_deliver_the_same_items_have_the_same_outcomes(arms, case, small_world):
    ranked, mask = small_world[1].ranked, case[2]
    scores, of = arms
    place = np.argsort(np.argsort(-np.where(mask, scores, -np.inf), axis=1), axis=1)
    rng = np.random.default_rng(2)
    shuffled = np.where(place < ranked, 1.0, 0.0) + 0.5 * rng.random(scores.shape)  # the same items, another order
    same = of(scores), of(shuffled.astype(np.float32))
    jax.tree.map(np.testing.assert_array_equal, *same)
    other = of(np.where(place < ranked - 1, 1.0, 0.5 * rng.random(scores.shape)).astype(np.float32))
    assert np.any(other.shown != same[0].shown)


def test_outcomes_do_not_depend_on_the_order_of_slots(arms, case):
    scores, of = arms
    _, ids, mask, _ = case
    slots = np.random.default_rng(3).permuted(np.tile(np.arange(ids.shape[1]), (REQUESTS, 1)), axis=1)
    moved = (np.take_along_axis(leaf, slots, axis=1) for leaf in (scores, ids, mask))
    jax.tree.map(np.testing.assert_array_equal, of(*moved), of(scores))


def test_equal_scores_go_by_slot_and_masked_slots_never_go(arms, case, small_world):
    ranked = small_world[1].ranked
    _, of = arms
    _, ids, mask, _ = case
    signed = np.where(np.arange(ids.shape[1]) % 2, 0.0, -0.0).astype(np.float32)
    first = np.cumsum(mask, axis=1) <= ranked
    explicit = np.where(first & mask, 1.0, 0.0).astype(np.float32)
    flat = np.broadcast_to(signed, ids.shape)
    jax.tree.map(np.testing.assert_array_equal, of(np.where(mask, flat, 99.0)), of(explicit))
    jax.tree.map(np.testing.assert_array_equal, of(np.where(mask, flat, np.nan)), of(explicit))


def test_outcomes_are_sums_over_what_is_shown(arms, case, small_world):
    world, config, _ = small_world
    request, ids, mask, _ = case
    scores, of = arms
    arm, seen = of(scores), jax.tree.map(np.asarray, served(world, config, request, ids, mask, scores))
    np.testing.assert_array_equal(arm.shown, seen.ids)
    np.testing.assert_array_equal(arm.exposures, config.exposed)
    np.testing.assert_allclose(arm.expected_clicks, seen.click_chance.sum(1), rtol=1e-5)
    np.testing.assert_allclose(arm.expected_purchases, (seen.click_chance * seen.purchase_chance).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(arm.clicks, seen.click.sum(1))
    np.testing.assert_array_equal(arm.purchases, seen.purchase.sum(1))
    np.testing.assert_array_equal(arm.tail_exposures, (seen.ids > 450).sum(1))
    best = np.argsort(-np.where(mask, scores, -np.inf), axis=1)[:, : config.ranked]
    for row in range(REQUESTS):
        assert set(arm.shown[row]) <= set(ids[row][best[row]])


def test_short_lists_end_in_padding(small_world):
    """Six candidates for ten impressions."""
    world, config, _ = small_world
    ids = np.zeros((3, 64), np.int32)
    ids[:, 5:65:10] = [[9, 17, 33, 250, 600, 7]] * 3
    request = jnp.arange(3)
    seen = jax.tree.map(np.asarray, served(world, config, request, ids, ids > 0, np.ones(ids.shape, np.float32)))
    for row in range(3):
        assert set(seen.ids[row]) == {0, 9, 17, 33, 250, 600, 7}
    padding = seen.ids == 0
    assert padding.sum() == 3 * 4
    assert not seen.click_chance[padding].any()
    assert not seen.click[padding].any()


@pytest.mark.slow
def test_realised_counts_average_to_the_expected_ones(small_world, case):
    world, config, _ = small_world
    _, ids, mask, _ = case
    scores = np.random.default_rng(4).normal(size=ids.shape).astype(np.float32)
    tail = np.zeros(config.items + 1, bool)
    run = partial(counted, world, config)
    arms = [run(jnp.arange(n * REQUESTS, (n + 1) * REQUESTS), ids, mask, scores, tail) for n in range(40)]
    totals = {
        name: np.sum([getattr(arm, name) for arm in arms], dtype=np.float64)
        for name in ("expected_clicks", "clicks", "expected_purchases", "purchases")
    }
    assert abs(totals["clicks"] - totals["expected_clicks"]) < 4 * totals["clicks"] ** 0.5
    assert abs(totals["purchases"] - totals["expected_purchases"]) < 4 * totals["purchases"] ** 0.5
    assert totals["purchases"] > 30


def test_a_perfect_ranker_needs_only_the_right_items(case, small_world):
    """Common random numbers across rankers, too: the truth delivered to a perfect ranker beats random scores."""
    world, config, _ = small_world
    perfect = dataclasses.replace(config, ranker="perfect")
    request, ids, mask, flags = case
    tail = np.zeros(config.items + 1, bool)
    best = counted(world, perfect, request, ids, mask, flags["truth"], tail)
    noise = np.random.default_rng(5).normal(size=ids.shape).astype(np.float32)
    random = counted(world, perfect, request, ids, mask, noise, tail)
    assert best.expected_clicks.mean() > 1.3 * random.expected_clicks.mean()


def test_packed_keys_order_candidates_as_the_log_does(run, small_world):
    """The refactored key is what `distinct_best_first` sorts by."""
    config, ids = small_world[1], run.held.requests.items["id"]
    scores = np.linspace(7, -7, ids.shape[1], dtype=np.float32)
    keys = np.asarray(funnel.packed_keys(jnp.asarray(ids), jnp.broadcast_to(scores, ids.shape), config.items))
    assert np.all(np.diff(keys.astype(np.int64), axis=1) > 0)
    bits = (config.items + 1).bit_length()
    np.testing.assert_array_equal(keys & ((1 << bits) - 1), ids)
