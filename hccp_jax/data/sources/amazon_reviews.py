"""Amazon reviews (2014) as they are published: a review a line of JSON, and what is known of items as Python literals.

    reviews_Books_5.json            {"reviewerID": ..., "asin": ..., "unixReviewTime": seconds, ...}
    meta_Books.json                 {'asin': ..., 'categories': [[...], ...], ...}; may be absent

each gzipped or not, and any reviews_NAME.json likewise. Only the keys above are read; a literal is never evaluated as
code. An item's category is the last word of its first path, as ComiRec takes it.
"""

import ast
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from pyarrow import json as arrow_json

from hccp_jax.config import field
from hccp_jax.data.sources.dataset import DataSet, Facts, PublishedFile
from hccp_jax.data.sources.events import EventsConfig, Raw, convert_events, text_key
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

BLOCK = 32 << 20
BYTES = 600  # of a review, about
SCHEMA = pa.schema([("reviewerID", pa.string()), ("asin", pa.string()), ("unixReviewTime", pa.int64())])
REVIEWS = re.compile(r"reviews_(?P<name>.+)\.json(\.gz)?")
ASIN = re.compile(r"""['"]asin['"]: ['"]([^'"]*)['"]""")
EXPECTED = 'a line {"reviewerID": text, "asin": text, "unixReviewTime": seconds, ...}'


@dataclass(frozen=True)
class AmazonReviewsConfig(EventsConfig):
    """The protocol: ComiRec's."""

    name: str = field("", "NAME of reviews_NAME.json, such as Books_5; empty where the folder has one only")


def convert(folder: Path, protocol: AmazonReviewsConfig, writer: StoreWriter, say: Callable[[str], None]) -> Facts:
    """Write the sequences of all reviewers."""
    name, path = _reviews(folder, protocol.name)
    meta = _meta(folder, name)

    def categories(items: pl.Series) -> pl.Series:
        return pl.Series([None] * len(items), dtype=pl.String) if meta is None else _categories(meta, items)

    size = path.stat().st_size * (3 if path.suffix == ".gz" else 1)
    raw = Raw(f"reviews_{name}", lambda: _frames(path), size // BYTES, dict, categories)
    return convert_events(raw, protocol, writer, say)


def _reviews(folder: Path, wanted: str) -> tuple[str, Path]:
    found = {m["name"]: path for path in sorted(folder.iterdir()) if (m := REVIEWS.fullmatch(path.name))}
    if wanted and wanted not in found:
        raise UserError(f"name={wanted!r}: no reviews_{wanted}.json in {folder}; it has {', '.join(found) or 'none'}")
    if not found:
        raise UserError(f"input={folder}: no reviews_NAME.json there, gzipped or not")
    if len(found) > 1 and not wanted:
        raise UserError(f"name='': expected one of {', '.join(found)}, as {folder} has several")
    name = wanted or next(iter(found))
    return name, found[name]


def _meta(folder: Path, name: str) -> Path | None:
    """What is known of items, of the whole category or of its dense part: meta_Books.json serves reviews_Books_5."""
    names = [f"meta_{one}.json{end}" for one in (name, re.sub(r"_\d+$", "", name)) for end in ("", ".gz")]
    return next((folder / one for one in names if (folder / one).is_file()), None)


def _blocks(path: Path) -> Iterator[tuple[int, list[bytes]]]:
    """Whole lines, some at a time, with the number of lines before them.

    Raises:
        UserError: if the file cannot be read to its end.
    """
    opened: Any = gzip.open if path.suffix == ".gz" else open
    rows = 0
    try:
        with opened(path, "rb") as file:
            while lines := file.readlines(BLOCK):
                yield rows, lines
                rows += len(lines)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path.name}: gzip stream damaged after row {rows}: {error}") from None
    if not rows:
        raise UserError(f"{path.name}: row 1: no rows")


def _frames(path: Path) -> Iterator[pl.DataFrame]:
    parsing = arrow_json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
    for before, lines in _blocks(path):
        text = b"".join(lines)
        reading = arrow_json.ReadOptions(use_threads=False, block_size=max(len(text) + 1, 1 << 10))
        try:
            table = arrow_json.read_json(io.BytesIO(text), reading, parsing)
        except (pa.ArrowException, OSError) as error:
            raise _explained(path, before, lines, error) from None
        frame: Any = pl.from_arrow(table)
        bad = pl.any_horizontal(pl.all().is_null()) | (pl.col("reviewerID") == "") | (pl.col("asin") == "")
        if frame.height != len(lines) or frame.select(bad.any()).item():
            raise _explained(path, before, lines, ValueError("a line of another form"))
        yield frame.select(
            pl.col("reviewerID").alias("user"),
            pl.col("asin").alias("item"),
            (pl.col("unixReviewTime") * 1000).alias("time"),
            text_key(frame["reviewerID"]).alias("key"),
        )


def _explained(path: Path, before: int, lines: list[bytes], error: Exception) -> UserError:
    """The first line that is no review."""
    for row, line in enumerate(lines, before + 1):
        try:
            review = json.loads(line)
            texts = [review["reviewerID"], review["asin"]]
            if not all(isinstance(one, str) and one for one in texts) or type(review["unixReviewTime"]) is not int:
                raise ValueError
        except (ValueError, KeyError, TypeError):
            return UserError(f"{path.name}: row {row}: {line[:60]!r}, expected {EXPECTED}")
    return UserError(f"{path.name}: after row {before}: {str(error).splitlines()[0]}")


def _categories(path: Path, items: pl.Series) -> pl.Series:
    """The category of each item, null where the file does not tell it."""
    place = {item: index for index, item in enumerate(items.to_list())}
    found = np.full(len(items), None, object)
    for before, lines in _blocks(path):
        for row, line in enumerate(lines, before + 1):
            try:
                text = line.decode("utf-8")
                # what no event names is not parsed: five lines of six of meta_Books.json
                if not any(one in place for one in ASIN.findall(text)):
                    continue
                known = ast.literal_eval(text.strip())
                index = place.get(known["asin"])
                paths = known.get("categories") or [[]]
                if index is not None and paths[0]:
                    found[index] = str(paths[0][-1])
            except (ValueError, SyntaxError, KeyError, TypeError, AttributeError, MemoryError, RecursionError):
                expected = "a line {'asin': text, 'categories': [[text, ...], ...], ...}"
                raise UserError(f"{path.name}: row {row}: {line[:60]!r}, expected {expected}") from None
    return pl.Series(found.tolist(), dtype=pl.String)


DATASETS = (
    DataSet(
        name="amazon_books",
        title="Amazon reviews (2014), of books or of any other category",
        papers="CROLoss (Tables 2-4), prepared by ComiRec's protocol",
        where="https://jmcauley.ucsd.edu/data/amazon/ (2014, by category)",
        licence="for research; cite McAuley et al., SIGIR 2015",
        files=(
            PublishedFile("reviews_Books_5.json", "8,898,041 reviews"),
            PublishedFile("meta_Books.json", "optional: the categories of items"),
        ),
        config=AmazonReviewsConfig,
        convert=convert,
    ),
)
