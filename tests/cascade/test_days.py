"""Day after day on an arm's own log: whose log it is, what drifts and what stays."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.cascade import days, funnel, logs
from hccp_jax.cascade.ab_test import outcomes
from hccp_jax.cascade.world import CONTENT, zipf_law
from hccp_jax.data import hashing
from hccp_jax.data.requests import Stage, validate
from hccp_jax.errors import UserError

STREAM, STEPS, SIZE = 9, 2, 32
held_out = jax.jit(logs.held_out, static_argnums=1)
drifted = jax.jit(days.drifted, static_argnums=1)
BY_HASH, BY_SLOT, BY_APPEAL = np.eye(3, dtype=np.float32)


def by_hash(batch):
    """An arm that knows nothing: scores of request and item, whatever the slot."""
    return hashing.uniform("arm", batch.user["request"][:, None], batch.items["id"])


def mixed_scores(weights, batch):
    """By hash, by slot (the logging pre-ranker again, as candidates come in its order), by an item feature."""
    slot = -jnp.arange(batch.mask.shape[1], dtype=jnp.float32)
    appeal = batch.items["dense"][..., CONTENT]
    return weights[0] * by_hash(batch) + weights[1] * slot + weights[2] * appeal + 0 * batch.cross[..., 0]


@partial(jax.jit, static_argnums=(1, 2))
def a_day(world, config, samples, catalogue, day, weights):
    scorer = None if weights is None else partial(mixed_scores, weights)
    return days.day_log(world, config, samples, catalogue, STREAM, day, STEPS, SIZE, scorer)


@pytest.fixture(scope="module")
def log_of(small_world):
    """weights, day, ... -> the log of an arm's day, as NumPy."""
    world, config, samples = small_world
    catalogue = logs.catalogue(world, config)

    def log(weights, day=0, world=world, clicked_only=False):
        own = dataclasses.replace(samples, clicked_only=clicked_only)
        return jax.tree.map(np.asarray, a_day(world, config, own, catalogue, jnp.int32(day), weights))

    return log


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def flat(log):
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), log)


@pytest.mark.parametrize("clicked_only", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_worlds_own_log_and_the_logging_order_as_a_scorer_are_the_same_bits(log_of, small_world, clicked_only):
    world, config, samples = small_world
    samples = dataclasses.replace(samples, clicked_only=clicked_only)
    own = log_of(None, clicked_only=clicked_only)
    same(log_of(BY_SLOT, clicked_only=clicked_only), own)
    batch = jax.jit(lambda world, step: logs.training_batch(world, config, samples, STREAM, step, SIZE))
    for step in range(STEPS):
        same(jax.tree.map(lambda leaf, step=step: leaf[step], own), batch(world, step))


def test_an_arm_shows_on_its_day_what_it_shows_in_the_online_test(log_of, small_world):
    world, config, _ = small_world
    log = flat(log_of(BY_HASH))
    request = log.user["request"]
    held = held_out(world, config, request).requests
    arm = jax.jit(outcomes, static_argnums=1)(
        world, config, request, held.items["id"], held.mask, by_hash(held), np.zeros(config.items + 1, bool)
    )
    for row in range(len(request)):
        exposed = log.items["id"][row][log.stage[row] == Stage.EXPOSED]
        assert set(exposed) == set(np.asarray(arm.shown[row]))
    np.testing.assert_array_equal(log.labels["click"].sum(1), arm.clicks)
    np.testing.assert_array_equal(log.labels["purchase"].sum(1), arm.purchases)


def test_the_stages_of_an_arms_log_are_its_own(log_of, small_world):
    world, config, _ = small_world
    log = flat(log_of(BY_HASH))
    validate(log, {"items.id": 601, "user.id": 81, "history.id": 601})
    held = held_out(world, config, log.user["request"]).requests
    scores = np.where(held.mask, by_hash(held), -np.inf)
    best = np.argsort(-scores, axis=1)[:, : config.ranked]
    for row in range(len(scores)):
        delivered = set(np.asarray(held.items["id"])[row][best[row]])
        ids, stage = log.items["id"][row], log.stage[row]
        assert set(ids[np.isin(stage, [Stage.EXPOSED, Stage.RANKED])]) <= delivered
        latter = set(ids[stage == Stage.PRERANKED])
        assert latter <= set(np.asarray(held.items["id"])[row]) - delivered
        assert len(latter) == 15


def test_a_scorer_sees_features(log_of):
    better = log_of(BY_APPEAL), log_of(BY_HASH)
    ranked = [flat(log).items["id"][flat(log).stage == Stage.RANKED] for log in better]
    assert np.mean(np.isin(ranked[0], ranked[1])) < 0.95
    validate(flat(better[0]))


def test_ties_do_not_fall_back_on_the_logging_order(small_world):
    config = small_world[1]
    ids = jnp.broadcast_to(jnp.arange(1, 161), (64, 160))
    kept = funnel.preranked_by(config, jnp.arange(64), ids, jnp.zeros(ids.shape))[:, : config.ranked]
    share = np.mean(np.asarray(kept) <= config.ranked)
    assert abs(share - config.ranked / 160) < 0.03
    assert np.all(np.diff(kept, axis=1) > 0)  # among themselves in logging order


def test_padding_is_never_delivered_before_a_candidate(small_world):
    config = dataclasses.replace(small_world[1], ranked=4)
    ids = jnp.asarray([[5, 9, 2, 7, 0, 0], [5, 9, 0, 0, 0, 0]])
    scores = jnp.asarray([[0.0, -99.0, 3.0, 1e9, 1e9, 1e9], [-1e30, -2e30, 0.0, 0.0, 0.0, 0.0]])
    got = funnel.preranked_by(config, jnp.arange(2), ids, scores)
    np.testing.assert_array_equal(got, [[5, 9, 2, 7, 0, 0], [5, 9, 0, 0, 0, 0]])
    three = dataclasses.replace(config, ranked=3)
    np.testing.assert_array_equal(funnel.preranked_by(three, jnp.arange(2), ids, scores)[0], [5, 2, 7, 9, 0, 0])


def test_days_are_disjoint_and_repeatable(log_of):
    logs_of_days = [log_of(BY_HASH, day) for day in range(3)]
    requests = np.concatenate([log.user["request"].ravel() for log in logs_of_days])
    assert len(np.unique(requests)) == 3 * STEPS * SIZE
    assert np.all(requests >> 25 == STREAM)
    same(logs_of_days[1], log_of(BY_HASH, 1))
    other = log_of(BY_APPEAL, 1)  # another arm meets the same users on the same day
    np.testing.assert_array_equal(other.user["request"], logs_of_days[1].user["request"])
    np.testing.assert_array_equal(other.history["id"], logs_of_days[1].history["id"])


# drift


@pytest.fixture(scope="module")
def clicks(log_of, small_world):
    return days.clicks_per_item(log_of(None), small_world[1].items + 1)


def test_clicks_per_item_are_counted_one_by_one(log_of, clicks):
    log, want = log_of(None), np.zeros(601)
    for item in log.items["id"][log.labels["click"] > 0]:
        want[item] += 1
    np.testing.assert_array_equal(clicks, want)
    assert clicks.sum() > 10
    assert clicks[0] == 0


def test_no_weight_and_no_clicks_mean_no_drift(small_world, clicks):
    world, config, _ = small_world
    same(drifted(world, config, clicks, 0.0), world)
    same(drifted(world, config, np.zeros(601, np.float32), 0.7), world)


def test_full_weight_makes_the_channel_the_clicks(small_world, clicks):
    world, config, _ = small_world
    table = np.asarray(drifted(world, config, clicks, 1.0).popular)
    assert table.shape == world.popular.shape
    share = np.bincount(table, minlength=601) / len(table)
    np.testing.assert_allclose(share, clicks / clicks.sum(), atol=1.01 / len(table))
    assert not share[clicks == 0].any()


def test_the_mixture_is_linear_and_forgets_the_world_it_comes_from(small_world, clicks):
    world, config, _ = small_world
    law = np.r_[0, np.asarray(zipf_law(config), np.float64)]
    want = 0.75 * law / law.sum() + 0.25 * clicks / clicks.sum()
    mixed = drifted(world, config, clicks, 0.25)
    share = np.bincount(mixed.popular, minlength=601) / len(mixed.popular)
    np.testing.assert_allclose(share, want, atol=1.01 / len(mixed.popular))
    far = drifted(world, config, np.arange(601), 1.0)
    same(drifted(far, config, 3 * clicks, 0.25), mixed)  # a unit of clicks means nothing


@pytest.mark.parametrize("weight", [-0.1, 1.5, np.nan])
def test_a_weight_that_is_no_share_is_refused(small_world, clicks, weight):
    with pytest.raises(UserError, match=r"weight=.*\[0, 1\]"):
        days.drifted(*small_world[:2], clicks, float(weight))


def test_only_the_popular_channel_drifts(small_world, clicks):
    world, config, _ = small_world
    other = drifted(world, config, clicks, 1.0)
    same(dataclasses.replace(other, popular=world.popular), world)
    request = logs.request_ids(STREAM, 0, 16)
    retrieve = jax.jit(lambda world: funnel.retrieve(world, config, funnel.contexts(world, config, request)))
    before, after = np.asarray(retrieve(world)), np.asarray(retrieve(other))
    first = int(160 * 0.40) + int(160 * 0.25)
    popular = (np.arange(160) >= first) & (np.arange(160) < first + int(160 * 0.15))
    np.testing.assert_array_equal(before[:, ~popular], after[:, ~popular])
    assert np.mean(before[:, popular] != after[:, popular]) > 0.5
    assert set(after[:, popular].ravel()) <= set(np.flatnonzero(clicks))


# metrics


def test_the_metrics_of_a_day_by_hand(log_of, small_world, clicks):
    world, config, _ = small_world
    log, tail = log_of(None), np.arange(601) > 400
    shown = log.items["id"][log.stage == Stage.EXPOSED]
    moved = drifted(world, config, clicks, 1.0)
    got = days.day_metrics(log, moved, world, config, tail)
    assert got["day/click_rate"] == pytest.approx(clicks.sum() / len(shown))
    assert got["day/tail_share"] == pytest.approx(np.mean(shown > 400))
    counts = np.bincount(shown, minlength=601)[1:]
    assert got["day/gini"] == pytest.approx(np.abs(counts[:, None] - counts).mean() / (2 * counts.mean()))
    share, start = (np.bincount(w.popular, minlength=601) / 4096 for w in (moved, world))
    assert got["day/popular_overlap"] == pytest.approx(1 - 0.5 * np.abs(share - start).sum())
    assert got["day/popular_head"] == pytest.approx(np.sort(share)[-6:].sum())
    still = days.day_metrics(log, world, world, config, tail)
    assert still["day/popular_overlap"] == 1
    assert still["day/popular_head"] == pytest.approx(np.sort(start)[-6:].sum())


@pytest.mark.slow
def test_the_loop_concentrates_on_what_it_has_shown(log_of, small_world):
    """Four days with full drift: the channel moves away from the start and gathers on fewer items."""
    world, config, _ = small_world
    today, tail, measured = world, np.arange(601) > 400, []
    for day in range(4):
        log = log_of(BY_APPEAL, day, today)
        measured.append(days.day_metrics(log, today, world, config, tail))
        today = drifted(world, config, days.clicks_per_item(log, 601), 1.0)
    assert measured[0]["day/popular_overlap"] == 1
    assert max(row["day/popular_overlap"] for row in measured[1:]) < 0.6
    assert measured[-1]["day/gini"] > measured[0]["day/gini"]
