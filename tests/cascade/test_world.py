"""The simulated world: reproducible, consistent between its tables, and observed with the stated noise."""

import dataclasses

import jax
import numpy as np
import pytest

from hccp_jax.cascade.world import CONTENT, RECENT, build_world


def test_the_same_configuration_gives_the_same_world(small_world):
    world, config, _ = small_world
    again = build_world(dataclasses.replace(config))
    jax.tree.map(np.testing.assert_array_equal, again, world)


def test_another_seed_gives_another_world(small_world):
    world, config, _ = small_world
    other = build_world(dataclasses.replace(config, seed=config.seed + 1))
    for name in ("taste", "quality", "value", "price", "category", "content", "interests", "budget", "long_history"):
        assert np.mean(np.asarray(getattr(other, name)) == np.asarray(getattr(world, name))) < 0.3, name
    np.testing.assert_array_equal(other.popularity, world.popularity)  # ids run by popularity in every world


def test_shapes_ranges_and_the_padding_row(tables, small_world):
    config = small_world[1]
    assert tables.taste.shape == (601, config.latent)
    assert tables.content.shape == (601, CONTENT)
    assert tables.interests.shape == (81, config.interests, config.latent)
    assert tables.long_history.shape == (81, config.history - RECENT)
    for name in ("taste", "quality", "price", "content", "appeal", "interests", "budget", "long_history"):
        table = getattr(tables, name)
        assert np.isfinite(table).all()
        assert not table[0].any(), name
        assert table[1:].any(), name
    for name, ids in (("long_history", tables.long_history[1:]), ("popular", tables.popular)):
        assert ids.min() >= 1, name
        assert ids.max() <= config.items, name
    assert 0 <= tables.category.min() <= tables.category.max() < config.categories
    assert 0 <= tables.cluster.min() <= tables.cluster.max() < config.clusters


def test_hidden_vectors_have_length_one(tables):
    np.testing.assert_allclose(np.linalg.norm(tables.taste[1:], axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(tables.interests[1:], axis=-1), 1, rtol=1e-5)


def test_ids_run_by_falling_popularity(tables):
    assert np.all(np.diff(tables.popularity[1:]) < 0)
    np.testing.assert_allclose(tables.rarity[1:], np.arange(600) / 600, atol=1e-6)


def thirds(x):
    return x[:200], x[400:]


def test_content_noise_grows_with_rarity(tables):
    taste, content = tables.taste[1:], tables.content[1:]
    # The projection is hidden, so it is estimated; weights so that the precise head decides.
    weight = 1 / (0.08 + 0.22 * tables.rarity[1:, None])
    projection = np.linalg.lstsq(taste * weight, content * weight, rcond=None)[0]
    head, tail = (part.std() for part in thirds(content - taste @ projection))
    rarity_head, rarity_tail = (np.sqrt(np.mean((0.08 + 0.22 * part) ** 2)) for part in thirds(tables.rarity[1:]))
    assert head == pytest.approx(rarity_head, rel=0.1)
    assert tail == pytest.approx(rarity_tail, rel=0.1)


def test_the_historical_click_rate_tells_more_of_popular_items(tables):
    head, tail = (
        np.corrcoef(quality, appeal)[0, 1]
        for quality, appeal in zip(thirds(tables.quality[1:]), thirds(tables.appeal[1:]), strict=True)
    )
    assert head > tail + 0.15
    assert tail > 0.3
    # shrunk towards zero, so that quality has slope one on it
    for part in (slice(1, 201), slice(401, 601)):
        assert np.polyfit(tables.appeal[part], 0.8 * tables.quality[part], 1)[0] == pytest.approx(1, abs=0.3)


def test_observed_budget_is_a_noisy_budget(tables):
    noise = tables.observed_budget[1:] - tables.budget[1:]
    assert 0.35 < noise.std() < 0.65
    assert abs(np.corrcoef(noise, tables.budget[1:])[0, 1]) < 0.4


def test_the_sampling_tables_hold_items_of_their_group(tables):
    for group, table in ((tables.category, tables.by_category), (tables.cluster, tables.by_cluster)):
        sizes = np.bincount(group[1:], minlength=len(table))
        for row, size in enumerate(sizes):
            if size:
                assert set(group[table[row]]) == {row}
                assert len(set(table[row])) > 0.5 * min(size, table.shape[1])


def test_a_quantile_table_holds_each_item_by_its_weight(tables, small_world):
    weight = np.arange(1.0, 601) ** -small_world[1].zipf
    share = np.bincount(tables.popular, minlength=601)[1:] / len(tables.popular)
    np.testing.assert_allclose(share, weight / weight.sum(), atol=1.01 / len(tables.popular))


def test_clusters_are_the_nearest_centroid(tables):
    distance = np.sum((tables.content[1:, None] - tables.centroids[None]) ** 2, axis=-1)
    chosen = np.take_along_axis(distance, tables.cluster[1:, None], axis=1)[:, 0]
    np.testing.assert_allclose(chosen, distance.min(axis=1), rtol=1e-4, atol=1e-5)


def test_users_consumed_what_they_like(tables):
    for user in (1, 40, 80):
        history = tables.long_history[user]
        assert set(tables.category[history]) <= set(tables.interest_category[user])
    # the best of four of its category, for one of the user's interests in that category
    lower = []
    for user in range(1, 81):
        for item in tables.long_history[user]:
            category = tables.category[item]
            wishes = tables.interests[user][tables.interest_category[user] == category]
            fit = (tables.taste @ wishes.T).max(axis=1)
            lower.append(np.mean(fit[tables.by_category[category]] < fit[item]))
    assert np.mean(lower) > 0.65
