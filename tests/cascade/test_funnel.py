"""The stages of the cascade against NumPy, and the chances with which feedback happens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.cascade import funnel
from hccp_jax.cascade.funnel import Context, Ranking
from hccp_jax.cascade.world import RECENT
from hccp_jax.errors import UserError

REQUESTS, RANKED = 1024, 40
expose = jax.jit(funnel.expose, static_argnums=1)


def separated(rng, shape, low=-7.5, high=7.5):
    """Scores in random order with gaps far above the resolution of a packed sort key."""
    total = int(np.prod(shape))
    return rng.permutation(np.linspace(low, high, total, dtype=np.float32)).reshape(shape)


def test_best_first_is_argsort():
    scores = np.concatenate([separated(np.random.default_rng(0), (20, 37)), np.full((20, 3), -16.0, np.float32)], 1)
    scores[:, 0] = 15.9
    np.testing.assert_array_equal(funnel.best_first(scores), np.argsort(-scores, axis=-1, kind="stable"))


def test_best_first_keeps_the_order_of_ties_and_of_what_is_out_of_range():
    scores = jnp.asarray([[1.0, 99.0, 1.0, -50.0, 1.0, 40.0, -16.0, 16.0]])
    np.testing.assert_array_equal(funnel.best_first(scores), [[1, 5, 7, 0, 2, 4, 3, 6]])


def test_distinct_best_first_equals_a_literal_sort():
    rng = np.random.default_rng(1)
    table = np.r_[0.0, separated(rng, (600,))].astype(np.float32)
    ids = rng.integers(1, 601, (30, 80)).astype(np.int32)
    ids[0] = 7
    ids[1, :] = np.arange(1, 81)
    got, count = map(np.asarray, jax.jit(funnel.distinct_best_first, static_argnums=2)(ids, table[ids], 600))
    for row in range(30):
        want = sorted(set(ids[row].tolist()), key=lambda item: -table[item])
        assert count[row] == len(want)
        assert got[row].tolist() == want + [0] * (80 - len(want))


def test_scores_beyond_the_range_are_still_candidates():
    ids, scores = jnp.asarray([[5, 600, 9, 600]]), jnp.asarray([[-99.0, 99.0, 0.0, 99.0]])
    got, count = funnel.distinct_best_first(ids, scores, 600)
    np.testing.assert_array_equal(got, [[600, 9, 5, 0]])
    np.testing.assert_array_equal(count, [3])


def test_contexts_are_users_with_intents_and_histories(run, tables, small_world):
    config, context = small_world[1], run.context
    assert context.user.min() >= 1
    assert context.user.max() <= config.users
    assert len(np.unique(context.user)) > 60
    assert set(context.intent) == set(range(config.interests))
    assert context.history.shape == (256, config.history)
    np.testing.assert_array_equal(context.history[:, :-RECENT], tables.long_history[context.user])
    wanted = tables.interest_category[context.user, context.intent]
    np.testing.assert_array_equal(
        tables.category[context.history[:, -RECENT:]], np.repeat(wanted[:, None], RECENT, axis=1)
    )


def test_retrieval_fills_its_channels_with_real_items(run, tables, small_world):
    config = small_world[1]
    assert run.slots.shape == (256, config.candidates)
    assert run.slots.min() >= 1
    assert run.slots.max() <= config.items
    by_history, by_cell, popular = 64, 40, 24  # 40 %, 25 % and 15 % of 160
    categories = tables.category[run.context.history]
    for row in range(256):
        assert set(tables.category[run.slots[row, :by_history]]) <= set(categories[row])
    cells = tables.cluster[run.slots[:, by_history : by_history + by_cell]]
    wish = tables.content[run.context.history[:, -RECENT:]].mean(axis=1)
    distance = np.sum((tables.centroids[None] - wish[:, None]) ** 2, axis=-1)
    ranks = np.argsort(np.argsort(distance, axis=1), axis=1)
    assert np.mean(np.take_along_axis(ranks, cells, axis=1) < 12) > 0.99
    head = run.slots[:, by_history + by_cell :][:, :popular]
    uniform = run.slots[:, by_history + by_cell + popular :]
    assert np.mean(head <= 150) > 0.5
    assert abs(uniform.mean() - 300.5) < 5 * 600 / np.sqrt(12 * uniform.size)


def test_an_index_of_few_cells_uses_each_alike(run, tables, small_world):
    world, config, _ = small_world
    few = world.replace(centroids=world.centroids[:8], by_cluster=jnp.tile(jnp.arange(1, 9)[:, None], (1, 256)))
    context = Context(*run.context)
    slots = np.asarray(jax.jit(funnel.retrieve, static_argnums=1)(few, config, context))[:, 64:104]
    counts = np.bincount(slots.ravel(), minlength=9)[1:]
    assert len(counts) == 8
    assert np.abs(counts / (slots.size / 8) - 1).max() < 0.15


def test_click_logits_are_the_formula(run, tables, small_world):
    config, context, ids = small_world[1], run.context, run.held.requests.items["id"]
    for row in range(0, 256, 16):
        user = context.user[row]
        fit = tables.taste[ids[row]] @ tables.interests[user].T - funnel.INACTIVE
        fit[:, context.intent[row]] += funnel.INACTIVE
        gap = np.abs(tables.price[ids[row]] - tables.budget[user])
        want = config.click_bias + config.affinity * fit.max(1) + 0.8 * tables.quality[ids[row]] - 0.4 * gap
        np.testing.assert_allclose(run.truth[row], want, rtol=1e-4, atol=1e-4)
        want = config.purchase_bias + 0.8 * tables.value[ids[row]] + 0.4 * tables.quality[ids[row]] - 0.8 * gap
        np.testing.assert_allclose(run.buys[row], want, rtol=1e-4, atol=1e-4)


# re-ranking and feedback, on rankings made up for the purpose


@pytest.fixture(scope="module")
def made_up(small_world):
    """A context and a ranking whose truth gives many clicks."""
    rng = np.random.default_rng(2)
    ids = np.stack([rng.permutation(600)[:RANKED] + 1 for _ in range(REQUESTS)]).astype(np.int32)
    scores = -np.sort(-rng.normal(-2, 2, (REQUESTS, RANKED)).astype(np.float32), axis=1)
    truth = rng.uniform(-2, 2, (REQUESTS, RANKED)).astype(np.float32)
    user = rng.integers(1, 81, REQUESTS).astype(np.int32)
    context = Context(np.arange(REQUESTS, dtype=np.int32), user, user * 0, np.ones((REQUESTS, 15), np.int32))
    return context, Ranking(ids, scores), truth


def shown_by(small_world, made_up, **changes):
    world, config, _ = small_world
    return jax.tree.map(np.asarray, expose(world, dataclasses.replace(config, **changes), *made_up))


@pytest.fixture(scope="module")
def shown(small_world, made_up):
    return shown_by(small_world, made_up)


def test_exposures_are_the_literal_diversity_re_rank(shown, made_up, tables, small_world):
    config, ranking = small_world[1], made_up[1]
    category = tables.category[ranking.ids]
    for row in range(0, REQUESTS, 8):
        scores = ranking.scores[row, : config.rerank].copy()
        for place in range(config.rerank):
            better = np.sum(category[row, :place] == category[row, place])
            scores[place] -= config.diversity * better
        want = np.argsort(-scores, kind="stable")[: config.exposed]
        np.testing.assert_array_equal(shown.position[row], want)


def test_no_item_is_shown_twice_and_none_from_below_the_re_rank(shown, small_world):
    config = small_world[1]
    assert shown.position.shape == (REQUESTS, config.exposed)
    assert shown.position.max() < config.rerank
    assert np.all(np.diff(np.sort(shown.position, axis=1), axis=1) > 0)


def same_category_share(shown, ranking, tables):
    category = np.take_along_axis(tables.category[ranking.ids], shown.position, axis=1)
    return np.mean(category[:, :, None] == category[:, None, :])


def test_diversity_spreads_the_categories(shown, small_world, made_up, tables):
    plain = shown_by(small_world, made_up, diversity=0.0)
    np.testing.assert_array_equal(plain.position, np.tile(np.arange(10), (REQUESTS, 1)))
    assert same_category_share(shown, made_up[1], tables) < same_category_share(plain, made_up[1], tables) - 0.01


def test_exploration_shows_items_beyond_the_re_rank(shown, small_world, made_up):
    config = small_world[1]
    got = shown_by(small_world, made_up, exploration=0.3)
    assert np.all(np.diff(np.sort(got.position, axis=1), axis=1) > 0)
    explored = got.position >= config.rerank
    np.testing.assert_array_equal(got.position[~explored], shown.position[~explored])
    assert explored.mean() == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / explored.size))
    assert set(got.position[explored]) == set(range(config.rerank, RANKED))


def test_exploration_never_shows_padding(small_world, made_up):
    context, ranking, truth = made_up
    short = ranking.ids.copy()
    short[:, 25:] = 0
    got = shown_by(small_world, (context, Ranking(short, ranking.scores), truth), exploration=1.0)
    assert np.all(np.take_along_axis(short, got.position, axis=1) > 0)
    assert np.any(got.position >= small_world[1].rerank)
    assert np.all(np.diff(np.sort(got.position, axis=1), axis=1) > 0)


def test_exploration_without_room_is_refused(small_world, made_up):
    with pytest.raises(UserError, match=r"world\.exploration"):
        shown_by(small_world, made_up, exploration=0.1, rerank=35)


def test_clicks_and_purchases_happen_with_the_stated_chances(shown, made_up, tables, small_world):
    config, (context, ranking, truth) = small_world[1], made_up
    chance = 1 / (1 + np.exp(-np.take_along_axis(truth, shown.position, axis=1)))
    chance = chance * (1 - config.position_decay * np.arange(config.exposed))
    z = (shown.click - chance).sum(0) / np.sqrt((chance * (1 - chance)).sum(0))
    assert np.abs(z).max() < 4
    assert 0.5 < np.std((shown.click - chance) / np.sqrt(chance * (1 - chance))) < 1.5
    # without the decay, the last positions would be 6 standard errors off
    undecayed = chance / (1 - config.position_decay * np.arange(config.exposed))
    assert abs((shown.click - undecayed)[:, 5:].sum() / np.sqrt((chance * (1 - chance))[:, 5:].sum())) > 6

    ids = np.take_along_axis(ranking.ids, shown.position, axis=1)
    gap = np.abs(tables.price[ids] - tables.budget[context.user][:, None])
    logit = config.purchase_bias + 0.8 * tables.value[ids] + 0.4 * tables.quality[ids] - 0.8 * gap
    wanted = (1 / (1 + np.exp(-logit)))[shown.click]
    assert not np.any(shown.purchase & ~shown.click)
    bought = shown.purchase[shown.click]
    assert abs((bought - wanted).sum() / np.sqrt((wanted * (1 - wanted)).sum())) < 4


def test_feedback_is_keyed_by_request_and_item_not_by_the_place(shown, small_world, made_up):
    """Common random numbers: with sure truths the same items are clicked wherever they are shown."""
    other = shown_by(small_world, made_up, diversity=0.0, position_decay=0.0)
    plain = shown_by(small_world, made_up, position_decay=0.0)
    for row in range(0, REQUESTS, 16):
        one = dict(zip(plain.position[row], plain.click[row], strict=True))
        two = dict(zip(other.position[row], other.click[row], strict=True))
        for place in set(one) & set(two):
            assert one[place] == two[place]
