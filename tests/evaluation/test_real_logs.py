"""The two views of real logs against literal loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.data.catalogue import Catalogue
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.evaluation.exposed_lists import BLOCK, ExposedLists
from hccp_jax.evaluation.whole_catalogue import WholeCatalogue, in_blocks

ITEMS, USERS = 30, 70
CUTOFFS = (3, 10)


def requests(rows: int, slots: int, rng: np.random.Generator) -> RequestBatch:
    shape = (rows, slots)
    exposed = np.arange(slots) < rng.integers(1, slots + 1, rows)[:, None]
    labels = {"click": ((rng.random(shape) < 0.4) & exposed).astype(np.float32)}
    return RequestBatch(
        user={"id": rng.integers(1, 9, rows).astype(np.int32)},
        history={"id": np.zeros((rows, 1), np.int32)},
        history_mask=np.zeros((rows, 1), bool),
        items={"id": np.where(exposed, rng.integers(1, ITEMS, shape), 0).astype(np.int32)},
        cross=None,
        stage=np.where(exposed, Stage.EXPOSED, Stage.PADDING).astype(np.int8),
        rank=np.full(shape, -1, np.int32),
        labels=labels,
        teacher={},
        mask=exposed,
    )


@pytest.fixture
def view() -> tuple[WholeCatalogue, np.ndarray, np.ndarray]:
    """A view of 70 users, its positives [70, 4] and what was seen [70, ITEMS]."""
    rng = np.random.default_rng(0)
    batch = requests(USERS, 1, rng)
    batch.user["id"] = np.arange(1, USERS + 1, dtype=np.int32)
    seen = rng.random((USERS, ITEMS)) < 0.3
    seen[:, 0] = True
    positives = np.zeros((USERS, 4), np.int32)
    for user in range(USERS):
        new = np.flatnonzero(~seen[user])
        chosen = rng.choice(new, min(len(new), rng.integers(0, 5)), replace=False)
        positives[user, : len(chosen)] = chosen
    octile = (np.arange(ITEMS) * 8 // ITEMS).astype(np.int8)
    users = in_blocks(batch, {"click": positives}, seen)
    made = WholeCatalogue(users, Catalogue({}, {}), None, None, CUTOFFS, octile)
    return made, positives, seen


def test_whole_catalogue_metrics_equal_literal_loops(view):
    whole, positives, seen = view
    score = np.random.default_rng(1).permutation(ITEMS).astype(np.float32)  # no ties
    found, curves = whole.scores({"click": jnp.asarray(score)})
    recall, hit, gain, by_octile = ({k: [] for k in CUTOFFS}, {k: [] for k in CUTOFFS}, {k: [] for k in CUTOFFS}, {})
    for user in range(USERS):
        wanted = set(positives[user]) - {0}
        ranking = [item for item in np.argsort(-score) if not seen[user, item]]
        for item in wanted:
            by_octile.setdefault(whole.octile[item], []).append(item in ranking[:100])
        if not wanted:
            continue
        for k in CUTOFFS:
            top = ranking[:k]
            recall[k].append(len(wanted & set(top)) / len(wanted))
            hit[k].append(bool(wanted & set(top)))
            ideal = sum(1 / np.log2(place + 2) for place in range(min(k, len(wanted))))
            gain[k].append(sum(1 / np.log2(place + 2) for place, item in enumerate(top) if item in wanted) / ideal)
    for k in CUTOFFS:
        assert found[f"click/recall@{k}"] == pytest.approx(np.mean(recall[k]))
        assert found[f"click/hit_rate@{k}"] == pytest.approx(np.mean(hit[k]))
        assert found[f"click/ndcg@{k}"] == pytest.approx(np.mean(gain[k]))
    assert found["click/users"] == len(recall[3])
    assert curves["click"][2] == pytest.approx(found["click/recall@3"])
    for octile, hits in by_octile.items():
        assert found[f"click/recall@100/octile{octile + 1}"] == pytest.approx(np.mean(hits))


def test_ties_are_broken_by_a_draw_not_by_the_id(view):
    whole, _, _ = view
    flat = whole.scores({"click": jnp.zeros(ITEMS)}).metrics
    assert 0.0 < flat["click/recall@3"] < 0.5  # ids 1..3 first would favour nobody else


def test_exposed_lists_score_every_request_once():
    rng = np.random.default_rng(2)
    batch = requests(2 * BLOCK + 37, 3, rng)
    bias = rng.normal(size=ITEMS).astype(np.float32)

    class Method:
        @staticmethod
        def heads(parameters, part):
            return {"click": parameters["scale"] * jnp.asarray(bias)[part.items["id"]]}

    lists = ExposedLists(batch, Catalogue({}, {}), lambda part, catalogue: part)
    found = lists.population(Method, {"scale": jnp.array([1.0, -1.0])})
    direct = lists.measure({"click": bias[batch.items["id"]]})
    assert found[0] == pytest.approx(direct)
    assert found[1]["click/AUC"] == pytest.approx(1 - direct["click/AUC"])
    assert set(direct) == {"click/AUC", "click/GAUC", "click/log_loss"}
