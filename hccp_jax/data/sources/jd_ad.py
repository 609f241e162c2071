"""JD.ad Pre-ranking (Song et al., "Entire-chain Cross-domain Models", CIKM 2022): candidates of sessions, by stage.

No document of the files is public; the authors' loader reads text with six fields between tabs, and none is named:

    session <tab> item <tab> click,expose,unexposed <tab> 6 user <tab> 6 item <tab> 10 cross

The last three are integers in [0, 2^26) between commas, hashed categories with one table of embeddings for all. Here
they are compacted into exact vocabularies of what training has, one of users and one of items; 0 is anything else.
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

HASHED = 1 << 26  # values of a field are below
FIELDS = {"user": 6, "own": 6, "cross": 10}  # of a user, of an item, of both
NAMES = ("session", "item", "label", *FIELDS)
BUCKET_ROWS = 1_000_000  # of 22 fields each
SHARD_SLOTS = 2_000_000  # of a shard, with 16 fields each
_STAGES = {"preranked": Stage.PRERANKED, "pool": Stage.POOL}
_USER = [f"user{number}" for number in range(FIELDS["user"])]
_OWN = [f"own{number}" for number in range(FIELDS["own"])]
_CROSS = [f"cross{number}" for number in range(FIELDS["cross"])]


@dataclass(frozen=True)
class JdAdConfig:
    """How sessions become requests."""

    list_length: int = field(200, "K: candidates in one request; a longer session goes on as another", at_least=1)
    unexposed: str = field("preranked", "stage of what was not exposed", choices=tuple(_STAGES))
    cross_fields: bool = field(True, "whether an item has the 10 crossed fields; two towers cannot use them")
    days: tuple[str, ...] = field((), "sub-folders of train to read, separated by commas; all if none is named")


def parsed(path: Path) -> Iterator[pl.DataFrame]:
    """Blocks of a file: session, item, label 2 click, 1 exposed or 0 not, and the 22 fields as Int32.

    Raises:
        UserError: naming the file, the row and the field of the first thing that is not as expected.
    """
    rows = 0
    for frame in stream(path, {name: Column("text") for name in NAMES}, names=NAMES, delimiter="\t"):
        label = _numbers(path, frame["label"], rows, 3, pl.Float64, 1)
        bad = ((label != 0) & (label != 1)).any(axis=1) | ((label[:, 0] + label[:, 1] > 0) == (label[:, 2] > 0))
        if bad.any():
            row = int(np.argmax(bad))
            expected = "click,expose,unexposed of 0 and 1, either exposed or not"
            raise UserError(f"{path.name}: row {rows + row + 1}: label={frame['label'][row]!r}, expected {expected}")
        found = {"session": frame["session"], "item": frame["item"]}
        found["label"] = pl.Series(np.where(label[:, 0] > 0, 2, label[:, 1]).astype(np.int8))
        for name, width in FIELDS.items():
            values = _numbers(path, frame[name], rows, width, pl.Int64, HASHED - 1).astype(np.int32)
            found |= {f"{name}{number}": pl.Series(values[:, number]) for number in range(width)}
        yield pl.DataFrame(found)
        rows += frame.height


def _numbers(path: Path, text: pl.Series, rows: int, width: int, kind: type, high: int) -> np.ndarray:
    """[n, width] numbers in [0, high] of texts with commas between them."""
    lists = text.str.split(",")
    bad = (lists.list.len() != width).to_numpy()
    if not bad.any():
        values = lists.explode().cast(kind, strict=False)
        wrong = ~values.is_between(0, high).fill_null(False)
        if not wrong.any():
            return values.to_numpy().reshape(-1, width)
        bad = np.asarray(wrong.to_numpy().reshape(-1, width).any(axis=1))
    row = int(np.argmax(bad))
    expected = f"{width} numbers in [0, {high}] with ',' between"
    raise UserError(f"{path.name}: row {rows + row + 1}: {text.name}={text[row]!r}, expected {expected}")


@dataclass(frozen=True)
class Vocabularies:
    """Where steps leave what they find: item ids, and which hashed values training has of users and of items."""

    folder: Path

    def spread(self, parts: dict[str, list[Path]], count: int) -> dict[str, int]:
        """Scatter all rows by session and note the values; how many rows each part has."""
        items, seen = Distinct(), {side: np.zeros(HASHED, bool) for side in ("user", "item")}

        def noted(part: str) -> Iterator[pl.DataFrame]:
            for frame in candidate_lists.frames(parts[part], parsed):
                items.add(frame["item"])
                if part == "train":
                    for name in frame.columns[3:]:
                        seen["user" if name in _USER else "item"][frame[name].to_numpy()] = True
                yield frame.with_columns(pl.col("session").hash(0).reinterpret(signed=True).alias("_key"))

        rows = {
            part: buckets.scatter(noted(part), partial(buckets.of_key, "_key"), count, self.folder / part)
            for part in parts
        }
        for side, values in seen.items():
            np.save(self.folder / f"{side}.npy", np.flatnonzero(values).astype(np.int32))
        items.sorted().to_frame("item").write_ipc(self.folder / "items.arrow")
        return rows

    def items(self) -> pl.Series:
        """All item names, ascending."""
        return pl.read_ipc(self.folder / "items.arrow")["item"]

    def codes(self, side: str) -> tuple[np.ndarray, int]:
        """[HASHED] int32 id of each hashed value, 0 where training has none, and the vocabulary's size."""
        known = np.load(self.folder / f"{side}.npy")
        table = np.zeros(HASHED, np.int32)
        table[known] = np.arange(1, 1 + len(known))
        return table, 1 + len(known)


def requests_of(frame: pl.DataFrame) -> tuple[pl.DataFrame, np.ndarray]:
    """The distinct rows of a bucket, and their requests: a session with the same user fields."""
    rows = frame.drop("_key").unique(maintain_order=True)
    return rows, candidate_lists.group(rows, ["session", *_USER])


@dataclass(frozen=True)
class Encoder:
    """Writes the buckets of a part.

    Attributes:
        protocol: the settings.
        width: K.
        items: names of all items, ascending.
        users: [HASHED] int32 ids of hashed user values.
        fields: [HASHED] int32 the same of item values.
    """

    protocol: JdAdConfig
    width: int
    items: pl.Series
    users: np.ndarray
    fields: np.ndarray

    def write(self, writer: StoreWriter, part: str, number: int) -> None:
        """The requests of a bucket, so many a shard that it fits memory."""
        frame = buckets.bucket_rows(writer.work / part, number)
        if frame is None:
            return
        rows, request = requests_of(frame)
        stages = (int(_STAGES[self.protocol.unexposed]), int(Stage.EXPOSED))
        stage = np.where(rows["label"].to_numpy() > 0, stages[1], stages[0]).astype(np.int8)
        order, slots = candidate_lists.arranged(request, stage, self.width)
        rows, stage = rows[order], stage[order]
        for piece, (some, lists) in enumerate(candidate_lists.pieces(slots, max(1, SHARD_SLOTS // self.width))):
            writer.shard(part, f"{number:05}-{piece:03}", partial(self._columns, rows[some], stage[some], lists))

    def _columns(self, rows: pl.DataFrame, stage: np.ndarray, slots: Slots) -> dict[str, np.ndarray]:
        names = [*_OWN, *(_CROSS if self.protocol.cross_fields else [])]
        click = {"click": (rows["label"] == 2).to_numpy()}
        item, none = dense(self.items, rows["item"]), np.full(rows.height, -1)
        return {
            "user.id": np.ones(len(slots.first), np.int32),
            "user.categorical": self.users[rows.select(_USER).to_numpy()[slots.first]],
            **candidate_lists.columns(slots, self.width, item, stage, none, click),
            "items.categorical": padded(slots, self.width, self.fields[rows.select(names).to_numpy()]),
        }


def convert(folder: Path, protocol: JdAdConfig, writer: StoreWriter, say: Callable[[str], None]) -> Facts:
    """Convert; see `data.sources.dataset`."""
    parts = candidate_lists.published_parts(folder, protocol.days)
    total = sum(path.stat().st_size * (4 if path.suffix == ".gz" else 1) for paths in parts.values() for path in paths)
    count = max(1, min(512, total // (200 * BUCKET_ROWS)))  # a row has about 200 bytes
    known = Vocabularies(writer.work)
    rows = writer.step("spread", lambda: known.spread(parts, count))
    say(f"rows: {', '.join(f'{part} {number:,}' for part, number in rows.items())}")
    sizes = partial(
        candidate_lists.measured, count=count, width=protocol.list_length, named="session", requests_of=requests_of
    )
    counts = writer.step("measured", lambda: {part: sizes(writer.work / part) for part in parts})
    width = min(protocol.list_length, max(of["longest"] for of in counts.values()))
    items, (users, user_size), (fields, item_size) = known.items(), known.codes("user"), known.codes("item")
    encoder = Encoder(protocol, width, items, users, fields)
    for part in parts:
        for number in range(count):
            encoder.write(writer, part, number)
    writer.table("users", candidate_lists.present(2))
    writer.table("items", candidate_lists.present(len(items) + 1))
    lines = [
        f"{part}: {rows[part]:,} rows, {of['duplicates']} exact duplicates removed, {of['names']:,} sessions, "
        f"{of['requests'] - of['names']} more requests as user fields differ within a session, "
        f"{of['longer']} longer than list_length={protocol.list_length}"
        for part, of in counts.items()
    ]
    warnings = [
        "no user ids, no times and no history: every request has user 1; whether test follows train is not known",
        "items.categorical is of the impression, so there is none for the whole catalogue",
    ]
    if not protocol.days:
        warnings.append("the authors' configuration trains on train/02 only: --days=02")
    return Facts(
        spec=FeatureSpec(2, len(items) + 1, user_size, item_size, ("click",), 1, 0),
        vocabulary={
            "user.id": 2,
            "items.id": len(items) + 1,
            "user.categorical": user_size,
            "items.categorical": item_size,
        },
        lines=[
            *lines,
            f"not exposed is {protocol.unexposed.upper()}: that it was ranked is not known, nor any order",
            "inferred from the authors' code: columns, their order, hashed values below 2^26, parts by folder",
        ],
        warnings=warnings,
        timed=False,
    )


DATASETS = (
    DataSet(
        name="jd_ad",
        title="JD.ad Pre-ranking (Song et al., CIKM 2022)",
        papers="ECMM (CIKM 2022): click, exposed and not exposed",
        where="http://box.jd.com/sharedInfo/FC5D1899151CF81DEEC946AFBC5707A7 (password: see github.com/songjinbo/ECMM)",
        licence="none stated for the data; the code is Apache-2.0",
        files=(PublishedFile("train", "a folder of days with files"), PublishedFile("test", "a folder of files")),
        config=JdAdConfig,
        convert=convert,
        note="the files' form is inferred from the authors' loader; the address was not tried",
    ),
)
