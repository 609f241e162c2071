import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hccp_jax.evaluation.exposures import auc, gauc, hit_rate, log_loss

quick = settings(max_examples=60, deadline=None, database=None)


def auc_of_pairs(scores, labels):
    pairs = [
        (p, n) for p, a in zip(scores, labels, strict=True) if a for n, b in zip(scores, labels, strict=True) if not b
    ]
    return sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs) if pairs else math.nan


@st.composite
def lists(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    shape = draw(st.sampled_from([(1, 1), (4, 6), (9, 3)]))
    return (
        rng.integers(-2, 3, shape).astype(np.float32),
        (rng.random(shape) < 0.4).astype(np.float32),
        rng.integers(0, 4, shape) * 1000,
        rng.random(shape) < 0.8,
    )


@quick
@given(lists())
def test_auc_counts_pairs(drawn):
    scores, labels, _, where = drawn
    np.testing.assert_allclose(auc(scores, labels, where), auc_of_pairs(scores[where], labels[where]), rtol=1e-12)
    np.testing.assert_allclose(auc(scores, labels), auc_of_pairs(scores.ravel(), labels.ravel()), rtol=1e-12)
    if labels.any() and not labels.all():
        assert auc(-scores, labels) + auc(scores, labels) == pytest.approx(1)


@quick
@given(lists())
def test_gauc_weights_groups_by_their_entries(drawn):
    scores, labels, group, where = drawn
    total, weight, left_out = 0.0, 0, 0
    for name in set(group[where].tolist()):
        member = where & (group == name)
        area = auc_of_pairs(scores[member], labels[member])
        if math.isnan(area):
            left_out += 1
        else:
            total, weight = total + area * member.sum(), weight + member.sum()
    found = gauc(scores, labels, group, where)
    np.testing.assert_allclose(found.value, total / weight if weight else math.nan, rtol=1e-12)
    assert found.left_out == left_out
    assert found.groups + left_out == len(set(group[where].tolist()))


def test_undefined_scores_are_not_ranked():
    assert math.isnan(auc([math.nan, 1.0, 2.0], [0, 1, 0]))
    assert auc([math.nan, 1.0, 2.0], [0, 1, 0], [False, True, True]) == 0.0
    assert auc([math.inf, -math.inf], [1, 0]) == 1.0


def test_nothing_chosen():
    nothing = np.zeros((2, 3), bool)
    assert math.isnan(auc(np.ones((2, 3)), np.ones((2, 3)), nothing))
    assert math.isnan(log_loss(np.ones((2, 3)), np.ones((2, 3)), nothing))
    assert gauc(np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 3)), nothing)[1:] == (0, 0)


@quick
@given(lists())
def test_log_loss_is_the_cross_entropy(drawn):
    logits, labels, _, where = drawn
    if where.any():
        probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
        terms = -(labels * np.log(probability) + (1 - labels) * np.log1p(-probability))
        assert log_loss(logits, labels, where) == pytest.approx(terms[where].mean(), rel=1e-12)


def test_log_loss_of_large_logits_does_not_overflow():
    assert log_loss(np.array([1e4, -1e4, 1e4]), np.array([1.0, 0.0, 0.0])) == pytest.approx(1e4 / 3)


def test_hit_rate_is_the_mean_over_random_orders_of_equal_scores():
    random = np.random.default_rng(3)
    scores = random.integers(0, 3, (20, 6)).astype(float)
    labels = (random.uniform(size=scores.shape) < 0.3).astype(float)
    where = random.uniform(size=scores.shape) < 0.8
    found = hit_rate(scores, labels, 2, where)
    total, used = 0.0, 0
    for score, label, real in zip(scores, labels, where, strict=True):
        if not (label[real] > 0.5).any():
            continue
        used += 1
        mean = 0.0
        for _ in range(2000):
            order = np.lexsort((random.uniform(size=real.sum()), -score[real]))[:2]
            mean += label[real][order].sum() / label[real].sum() / 2000
        total += mean
    assert (found.groups, found.left_out) == (used, 20 - used)
    assert found.value == pytest.approx(total / used, abs=0.01)


def test_hit_rate_of_all_or_none():
    assert hit_rate([[1.0, 2.0]], [[1, 0]], 2).value == 1.0
    assert math.isnan(hit_rate([[1.0, 2.0]], [[0, 0]], 1).value)
    assert math.isnan(hit_rate([[1.0, math.nan]], [[1, 0]], 1).value)
