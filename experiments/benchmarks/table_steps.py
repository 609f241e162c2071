"""Steps of models on large tables, ours against PyTorch's and against the package's own dense Adam. Wall time.

A call is a chunk of several steps, as training runs them: the batches lie ready in memory, and the losses are read at
the end. Both libraries use all cores.
"""

import statistics
import time
from dataclasses import replace

import jax
import numpy as np

from experiments.benchmarks.bars import Outcome, interleaved, outcome, quickest, times_slower
from experiments.benchmarks.peers.torch_models import Theirs
from experiments.benchmarks.table_models import Ours, Shape, drawn
from hccp_jax.data.requests import RequestBatch
from hccp_jax.models.table import USERS

TWO_TOWER = Shape("two-tower", 100_000, 32)
MMOE = Shape("MMoE", 100_000, 32, tasks=3)
BIG = Shape("two-tower", 1_000_000, 64)
STEPS = 8
CHECKED = 4
"""Steps whose losses must agree."""


def agree(shape: Shape) -> None:
    """Raise unless our step by rows and each of PyTorch's, on small tables, do the same.

    One batch is repeated: rows that a batch leaves out move under Adam, and under ours, but not under SparseAdam.
    SparseAdam also adds its epsilon before the correction of the second moment, so its rows agree on the whole only.
    """
    small = replace(shape, rows=1000, width=8, pairs=64)
    once = drawn(small, 1)
    batches = jax.tree.map(lambda leaf: np.repeat(leaf, CHECKED, axis=1), once)
    ours = Ours(small, "lazy", batches)
    before = jax.tree.map(np.array, ours.states.parameters)
    losses = ours.train()
    rows, touched = np.asarray(ours.states.parameters["users"][USERS][0]), once.user["id"].ravel()
    moved = np.abs(rows - before["users"][USERS][0])[touched].mean()
    for how in ("Adam", "fused Adam", "SparseAdam"):
        theirs = Theirs(small, how, before, batches)
        found = theirs.train()
        if not np.allclose(found, losses, rtol=1e-5):
            raise AssertionError(f"{shape.model}: losses of {how} in torch are {found}, ours {losses}")
        apart = np.abs(rows - theirs.users.weight.detach().numpy())[touched].mean()
        if not apart < (5e-2 if how == "SparseAdam" else 1e-4) * moved:
            raise AssertionError(f"{shape.model}: rows by {how} in torch are {apart} from ours, which moved {moved}")


def two_tower(rounds: int) -> list[Outcome]:
    """The two-tower model with tables of 100,000 rows."""
    return _against_torch("two-tower", TWO_TOWER, rounds)


def mmoe(rounds: int) -> list[Outcome]:
    """The mixture of experts with tables of 100,000 rows."""
    return _against_torch("MMoE, 8 experts 3 tasks", MMOE, rounds)


def _against_torch(name: str, shape: Shape, rounds: int) -> list[Outcome]:
    agree(shape)
    batches = drawn(shape, STEPS)
    ours = Ours(shape, "lazy", batches)
    parameters = jax.tree.map(np.array, ours.states.parameters)
    calls = {"ours": ours.train}
    for how in ("Adam", "fused Adam", "SparseAdam"):
        calls[f"torch {how}"] = Theirs(shape, how, parameters, batches).train
    calls["torch.compile SparseAdam"] = Theirs(shape, "SparseAdam", parameters, batches, compiled=True).train
    times = _rounds(calls, rounds)
    best = quickest(times, calls.keys() - {"ours"})
    rates = {name: shape.pairs * STEPS / statistics.median(seconds) / 1e3 for name, seconds in times.items()}
    found = []
    for called, against, bar in ((f"best, {best}", best, 1.0), ("torch Adam", "torch Adam", 1.3)):
        text = f"{called}, {rates[against]:.0f}k/s; ours {rates['ours']:.0f}k/s"
        ratio = times_slower(times, against, "ours")
        found.append(outcome(name, str(shape), "ours", text, ratio, bar, "at least", times))
    return found


def big_tables(rounds: int) -> list[Outcome]:
    """The two-tower model with tables of a million rows, by rows against all that is there."""
    agree(BIG)
    batches = drawn(BIG, STEPS)
    ours = Ours(BIG, "lazy", batches)
    parameters = jax.tree.map(np.array, ours.states.parameters)
    torch = Theirs(BIG, "SparseAdam", parameters, batches)
    tenth = replace(BIG, rows=BIG.rows // 10)
    smaller = Ours(tenth, "lazy", drawn(tenth, STEPS))
    few: RequestBatch = jax.tree.map(lambda leaf: leaf[:, :2], batches)
    dense = Ours(BIG, "dense", few)
    calls = {"ours": ours.train, "torch SparseAdam": torch.train, "ours, a tenth of the rows": smaller.train}
    times = _rounds(calls | {"dense Adam": dense.train}, rounds)
    times["dense Adam"] = [STEPS / 2 * seconds for seconds in times["dense Adam"]]
    name, shape = "two-tower by rows", str(BIG)
    growth = times_slower(times, "ours", "ours, a tenth of the rows")
    faster = [
        outcome(name, shape, "ours", against, times_slower(times, against, "ours"), bar, "at least", times)
        for against, bar in (("dense Adam", 25.0), ("torch SparseAdam", 0.85))
    ]
    return [
        *faster,
        outcome(name, shape, "time over that at a tenth of the rows", "", growth, 1.3, "at most", times),
        outcome(name, shape, "MiB beside tables and moments", "", ours.temporary / 2**20, 200.0, "at most"),
    ]


def _rounds(calls: dict, rounds: int) -> dict[str, list[float]]:
    """Wall seconds of a chunk; the first chunks, which touch fresh memory and compile, are not counted."""
    for call in calls.values():
        call()
        call()
    return interleaved(calls, rounds, time.perf_counter, 0.0)
