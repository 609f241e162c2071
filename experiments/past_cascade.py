"""A cascade of three models that were trained on the past of a log: retrieval, pre-ranker, ranker."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hccp_jax.config import field
from hccp_jax.data.catalogue import Catalogue, every_item
from hccp_jax.data.catalogue_view import with_items
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.data.sampling import pool_negatives
from hccp_jax.data.simulated_stages import Staged, append, chunks_for, draw, staged_slots
from hccp_jax.data.source import log_source
from hccp_jax.data.stored import StoredLogs
from hccp_jax.errors import UserError
from hccp_jax.methods.base import Method
from hccp_jax.methods.croloss import ROWS as RETRIEVAL
from hccp_jax.methods.croloss import HyperConfig as RetrievalHyper
from hccp_jax.methods.croloss import KernelConfig
from hccp_jax.methods.hccp import Layout
from hccp_jax.methods.pointwise import PointwiseHyper
from hccp_jax.methods.registry import SystemConfig, build
from hccp_jax.training.config import Member, TrainConfig
from hccp_jax.training.loop import train
from hccp_jax.training.program import Placement
from hccp_jax.training.teacher import calibrate, predictor

BLOCK = 64  # requests that are staged together
DRAWN = 10  # random items a request that the retrieval model learns from
Featurise = Callable[[RequestBatch, Catalogue], RequestBatch]


@dataclass(frozen=True)
class PastCascadeConfig:
    """The simulated cascade."""

    retrieved: int = field(500, "items that the retrieval model finds for a request", at_least=35)
    to_ranking: int = field(120, "of those, how many the pre-ranker lets through", at_least=35)
    ranked: int = field(10, "ranked items (N2) written for a request", at_least=1)
    preranked: int = field(10, "items cut by the pre-ranker (N3) written for a request", at_least=1)
    pool: int = field(10, "items not retrieved (N5) written for a request", at_least=1)
    steps: int = field(400, "updates of each model", at_least=1)
    batch: int = field(128, "requests an update", at_least=2)
    seed: int = field(0, "of the models and of all draws", at_least=0)


class PastCascade:
    """Three trained models and the draws from what they find.

    Args:
        logs: feature tables and sizes.
        featurise: attaches features.
        past: exposures that the models learn from, NumPy leaves [n, R].
        held_out: later exposures that calibrate the ranker.
        config: sizes.
        folder: for checkpoints.
        say: shows a line.

    Raises:
        UserError: if the catalogue is smaller than what is to be retrieved.
    """

    def __init__(
        self,
        logs: StoredLogs,
        featurise: Featurise,
        past: RequestBatch,
        held_out: RequestBatch,
        config: PastCascadeConfig,
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        if not config.to_ranking < config.retrieved < logs.spec.items - 1:
            raise UserError(
                f"cascade.retrieved={config.retrieved}: expected more than to_ranking={config.to_ranking} and fewer "
                f"than the {logs.spec.items - 1} items"
            )
        self.logs, self.featurise, self.config, self.catalogue = logs, featurise, config, logs.catalogue
        self.folder, self.say = folder, say
        width = past.mask.shape[1]
        self.retrieval, self.preranker, self.ranker = (
            self._made(system, width) for system in ("croloss", "two_tower", "din")
        )
        softmax = replace(RetrievalHyper(), **RETRIEVAL["cross_entropy"]["hyper"])
        self.models = (
            self._fitted("retrieval", self.retrieval, softmax, self._with_random(past)),
            self._fitted("pre-ranker", self.preranker, PointwiseHyper(), past),
            self._fitted("ranker", self.ranker, PointwiseHyper(), past),
        )
        self.predict = predictor(self.ranker, self.models[2], featurise, self.catalogue, width + config.ranked)
        exposed: Any = held_out.stage == Stage.EXPOSED
        logits, labels = self.predict(held_out), dict[str, Any](held_out.labels)
        self.calibrations = {task: calibrate(logits[task], labels[task], exposed) for task in logs.spec.tasks}
        self._block = jax.jit(self._scored)

    def _made(self, system: str, width: int) -> Method:
        models = SystemConfig(croloss=KernelConfig(**RETRIEVAL["cross_entropy"]["config"]))
        has = {"history", "pool"} | ({"cross"} if self.logs.spec.cross else set())
        return build(system, self.logs.spec, models, Layout(width, width), frozenset(has))

    def _with_random(self, past: RequestBatch) -> RequestBatch:
        """The exposures with random items behind them."""
        count = len(past.mask)
        keys = (jnp.full(count, self.config.seed), jnp.arange(count))
        ids: Any = np.asarray(pool_negatives(self.logs.spec.items - 1, jnp.asarray(past.items["id"]), DRAWN, *keys)[0])
        stage = np.where(ids > 0, Stage.POOL, Stage.PADDING).astype(np.int8)
        return append(past, Staged(ids, stage, np.full(ids.shape, -1, np.int32)))

    def _fitted(self, name: str, method: Method, hyper: Any, log: RequestBatch) -> Any:
        """The parameters of a model of the past."""
        config = self.config
        length = TrainConfig(steps=config.steps, batch=config.batch, checkpoint_every=config.steps)
        source = log_source(self.logs.spec, self.catalogue, self.featurise, log, config.batch, self.logs.impressions)
        member = Member(name, hyper, config.seed, self.folder / name)
        last: dict[str, float] = {}

        def note(step: int, values: dict[str, float]) -> None:
            last.update(values)

        trained = train(method, source, [member], length, Placement(), note, self.say)
        epochs = source.epochs(config.steps)
        self.say(f"{name}: {config.steps} steps, {epochs:.1f} epochs of the past, loss {last['loss']:.3f}")
        return jax.tree.map(lambda leaf: leaf[0], trained.states.parameters)

    def _scored(
        self, models: Any, batch: RequestBatch, excluded: jax.Array, catalogue: Catalogue
    ) -> tuple[jax.Array, jax.Array]:
        """[B, retrieved] ids in the pre-ranker's order, and the first [B, to_ranking] of them in the ranker's.

        Where fewer are left than are to be retrieved, 0 comes last.
        """
        found, light, heavy = models
        everything = every_item(catalogue)
        users = self.retrieval.user_side(found, self.featurise(batch, catalogue))
        sides = self.retrieval.item_side(found, everything)
        scores = self.retrieval.pair_scores(found, users, sides, None)[self.logs.spec.tasks[0]]
        rows = jnp.arange(len(scores))[:, None]
        scores = scores.at[rows, excluded].set(-jnp.inf).at[:, 0].set(-jnp.inf)
        best, ids = jax.lax.top_k(scores, self.config.retrieved)
        ids = jnp.where(jnp.isfinite(best), ids, 0).astype(jnp.int32)
        order = self._by(self.preranker, light, batch, ids, catalogue)
        return order, self._by(self.ranker, heavy, batch, order[:, : self.config.to_ranking], catalogue)

    def _by(self, method: Method, parameters: Any, batch: RequestBatch, ids: jax.Array, catalogue: Catalogue) -> Any:
        """Candidates [B, n] by falling sum of the heads' logits, ties by place, 0 last."""
        heads = method.heads(parameters, self.featurise(with_items(batch, ids), catalogue))
        score = jnp.sum(jnp.stack([heads[task] for task in self.logs.spec.tasks]), axis=0)
        score = jnp.where(ids > 0, score, -jnp.inf)
        return jnp.take_along_axis(ids, jnp.argsort(-score, axis=1, stable=True), axis=1)

    def stages(self, batch: RequestBatch, excluded: np.ndarray) -> Staged:
        """What the cascade finds for requests.

        Args:
            batch: exposures, NumPy leaves [n, R].
            excluded: [n, W] int32 ids that are never found; 0 for none.
        """
        total = len(batch.mask)
        parts = []
        for begin in range(0, total, BLOCK):
            rows = np.minimum(np.arange(begin, begin + BLOCK), total - 1)  # one shape, one program
            some = jax.tree.map(lambda leaf, rows=rows: np.asarray(leaf[rows]), batch)
            staged = self._drawn(some, excluded[rows], rows.astype(np.int32))
            parts.append(Staged(*(leaf[: total - begin] for leaf in staged)))
        return Staged(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))

    def _drawn(self, batch: RequestBatch, excluded: np.ndarray, rows: np.ndarray) -> Staged:
        """Slots for a block of requests, drawn from the three orders by the number of the request."""
        config = self.config
        order, ranked = map(np.asarray, self._block(self.models, batch, excluded, self.catalogue))
        chunks = chunks_for(config.ranked, config.to_ranking, "cascade")
        pick = partial(draw, chunks, config.to_ranking, config.preranked, config.pool, self.logs.spec.items - 1)
        found = np.sort(np.concatenate([order, excluded], axis=1), axis=1)
        keys = (np.full(len(rows), config.seed, np.int32), rows)
        n2, n3, pool = map(np.asarray, pick((order > 0).sum(axis=1).astype(np.int32), found, keys))
        shown = np.asarray(batch.mask).sum(axis=1)
        return staged_slots(ranked, order, n2, n3, pool, shown)
