"""The benchmark of serving in small: lists and pairs are the same samples, rivals the same numbers, and its exits."""

import json

import jax
import numpy as np
import pytest

from experiments.benchmarks import listwise, serving
from experiments.benchmarks.bars import exit_with, outcome
from experiments.benchmarks.served_request import draw_requests
from hccp_jax.errors import UserError
from hccp_jax.models.three_tower import ModelConfig

SMALL = ModelConfig(id_width=3, category_width=2, vector=4, hidden=5, experts=2, expert_width=4, cross_hidden=3)
PEERS = "needs experiments/benchmarks/peers/requirements.txt"


def padded(batch):
    """The last slots of the first request are padding."""
    mask = np.array(batch.mask)
    mask[0, 2:] = False
    return batch.replace(mask=mask)


def test_pairs_are_the_samples_of_the_lists():
    lists = padded(draw_requests(3, 4, 20, history=2).batch)
    pairs = listwise.as_pairs(lists)
    assert pairs.mask.shape == (12, 1)
    for row, slot in np.ndindex(3, 4):
        pair = jax.tree.map(lambda leaf, at=4 * row + slot: leaf[at], pairs)
        of_user = {name: getattr(lists, name) for name in ("user", "history", "history_mask")}
        of_item = {name: getattr(lists, name) for name in ("items", "cross", "stage", "rank", "labels", "mask")}
        for name, leaves in of_user.items():
            jax.tree.map(lambda a, b, row=row: np.testing.assert_array_equal(a, b[row]), getattr(pair, name), leaves)
        for name, leaves in of_item.items():
            jax.tree.map(
                lambda a, b, row=row, slot=slot: np.testing.assert_array_equal(a[0], b[row, slot]),
                getattr(pair, name),
                leaves,
            )


def test_lists_and_pairs_have_one_loss_and_the_same_gradients():
    loss, parameters, batches = listwise.forms(3, 4, SMALL)
    lists = padded(jax.device_get(batches["lists"]))
    step = jax.jit(jax.value_and_grad(loss))
    (of_lists, expected), (of_pairs, found) = step(parameters, lists), step(parameters, listwise.as_pairs(lists))
    np.testing.assert_allclose(of_pairs, of_lists, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 + 1e-5 * np.abs(b).max())
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 1e-2
    # the mean over the real slots: what a padded slot holds does not count
    labels = {task: np.where(lists.mask, label, 1 - label) for task, label in lists.labels.items()}
    np.testing.assert_allclose(step(parameters, lists.replace(labels=labels))[0], of_lists, rtol=1e-6)


def test_the_user_tower_runs_once_a_list():
    found = listwise.compared(1, requests=2, slots=8)
    assert 2 < found["times_the_flops"] < 8
    assert found["times_slower"] > 0
    assert found["flops"]["pairs"] > found["flops"]["lists"] > 0
    assert f"{found['times_slower']:.2f}x" in listwise.described(found)


def test_a_row_of_the_table():
    name = "two towers, dot product"
    record = serving.requests_of(name, candidates=(5, 7), repeats=3)
    assert record["network"] == name
    for count in (5, 7):
        assert 0 < record["p50_ms"][count] <= record["p99_ms"][count]
    assert serving.row(record).split()[: len(name.split())] == name.split()
    assert 2 * 32 <= record["flops_per_candidate"] <= 2 * 32 + 8


@pytest.mark.slow
@pytest.mark.parametrize("name", serving.NETWORKS)
def test_every_network_of_the_table_is_served(name):
    record = serving.requests_of(name, candidates=(3,), repeats=1)
    assert record["flops_per_candidate"] > 0
    assert serving.row(record).startswith(name)


FAST = outcome("part", "K=2", "ours", "torch", 2.0, 1.5, "at least", {"ours": [1.0]})
SHORT = outcome("part", "K=2", "ours", "torch", 1.0, 1.5, "at least", {"ours": [1.0]})


def test_parts_and_exit_codes(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(serving, "parts", lambda: {"fast": lambda rounds: [FAST], "short": lambda rounds: [SHORT]})
    monkeypatch.setattr(serving, "table", lambda: [{"network": "COLD"}])
    monkeypatch.setattr(listwise, "compared", lambda rounds: {"times_slower": rounds})
    monkeypatch.setattr(listwise, "described", str)
    target = tmp_path / "found.json"
    assert serving.main([f"--json={target}", "--only=fast"]) == 0
    assert serving.main(["--only=requests"]) == 0
    assert serving.main([f"--json={target}", "--rounds=3"]) == 1
    record = json.loads(target.read_text())
    assert [bar["ok"] for bar in record["bars"]] == [True, False]
    assert record["requests"] == [{"network": "COLD"}]
    assert record["list_wise"] == {"times_slower": 3}
    assert "1 of 2 bars reached" in capsys.readouterr().out
    with pytest.raises(UserError, match="only=slow: no part begins so"):
        serving.main(["--only=slow"])


def test_a_missing_rival_is_one_line(monkeypatch, capsys):
    def parts():
        raise ImportError("No module named 'faiss'", name="faiss")

    monkeypatch.setattr(serving, "parts", parts)
    monkeypatch.setattr("sys.argv", ["serving"])
    with pytest.raises(SystemExit) as stopped:
        exit_with(serving.main)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: faiss is missing: pip install -r experiments/benchmarks/peers/")


def test_rivals_compute_the_same():
    pytest.importorskip("torch", reason=PEERS)
    pytest.importorskip("faiss", reason=PEERS)
    from experiments.benchmarks import serving_bars
    from hccp_jax.models.cold import ColdConfig
    from hccp_jax.models.ranktower import RankTowerConfig

    small = RankTowerConfig(user_heads=3, item_heads=2, head_width=4, attention=5)
    for calls in (
        serving_bars.ranktower_calls(small, 1004),
        serving_bars.cold_calls(ColdConfig(hidden=7, second=6), 1004),
        serving_bars.top_calls(200, 20),
    ):
        times = serving_bars.measured(calls, 1)
        assert times.keys() == calls.keys()
    calls["torch topk"] = lambda: calls["ours"]() + 1
    with pytest.raises(AssertionError, match="torch topk is"):
        serving_bars.measured(calls, 1)
