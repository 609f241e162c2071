"""The online test over whole sets of requests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_hccp import tiny

from hccp_jax.cascade.concentration import gini
from hccp_jax.cascade.logs import STREAMS, held_out, request_ids
from hccp_jax.evaluation.online import Online, online_set
from hccp_jax.evaluation.simulated import BLOCK, evaluation_set, references

REQUESTS = 2 * BLOCK
PER_REQUEST = ("clicks", "purchases", "realised_clicks", "realised_purchases", "tail_share")


@pytest.fixture(scope="module")
def counts(small_world):
    return tiny(small_world).source.frequency


@pytest.fixture(scope="module")
def online(small_world, counts):
    world, config, _ = small_world
    return Online(world, config, online_set(world, config, counts, REQUESTS - 5))


@pytest.fixture(scope="module")
def arms(online, counts):
    """Name -> what is measured, the references beside the log's own arm."""
    rows = {name: np.asarray(jax.lax.map(score, online.data.candidates)) for name, score in references(counts).items()}
    return {name: online.measured(scores) for name, scores in {**rows, "log": online.logging_scores()}.items()}


def test_online_requests_are_nobody_elses(small_world, counts, online):
    world, config, _ = small_world
    own = np.asarray(online.data.requests.user["request"]).ravel()
    assert len(np.unique(own)) == REQUESTS
    assert own[0] == STREAMS["online"] << 25
    for stream in ("evaluation", "validation"):
        other = evaluation_set(world, config, counts, REQUESTS, stream).requests.user["request"]
        assert not np.intersect1d(own, other).size
    assert not np.intersect1d(own, tiny(small_world).log.user["request"]).size


def test_the_logging_arm_earns_what_the_log_earned(small_world, online, arms):
    world, config, _ = small_world
    held = jax.jit(held_out, static_argnums=1)(world, config, request_ids(STREAMS["online"], 0, REQUESTS))
    metrics, per_request = arms["log"]
    np.testing.assert_array_equal(per_request["online/realised_clicks"], np.asarray(held.clicked).sum(axis=1))
    np.testing.assert_array_equal(per_request["online/realised_purchases"], np.asarray(held.purchased).sum(axis=1))
    ids, exposed = np.asarray(held.requests.items["id"]), np.asarray(held.exposed)
    shown = np.bincount(ids[exposed], minlength=config.items + 1)[1:]
    assert metrics["online/gini"] == pytest.approx(gini(shown))
    assert metrics["online/distinct_items"] == (shown > 0).sum()
    assert metrics["online/tail_share"] == pytest.approx(online.tail[ids[exposed]].mean())


def test_metrics_are_means_of_their_requests(arms):
    for metrics, per_request in arms.values():
        assert set(per_request) == {f"online/{name}" for name in PER_REQUEST}
        octiles = {name for name in metrics if "/octile" in name}
        assert set(metrics) == {*per_request, "online/gini", "online/distinct_items", *octiles}
        for name, values in per_request.items():
            assert values.shape == (REQUESTS,)
            assert values.dtype == np.float32
            assert metrics[name] == pytest.approx(values.mean(dtype=np.float64), rel=1e-6)


def test_better_scores_earn_more(arms):
    clicks = {name: metrics["online/clicks"] for name, (metrics, _) in arms.items()}
    assert clicks["truth"] > clicks["random"]
    assert clicks["ranker"] > clicks["random"]
    popular = arms["popularity"][0]
    assert popular["online/tail_share"] < arms["random"][0]["online/tail_share"]
    assert popular["online/gini"] > arms["random"][0]["online/gini"]


def test_the_tail_is_the_rarest_two_octiles(online):
    candidates = jax.tree.map(np.asarray, online.data.candidates)
    ids, octile = candidates.ids[candidates.mask], candidates.octile[candidates.mask]
    np.testing.assert_array_equal(online.tail[ids], octile >= 6)
    assert 0 < online.tail.mean() < 1
    assert not online.tail[0]


def test_octiles_add_up_to_the_whole(online, arms):
    candidates = jax.tree.map(np.asarray, online.data.candidates)
    known = dict(zip(candidates.ids[candidates.mask], candidates.octile[candidates.mask], strict=True))
    for metrics, _ in arms.values():
        share, rate, bought = (
            np.array([metrics[f"online/{name}/octile{place}"] for place in range(1, 9)])
            for name in ("share", "CTR", "CVR")
        )
        assert share.sum() == pytest.approx(1.0)
        arm_exposures = online.config.exposed
        assert np.nansum(share * rate) * arm_exposures == pytest.approx(metrics["online/clicks"], rel=0.02)
        assert np.nansum(share * bought) * arm_exposures == pytest.approx(metrics["online/purchases"], rel=0.02)
    arm = online.arm(online.logging_scores())
    seen = [(item, chance) for ids, chances in zip(arm.shown, arm.click_chance, strict=True)
            for item, chance in zip(ids, chances, strict=True) if item > 0 and known[item] == 0]  # fmt: skip
    assert arms["log"][0]["online/CTR/octile1"] == pytest.approx(np.mean([chance for _, chance in seen]), rel=1e-5)


def test_unusable_scores_are_refused(online):
    mask = np.asarray(online.data.candidates.mask)
    scores = np.zeros(mask.shape, np.float32)
    scores[~mask] = np.nan  # padding may hold anything
    online.measured(scores)
    scores[np.nonzero(mask)[0][0], np.nonzero(mask)[1][0], np.nonzero(mask)[2][0]] = np.inf
    with pytest.raises(FloatingPointError, match="1 candidates"):
        online.measured(scores)
    with pytest.raises(ValueError, match="shape"):
        online.measured(scores[:1])


def test_gini_is_the_mean_difference_over_twice_the_mean():
    counts = np.random.default_rng(0).poisson(3.0, 40)
    brute = np.abs(counts[:, None] - counts[None, :]).mean() / (2 * counts.mean())
    assert gini(counts) == pytest.approx(brute)
    assert gini(7 * counts) == pytest.approx(brute)
    assert gini(np.repeat(counts, 3)) == pytest.approx(brute)
    assert np.isnan(gini(np.zeros(3)))
    for bad in ([], [1, -1], [[1, 2]], [1.0, np.inf]):
        with pytest.raises(ValueError, match="gini"):
            gini(bad)


def test_the_device_sees_no_constant_world(online):
    """Tables are arguments: a captured world would make every compiled program as large as it."""
    from hccp_jax.evaluation import online as module

    arguments = (online.world, online.config, jnp.asarray(online.tail), online.data)
    text = module._outcomes.lower(*arguments, online.data.candidates.truth).as_text()
    assert len(text) < 1_000_000
