"""ToutiaoRec (HAP, WWW 2026): exposures with feedback and negatives of three stages, in a schema that is not published.

The data are announced and not released, and no schema is public. What is read here is the form that their description
suggests: CSV files with a header in the folders `train` and `test`, a row for each candidate of a request,

    request_id, user_id, item_id, source, prerank_pos, rank_pos, click, like, comment, content_type, feature_1 .. 29

with source one of exposed, RN (unexposed, ranked below 50), PRN (unexposed, pre-ranked below 200) and GN (of the whole
catalogue). Everything is an integer; positions and feedback may be empty.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from hccp_jax.config import field
from hccp_jax.data import buckets, candidate_lists
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.csv_stream import Column, stream
from hccp_jax.data.identities import Distinct, dense
from hccp_jax.data.lists import Slots, padded
from hccp_jax.data.requests import Stage
from hccp_jax.data.sources.dataset import DataSet, Facts, PublishedFile
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

STAGES = {"exposed": Stage.EXPOSED, "RN": Stage.RANKED, "PRN": Stage.PRERANKED, "GN": Stage.POOL}
TASKS = ("click", "like", "comment")
FIELDS = ("content_type", *(f"feature_{number}" for number in range(1, 30)))
_ID = Column(low=0, high=2**62)
_POSITION = Column(low=0, high=2**31 - 2, missing=True)
COLUMNS = {
    "request_id": _ID,
    "user_id": _ID,
    "item_id": _ID,
    "source": Column("text", choices=tuple(STAGES)),
    "prerank_pos": _POSITION,
    "rank_pos": _POSITION,
    **dict.fromkeys(TASKS, Column(low=0, high=1, missing=True)),
    **dict.fromkeys(FIELDS, Column(low=0, high=2**31 - 2)),
}
PRERANK = "prerank_position"  # [U, K] int32 beside a batch's own columns, -1 where it is not known
BUCKET_ROWS = 500_000  # of 39 columns each
SHARD_SLOTS = 1_000_000  # of a shard, with 30 fields each


@dataclass(frozen=True)
class ToutiaoConfig:
    """How requests become lists."""

    schema_confirmed: bool = field(False, "says that you have the data and that it is in the form assumed here")
    list_length: int = field(100, "K: candidates in one list; a longer request goes on as another", at_least=1)


def parsed(path: Path) -> Iterator[pl.DataFrame]:
    """Blocks of a file, with small types.

    Raises:
        UserError: naming the file, the row and the column of the first thing that is not as expected.
    """
    rows = 0
    for frame in stream(path, COLUMNS):
        unranked = (frame["source"] == "RN") & frame["rank_pos"].is_null()
        told = (frame["source"] != "exposed") & (pl.Series(frame.select(pl.sum_horizontal(TASKS)).to_series()) > 0)
        for bad, what in ((unranked, "rank_pos=nothing, expected a position of an RN item"), (told, "")):
            if bad.any():
                row = int(bad.arg_max() or 0)
                text = what or f"source={frame['source'][row]!r} has feedback, expected it of exposed items only"
                raise UserError(f"{path.name}: row {rows + row + 1}: {text}")
        rows += frame.height
        stage = frame["source"].replace_strict(list(STAGES), [int(s) for s in STAGES.values()], return_dtype=pl.Int8)
        small = [pl.col("prerank_pos", "rank_pos").fill_null(-1).cast(pl.Int32), pl.col(FIELDS).cast(pl.Int32)]
        labels = pl.col(TASKS).fill_null(0).cast(pl.Int8)
        yield frame.with_columns(*small, labels).drop("source").with_columns(stage.alias("stage"))


def spread(folder: Path, parts: dict[str, list[Path]], count: int) -> dict[str, int]:
    """Scatter all rows by request and note ids, and the fields' values of training; how many rows each part has."""
    known = {name: Distinct() for name in ("user_id", "item_id", *FIELDS)}

    def noted(part: str) -> Iterator[pl.DataFrame]:
        for frame in candidate_lists.frames(parts[part], parsed):
            for name, values in known.items():
                if part == "train" or name not in FIELDS:
                    values.add(frame[name])
            yield frame

    key = partial(buckets.of_key, "request_id")
    rows = {part: buckets.scatter(noted(part), key, count, folder / part) for part in parts}
    for name, values in known.items():
        np.save(folder / f"{name}.npy", values.sorted().to_numpy())
    return rows


def requests_of(frame: pl.DataFrame) -> tuple[pl.DataFrame, np.ndarray]:
    """The distinct rows of a bucket, and the request of each."""
    rows = frame.unique(maintain_order=True)
    return rows, candidate_lists.group(rows, ["request_id", "user_id"])


class Encoder:
    """Writes the buckets of a part in lists of `width`, with the vocabularies that `spread` left."""

    def __init__(self, folder: Path, width: int) -> None:
        self.width = width
        self.users, self.items = (pl.Series(np.load(folder / f"{name}.npy")) for name in ("user_id", "item_id"))
        self.fields = [pl.Series(np.load(folder / f"{name}.npy")) for name in FIELDS]
        self.starts = np.cumsum([0, *(len(values) for values in self.fields)])  # ids of a field begin after this

    def write(self, writer: StoreWriter, part: str, number: int) -> None:
        """The requests of a bucket, so many a shard that it fits memory."""
        frame = buckets.bucket_rows(writer.work / part, number)
        if frame is None:
            return
        rows, request = requests_of(frame)
        order, slots = candidate_lists.arranged(request, rows["stage"].to_numpy(), self.width)
        rows = rows[order]
        for piece, (some, lists) in enumerate(candidate_lists.pieces(slots, max(1, SHARD_SLOTS // self.width))):
            writer.shard(part, f"{number:05}-{piece:03}", partial(self._columns, rows[some], lists))

    def _columns(self, rows: pl.DataFrame, slots: Slots) -> dict[str, np.ndarray]:
        stage, position = rows["stage"].to_numpy(), rows["rank_pos"].to_numpy()
        rank = np.where(stage <= Stage.RANKED, position, -1)
        codes = [dense(known, rows[name]) for known, name in zip(self.fields, FIELDS, strict=True)]
        shifted = [np.where(code > 0, code + start, 0) for code, start in zip(codes, self.starts, strict=False)]
        labels = {task: rows[task].to_numpy() for task in TASKS}
        item = dense(self.items, rows["item_id"])
        return {
            "user.id": dense(self.users, rows["user_id"][slots.first]),
            **candidate_lists.columns(slots, self.width, item, stage, rank, labels),
            "items.categorical": padded(slots, self.width, np.stack(shifted, axis=1).astype(np.int32)),
            PRERANK: padded(slots, self.width, rows["prerank_pos"].to_numpy(), -1),
        }


def convert(folder: Path, protocol: ToutiaoConfig, writer: StoreWriter, say: Callable[[str], None]) -> Facts:
    """Convert; see `data.sources.dataset`."""
    if not protocol.schema_confirmed:
        raise UserError(
            "schema_confirmed=false: ToutiaoRec is not released and its schema is not public; schema_confirmed=true "
            "says that you have the data and brought it into the form that hccp_jax.data.sources.toutiao describes"
        )
    parts = candidate_lists.published_parts(folder)
    total = sum(path.stat().st_size * (4 if path.suffix == ".gz" else 1) for paths in parts.values() for path in paths)
    count = max(1, min(512, total // (150 * BUCKET_ROWS)))  # a row has about 150 bytes
    rows = writer.step("spread", lambda: spread(writer.work, parts, count))
    say(f"rows: {', '.join(f'{part} {number:,}' for part, number in rows.items())}")
    sizes = partial(
        candidate_lists.measured, count=count, width=protocol.list_length, named="request_id", requests_of=requests_of
    )
    counts = writer.step("measured", lambda: {part: sizes(writer.work / part) for part in parts})
    encoder = Encoder(writer.work, min(protocol.list_length, max(of["longest"] for of in counts.values())))
    for part in parts:
        for number in range(count):
            encoder.write(writer, part, number)
    users, items, categories = len(encoder.users) + 1, len(encoder.items) + 1, int(encoder.starts[-1]) + 1
    writer.table("users", candidate_lists.present(users))
    writer.table("items", candidate_lists.present(items))
    lines = [
        f"{part}: {rows[part]:,} rows, {of['duplicates']} exact duplicates removed, "
        f"{of['requests'] - of['names']} more requests as users differ within a request id, "
        f"{of['longer']} longer than list_length={protocol.list_length}"
        for part, of in counts.items()
    ]
    return Facts(
        spec=FeatureSpec(users, items, 1, categories, TASKS, 1, 0),
        vocabulary={"user.id": users, "items.id": items, "items.categorical": categories},
        lines=[*lines, "RN is RANKED with rank_pos as its order, PRN is PRERANKED, GN is POOL"],
        warnings=[
            "the schema is assumed: the data are not released; feature_1 to 29 are taken as categories of a candidate",
            "no times: whether test follows train is not known; there is no history",
        ],
        timed=False,
    )


DATASETS = (
    DataSet(
        name="toutiao",
        title="ToutiaoRec (HAP, WWW 2026), in an assumed schema",
        papers="HAP (WWW 2026): exposures, RN, PRN and GN negatives with the ranks of all stages",
        where="announced at github.com/Toutiao-Rec/HAP and github.com/Toutiao-Rec/ToutiaoRec; not released",
        licence="none stated",
        files=(PublishedFile("train", "a folder of CSV files"), PublishedFile("test", "a folder of CSV files")),
        config=ToutiaoConfig,
        convert=convert,
        note="needs --schema_confirmed=true",
    ),
)
