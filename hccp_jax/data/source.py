"""Where training batches come from: fresh simulated requests, or rows of a stored log in a keyed order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from hccp_jax.data.catalogue import Catalogue, FeatureSpec
from hccp_jax.data.order import rows_at
from hccp_jax.data.requests import RequestBatch


@dataclass(frozen=True)
class Source:
    """Training batches as a pure function of (seed, step).

    Attributes:
        spec: feature sizes.
        catalogue: feature tables.
        featurise: (stored batch, catalogue) -> batch with features attached, inside jit.
        chunk: (seeds, first step, steps) -> RequestBatch with leading axes [seeds, steps, B, ...]; of each batch's rows
            only one of several equal parts with `part=(index, parts)`.
        epoch_steps: steps that visit every request once; None where every request is fresh.
        frequency: [items] float32 impressions of each item in the training log.
        log: the stored log [n, ...] that the chunks are rows of; None where there is none.
        rows: (seeds, first step, steps, part) -> [seeds, steps, B] which rows; with `log`.
    """

    spec: FeatureSpec
    catalogue: Catalogue
    featurise: Callable[[Any, Any], RequestBatch]
    chunk: Callable[..., Any]
    epoch_steps: float | None
    frequency: np.ndarray
    log: RequestBatch | None = None
    rows: Callable[..., np.ndarray] | None = None

    def batch_at(self, seed: int, step: int) -> RequestBatch:
        """The stored batch [B, ...] of one step, whatever was asked before."""
        return jax.tree.map(lambda leaf: leaf[0, 0], self.chunk([seed], step, 1))

    def epochs(self, steps: int) -> float:
        """Passes over the log after that many steps; fresh requests are never seen twice, so at most one pass."""
        return 1.0 if self.epoch_steps is None else steps / self.epoch_steps


def rows_of_part(part: tuple[int, int], size: int) -> slice:
    """The rows of a batch that belong to one of several equal parts, (index, parts); the whole batch is (0, 1)."""
    index, parts = part
    if size % parts:
        raise ValueError(f"a batch of {size} rows has no {parts} equal parts")
    return slice(index * (size // parts), (index + 1) * (size // parts))


def log_rows(total: int, size: int) -> Callable[..., np.ndarray]:
    """The `rows` function of a log of `total` requests: the keyed order of every seed."""

    def rows(seeds: Sequence[int], first: int, steps: int, part: tuple[int, int] = (0, 1)) -> np.ndarray:
        own = rows_of_part(part, size)
        return np.stack([rows_at(seed, first, size, total, steps).reshape(steps, size)[:, own] for seed in seeds])

    return rows


def log_chunk(log: RequestBatch, size: int) -> Callable[..., RequestBatch]:
    """The `chunk` function of a stored log with numpy leaves [n, ...]; a part reads its rows only."""
    rows = log_rows(len(log.mask), size)

    def chunk(seeds: Sequence[int], first: int, steps: int, part: tuple[int, int] = (0, 1)) -> RequestBatch:
        chosen = rows(seeds, first, steps, part)
        return jax.tree.map(lambda leaf: leaf[chosen], log)

    return chunk


def log_source(
    spec: FeatureSpec,
    catalogue: Catalogue,
    featurise: Callable[[Any, Any], RequestBatch],
    log: RequestBatch,
    size: int,
    frequency: np.ndarray,
) -> Source:
    """A stored log with numpy leaves [n, ...], `size` requests a batch, epoch after epoch; see `Source`."""
    total = len(log.mask)
    chunk, rows = log_chunk(log, size), log_rows(total, size)
    return Source(spec, catalogue, featurise, chunk, total / size, frequency, log, rows)


def record(source: Source, seed: int, steps: int, block: int) -> RequestBatch:
    """The stored requests of the first `steps` batches of a seed, as one log of NumPy leaves [steps * B, ...].

    Args:
        source: where they come from.
        seed: of the stream.
        steps: how many batches.
        block: how many are asked for at a time; must divide `steps`.
    """
    parts = [jax.tree.map(lambda leaf: leaf[0], source.chunk([seed], first, block)) for first in range(0, steps, block)]
    return jax.tree.map(lambda *leaves: np.concatenate([leaf.reshape(-1, *leaf.shape[2:]) for leaf in leaves]), *parts)


def reuse(source: Source, logs: dict[int, RequestBatch], size: int) -> Source:
    """The source with recorded logs of equal length that are read epoch after epoch, each in a keyed order."""
    total = len(next(iter(logs.values())).mask)
    rows = log_rows(total, size)

    def chunk(seeds: Sequence[int], first: int, steps: int, part: tuple[int, int] = (0, 1)) -> RequestBatch:
        parts = []
        for seed in seeds:
            chosen = rows([seed], first, steps, part)[0]
            parts.append(jax.tree.map(lambda leaf, r=chosen: leaf[r], logs[seed]))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *parts)

    return replace(source, chunk=chunk, epoch_steps=total / size, log=None, rows=None)


def replay(source: Source, logs: dict[int, RequestBatch], size: int) -> Source:
    """The source with recorded logs in place of its chunks: step s of a seed is rows s B to (s + 1) B of its log."""

    def chunk(seeds: Sequence[int], first: int, steps: int, part: tuple[int, int] = (0, 1)) -> RequestBatch:
        rows, own = slice(first * size, (first + steps) * size), rows_of_part(part, size)

        def cut(leaf: np.ndarray) -> np.ndarray:
            return leaf[rows].reshape(steps, size, *leaf.shape[1:])[:, own]

        parts = [jax.tree.map(cut, logs[seed]) for seed in seeds]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *parts)

    return replace(source, chunk=chunk, log=None, rows=None)
