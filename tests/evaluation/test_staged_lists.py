"""AUC on lists with sampled negatives, against pairs counted one by one."""

import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.evaluation.staged_lists import STAGES, StagedLists

STAGE_OF = {"ranked": Stage.RANKED, "preranked": Stage.PRERANKED, "pool": Stage.POOL}


@pytest.fixture(scope="module")
def drawn():
    """Lists [2 blocks, 3, 16] with all stages, some slots masked, and scores with ties for both tasks."""
    rng = np.random.default_rng(3)
    shape = (2, 3, 16)
    stages = np.array([Stage.EXPOSED] * 6 + [Stage.RANKED] * 4 + [Stage.PRERANKED] * 3 + [Stage.POOL] * 3, np.int8)
    mask = rng.random(shape) < 0.9
    labels = {task: (rng.random(shape) < 0.3).astype(np.float32) for task in ("click", "purchase")}
    requests = RequestBatch(
        user={"id": np.ones(shape[:2], np.int32)},
        history={},
        history_mask=np.zeros((*shape[:2], 0), bool),
        items={"id": rng.integers(1, 99, shape, np.int32)},
        cross=None,
        stage=np.where(mask, stages, Stage.PADDING).astype(np.int8),
        rank=np.full(shape, -1, np.int32),
        labels=labels,  # those of negatives are not read
        teacher={},
        mask=mask,
    )
    logits = {task: rng.integers(0, 6, shape).astype(np.float32) for task in labels}
    return StagedLists(requests, None, lambda batch, catalogue: batch), logits


def by_pairs(scores, positives, negatives):
    """The share of pairs in the right order, an equal pair counting one half."""
    better, worse = scores[positives][:, None], scores[negatives][None, :]
    return float(np.mean((better > worse) + 0.5 * (better == worse)))


@pytest.mark.parametrize("kept", [(), ("pool",), ("ranked", "preranked"), tuple(STAGES)])
def test_areas_are_shares_of_pairs(drawn, kept):
    lists, logits = drawn
    requests, found = lists.requests, drawn[0].measure(logits, kept)
    shown = requests.mask & (requests.stage == Stage.EXPOSED)
    for task, scores in logits.items():
        positives = shown & (requests.labels[task] > 0)
        assert positives.any()
        at = {kind: requests.mask & (requests.stage == stage) for kind, stage in STAGE_OF.items()}
        assert all(members.any() for members in at.values())
        missed = shown & ~positives
        negatives = missed.copy()
        for kind in kept:
            negatives |= at[kind]
        assert found[f"{task}/AUC"] == pytest.approx(by_pairs(scores, positives, negatives), abs=1e-12)
        assert found[f"{task}/AUC/impressions"] == pytest.approx(by_pairs(scores, positives, missed), abs=1e-12)
        for kind, members in at.items():
            assert found[f"{task}/AUC/{kind}"] == pytest.approx(by_pairs(scores, positives, members), abs=1e-12)


def test_the_scorer_runs_block_by_block(drawn):
    lists, _ = drawn

    class Method:
        @staticmethod
        def heads(parameters, batch):
            return {"click": parameters * batch.items["id"].astype(jnp.float32)}

    found = lists.scorer(Method)(jnp.float32(2.0))
    np.testing.assert_array_equal(found["click"], 2.0 * lists.requests.items["id"])
