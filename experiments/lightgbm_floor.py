"""LightGBM on the features that the neural systems see: the baseline that tabular data ask for."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.kuairand import featurise
from hccp_jax.data.catalogue import Catalogue
from hccp_jax.data.requests import RequestBatch, first_slots

BLOCK = 512
PARAMETERS = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 63,
    "min_data_in_leaf": 100,
    "seed": 0,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
ROUNDS = 300


def exposures(batch: RequestBatch, catalogue: Catalogue) -> tuple[np.ndarray, list[int]]:
    """Features of the impressions of a log, one row each in the order of `batch.exposed`.

    Returns:
        [n, D] float32: dense user, dense item and cross features, then the categories of user and item; and the
        columns of the categories. Ids are left out: trees cannot hold a table of them.
    """

    @jax.jit
    def block(part: RequestBatch, catalogue: Catalogue) -> tuple[dict, dict, jax.Array | None]:
        found = featurise(part, catalogue)
        return found.user, found.items, found.cross

    rows: list[np.ndarray] = []
    categories = 0
    for start in range(0, len(batch.mask), BLOCK):
        part = jax.tree.map(lambda leaf, s=start: leaf[s : s + BLOCK], batch)
        user, items, cross = jax.device_get(block(part, catalogue))
        shown = np.asarray(part.exposed)
        request = np.nonzero(shown)[0]
        columns: list[Any] = [user["dense"][request], items["dense"][shown]]
        columns += [] if cross is None else [cross[shown]]
        coded = [user["categorical"][request], items["categorical"][shown]]
        categories = sum(column.shape[-1] for column in coded)
        rows.append(np.concatenate([np.asarray(column, np.float32) for column in (*columns, *coded)], axis=1))
    table = np.concatenate(rows)
    return table, list(range(table.shape[1] - categories, table.shape[1]))


def lightgbm_metrics(ground: Any, warn: Callable[[str], None]) -> dict[str, float]:
    """Metrics on the exposed lists of the test days; empty, with a warning, where LightGBM is not installed."""
    try:
        import lightgbm
    except ImportError:
        warn("row lightgbm: left out, as LightGBM is not installed (pip install lightgbm)")
        return {}
    train = first_slots(ground.data.train, ground.layout.exposed)
    features, categorical = exposures(train, ground.catalogue)
    held_out, _ = exposures(ground.data.test, ground.catalogue)
    shown = np.asarray(ground.data.test.exposed)
    logits = {}
    for task, labels in train.labels.items():
        wanted = np.asarray(labels)[np.asarray(train.exposed)]
        data = lightgbm.Dataset(features, wanted, categorical_feature=categorical, free_raw_data=False)
        model = lightgbm.train(PARAMETERS, data, ROUNDS)
        scores = np.zeros(shown.shape, np.float32)
        scores[shown] = model.predict(held_out, raw_score=True)
        logits[task] = scores
    return ground.lists.measure(logits)
