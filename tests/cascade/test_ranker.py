"""The rankers: shrunk to the truth it stands for, perfect, or trained on a bootstrap log."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.cascade import funnel, logs, ranker
from hccp_jax.cascade.funnel import Context

scores = jax.jit(funnel.ranker_scores, static_argnums=1)


def delivered(run, config, tables):
    """(score, truth, rarity) of everything that the ranker sees in the small world."""
    part = np.s_[:, : config.ranked]
    mask = run.held.requests.mask[part]
    ids = run.held.requests.items["id"][part]
    return run.held.ranker_scores[part][mask], run.truth[part][mask], tables.rarity[ids][mask]


def test_correlation_with_the_truth_falls_from_head_to_tail(run, tables, small_world):
    score, truth, rarity = delivered(run, small_world[1], tables)
    parts = [(rarity >= low) & (rarity < low + 0.25) for low in (0, 0.25, 0.5, 0.75)]
    correlations = [np.corrcoef(score[part], truth[part])[0, 1] for part in parts]
    assert np.all(np.diff(correlations) < 0)
    assert correlations[0] > 0.97
    assert 0.85 < correlations[-1] < 0.97


def test_scores_of_ranked_items_are_about_calibrated(run, tables, small_world):
    score, truth, _ = delivered(run, small_world[1], tables)
    assert np.polyfit(score, truth, 1)[0] == pytest.approx(1, abs=0.2)


def test_the_shrunk_score_is_the_posterior_mean_under_its_own_prior(small_world):
    """Truths drawn from the assumed prior: their mean given the score is the score, for popular and rare items."""
    world, config, _ = small_world
    rng = np.random.default_rng(0)
    prior = config.click_bias + funnel.RANKED_MEAN
    truth = rng.normal(prior, config.ranker_prior_std, (400, 600)).astype(np.float32)
    ids = np.tile(np.arange(1, 601, dtype=np.int32), (400, 1))
    user = np.arange(400, dtype=np.int32) % 80 + 1
    context = Context(np.arange(400), np.arange(400), user, user[:, None])  # pairs never repeat
    score = np.asarray(scores(world, config, context, ids, truth))
    for part in (slice(0, 150), slice(150, 300), slice(300, 450), slice(450, 600)):
        slope, offset = np.polyfit(score[:, part].ravel() - prior, truth[:, part].ravel() - prior, 1)
        assert slope == pytest.approx(1, abs=0.05)
        assert abs(offset) < 0.12  # the item-keyed error is one draw an item
    spread = config.ranker_error_head + (config.ranker_error_tail - config.ranker_error_head) * np.arange(600) / 600
    trust = config.ranker_prior_std**2 / (config.ranker_prior_std**2 + spread**2)
    error = (score - prior) / trust - (truth - prior)
    assert np.sqrt(np.mean((error / spread) ** 2)) == pytest.approx(np.sqrt(0.75**2 + 0.66**2), abs=0.05)


def test_errors_persist_from_request_to_request(small_world):
    world, config, _ = small_world
    ids = np.tile(np.arange(1, 601, dtype=np.int32), (2, 1))
    truth = jnp.full((2, 600), -7.0)

    def score(request, user):
        user = jnp.asarray(user)
        return np.asarray(scores(world, config, Context(request, user, user, user[:, None]), ids, truth))

    first, other_user = score(jnp.arange(2), [3, 9])
    np.testing.assert_array_equal(score(jnp.arange(2) + 50, [3, 9])[0], first)
    correlation = np.corrcoef(first, other_user)[0, 1]
    assert 0.4 < correlation < 0.75  # three quarters of the error belong to the item


def test_the_perfect_ranker_scores_the_truth(run, small_world):
    world, config, _ = small_world
    perfect = dataclasses.replace(config, ranker="perfect")
    ids, truth = run.held.requests.items["id"], run.truth
    np.testing.assert_array_equal(funnel.ranker_scores(world, perfect, Context(*run.context), ids, truth), truth)


def test_an_untrained_world_has_no_trained_ranker(run, small_world):
    world, config, _ = small_world
    with pytest.raises(ValueError, match="open_world"):
        funnel.ranker_scores(
            world, dataclasses.replace(config, ranker="trained"), Context(*run.context), run.slots, run.slots
        )


def test_observables_are_observable(run, tables, small_world):
    """Hidden tables may change at will without the ranker's features noticing."""
    world, ids = small_world[0], run.slots[:4, :20]
    hidden = ("taste", "quality", "value", "interests", "interest_category", "budget")
    blind = world.replace(**{name: jnp.full_like(getattr(world, name), 7) for name in hidden})
    look = jax.jit(ranker.observables)
    features = look(world, run.context.user[:4], run.context.history[:4], ids)
    assert features.shape == (4, 20, 15)
    np.testing.assert_array_equal(look(blind, run.context.user[:4], run.context.history[:4], ids), features)
    gap = np.abs(tables.price[ids] - tables.observed_budget[run.context.user[:4]][:, None])
    np.testing.assert_allclose(features[..., 13], gap, rtol=1e-6)


def test_a_trained_ranker_is_built_from_any_number_of_requests(monkeypatch, run, small_world):
    world, config, _ = small_world
    monkeypatch.setattr(logs, "build_world", lambda config: world)
    trained = logs.open_world(dataclasses.replace(config, ranker="trained", ranker_requests=300))
    assert world.ranker is None
    ids, context = run.slots[:4, :20], Context(*(part[:4] for part in run.context))
    config = dataclasses.replace(config, ranker="trained")
    score = np.asarray(scores(trained, config, context, ids, jnp.zeros(ids.shape)))
    assert np.isfinite(score).all()
    assert score.std() > 0.01


def test_fit_finds_a_click_model():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(16_384, 3)).astype(np.float32)
    logit = 1.5 * features[:, 0] - features[:, 1] - 1
    clicks = rng.random(16_384) < 1 / (1 + np.exp(-logit))
    parameters = jax.jit(ranker.fit, static_argnames="epochs")(features, clicks, jax.random.key(0), epochs=8)
    got = np.asarray(ranker._network(parameters, features))
    assert np.corrcoef(got, logit)[0, 1] > 0.95
    assert np.polyfit(got, logit, 1)[0] == pytest.approx(1, abs=0.25)
