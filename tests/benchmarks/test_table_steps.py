"""The models of the training benchmark: what ours computes by hand, and that PyTorch's steps are the same."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments.benchmarks.table_models import Ours, Shape, drawn

SMALL = {
    "two-tower": Shape("two-tower", 50, 3, pairs=8, hidden=5, vector=2),
    "MMoE": Shape("MMoE", 50, 3, pairs=8, hidden=5, experts=2, tasks=3),
}


def by_hand(shape, p, users, items):
    """[B, T] logits."""
    if shape.model == "two-tower":

        def tower(x, name):
            hidden = np.maximum(x @ p[f"{name}_hidden"]["kernel"] + p[f"{name}_hidden"]["bias"], 0)
            return hidden @ p[f"{name}_output"]["kernel"] + p[f"{name}_output"]["bias"]

        return np.sum(tower(users, "user") * tower(items, "item"), -1, keepdims=True)
    x = np.concatenate([users, items], -1)
    experts, gates = (x @ p["mixture"][name]["kernel"] + p["mixture"][name]["bias"] for name in ("experts", "gates"))
    experts = np.maximum(experts, 0).reshape(len(x), shape.experts, -1)
    gates = np.exp(gates.reshape(len(x), shape.tasks, shape.experts))
    gates /= gates.sum(-1, keepdims=True)
    return np.einsum("bte,beh,th->bt", gates, experts, p["output"])


@pytest.mark.parametrize("name", SMALL)
def test_the_first_loss_by_hand(name):
    shape = SMALL[name]
    batches = drawn(shape, 2)
    ours = Ours(shape, "lazy", batches)
    p = jax.tree.map(lambda leaf: np.array(leaf[0], np.float64), ours.states.parameters)
    users = p["users"]["user_rows"][batches.user["id"][0, 0]]
    items = p["items"]["item_rows"][batches.items["id"][0, 0, :, 0]]
    logits = by_hand(shape, p, users, items)
    labels = np.stack([label[0, 0, :, 0] for label in batches.labels.values()], -1)
    loss = np.sum(np.mean(np.log1p(np.exp(logits)) - labels * logits, 0))
    np.testing.assert_allclose(ours.train()[0], loss, rtol=1e-5)


def test_ours_by_rows_is_ours_with_dense_adam():
    shape = SMALL["two-tower"]
    batches = drawn(shape, 3)
    lazy, dense = (Ours(shape, update, batches).train() for update in ("lazy", "dense"))
    np.testing.assert_allclose(lazy, dense, rtol=1e-5)


def test_batches_name_rows_of_the_tables():
    shape = SMALL["MMoE"]
    batches = drawn(shape, 4)
    assert batches.user["id"].shape == (1, 4, 8)
    assert batches.items["id"].shape == (1, 4, 8, 1)
    assert sorted(batches.labels) == ["task0", "task1", "task2"]
    assert min(batches.items["id"].min(), batches.user["id"].min()) >= 1
    assert max(batches.items["id"].max(), batches.user["id"].max()) < 50


def test_sizes_in_words():
    assert str(Shape("MMoE", 100_000, 32)) == "2 x 100k x 32, B=4096"
    assert str(Shape("MMoE", 2_000_000, 64, pairs=8)) == "2 x 2M x 64, B=8"


@pytest.mark.parametrize("name", SMALL)
def test_pytorch_does_the_same(name):
    pytest.importorskip("torch", reason="needs experiments/benchmarks/peers/requirements.txt")
    from experiments.benchmarks.table_steps import agree

    agree(replace(SMALL[name], hidden=16))
