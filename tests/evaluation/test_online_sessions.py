"""SDCL's online metrics over sessions of the small world."""

import jax
import numpy as np
import pytest
from tiny_hccp import tiny

from hccp_jax.cascade.sessions import SessionConfig
from hccp_jax.evaluation.online_sessions import OnlineSessions, session_set
from hccp_jax.evaluation.simulated import references

NAMES = {"requests", "watch_time", "valid_reads"}


@pytest.fixture(scope="module")
def arms(small_world):
    """Name -> what is measured, over 64 sessions of at most two requests."""
    world, config, _ = small_world
    counts, session = tiny(small_world).source.frequency, SessionConfig(length=2)
    online = OnlineSessions(world, config, session, session_set(world, config, session, counts, 50))
    assert online.data.candidates.mask.shape[:2] == (2, 64)
    rankings = references(counts)
    return {name: online.measured(jax.lax.map(rankings[name], online.data.candidates)) for name in ("truth", "random")}


def test_metrics_are_means_over_sessions(arms):
    for metrics, per_session in arms.values():
        assert set(metrics) == set(per_session)
        assert set(metrics) == {f"online/{name}" for name in NAMES} | {f"online/realised_{name}" for name in NAMES}
        for name, values in per_session.items():
            assert values.shape == (64,)
            assert values.dtype == np.float32
            assert metrics[name] == pytest.approx(values.mean(dtype=np.float64), rel=1e-6)
        assert per_session["online/requests"].min() >= 1
        assert per_session["online/requests"].max() <= 2


def test_better_scores_make_longer_and_richer_sessions(arms):
    truth, random = arms["truth"][0], arms["random"][0]
    for name in NAMES:
        assert truth[f"online/{name}"] > random[f"online/{name}"], name


def test_realised_values_are_counts_around_the_expectations(arms):
    for _, per_session in arms.values():
        for name in ("requests", "valid_reads"):
            realised = per_session[f"online/realised_{name}"]
            np.testing.assert_array_equal(realised, np.round(realised))
            assert realised.std() > 0, name
        # of two requests the second is made with probability p, so the count has the variance p (1 - p)
        p = per_session["online/requests"] - 1
        gap = np.sum(per_session["online/realised_requests"] - 1 - p)
        assert abs(gap) < 5 * np.sqrt(np.sum(p * (1 - p)))
