import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_requests import SEEDS, SHAPES, best_first, draw_candidates, draw_scores
from hypothesis import given, settings

from hccp_jax.evaluation.candidates import in_tie_order, permute
from hccp_jax.evaluation.metrics import REVERSE, candidate_metrics, hit_curve, log_cutoffs, merge, totals, value
from hccp_jax.evaluation.ranking import tie_order

CUTOFFS = (1, 3, 10, 50)
PREFIX = {("in", "click"): "ISH", ("in", "purchase"): "ISPH", ("all", "click"): "ASH", ("all", "purchase"): "ASPH"}
jit_metrics = jax.jit(candidate_metrics, static_argnums=2)
quick = settings(max_examples=30, deadline=None, database=None)


def discordant(score, best):
    """Share of the pairs of slots, best first, that the scores order the other way."""
    wrong = [(score[a] < score[b]) + 0.5 * (score[a] == score[b]) for i, a in enumerate(best) for b in best[i + 1 :]]
    return sum(wrong) / len(wrong) if wrong else None


def oracle(scores, requests, row, k):
    """Metric -> value, or None where it has none: the definitions, written out for one request."""
    ranked = best_first(scores, requests, row)
    top = ranked[:k]
    found = {}
    for (scope, task), prefix in PREFIX.items():
        flags = (requests.in_scenario if scope == "in" else requests.all_scenario)[task][row].tolist()
        positives = {slot for slot in ranked if flags[slot]}
        found[f"{prefix}@{k}"] = len(positives.intersection(top)) / len(positives) if positives else None
    clicked = {slot for slot in ranked if requests.in_scenario["click"][row, slot]}
    found[f"precision@{k}"] = len(clicked.intersection(top)) / k if clicked else None
    ranker = requests.ranker_rank[row].tolist()
    relevant = {slot for slot in ranked if ranker[slot] < k}
    gain, precisions, seen = 0.0, 0.0, 0
    for position, slot in enumerate(top, start=1):
        if slot in relevant:
            seen += 1
            gain += 1 / math.log2(position + 1)
            precisions += seen / position
    ideal = sum(1 / math.log2(position + 1) for position in range(1, min(k, len(relevant)) + 1))
    found[f"NDCG@{k}"] = gain / ideal if relevant else None
    found[f"MAP@{k}"] = precisions / min(k, len(relevant)) if relevant else None
    # comparisons on a device take subnormal numbers for 0
    score = [-math.inf if math.isnan(x) else x * (abs(x) > 1e-38) for x in np.asarray(scores)[row].tolist()]
    best = sorted(relevant, key=lambda slot: ranker[slot])
    found[f"reverse@{k}"] = discordant(score, best)
    entered = [slot for slot in ranked if requests.entered[row, slot]]
    found["reverse"] = discordant(score, sorted(entered, key=lambda slot: ranker[slot]))
    truth = requests.truth[row].tolist()
    most = sum(sorted((truth[slot] for slot in ranked), reverse=True)[:k])
    found[f"T@{k}"] = sum(truth[slot] for slot in top) / most if most else None
    return found


@quick
@given(SEEDS, SHAPES)
def test_metrics_are_the_definitions(seed, shape):
    requests, scores = draw_candidates(seed, shape), draw_scores(seed, shape, finite=False)
    metrics = jit_metrics(scores, requests, CUTOFFS)
    expected = [
        {name: x for k in CUTOFFS for name, x in oracle(scores, requests, row, k).items()} for row in range(shape[0])
    ]
    assert metrics.keys() == expected[0].keys()
    for name, (values, valid) in metrics.items():
        column = [row[name] for row in expected]
        assert valid.tolist() == [x is not None for x in column], name
        np.testing.assert_allclose(values, [x or 0.0 for x in column], rtol=1e-5, err_msg=name)
        assert values.dtype == jnp.float32

    summed = totals(metrics, requests.real)
    for name, (_, valid) in metrics.items():
        column = [row[name] for row in expected if row[name] is not None]
        assert int(summed[name].count) == len(column)
        assert int(summed[name].left_out) == int((requests.real & ~valid).sum())
        np.testing.assert_allclose(value(summed[name]), np.mean(column) if column else np.nan, rtol=1e-5)


@quick
@given(SEEDS, SHAPES)
def test_the_order_of_storage_does_not_matter(seed, shape):
    requests, scores = draw_candidates(seed, shape, distinct_ties=True), draw_scores(seed, shape)
    expected = jit_metrics(scores, requests, CUTOFFS)
    shuffle = jnp.asarray(np.random.default_rng(seed).permuted(np.tile(np.arange(shape[1]), (shape[0], 1)), axis=1))
    slots = tie_order(requests.ties)
    for moved, moved_scores in (
        (permute(requests, shuffle), permute(scores, shuffle)),
        (in_tie_order(requests), permute(scores, slots)),
    ):
        found = jit_metrics(moved_scores, moved, CUTOFFS)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


@quick
@given(SEEDS, SHAPES)
def test_hit_rates_rise_to_one(seed, shape):
    requests, scores = draw_candidates(seed, shape), draw_scores(seed, shape)
    metrics = jit_metrics(scores, requests, CUTOFFS)
    for prefix in PREFIX.values():
        values = np.stack([metrics[f"{prefix}@{k}"].value for k in CUTOFFS])
        assert (np.diff(values, axis=0) >= 0).all()
        np.testing.assert_array_equal(values[-1], metrics[f"{prefix}@1"].valid)  # the last K is the list


@quick
@given(SEEDS, SHAPES)
def test_perfect_scores(seed, shape):
    requests = draw_candidates(seed, shape)
    by_truth = jit_metrics(requests.truth, requests, CUTOFFS)
    by_ranker = jit_metrics(-requests.ranker_rank.astype(jnp.float32), requests, CUTOFFS)
    for k in CUTOFFS:
        for metric in (by_truth[f"T@{k}"], by_ranker[f"NDCG@{k}"], by_ranker[f"MAP@{k}"]):
            np.testing.assert_allclose(metric.value, metric.valid.astype(np.float32), rtol=1e-6)


@jax.jit
def summed_and_curve(scores, requests):
    metrics = totals(candidate_metrics(scores, requests, CUTOFFS), requests.real)
    return metrics, {
        (scope, task): hit_curve(scores, requests, task, CUTOFFS, all_scenarios=scope == "all")
        for scope, task in PREFIX
    }


@quick
@given(SEEDS)
def test_parts_merge_to_the_whole(seed):
    requests, scores = draw_candidates(seed, (6, 12)), draw_scores(seed, (6, 12))

    def part(rows):
        return summed_and_curve(*jax.tree.map(lambda x: x[rows], (scores, requests)))

    merged = merge(part(slice(0, 3)), part(slice(3, 6)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), merged, part(slice(None)))


@quick
@given(SEEDS)
def test_the_curve_is_the_metric_at_many_cutoffs(seed):
    summed, curves = summed_and_curve(draw_scores(seed, (6, 12)), draw_candidates(seed, (6, 12)))
    for key, curve in curves.items():
        metrics = [summed[f"{PREFIX[key]}@{k}"] for k in CUTOFFS]
        np.testing.assert_allclose(value(curve), [value(metric) for metric in metrics], rtol=1e-5)
        assert {(int(curve.count), int(curve.left_out))} == {(int(x.count), int(x.left_out)) for x in metrics}


def test_only_what_is_known_is_reported():
    requests = draw_candidates(0, (3, 7)).replace(truth=None, entered=None)
    requests = requests.replace(in_scenario={"click": requests.in_scenario["click"]}, all_scenario={})
    found = candidate_metrics(draw_scores(0, (3, 7)), requests, (5,))
    assert found.keys() == {"ISH@5", "precision@5", "NDCG@5", "MAP@5", "reverse@5"}


def test_more_entered_items_than_are_compared_leave_a_request_out():
    slots = REVERSE + 1
    requests = draw_candidates(0, (5, slots))
    every = np.arange(slots) < np.array([[REVERSE], [REVERSE + 1], [2], [2], [2]])
    requests = requests.replace(mask=every, entered=every, ranker_rank=np.broadcast_to(np.arange(slots), every.shape))
    value, valid = candidate_metrics(
        -np.broadcast_to(np.arange(slots), every.shape).astype(np.float32), requests, (5,)
    )["reverse"]
    assert valid.tolist() == [True, False, True, True, True]
    assert value.tolist() == [0.0] * 5


def test_a_request_without_feedback_is_left_out_and_counted():
    requests = draw_candidates(0, (3, 7)).replace(mask=jnp.asarray([[True] * 7, [True] * 7, [False] * 7]))
    clicks = jnp.asarray([[True] + [False] * 6, [False] * 7, [True] * 7])  # the last request pads the batch
    requests = requests.replace(in_scenario={"click": clicks})
    ish = totals(jit_metrics(draw_scores(0, (3, 7)), requests, (7,)), requests.real)["ISH@7"]
    assert (float(ish.total), int(ish.count), int(ish.left_out)) == (1.0, 1, 1)


def test_undefined_scores_do_not_win():
    requests = draw_candidates(0, (2, 7)).replace(mask=jnp.ones((2, 7), bool))
    scores = jnp.full((2, 7), jnp.nan).at[:, 2].set(-jnp.inf)
    requests = requests.replace(in_scenario={"click": jnp.zeros((2, 7), bool).at[:, 2].set(True)})
    assert jit_metrics(scores, requests, (1,))["ISH@1"].value.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("cutoffs", [(), (0, 3)])
def test_cutoffs_are_positive(cutoffs):
    with pytest.raises(ValueError, match="cutoffs"):
        candidate_metrics(draw_scores(0, (3, 7)), draw_candidates(0, (3, 7)), cutoffs)


def test_cutoffs_of_a_curve_grow_to_the_list_length():
    cutoffs = log_cutoffs(2048)
    assert (cutoffs[0], cutoffs[-1]) == (1, 2048)
    assert list(cutoffs) == sorted(set(cutoffs))
    assert 30 <= len(cutoffs) <= 40
    assert log_cutoffs(1) == (1,)
