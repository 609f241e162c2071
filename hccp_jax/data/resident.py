"""Logs that stay on the device: a batch is then its row numbers, and no request crosses to it while training."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from hccp_jax.data.catalogue import Catalogue
from hccp_jax.data.requests import RequestBatch
from hccp_jax.data.source import Source

SHARE = 0.25  # of a device's memory that a log may take


@struct.dataclass
class Resident:
    """What is on the device: a log [n, ...] and the feature tables."""

    log: RequestBatch
    catalogue: Catalogue


def resident(source: Source) -> Source:
    """The source of a stored log with the log beside the catalogue, on the device; the same batches.

    Raises:
        ValueError: if the source has no stored log.
    """
    log, rows = source.log, source.rows
    if log is None or rows is None:
        raise ValueError("only a stored log can stay on the device")

    def featurise(batch: dict[str, jax.Array], whole: Resident) -> RequestBatch:
        return source.featurise(jax.tree.map(lambda leaf: leaf[batch["row"]], whole.log), whole.catalogue)

    def chunk(seeds: Sequence[int], first: int, steps: int, part: tuple[int, int] = (0, 1)) -> dict[str, Any]:
        return {"row": rows(seeds, first, steps, part).astype("int32")}

    whole: Any = Resident(jax.tree.map(jnp.asarray, log), source.catalogue)
    return replace(source, catalogue=whole, featurise=featurise, chunk=chunk)


def placed(source: Source, wanted: str) -> Source:
    """The source with its log on the device if that is wanted.

    Args:
        source: any.
        wanted: "always"; "never"; or "auto", which is on an accelerator with room for it: on a CPU it gains nothing.
    """
    if source.log is None or wanted == "never":
        return source
    return resident(source) if wanted == "always" or _fits(source.log) else source


def _fits(log: RequestBatch) -> bool:
    if jax.default_backend() == "cpu":
        return False
    memory = jax.local_devices()[0].memory_stats() or {}
    free = memory.get("bytes_limit", 0) - memory.get("bytes_in_use", 0)
    return sum(leaf.nbytes for leaf in jax.tree.leaves(log)) <= SHARE * free
