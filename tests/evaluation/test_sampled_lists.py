"""Recall and NDCG of lists against their definition, and what padding, order and ties may not change."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_batch import draw_batch

from hccp_jax.data.catalogue_view import with_items
from hccp_jax.evaluation.sampled_lists import BLOCK, SampledLists, list_metrics

CUTOFFS = (1, 3, 10)
USERS, SHOWN, LENGTH, ITEMS = BLOCK + 3, 4, 12, 30


def drawn(seed=0):
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(np.arange(1, ITEMS))[:LENGTH] for _ in range(USERS)]).astype(np.int32)
    feedback = rng.integers(0, 3, (USERS, SHOWN)).astype(np.float32)
    feedback[2] = 0  # a user without feedback counts nowhere
    ids[:, -2:] *= rng.random((USERS, 2)) < 0.5
    ids[5, 1], feedback[5, 1] = 0, 0
    return ids, feedback, rng.permutation(ITEMS).astype(np.float32)


def lists_of(ids, feedback):
    one = draw_batch()
    rows = np.arange(len(ids)) % len(one.mask)
    requests = with_items(one, jnp.zeros(1, jnp.int32))
    requests = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], requests)
    return SampledLists.of(requests, ids, feedback, None, with_items, None, CUTOFFS)


def by_definition(ids, feedback, scores):
    """Sort each list; count; sum."""
    found = {f"{name}@{k}": [] for name in ("recall", "ndcg") for k in CUTOFFS}
    for own, gains in zip(ids.tolist(), feedback.tolist(), strict=True):
        gain = {item: y for item, y in zip(own, gains, strict=False) if y > 0}
        if not gain:
            continue
        order = sorted((item for item in own if item), key=lambda item: -scores[item])
        for k in CUTOFFS:
            first = order[:k]
            found[f"recall@{k}"].append(sum(item in gain for item in first) / len(gain))
            best = sorted(gain.values(), reverse=True)[:k]
            ideal = sum(y / math.log2(place + 2) for place, y in enumerate(best))
            earned = sum(gain.get(item, 0) / math.log2(place + 2) for place, item in enumerate(first))
            found[f"ndcg@{k}"].append(earned / ideal)
    return {name: np.mean(values) for name, values in found.items()}


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_their_definition(seed):
    ids, feedback, scores = drawn(seed)
    found = lists_of(ids, feedback).by_item(scores)
    assert found.pop("users") == (feedback > 0).any(axis=1).sum()
    for name, value in by_definition(ids, feedback, scores).items():
        assert found[name] == pytest.approx(value, abs=1e-6), name


def test_an_order_of_the_candidates_and_padding_change_nothing():
    ids, feedback, scores = drawn()
    known = lists_of(ids, feedback).by_item(scores)
    rest = np.random.default_rng(1).permuted(ids[:, SHOWN:], axis=1)
    turned = np.concatenate([ids[:, :SHOWN], rest, np.zeros((USERS, 5), np.int32)], axis=1)
    assert lists_of(turned, feedback).by_item(scores) == known


def test_equal_scores_find_no_more_than_chance():
    """A constant score: ties are drawn, and do not follow the slots, in which the exposures come first."""
    rng = np.random.default_rng(3)
    users = 600
    ids = np.stack([rng.permutation(np.arange(1, 201))[:100] for _ in range(users)]).astype(np.int32)
    feedback = np.ones((users, 5), np.float32)
    lists = lists_of(ids, feedback)
    lists.lists.requests.user["id"][...] = np.arange(lists.lists.ids.shape[0] * BLOCK).reshape(-1, BLOCK)
    found = lists.by_item(np.zeros(201, np.float32))
    assert found["recall@10"] == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / (5 * users)))
    assert lists.random()["recall@10"] == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / (5 * users)))


def test_ndcg_of_the_best_order_is_one_and_weighs_feedback():
    first = list_metrics(np.array([[0, 1]]), np.array([[2.0, 1.0]]), (1, 2))
    assert first["ndcg@1"] == first["ndcg@2"] == 1.0
    swapped = list_metrics(np.array([[1, 0]]), np.array([[2.0, 1.0]]), (1, 2))
    assert swapped["ndcg@1"] == pytest.approx(0.5)
    part = 1 / math.log2(3)
    assert swapped["ndcg@2"] == pytest.approx((1 + 2 * part) / (2 + part))
