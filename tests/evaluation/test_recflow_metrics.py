"""RecFlow's recall and ndcg as its public code computes them, and as they are defined, against loops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hccp_jax.evaluation.metrics import merge, value
from hccp_jax.evaluation.recflow_metrics import CUTOFFS, recflow_metrics

SEEDS = st.integers(0, 2**31)
quick = settings(max_examples=30, deadline=None, database=None)
compiled = jax.jit(recflow_metrics, static_argnums=4)


def drawn(seed, requests=7, slots=11):
    rng = np.random.default_rng(seed)
    mask = rng.random((requests, slots)) < rng.choice([0.0, 0.5, 1.0], (requests, 1), p=[0.2, 0.4, 0.4])
    positive = rng.random((requests, slots)) < rng.choice([0.0, 0.4, 1.0], (requests, 1), p=[0.2, 0.6, 0.2])
    scores = rng.choice([-1.0, 0.0, 0.5, 2.0], (requests, slots)).astype(np.float32)
    return scores, positive, mask


def oracle(scores, positive, mask, cutoff):
    """The loops of RecFlow's `evaluate_recall`, with the definitions beside them."""
    hits, gains, positives, left_out, recalls, ndcgs = 0, 0.0, 0, 0, [], []
    for row in range(len(scores)):
        real = [slot for slot in range(scores.shape[1]) if mask[row, slot]]
        if not real:
            continue
        wanted = [slot for slot in real if positive[row, slot]]
        if not wanted or len(wanted) == len(real):
            left_out += 1
            continue
        best_first = sorted(real, key=lambda slot: -scores[row, slot])
        ranks = [best_first.index(slot) for slot in wanted]
        gain = sum(1 / math.log2(rank + 2) for rank in ranks if rank < cutoff)
        hit = sum(rank < cutoff for rank in ranks)
        hits, gains, positives = hits + hit, gains + gain, positives + len(wanted)
        recalls.append(hit / len(wanted))
        ndcgs.append(gain / sum(1 / math.log2(place + 2) for place in range(min(cutoff, len(wanted)))))
    mean = {"recflow_recall": (hits, positives), "recflow_ndcg": (gains, positives)}
    mean |= {"recall": (sum(recalls), len(recalls)), "NDCG": (sum(ndcgs), len(ndcgs))}
    return {
        f"{name}@{cutoff}": (total / count if count else math.nan) for name, (total, count) in mean.items()
    }, left_out


@quick
@given(SEEDS)
def test_metrics_are_the_loops_of_the_public_code_and_the_definitions(seed):
    data = drawn(seed)
    found = compiled(*data, None, (1, 3, 50))
    for cutoff in (1, 3, 50):
        expected, left_out = oracle(*data, cutoff)
        for name, number in expected.items():
            np.testing.assert_allclose(value(found[name]), number, rtol=1e-5, err_msg=name)
            assert int(found[name].left_out) == left_out


@quick
@given(SEEDS)
def test_batches_add_up_and_padding_changes_nothing(seed):
    scores, positive, mask = drawn(seed)
    whole = compiled(scores, positive, mask, None, (3, 50))
    parts = [compiled(scores[part], positive[part], mask[part], None, (3, 50)) for part in (slice(0, 4), slice(4, 7))]
    padded = [
        np.pad(array, ((0, 2), (0, 459)), constant_values=fill)
        for array, fill in zip((scores, positive, mask), (9.0, True, False), strict=True)
    ]
    for other in (merge(*parts), compiled(*padded, None, (3, 50))):
        for name, expected in whole.items():
            np.testing.assert_allclose(value(other[name]), value(expected), rtol=1e-5, err_msg=name)
            assert (int(other[name].count), int(other[name].left_out)) == (int(expected.count), int(expected.left_out))


def test_the_public_ndcg_is_not_one_where_the_ranking_is_ideal():
    scores, positive = jnp.arange(6.0)[None, ::-1], jnp.arange(6)[None] < 3
    found = recflow_metrics(scores, positive, jnp.ones((1, 6), bool))
    assert set(found) == {f"{n}@{k}" for n in ("recflow_recall", "recflow_ndcg", "recall", "NDCG") for k in CUTOFFS}
    assert float(value(found["NDCG@50"])) == pytest.approx(1)
    assert float(value(found["recflow_ndcg@50"])) == pytest.approx((1 + 1 / math.log2(3) + 0.5) / 3)


def test_equal_scores_go_by_their_key():
    scores, positive, mask = jnp.zeros((1, 3)), jnp.array([[True, False, False]]), jnp.ones((1, 3), bool)
    last = recflow_metrics(scores, positive, mask, jnp.array([[9, 1, 2]], jnp.uint32), (2,))
    assert float(value(last["recall@2"])) == 0
    assert float(value(recflow_metrics(scores, positive, mask, None, (2,))["recall@2"])) == 1


@pytest.mark.parametrize("cutoffs", [(), (0,)])
def test_a_cutoff_below_one_is_refused(cutoffs):
    with pytest.raises(ValueError, match="cutoffs"):
        recflow_metrics(jnp.zeros((1, 2)), jnp.zeros((1, 2), bool), jnp.ones((1, 2), bool), None, cutoffs)
