"""What the cascade writes: lists that keep the contract, stages that mean what they say, and pure streams."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.cascade import funnel, logs
from hccp_jax.cascade.logs import SamplingConfig
from hccp_jax.cascade.source import featurise
from hccp_jax.cascade.world import CONTENT, RECENT
from hccp_jax.data.requests import Stage, validate
from hccp_jax.data.sampling import PAPER_BORDERS, PAPER_RATES
from hccp_jax.errors import UserError

VOCABULARY = {"items.id": 601, "history.id": 601, "user.id": 81}


def of_stage(batch, row, stage):
    return batch.items["id"][row][batch.stage[row] == stage].tolist()


# the lists


def test_logs_keep_the_batch_contract(run):
    validate(run.log, VOCABULARY)
    validate(run.held.requests, VOCABULARY)
    assert run.log.mask.shape == (256, 35 + 15 + 10)
    assert set(run.log.labels) == set(logs.TASKS)


def test_slots_are_the_ranking_sequence_then_the_latter_order_then_the_pool(run):
    stage = run.log.stage
    assert np.all(stage[:, :10] == Stage.EXPOSED)
    assert np.all(stage[:, 10:35] == Stage.RANKED)
    assert np.all(np.isin(stage[:, 35:50], [Stage.PRERANKED, Stage.PADDING]))
    assert np.all(np.isin(stage[:, 50:], [Stage.POOL, Stage.PADDING]))
    assert np.mean(stage[:, 50:] == Stage.POOL) > 0.97


def test_stages_are_the_stages_of_the_funnel(run, small_world):
    config = small_world[1]
    for row in range(256):
        retrieved = run.held.requests.items["id"][row]
        assert set(retrieved[retrieved > 0]) == set(run.slots[row])
        ranked = set(retrieved[: config.ranked])
        assert set(of_stage(run.log, row, Stage.EXPOSED)) == set(retrieved[run.held.exposed[row]])
        assert set(of_stage(run.log, row, Stage.EXPOSED) + of_stage(run.log, row, Stage.RANKED)) <= ranked
        latter = of_stage(run.log, row, Stage.PRERANKED)
        assert set(latter) <= set(run.slots[row]) - ranked
        assert not set(of_stage(run.log, row, Stage.POOL)) & set(run.slots[row])
        real = run.log.items["id"][row][run.log.mask[row]]
        assert len(set(real)) == len(real)


def test_ranks_are_the_places_of_the_ranker(run, small_world):
    ranked = small_world[1].ranked
    for row in range(256):
        ids, scores = run.held.requests.items["id"][row, :ranked], run.held.ranker_scores[row, :ranked]
        order = ids[np.argsort(-scores, kind="stable")]
        known = run.log.rank[row] >= 0
        np.testing.assert_array_equal(order[run.log.rank[row][known]], run.log.items["id"][row][known])


def test_lists_are_in_the_arranged_order(run, small_world):
    """Ascending r^c = r - (e + click) N^r over the ranking sequence."""
    log = run.log
    exposed = (log.stage == Stage.EXPOSED).astype(int)
    arranged = log.rank - (exposed + log.labels["click"].astype(int)) * small_world[1].ranked
    assert np.all(np.diff(arranged[:, :35], axis=1) > 0)
    clicks = log.labels["click"][:, :10]
    assert np.all(np.diff(clicks, axis=1) <= 0)
    assert 0 < clicks.mean() < 0.5


def test_the_top_of_the_ranking_is_sampled_more_densely(run):
    sampled = run.log.rank[run.log.stage == Stage.RANKED]
    counts = np.bincount(sampled, minlength=40)
    shown = np.bincount(run.log.rank[run.log.stage == Stage.EXPOSED], minlength=40)
    assert np.all((counts + shown)[:20] > 0.95 * 256)  # the first chunks are as wide as what they give
    assert np.all(counts[30:] < 0.7 * 256)


def test_a_purchase_implies_a_click_and_a_click_an_exposure(run):
    for click, purchase, exposed in (
        (run.log.labels["click"] > 0, run.log.labels["purchase"] > 0, run.log.stage == Stage.EXPOSED),
        (run.held.clicked, run.held.purchased, run.held.exposed),
    ):
        assert click.any()
        assert purchase.any()
        assert not np.any(purchase & ~click)
        assert not np.any(click & ~exposed)
    assert not np.any(run.held.purchased_elsewhere & ~run.held.clicked_elsewhere)


def test_held_out_requests_have_the_feedback_that_the_log_has(run):
    """The same request is answered alike wherever it is written."""
    for row in range(256):
        ids, log = run.held.requests.items["id"][row], run.log
        for flags, task in ((run.held.clicked, "click"), (run.held.purchased, "purchase")):
            assert set(ids[flags[row]]) == set(log.items["id"][row][log.labels[task][row] > 0])
    np.testing.assert_array_equal(run.held.requests.history["id"], run.log.history["id"])
    np.testing.assert_array_equal(run.held.requests.user["id"], run.log.user["id"])


def test_the_truth_of_held_out_requests(run, small_world):
    held, mask = run.held, run.held.requests.mask
    assert held.truth.min() >= 0
    assert held.truth.max() <= 1
    np.testing.assert_allclose(held.truth[mask], 1 / (1 + np.exp(-run.truth[mask])), rtol=1e-5)
    assert not np.all(mask)
    for field in ("exposed", "clicked", "purchased", "clicked_elsewhere", "purchased_elsewhere", "truth"):
        assert not np.any(getattr(held, field)[~mask]), field
    assert np.all(held.ranker_scores[~mask] == -16)
    np.testing.assert_array_equal(held.exposed.sum(1), small_world[1].exposed)
    assert not np.any(np.diff(mask.astype(int), axis=1) > 0)  # padding at the end


def test_padding_is_never_ranked_nor_shown(monkeypatch, small_world):
    """Not even where fewer candidates are left than the ranker takes and a network likes padding best."""
    monkeypatch.setattr(funnel, "trained_score", lambda world, user, history, ids: jnp.where(ids > 0, -ids / 100, 9.0))
    world, config, samples = small_world
    config = dataclasses.replace(config, candidates=64, ranked=60, ranker="trained")
    request = logs.request_ids(9, 0, 64)
    log, held = jax.jit(
        lambda world: (logs.log_requests(world, config, samples, request), logs.held_out(world, config, request))
    )(world)
    assert np.sum(held.requests.mask, axis=1).min() < config.ranked
    validate(log, VOCABULARY)
    assert not np.any(held.exposed & ~held.requests.mask)
    for row in range(64):
        shown = held.requests.items["id"][row][held.exposed[row]]
        assert set(np.asarray(shown)) == set(np.asarray(log.items["id"][row])[np.asarray(log.stage[row]) == 1])


def test_clicks_elsewhere_follow_another_intent_and_their_own_luck(run, small_world, tables):
    config, mask = small_world[1], run.held.requests.mask
    ids, context, clicked = run.held.requests.items["id"], run.context, run.held.clicked_elsewhere
    fit = np.einsum("upd,ukd->upk", tables.taste[ids], tables.interests[context.user])
    gap = np.abs(tables.price[ids] - tables.budget[context.user][:, None])
    rest = config.click_bias + 0.8 * tables.quality[ids] - 0.4 * gap
    chances, likelihood = [], []
    for shift in range(config.interests):
        loss = np.full((256, 1, config.interests), funnel.INACTIVE)
        np.put_along_axis(loss[:, 0], ((context.intent + shift) % config.interests)[:, None], 0.0, axis=1)
        chance = config.elsewhere / (1 + np.exp(-rest - config.affinity * (fit - loss).max(-1)))
        chances.append(np.where(mask, chance, 0))
        likelihood.append(np.where(mask, np.log(np.where(clicked, chance, 1 - chance)), 0).sum(axis=1))
    other = np.mean(chances[1:], axis=0)  # either of the two other interests
    assert abs(clicked.sum() - other.sum()) < 5 * np.sqrt(other.sum())
    assert np.logaddexp(*likelihood[1:]).sum() - 256 * np.log(2) > likelihood[0].sum() + 20
    both, expected = np.sum(run.held.clicked & clicked), other[run.held.clicked].sum()
    assert abs(both - expected) < 4 * np.sqrt(expected)


def test_another_ranker_meets_the_same_candidates_and_the_same_luck(run, small_world):
    """Common random numbers: what is clicked differs only where the exposures do."""
    world, config, _ = small_world
    perfect = dataclasses.replace(config, ranker="perfect")
    other = jax.tree.map(np.asarray, jax.jit(logs.held_out, static_argnums=1)(world, perfect, run.request))
    np.testing.assert_array_equal(other.requests.items["id"], run.held.requests.items["id"])
    np.testing.assert_array_equal(other.clicked_elsewhere, run.held.clicked_elsewhere)
    np.testing.assert_array_equal(other.truth, run.held.truth)
    assert np.any(other.exposed != run.held.exposed)
    both = other.exposed & run.held.exposed
    agree = other.clicked[both] == run.held.clicked[both]
    assert agree.mean() > 0.99  # the place decays the chance by a few per cent
    # the better ranker shows better items
    assert other.truth[other.exposed].mean() > run.held.truth[run.held.exposed].mean()


# streams and steps


def test_streams_of_requests_never_overlap():
    width = 1 << 25
    streams = [*logs.STREAMS.values(), *(logs.training_stream(seed) for seed in range(logs.MAX_SEED + 1))]
    assert len(set(streams)) == len(streams)
    firsts = np.sort([int(logs.request_ids(stream, 0, 1)[0]) for stream in streams])
    assert np.diff(firsts).min() >= width
    assert firsts[0] == 0
    assert firsts[-1] + width - 1 == 2**31 - 1
    np.testing.assert_array_equal(logs.request_ids(2, 5, 3), 2 * width + np.array([5, 6, 7]))


@pytest.mark.parametrize("seed", [-1, logs.MAX_SEED + 1])
def test_a_training_seed_without_a_stream_is_refused(seed):
    with pytest.raises(ValueError, match="training seed"):
        logs.training_stream(seed)


def test_a_step_holds_the_first_clicked_requests_of_its_own(run, fresh):
    """Steps 0 to 3 of stream 0, 64 requests each, of which 32 are kept."""
    clicked = (run.log.labels["click"] > 0).any(axis=1)
    batches = fresh.chunk([0, 1], 0, 2), fresh.chunk([0, 1], 2, 2)
    for step in range(4):
        own = np.arange(64 * step, 64 * (step + 1))
        kept = [row for row in own if clicked[row]]
        kept = (kept + [row for row in own if not clicked[row]])[:32]
        got = jax.tree.map(lambda leaf, step=step: leaf[0, step % 2], batches[step // 2])
        want = jax.tree.map(lambda leaf, kept=kept: leaf[kept], run.log)
        jax.tree.map(np.testing.assert_array_equal, got, want)
    assert clicked.mean() < 0.45  # so that the fill is tested too


def test_without_clicked_only_a_step_is_its_requests_in_order(monkeypatch, small_world):
    config, samples = small_world[1], SamplingConfig(clicked_only=False)
    monkeypatch.setattr(logs, "log_requests", lambda world, config, samples, request, preranker: request)
    got = logs.training_batch(None, config, samples, 9, jnp.asarray(3), 16)
    np.testing.assert_array_equal(got, logs.request_ids(9, 48, 16))


# configuration of the samples


def test_default_chunks_are_the_papers_scaled_to_the_ranker():
    samples = SamplingConfig()
    assert samples.chunks(1900).borders == PAPER_BORDERS
    assert samples.chunks(150).counts == (5,) * 7
    assert SamplingConfig(sequence=70).chunks(1900).counts == (10,) * 7
    explicit = SamplingConfig(borders=PAPER_BORDERS, rates=PAPER_RATES)
    assert explicit.chunks(5) == samples.chunks(1900)


def test_borders_without_rates_are_refused():
    with pytest.raises(UserError, match=r"sampling\.borders"):
        SamplingConfig(borders=(10, 20)).chunks(40)


# features


def test_the_catalogue_shows_what_is_observable(small_world, tables):
    world, config, _ = small_world
    plain = logs.catalogue(world, config)
    assert set(plain.items) == {"categorical", "dense"}
    assert plain.items["dense"].shape == (601, CONTENT + 2)
    np.testing.assert_array_equal(plain.items["dense"][:, :CONTENT], tables.content)
    np.testing.assert_array_equal(plain.items["dense"][:, CONTENT], tables.appeal)
    np.testing.assert_array_equal(plain.items["dense"][:, CONTENT + 1], tables.price)
    np.testing.assert_array_equal(plain.items["categorical"][1:, 0], tables.category[1:] + 1)
    assert plain.items["categorical"][0, 0] == 0
    np.testing.assert_array_equal(plain.users["dense"][:, 0], tables.observed_budget)
    popular = logs.catalogue(world, dataclasses.replace(config, observe_popularity=True))
    np.testing.assert_array_equal(popular.items["dense"][:, CONTENT + 2], tables.popularity)


def test_the_feature_sizes_hold_every_id(small_world, tables):
    spec = logs.feature_spec(small_world[1])
    assert (spec.users, spec.items, spec.tasks, spec.cross) == (81, 601, ("click", "purchase"), 4)
    assert tables.category.max() + 1 < spec.item_categories
    assert spec.user_categories == 1


def test_history_is_pooled_whole_and_recent(run):
    groups = run.log.history["groups"]
    assert groups.shape == (256, 15, 2)
    np.testing.assert_array_equal(groups[..., 0], 1)
    np.testing.assert_array_equal(groups[..., 1], np.broadcast_to(np.arange(15) >= 15 - RECENT, (256, 15)))
    assert run.log.history_mask.all()


def test_cross_features_are_the_literal_ones_and_zero_for_pool_and_padding(run, small_world, tables):
    got = np.asarray(jax.jit(featurise)(run.log, logs.catalogue(*small_world[:2])).cross)
    assert got.shape == (256, 60, 4)
    assert got.dtype == np.float32
    unknown = ~np.isin(run.log.stage, [Stage.EXPOSED, Stage.RANKED, Stage.PRERANKED])
    assert unknown.any()
    assert not got[unknown].any()
    for row in range(0, 256, 8):
        seen = tables.category[run.log.history["id"][row]]
        budget = tables.observed_budget[run.log.user["id"][row]]
        for slot in np.flatnonzero(~unknown[row]):
            item = run.log.items["id"][row, slot]
            match = seen == tables.category[item]
            gap = tables.price[item] - budget
            want = [match.mean(), match[-RECENT:].mean(), abs(gap), gap]
            np.testing.assert_allclose(got[row, slot], want, rtol=1e-5, atol=1e-6)
