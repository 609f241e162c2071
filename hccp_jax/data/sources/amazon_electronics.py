"""Amazon Electronics (McAuley et al., 2014 release, 5-core) in IntTower's protocol; see `data.ratings`.

Reviews are JSON, one object a line; products are Python dictionaries, one a line, which JSON does not read. Neither is
ever evaluated as code.
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

from hccp_jax.config import field
from hccp_jax.data import ratings as protocols
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.csv_stream import find
from hccp_jax.data.fields import codes, side_by_side
from hccp_jax.data.identities import dense
from hccp_jax.data.ratings import RatingsConfig
from hccp_jax.data.sources.dataset import DataSet, Facts, PublishedFile
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

BLOCK = 16 << 20  # bytes of text read at a time
_SCHEMA = {"reviewerID": pl.String, "asin": pl.String, "overall": pl.Float64, "unixReviewTime": pl.Int64}
_LATEST = 2**33  # seconds: the year 2242
_PRICES = (5, 10, 15, 20, 30, 50, 75, 100, 150, 250, 500)
_ASIN = re.compile(r"""['"]asin['"]: ['"]([^'"]+)['"]""")


@dataclass(frozen=True)
class AmazonConfig(RatingsConfig):
    """As `RatingsConfig`; the public code keeps ratings of 3, as negatives, in this data set.

    A user reviews little more than one product a day, so that wide lists would be padding.
    """

    dropped: tuple[int, ...] = field((), "ratings that are left out, separated by commas", at_least=1, at_most=5)
    exposed: int = field(4, "K: reviews in one request; a longer day goes on as another request", at_least=1)
    history: int = field(20, "H: latest positively rated products before the request", at_least=1)


def blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Whole lines, about BLOCK bytes at a time, with the number of lines before them.

    Raises:
        UserError: for a damaged gzip stream, or a last line that is cut off.
    """
    opened: Any = gzip.open if path.suffix == ".gz" else open
    row, rest = 0, b""
    try:
        with opened(path, "rb") as file:
            while block := file.read(BLOCK):
                whole, newline, rest = (rest + block).rpartition(b"\n")
                if newline:
                    yield row, whole + newline
                    row += whole.count(b"\n") + 1
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path.name}: cannot be read after row {row} ({error})") from None
    if rest.strip():
        raise UserError(f"{path.name}: row {row + 1}: cut off, no end of line")
    if not row:
        raise UserError(f"{path.name}: row 1: no rows")


def reviews(path: Path) -> pl.DataFrame:
    """The columns of _SCHEMA of all reviews.

    Raises:
        UserError: naming the file, the row and the field of the first review that is not as expected.
    """
    found = []
    for row, block in blocks(path):
        try:
            frame = pl.read_ndjson(io.BytesIO(block), schema=_SCHEMA)
            good = frame.select(
                pl.col("reviewerID", "asin").str.len_chars() > 0,
                pl.col("overall").is_in([1.0, 2.0, 3.0, 4.0, 5.0]),
                pl.col("unixReviewTime").is_between(0, _LATEST),
            ).fill_null(False)
        except pl.exceptions.PolarsError as error:
            raise _explained(path, row, block, str(error).splitlines()[0]) from None
        if frame.height != block.count(b"\n") or not good.select(pl.all_horizontal(pl.all()).all()).item():
            raise _explained(path, row, block, "not one review a line")
        found.append(frame)
    return pl.concat(found)


def _explained(path: Path, row: int, block: bytes, otherwise: str) -> UserError:
    """The first review of a block that cannot be taken."""
    texts: Callable[[Any], bool] = lambda value: isinstance(value, str) and value != ""  # noqa: E731
    number: Callable[[Any], bool] = lambda value: isinstance(value, int) and 0 <= value <= _LATEST  # noqa: E731
    expected: dict[str, tuple[Callable[[Any], bool], str]] = {
        "reviewerID": (texts, "text"),
        "asin": (texts, "text"),
        "overall": (lambda value: value in (1, 2, 3, 4, 5), "1, 2, 3, 4 or 5"),
        "unixReviewTime": (number, f"an integer in [0, {_LATEST}]"),
    }
    for offset, line in enumerate(block.splitlines(), 1):
        try:
            review = json.loads(line)
            if not isinstance(review, dict):
                raise ValueError("no object")
        except ValueError as error:
            return UserError(f"{path.name}: row {row + offset}: no JSON object ({error})")
        for name, (fits, word) in expected.items():
            if not fits(review.get(name)):
                return UserError(f"{path.name}: row {row + offset}: {name}={review.get(name)!r}, expected {word}")
    return UserError(f"{path.name}: after row {row}: {otherwise}")


def products(path: Path, wanted: set[str]) -> pl.DataFrame:
    """Category, brand and price of the wanted products; price and brand may be missing.

    Only lines of wanted products are parsed: most products have no review in the 5-core.

    Raises:
        UserError: naming the file and the row that is no dictionary with an asin and categories.
    """
    found: list[tuple[str, str, str | None, float | None]] = []
    for row, block in blocks(path):
        for offset, line in enumerate(block.decode("utf-8", "replace").split("\n")[:-1], 1):
            match = _ASIN.search(line)
            if match is None:
                raise UserError(f"{path.name}: row {row + offset}: no 'asin': {line[:40]!r}")
            if match[1] not in wanted:
                continue
            try:
                product = ast.literal_eval(line)
                leaf = str(product["categories"][0][-1])
                price = product.get("price")
                found.append((product["asin"], leaf, product.get("brand"), None if price is None else float(price)))
            except (ValueError, SyntaxError, KeyError, IndexError, TypeError, MemoryError, RecursionError) as error:
                raise UserError(f"{path.name}: row {row + offset}: no product with categories ({error!r})") from None
    schema = {"asin": pl.String, "category": pl.String, "brand": pl.String, "price": pl.Float64}
    return pl.DataFrame(found, schema=schema, orient="row").unique("asin", keep="first", maintain_order=True)


def product_table(asins: pl.Series, known: pl.DataFrame) -> tuple[np.ndarray, int]:
    """[1 + products, 3] int32: leaf category, brand, price range; and the vocabulary's size."""
    table = pl.DataFrame({"asin": asins}).join(known, on="asin", how="left", maintain_order="left")
    price = table["price"].to_numpy()
    ranges = np.where(np.isnan(price), 0, 1 + np.searchsorted(_PRICES, price)).astype(np.int32)
    columns = [codes(table["category"], keep=2046), codes(table["brand"], keep=8190, at_least=3)]
    return side_by_side([*columns, (ranges, 2 + len(_PRICES))], 1)


def convert(folder: Path, protocol: AmazonConfig, writer: StoreWriter, say: Callable[[str], None]) -> Facts:
    """Convert; see `data.sources.dataset`."""
    path, of_products = find(folder, "reviews_Electronics_5.json"), find(folder, "meta_Electronics.json")
    table = reviews(path)
    say(f"{path.name}: {table.height:,} reviews")
    again = ~table.select(pl.struct(pl.all()).is_first_distinct()).to_series()
    user_ids, asins = table["reviewerID"].unique().sort(), table["asin"].unique().sort()
    known = products(of_products, set(asins))
    say(f"{of_products.name}: {known.height:,} of {len(asins):,} products")
    stars = table["overall"].to_numpy()
    kept = ~np.isin(stars, protocol.dropped) & ~again.to_numpy()
    found = protocols.Ratings(
        dense(user_ids, table["reviewerID"]),
        dense(asins, table["asin"]),
        (stars > protocol.positive_above).astype(np.float32),
        table["unixReviewTime"].to_numpy() * 1000,
    ).at(kept)
    published = "takes user_mean_rating and item_mean_rating over all reviews before it splits them"
    lines, warnings = protocols.write(found, protocol, writer, "all", published)
    items, size = product_table(asins, known)
    writer.table("users", {"categorical": np.pad(np.ones((len(user_ids), 1), np.int32), ((1, 0), (0, 0)))})
    writer.table("items", {"categorical": items})
    pairs = table.select("reviewerID", "asin").filter(~again)
    ids = {"user.id": len(user_ids) + 1, "items.id": len(asins) + 1, "history.id": len(asins) + 1}
    return Facts(
        spec=FeatureSpec(len(user_ids) + 1, len(asins) + 1, 2, size, protocols.TASKS, 1, 0),
        vocabulary=ids,
        zone=protocols.UTC,
        lines=[
            f"removed {int(again.sum())} exact duplicates of {table.height:,} reviews; "
            f"{pairs.height - pairs.n_unique()} later reviews of a product reviewed before are kept",
            f"{len(asins) - known.height} of {len(asins):,} products have no line in {of_products.name}",
            "inferred from IntTower's code: a rating above 3 is positive and none is left out",
            *lines,
        ],
        warnings=[
            *warnings,
            "the 5-core is chosen with later reviews, and prices are those of the crawl in 2014: both look ahead",
            "review times are days: reviews of one day have no order, and none of them is in another's history",
        ],
        timed=protocol.split == "time",
    )


DATASETS = (
    DataSet(
        name="amazon_electronics",
        title="Amazon Electronics, 5-core of the 2014 release (McAuley et al., SIGIR 2015; He and McAuley, WWW 2016)",
        papers="IntTower (CIKM 2022): click from ratings; DIN and many others with other protocols",
        where="https://jmcauley.ucsd.edu/data/amazon/ (the files were at snap.stanford.edu/data/amazon/productGraph)",
        licence="none stated; research use, cite the papers",
        files=(
            PublishedFile("reviews_Electronics_5.json", "1,689,188 reviews, 192,403 users, 63,001 products"),
            PublishedFile("meta_Electronics.json", "498,196 products"),
        ),
        config=AmazonConfig,
        convert=convert,
        note="exposures are reviews: nothing is known of what was shown and not reviewed",
    ),
)
