"""What the serving benchmark holds against its rivals: RankTower, COLD, and the exact top of dot products.

Candidates' sides lie ready in memory, as a server has them, for ours and for the rivals; "as published" computes what
depends on the item alone for every pair again.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import faiss
import jax
import jax.numpy as jnp
import numpy as np
import torch

from experiments.benchmarks.bars import SHORTEST, Outcome, Times, interleaved, outcome, times_slower
from experiments.benchmarks.peers import torch_serving
from experiments.benchmarks.served_request import draw_parameters, draw_requests
from hccp_jax.evaluation.top_candidates import top_candidates
from hccp_jax.methods.base import scorer
from hccp_jax.models.cold import Cold, ColdConfig
from hccp_jax.models.pair_model import PairModel
from hccp_jax.models.ranktower import RankTower, RankTowerConfig

Calls = dict[str, Callable[[], np.ndarray]]
TOP, WIDTH = 1000, 64
NETWORK = ColdConfig(id_width=48, category_width=16, hidden=256, second=128)
"""Fields of 48 + 1 + 2 x 64 and 48 + 16 + 10 numbers and 4 of the cross: about the network of COLD's paper."""


def ranktower(rounds: int) -> list[Outcome]:
    """Attention between a user and 5,000 and 10,000 candidates, 4 heads of width 16 on either side."""
    config = RankTowerConfig(user_heads=4, item_heads=4)
    bars = {
        "torch": 2.5,
        "torch, as published": 2.5,
        "jit, whole layers": 1.7,
        "jit, whole layers, as published": 1.7,
    }
    found = []
    for candidates in (5000, 10000):
        times = measured(ranktower_calls(config, candidates), rounds)
        found += _against(times, "RankTower", f"K={candidates} H=4 k=16", bars)
    return found


def ranktower_calls(config: RankTowerConfig, candidates: int) -> Calls:
    """[K] logits by ours and the rivals."""
    model, parameters, users, sides, _ = _sides(lambda spec: RankTower(config, spec), candidates)

    def jitted(function: Callable[..., jax.Array], items: Any) -> Callable[[], np.ndarray]:
        compiled = jax.jit(lambda p, *given: model.apply({"params": p}, *given, method=function))
        return lambda: np.asarray(compiled(parameters, users, items))[0, 0]

    def as_published(model: RankTower, users: Any, heads: jax.Array) -> jax.Array:
        return model.plain_pair_logits(users, model.item_projections(heads))

    p, user, items = torch_serving.tensors((parameters, *_first((users, sides))))

    @torch.inference_mode()
    def of_torch(ahead: bool) -> np.ndarray:
        ready = items if ahead else torch_serving.projections(p["item_projections"], items.heads)
        return torch_serving.ranktower_logits(p, user, ready).numpy()

    return {
        "ours": jitted(lambda model, users, items: model.pair_logits(users, items, None), sides),
        "jit, whole layers": jitted(lambda model, users, items: model.plain_pair_logits(users, items), sides),
        "jit, whole layers, as published": jitted(as_published, sides.heads),
        "torch": lambda: of_torch(ahead=True),
        "torch, as published": lambda: of_torch(ahead=False),
    }


def cold(rounds: int) -> list[Outcome]:
    """COLD's network for 10,000 candidates, with the default sizes and with wide layers."""
    found = []
    for name, config in (("64-32-1", ColdConfig()), ("256-128-1", NETWORK)):
        times = measured(cold_calls(config, 10000), rounds)
        found += _against(times, "COLD", f"K=10000 {name}", {"torch": 1.3})
    return found


def cold_calls(config: ColdConfig, candidates: int) -> Calls:
    """[K] logits by ours and PyTorch."""
    model, parameters, users, sides, batch = _sides(lambda spec: Cold(config, spec), candidates)
    compiled = jax.jit(scorer(model).pair_logits)
    cross = jnp.asarray(batch.cross)

    def embedded(model: Cold) -> tuple[tuple[jax.Array, ...], jax.Array]:
        """What a server of PyTorch has at hand: the user's fields, and the items' fields joined."""
        users = model.embeddings.user_fields(batch.user)
        past = jnp.split(model.embeddings.history(batch.history, batch.history_mask), model.spec.history_groups, -1)
        return (*users, *past), model.embeddings.items(batch.items)

    user, items = _first(model.apply({"params": parameters}, method=embedded))
    tensors = torch_serving.tensors((user, items, cross[0]))
    network = torch_serving.ColdLogits(torch_serving.tensors(parameters))

    @torch.inference_mode()
    def of_torch() -> np.ndarray:
        return network(*tensors).numpy()

    return {"ours": lambda: np.asarray(compiled(parameters, users, sides, cross))[0, 0], "torch": of_torch}


def top_products(rounds: int) -> list[Outcome]:
    """The 1,000 largest of the products with 10,000 and 100,000 items."""
    found = []
    for count in (10_000, 100_000):
        times = measured(top_calls(count, TOP), rounds)
        found += _against(times, f"dot, exact top {TOP}", f"N={count} d={WIDTH}", {"faiss IndexFlatIP": 1.0})
    return found


def top_calls(count: int, top: int) -> Calls:
    """[top] largest products, in order, by ours and the rivals."""
    rng = np.random.default_rng(0)
    user, items = (rng.normal(size=shape).astype(np.float32) for shape in (WIDTH, (count, WIDTH)))
    index = faiss.IndexFlatIP(WIDTH)
    index.add(items)
    faiss.omp_set_num_threads(1)
    jitted = jax.jit(lambda user, items: jax.lax.top_k(items @ user, top))
    on_device = jax.device_put((user, items))
    tensors = torch.tensor(user), torch.tensor(items)
    store = np.asfortranarray(items)

    def numpy() -> np.ndarray:
        scores = store @ user
        rows = np.argpartition(scores, count - top)[count - top :]
        return np.sort(scores[rows])[::-1]

    return {
        "ours": lambda: top_candidates(user, store, top)[1],
        "faiss IndexFlatIP": lambda: index.search(user[None], top)[0][0],
        "numpy argpartition": numpy,
        "torch topk": lambda: torch.topk(tensors[1] @ tensors[0], top)[0].numpy(),
        "jit, lax.top_k": lambda: np.asarray(jitted(*on_device)[0]),
    }


def measured(calls: Calls, rounds: int) -> Times:
    """CPU seconds of every contender in each round; raises if one computes other numbers."""
    ours = calls["ours"]()
    for name, call in calls.items():
        apart = np.abs(call() - ours).max()
        if not apart <= 1e-4 * np.abs(ours).max():
            raise AssertionError(f"{name} is {apart} from ours, which is up to {np.abs(ours).max()}")
    return interleaved(calls, rounds, time.process_time, SHORTEST)


def _against(times: Times, kernel: str, shape: str, bars: Mapping[str, float]) -> list[Outcome]:
    """One outcome a rival."""
    return [
        outcome(kernel, shape, "ours", against, times_slower(times, against, "ours"), bar, "at least", times)
        for against, bar in bars.items()
    ]


def _sides(build: Callable[..., PairModel], candidates: int) -> tuple[Any, Any, Any, Any, Any]:
    """(model, parameters, user side [1, ...], item sides [1, K, ...], batch) of drawn numbers."""
    served = draw_requests(1, candidates, items=candidates + 1)
    model = build(served.spec)
    of = scorer(model)
    parameters = jax.device_put(draw_parameters(of.init, served.batch))
    users = jax.jit(of.user_side)(parameters, served.batch)
    return model, parameters, users, jax.jit(of.item_side)(parameters, served.batch.items), served.batch


def _first(tree: Any) -> Any:
    """The only request of each leaf."""
    return jax.tree.map(lambda leaf: leaf[0], tree)
