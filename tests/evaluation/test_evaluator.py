"""The evaluator against scores and metrics worked out by hand, on held-out requests of the small world."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpy_tower
import pytest
from drawn_requests import best_first
from tiny_hccp import MODEL, tiny

from hccp_jax.cascade.source import featurise
from hccp_jax.evaluation.evaluator import EvaluationSet, Evaluator
from hccp_jax.evaluation.simulated import evaluation_set, references
from hccp_jax.methods.hccp import HyperConfig
from hccp_jax.training.state import stack_numbers

CUTOFFS, CURVE = (5, 20), (1, 5, 40)
HYPERS = [HyperConfig(), HyperConfig(serve_click=0.4, serve_conversion=1.0, serve_consistency=0.3), HyperConfig()]


@pytest.fixture(scope="module")
def case(small_world):
    made = tiny(small_world)
    world, config, _ = small_world
    data = evaluation_set(world, config, made.source.frequency, 70)
    # three members; the last has other parameters
    other = jax.tree.map(lambda leaf: leaf[::-1], made.parameters)
    members = jax.tree.map(lambda *x: jnp.stack(x), made.parameters, made.parameters, other)
    evaluator = Evaluator(data, made.source.catalogue, featurise, CUTOFFS, CURVE, octile_cutoff=20)
    found = evaluator.population(made.method, members, stack_numbers(HYPERS))
    shown = evaluator.scores(references(made.source.frequency))
    return SimpleNamespace(
        made=made, data=data, members=members, evaluator=evaluator, found=found, references=shown, flat=flat(data)
    )


def flat(data: EvaluationSet) -> EvaluationSet:
    """Blocks joined, on the host."""
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), data)


def measured(case, data, parameters=None, hypers=None):
    evaluator = dataclasses.replace(case.evaluator, data=data)
    return evaluator.population(
        case.made.method, case.members if parameters is None else parameters, stack_numbers(hypers or HYPERS)
    )


def slow_metrics(scores, flat, k):
    """Metric -> [requests], NaN where it has no value; the definitions with Python's sort."""
    candidates = dataclasses.replace(flat.candidates, ties=np.zeros(flat.candidates.mask.shape))
    found = {name: [] for name in (f"ISH@{k}", f"ASPH@{k}", f"NDCG@{k}", f"T@{k}")}
    for row in range(len(scores)):
        order = best_first(scores, candidates, row)
        top = order[:k]

        def rate(flags, row=row, top=top, order=order):
            known = flags[row][order].sum()
            return flags[row][top].sum() / known if known else np.nan

        found[f"ISH@{k}"].append(rate(candidates.in_scenario["click"]))
        found[f"ASPH@{k}"].append(rate(candidates.all_scenario["purchase"]))
        gain = 1 / np.log2(np.arange(2, k + 2))
        found[f"NDCG@{k}"].append(((candidates.ranker_rank[row][top] < k) * gain).sum() / gain.sum())
        truth = candidates.truth[row]
        found[f"T@{k}"].append(truth[top].sum() / np.sort(truth)[::-1][:k].sum())
    return {name: np.array(values) for name, values in found.items()}


@pytest.fixture(scope="module")
def logits(case):
    """[members that differ in parameters, requests, heads, P], by the NumPy model."""
    batch = jax.jit(featurise)(case.flat.requests, case.made.source.catalogue)
    each = [jax.tree.map(lambda leaf, i=index: leaf[i], case.members) for index in (0, 2)]
    return [numpy_tower.forward(parameters, MODEL, 3, jax.tree.map(np.asarray, batch))[3] for parameters in each]


def test_members_are_measured_by_their_served_score(case, logits):
    first, third = logits
    served = [first[:, 0], 0.4 * first[:, 0] + 1.0 * first[:, 1] + 0.3 * first[:, 2], third[:, 0]]
    for result, scores in zip(case.found, served, strict=True):
        for k in CUTOFFS:
            for name, expected in slow_metrics(scores, case.flat, k).items():
                values = result.per_request[name]
                np.testing.assert_array_equal(np.isnan(values), np.isnan(expected), err_msg=name)
                same = np.isclose(values, expected, rtol=1e-5, equal_nan=True)
                assert same.mean() > 0.98, name  # float32 may order near ties otherwise
                assert result.metrics[name] == pytest.approx(np.nanmean(expected), abs=2e-3), name
    assert case.found[0].metrics["ISH@20"] != case.found[1].metrics["ISH@20"]


def test_auc_is_that_of_the_click_head_on_the_impressions(case, logits):
    shown = case.flat.candidates.exposed
    clicked = case.flat.candidates.in_scenario["click"][shown]
    for result, head in zip(case.found, (logits[0], logits[0], logits[1]), strict=True):
        score = head[:, 0][shown]
        pairs = score[clicked][:, None] - score[~clicked][None, :]
        expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
        assert result.metrics["AUC"] == pytest.approx(expected, abs=1e-4)


def test_requests_without_a_value_are_left_out_and_counted(case):
    clicked = case.flat.candidates.in_scenario["click"].any(axis=1)
    assert 0 < clicked.sum() < len(clicked)
    result = case.found[0]
    np.testing.assert_array_equal(np.isnan(result.per_request["ISH@20"]), ~clicked)
    assert result.left_out["ISH@20"] == (~clicked).sum()
    assert result.left_out["NDCG@20"] == 0
    for name, values in result.per_request.items():
        assert values.shape == clicked.shape
        assert values.dtype == np.float32
        assert np.isnan(values).sum() == result.left_out[name]
        assert result.metrics[name] == pytest.approx(np.nanmean(values), rel=1e-5)


def test_curves_pass_through_the_table(case):
    for result in case.found:
        for name in ("ISH", "ASH"):
            assert result.curves[name].shape == (len(CURVE),)
            assert (np.diff(result.curves[name]) >= 0).all()
            assert result.curves[name][1] == pytest.approx(result.metrics[f"{name}@5"], rel=1e-5)


def test_shards_change_nothing(case):
    """Three members on two devices: one place is filled."""
    found = case.evaluator.population(case.made.method, case.members, stack_numbers(HYPERS), shards=2)
    shown = case.evaluator.scores(references(case.made.source.frequency), shards=2)
    assert len(found) == 3
    for one, two in zip(case.found, found, strict=True):
        assert_same(one, two)
    assert shown.keys() == case.references.keys()
    for name, result in shown.items():
        assert_same(case.references[name], result)


def assert_same(one, two):
    assert one.left_out == two.left_out
    assert one.metrics.keys() == two.metrics.keys()
    for name, value in one.metrics.items():
        assert two.metrics[name] == pytest.approx(value, rel=1e-6, nan_ok=True), name
    for name, values in one.per_request.items():
        np.testing.assert_allclose(two.per_request[name], values, rtol=1e-6, err_msg=name)
    for name, curve in one.curves.items():
        np.testing.assert_allclose(two.curves[name], curve, rtol=1e-6)


def test_references_are_ceilings_and_floors(case):
    truth, ranker, popularity, random = (
        case.references[name].metrics for name in ("truth", "ranker", "popularity", "random")
    )
    for k in CUTOFFS:
        assert truth[f"T@{k}"] == pytest.approx(1, abs=1e-6)
        assert ranker[f"NDCG@{k}"] == pytest.approx(1, abs=1e-6)
        assert ranker[f"MAP@{k}"] == pytest.approx(1, abs=1e-6)
        assert 1 > ranker[f"T@{k}"] > popularity[f"T@{k}"] > 0
        assert ranker[f"T@{k}"] > random[f"T@{k}"] + 0.2
        assert truth[f"ASH@{k}"] > random[f"ASH@{k}"] + 0.1
        for result in case.found:
            assert result.metrics[f"T@{k}"] < truth[f"T@{k}"]
            assert result.metrics[f"NDCG@{k}"] < 1
    # a candidate has the same chance in every place of a random ranking
    assert random["ASH@20"] == pytest.approx(20 / 140, abs=0.08)


def test_no_references_need_no_program(case):
    assert case.evaluator.scores({}) == {}


def test_scores_that_are_not_finite_are_refused(case):
    broken = jax.tree.map(lambda leaf: leaf, case.members)
    broken["bias"] = broken["bias"].at[1, 0].set(jnp.nan)
    real = int(case.flat.candidates.mask.sum())
    with pytest.raises(FloatingPointError, match=rf"^{real} candidates have no finite score$"):
        measured(case, case.data, broken)


def test_padding_requests_change_nothing(case):
    """A few requests become padding: the others' values stay, and the means are theirs."""
    gone = np.zeros(case.data.candidates.mask.shape[:2], bool)
    gone[0, 3] = gone[1, :60] = True

    def masked(flags):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf) & ~gone[..., None], flags)

    known = case.data.candidates
    candidates = dataclasses.replace(
        known,
        mask=masked(known.mask),
        in_scenario=masked(known.in_scenario),
        all_scenario=masked(known.all_scenario),
        exposed=masked(known.exposed),
        truth=jnp.where(gone[..., None], 0.0, known.truth),
        ranker_rank=jnp.where(gone[..., None], known.mask.shape[-1], known.ranker_rank),
    )
    (result, *_) = measured(case, dataclasses.replace(case.data, candidates=candidates))
    for name, values in case.found[0].per_request.items():
        expected = np.where(gone.ravel(), np.nan, values)
        np.testing.assert_allclose(result.per_request[name], expected, rtol=1e-6, err_msg=name)
        assert result.metrics[name] == pytest.approx(np.nanmean(expected), rel=1e-5)
    assert result.curves["ISH"][1] == pytest.approx(result.metrics["ISH@5"], rel=1e-5)


def test_octile_rows_are_in_the_table(case):
    metrics = case.found[0].metrics
    assert {f"ISH@20/octile{j}" for j in range(1, 9)} | {"tail_slots@20", "AUC"} <= metrics.keys()
    truth = case.flat.candidates.truth
    delivered = sum(metrics[f"T@20/octile{j}"] * truth[case.flat.candidates.octile == j - 1].sum() for j in range(1, 9))
    k = case.found[0].per_request["T@20"] * np.sort(truth, axis=1)[:, ::-1][:, :20].sum(axis=1)
    assert delivered == pytest.approx(k.sum(), rel=1e-4)
