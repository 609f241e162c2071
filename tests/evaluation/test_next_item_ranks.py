"""Rankings of all items for held-out users against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.data.catalogue import Catalogue
from hccp_jax.data.next_item import Questions, feature_spec
from hccp_jax.data.vocabulary import hashed
from hccp_jax.evaluation import next_item
from hccp_jax.evaluation.next_item import CURVE, NextItem
from hccp_jax.methods.croloss import KernelConfig, croloss_system
from hccp_jax.models.mean_history import MeanHistoryConfig

ITEMS, CUTOFFS = 30, (1, 3, 10)
ASKED = Questions(
    user=np.array([7, 8, 9], np.int32),
    history=np.array([[1, 2, 0], [3, 0, 0], [4, 5, 6]], np.int32),
    row=np.array([0, 0, 1, 2, 2, 2], np.int32),
    target=np.array([5, 29, 1, 2, 9, 28], np.int32),
)


def literal(scores, cutoffs):
    """Metrics of [users, items] scores without equal ones, by sorting."""
    found = {}
    for n in cutoffs:
        recall, hits, gains = [], [], []
        for user in range(3):
            own = set(ASKED.target[ASKED.row == user].tolist())
            best = [item for item in np.argsort(-scores[user]) if item][:n]
            inside = [place for place, item in enumerate(best) if item in own]
            recall.append(len(inside) / len(own))
            hits.append(len(inside))
            ideal = sum(1 / np.log2(place + 2) for place in range(min(n, len(own))))
            gains.append(sum(1 / np.log2(place + 2) for place in inside) / ideal)
        found[f"recall@{n}"] = np.mean(recall)
        found[f"micro_recall@{n}"] = sum(hits) / 6
        found[f"hit_rate@{n}"] = np.mean(np.array(hits) > 0)
        found[f"ndcg@{n}"] = np.mean(gains)
    return found | {"users": 3, "targets": 6}


def test_a_ranking_for_all_users():
    view = NextItem(ASKED, ITEMS, Catalogue({}, {}), CUTOFFS)
    score = np.random.default_rng(1).permutation(ITEMS).astype(float)
    score[0] = 99  # padding is no item
    found = view.scores(score)
    assert found.metrics == pytest.approx(literal(np.tile(score, (3, 1)), CUTOFFS))
    assert len(found.curves["next"]) == len(CURVE)
    assert found.curves["next"][CURVE.index(1)] == pytest.approx(found.metrics["recall@1"])
    assert found.curves["next"][-1] == 1


def test_equal_scores_favour_no_id():
    """A constant score ranks by the seeded order, which is a permutation of the items, and not theirs."""
    view = NextItem(ASKED, ITEMS, Catalogue({}, {}), CUTOFFS)
    assert sorted(view.order) == list(range(1, ITEMS))
    assert (view.order != np.arange(1, ITEMS)).mean() > 0.5
    assert view.scores(np.zeros(ITEMS)).metrics == pytest.approx(
        literal(np.tile(-np.concatenate([[0], view.place[1:]]).astype(float), (3, 1)), CUTOFFS)
    )


@pytest.mark.parametrize("rows", [0, 11])
@pytest.mark.parametrize("scores", [1 << 24, 2 * ITEMS])
def test_a_model_ranks_as_its_vectors_do(rows, scores, monkeypatch):
    monkeypatch.setattr(next_item, "SCORES", scores)
    spec, catalogue = hashed(feature_spec(ITEMS), Catalogue({}, {}), rows)
    view = NextItem(ASKED, ITEMS, catalogue, CUTOFFS)
    method = croloss_system(spec, MeanHistoryConfig(vector=4), KernelConfig(), 1)
    generator = np.random.default_rng(3)
    height = rows or ITEMS
    table, kernel = generator.normal(size=(height, 4)), generator.normal(size=(4, 4))
    parameters = {
        "item_id": {"item_rows": jnp.asarray(table, jnp.float32)},
        "user_output": {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.zeros(4)},
    }
    row = np.asarray(catalogue.items["row"]) if rows else np.arange(ITEMS)
    vectors = table[row]
    users = np.stack([vectors[past[past > 0]].mean(axis=0) for past in ASKED.history]) @ kernel
    cosine = users / np.linalg.norm(users, axis=1)[:, None] @ (vectors / np.linalg.norm(vectors, axis=1)[:, None]).T
    # items that share a row have equal scores: the seeded order of ties, as a difference too small for any other
    cosine = np.round(cosine, 5) - 1e-7 * np.concatenate([[0], view.place[1:]])
    found = view.ranker(method)(jax.tree.map(jnp.asarray, parameters))
    assert found.metrics == pytest.approx(literal(cosine, CUTOFFS))
