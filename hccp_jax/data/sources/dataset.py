"""What every source of public data says of itself, and what its conversion leaves in a store.

A store of impressions has tables of requests, `train`, `validation` and `test` (whichever the protocol has), and tables
of features by id, `items` and `users`, whose row 0 is padding. Beside a batch's own columns a table of requests has
`request_time` [U] int64 milliseconds, and `history_time` [U, H] where histories have times: see `data.guards`. A store
of sequences (next-item prediction) has tables of events instead: see `data.sequences`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.store_writer import StoreWriter


@dataclass(frozen=True)
class PublishedFile:
    """A file of a data set as it is published.

    Attributes:
        name: of the file.
        size: in words, as far as known.
        checksum: "md5:..." or "sha256:..." of a good copy; empty where none is known.
    """

    name: str
    size: str = ""
    checksum: str = ""


@dataclass(frozen=True)
class Facts:
    """What a conversion knows of its data beyond the tables.

    Attributes:
        spec: sizes of the features; None for sequences.
        vocabulary: of `requests.validate`.
        zone: hours east of UTC in which days are counted; None where the data has no times.
        lines: counts and choices worth knowing.
        warnings: what a reader must not overlook.
        simulated: which stages are simulated, in words; empty where none is.
        timed: whether parts are split by time, so that their order is checked.
        more: anything an experiment needs.
    """

    spec: FeatureSpec | None = None
    vocabulary: Mapping[str, int] = field(default_factory=dict)
    zone: int | None = None
    lines: Sequence[str] = ()
    warnings: Sequence[str] = ()
    simulated: str = ""
    timed: bool = True
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    Attributes:
        name: of `--source`.
        title: full name.
        papers: whose experiments use it, and as what.
        where: address to have it from.
        licence: in words.
        files: as published.
        config: a configuration dataclass, the protocol.
        convert: (input folder, configuration, writer, say) -> Facts; writes the tables, a line of progress by `say`.
        note: what else a user has to know before fetching it.
    """

    name: str
    title: str
    papers: str
    where: str
    licence: str
    files: tuple[PublishedFile, ...]
    config: type
    convert: Callable[[Path, Any, StoreWriter, Callable[[str], None]], Facts]
    note: str = ""
