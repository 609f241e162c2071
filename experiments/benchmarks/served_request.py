"""One request over drawn candidates, with features of the kinds that the simulated world has; nothing is simulated."""

from typing import Any, NamedTuple

import jax
import numpy as np

from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.requests import RequestBatch, Stage

TASKS = ("click", "purchase")
HISTORY, DENSE = 50, 10


class Served(NamedTuple):
    """A request and what it is served from.

    Attributes:
        spec: feature sizes.
        batch: one request with its features, NumPy leaves [1, K, ...].
        items: features of the whole catalogue, leaves [items, ...].
    """

    spec: FeatureSpec
    batch: RequestBatch
    items: dict[str, np.ndarray]


def draw_requests(requests: int, candidates: int, items: int, history: int = HISTORY, seed: int = 0) -> Served:
    """Requests over candidates drawn from a catalogue; all slots are real and were shown.

    Args:
        requests: U.
        candidates: K of each.
        items: of the catalogue, id 0 of which pads.
        history: past items of a user.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    spec = FeatureSpec(1001, items, 1, 41, TASKS, history_groups=2, cross=4)
    catalogue = {
        "id": np.arange(items, dtype=np.int32),
        "categorical": rng.integers(1, spec.item_categories, (items, 1), np.int32),
        "dense": _normal(rng, items, DENSE),
    }
    ids = rng.integers(1, items, (requests, candidates), np.int32)
    past = rng.integers(1, items, (requests, history), np.int32)
    leaves: dict[str, Any] = {
        "user": {"id": rng.integers(1, spec.users, requests, np.int32), "dense": _normal(rng, requests, 1)},
        "history": {
            "id": past,
            "categorical": catalogue["categorical"][past],
            "groups": rng.integers(0, 2, (requests, history, 2)).astype(np.float32),
        },
        "history_mask": np.ones((requests, history), bool),
        "items": {name: table[ids] for name, table in catalogue.items()},
        "cross": _normal(rng, requests, candidates, spec.cross),
        "stage": np.full((requests, candidates), Stage.EXPOSED, np.int8),
        "rank": np.tile(np.arange(candidates, dtype=np.int32), (requests, 1)),
        "labels": {task: (rng.random((requests, candidates)) < 0.3).astype(np.float32) for task in TASKS},
        "teacher": {},
        "mask": np.ones((requests, candidates), bool),
    }
    return Served(spec, RequestBatch(**leaves), catalogue)


def draw_parameters(init: Any, batch: RequestBatch, seed: int = 1) -> Any:
    """Normal numbers of standard deviation 0.3 for the parameters of `init(key, batch)`, which is not compiled."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(init, jax.random.key(0), batch)
    return jax.tree.map(lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(leaf.dtype), shapes)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)
