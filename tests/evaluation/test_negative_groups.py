"""Losses, mean logits and AUC by group of negatives, against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.evaluation.negative_groups import bucket_auc, group_losses, mean_logits


@pytest.fixture(scope="module")
def drawn():
    """Logits with ties, positives (one list has none), and three groups: one full, one sparse, one empty."""
    rng = np.random.default_rng(0)
    logits = np.round(2 * rng.normal(size=(6, 12)), 1).astype(np.float32)
    positive = rng.random((6, 12)) < 0.25
    positive[0], positive[1, 0] = False, True
    first = ~positive & (rng.random((6, 12)) < 0.6)
    second = ~positive & ~first & (rng.random((6, 12)) < 0.5)
    return logits, positive, np.stack([first, second, np.zeros_like(first)])


@pytest.mark.parametrize("tau", [1.0, 0.4])
def test_losses_are_the_definition(drawn, tau):
    logits, positive, groups = drawn
    z = logits.astype(np.float64)
    expected = np.zeros((2, 3))
    for index, group in enumerate(groups):
        lists, entries = [], []
        for u in range(6):
            others = np.exp(z[u, group[u]] / tau).sum()
            each = [np.log(np.exp(z[u, p] / tau) + others) - z[u, p] / tau for p in np.flatnonzero(positive[u])]
            lists += [np.mean(each)] if each else []
            entries += [np.log1p(np.exp(z[u, n])) for n in np.flatnonzero(group[u])]
        expected[:, index] = np.mean(lists), np.mean(entries or [0.0])
    found = group_losses(jnp.asarray(logits), jnp.asarray(positive), jnp.asarray(groups), tau)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found[0, 2] == 0  # a positive alone in its denominator


def test_a_group_pulls_on_its_own_slots_and_the_positives_alone(drawn):
    logits, positive, groups = map(jnp.asarray, drawn)
    pulls = jax.jacrev(lambda z: group_losses(z, positive, groups, 1.0))(logits)
    for loss in range(2):
        for index in range(3):
            assert not np.any(np.asarray(pulls[loss, index])[~np.asarray(positive | groups[index])])
    assert np.any(pulls[0, 0] != pulls[0, 1])


def test_mean_logits_are_means(drawn):
    logits, _, groups = drawn
    found = mean_logits(logits, groups)
    np.testing.assert_allclose(found[:2], [logits.astype(np.float64)[group].mean() for group in groups[:2]], rtol=1e-12)
    assert np.isnan(found[2])


def test_auc_counts_pairs_of_one_list_and_one_group(drawn):
    logits, positive, groups = drawn
    expected = []
    for group in groups:
        areas, weights = [], []
        for u in range(6):
            ups, downs = logits[u, positive[u]], logits[u, group[u]]
            if len(ups) and len(downs):
                wins = [(a > b) + 0.5 * (a == b) for a in ups for b in downs]
                areas.append(np.mean(wins))
                weights.append(len(ups) + len(downs))
        expected.append(np.average(areas, weights=weights) if areas else np.nan)
    np.testing.assert_allclose(bucket_auc(logits, positive, groups), expected, rtol=1e-12)


def test_auc_does_not_hang_on_other_groups_or_a_shift_of_a_list(drawn):
    logits, positive, groups = drawn
    before = bucket_auc(logits, positive, groups)
    shifted = logits + np.arange(6, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(bucket_auc(shifted, positive, groups), before)
    other = np.where(groups[1], 99.0, logits)
    assert bucket_auc(other, positive, groups)[0] == before[0]
    assert bucket_auc(other, positive, groups)[1] == 0
