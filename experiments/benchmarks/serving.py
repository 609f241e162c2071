"""How fast pre-rankers serve: against PyTorch, faiss and plain JAX, and what a request costs with each architecture.

    pip install -r experiments/benchmarks/peers/requirements.txt
    python -m experiments.benchmarks.serving                    a line a bar, two tables; exit code 1 if a bar is short
    python -m experiments.benchmarks.serving --json=serving.json
    python -m experiments.benchmarks.serving --only=RankTower,COLD

Every library is held to one thread. Bars are ratios of CPU time of the process, the rivals interleaved in rounds, and
the median over the rounds. The table is of the wall time of one request: its user side, a gather of the candidates'
sides, which lie ready for the whole catalogue, and the scores. Weights and features are drawn; nothing is trained.
About three minutes.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import jax

from experiments.benchmarks import listwise
from experiments.benchmarks.bars import (
    Neighbours,
    Outcome,
    asked,
    exit_with,
    finish,
    hold_to_one_thread,
    line,
    missing,
    parse,
    write_json,
)
from experiments.benchmarks.served_request import draw_parameters, draw_requests
from hccp_jax.errors import UserError
from hccp_jax.evaluation.latency import serving_cost
from hccp_jax.methods.hccp import Layout
from hccp_jax.methods.registry import SYSTEMS, HyperConfigs, SystemConfig

CANDIDATES = (1000, 5000, 10000)
CATALOGUE = 20_001
REPEATS = 100
NETWORKS = {
    "two towers, dot product": "two_tower",
    "three towers (HCCP)": "hccp",
    "COLD": "cold",
    "IntTower": "inttower",
    "RankTower": "ranktower",
    "DIN": "din",
}


def parts() -> dict[str, Callable[[int], list[Outcome]]]:
    """What has bars, by name; each takes the number of rounds."""
    import torch

    from experiments.benchmarks import serving_bars

    torch.set_num_threads(1)
    return {
        "RankTower": serving_bars.ranktower,
        "COLD": serving_bars.cold,
        "top candidates": serving_bars.top_products,
    }


def requests_of(name: str, candidates: Sequence[int] = CANDIDATES, repeats: int = REPEATS) -> dict[str, Any]:
    """Operations per candidate of an architecture, and the milliseconds of one request by number of candidates."""
    record: dict[str, Any] = {"network": name, "p50_ms": {}, "p99_ms": {}}
    for count in candidates:
        served = draw_requests(1, count, CATALOGUE)
        method = SYSTEMS[NETWORKS[name]].build(served.spec, SystemConfig(), Layout(exposed=10, sequence=60))
        parameters, batch, items = jax.device_put(
            (draw_parameters(method.init, served.batch), served.batch, served.items)
        )
        hyper = getattr(HyperConfigs(), SYSTEMS[NETWORKS[name]].hyper)
        cost = serving_cost(method, parameters, hyper, batch, items, repeats)
        # DIN's blocks of past items are one block with the fewest candidates only; a loop is counted once
        record.setdefault("flops_per_candidate", cost.flops_per_candidate)
        record["p50_ms"][count], record["p99_ms"][count] = cost.p50_ms, cost.p99_ms
    return record


def row(record: dict[str, Any]) -> str:
    """An architecture as one line of the table."""
    times = "".join(f"{record['p50_ms'][n]:10.2f} /{record['p99_ms'][n]:7.2f}" for n in record["p50_ms"])
    return f"{record['network']:26}{record['flops_per_candidate'] / 1e3:10.2f}{times}"


def table() -> list[dict[str, Any]]:
    """Measure and print a row for each architecture."""
    heads = "".join(f"{f'{n:,} candidates':>19}" for n in CANDIDATES)
    print(f"\none request, p50 / p99 ms of {REPEATS}, wall time on one thread")
    print(f"{'':26}{'kFLOP/cand':>10}{heads}")
    records = []
    for name in NETWORKS:
        records.append(requests_of(name))
        print(row(records[-1]), flush=True)
    print("p99 on a shared machine measures its neighbours")
    return records


def main(arguments: Sequence[str]) -> int:
    """Measure, print and judge; the exit code."""
    values = parse("serving", arguments, 7, "parts (RankTower, COLD, top candidates, requests, list-wise)")
    try:
        every = parts()
    except ImportError as error:
        raise missing(error) from None
    neighbours = Neighbours()
    bars: list[Outcome] = []
    for name, measure in every.items():
        if asked(name, values["only"]):
            judgements = measure(values["rounds"])
            bars += judgements
            print("\n".join(map(line, judgements)), flush=True)
    record: dict[str, Any] = {"bars": list(map(asdict, bars))}
    if asked("requests", values["only"]):
        record["requests"] = table()
    if asked("list-wise", values["only"]):
        record["list_wise"] = listwise.compared(values["rounds"])
        print(f"\n{listwise.described(record['list_wise'])}\n")
    if not bars and len(record) == 1:
        raise UserError(f"only={','.join(values['only'])}: no part begins so")
    code = finish(bars, values | {"json": None}, "part") if bars else 0
    write_json(values["json"], record)
    busy = neighbours.cores()
    if busy is not None:
        print(f"other processes kept {busy:.1f} cores busy meanwhile")
    return code


if __name__ == "__main__":
    hold_to_one_thread("experiments.benchmarks.serving")
    exit_with(main)
