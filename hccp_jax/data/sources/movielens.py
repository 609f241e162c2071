"""MovieLens-1M as GroupLens publishes it, in IntTower's protocol; see `data.ratings` for the protocol and its leak.

The files have no header, "::" between fields and are latin-1: one-character delimiters and UTF-8 do not read them.
"""

import gzip
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl

from hccp_jax.data import ratings as protocols
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.csv_stream import Column, find
from hccp_jax.data.fields import codes, several, side_by_side
from hccp_jax.data.identities import dense
from hccp_jax.data.ratings import RatingsConfig
from hccp_jax.data.sources.dataset import DataSet, Facts, PublishedFile
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

_ID = Column(low=1, high=2**31 - 2)
RATINGS = {
    "UserID": _ID,
    "MovieID": _ID,
    "Rating": Column(low=1, high=5),
    "Timestamp": Column(low=0, high=2**33),
}
USERS = {
    "UserID": _ID,
    "Gender": Column("text", choices=("F", "M")),
    "Age": Column(low=0, high=200),
    "Occupation": Column(low=0, high=20),
    "Zip-code": Column("text"),
}
MOVIES = {"MovieID": _ID, "Title": Column("text"), "Genres": Column("text")}
SEPARATOR = "::"


def read(path: Path, columns: Mapping[str, Column]) -> pl.DataFrame:
    """A whole file, strictly.

    Raises:
        UserError: one line naming the file, the row and the column of the first thing that is not as expected.
    """
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path.name}: cannot be read ({error})") from None
    text = raw.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    lines = pl.Series("line", text.replace("\r\n", "\n").split("\n"), dtype=pl.String)
    if lines[-1]:
        raise UserError(f"{path.name}: row {len(lines)}: cut off, no end of line")
    lines = lines[:-1]
    if not len(lines):
        raise UserError(f"{path.name}: row 1: no rows")
    fields = lines.str.count_matches(SEPARATOR, literal=True) + 1
    if (wrong := fields != len(columns)).any():
        row = int(wrong.arg_max() or 0)
        raise UserError(f"{path.name}: row {row + 1}: {fields[row]} fields, expected {len(columns)} with '::' between")
    table = lines.str.split_exact(SEPARATOR, len(columns) - 1).struct.rename_fields(list(columns)).struct.unnest()
    return pl.DataFrame([_checked(path, table[name], column) for name, column in columns.items()])


def _checked(path: Path, text: pl.Series, column: Column) -> pl.Series:
    if column.kind == "int":
        values = text.cast(pl.Int64, strict=False)
        good = values.is_between(column.low, column.high).fill_null(False)
    else:
        values = text
        good = text.is_in(column.choices) if column.choices else text.str.strip_chars() != ""
    if not good.all():
        row = int(good.arg_min() or 0)
        raise UserError(f"{path.name}: row {row + 1}: {text.name}={text[row]!r}, expected {column.expected}")
    return values


def _distinct(path: Path, ids: pl.Series) -> pl.Series:
    """The ids of a table, ascending; one that comes twice is refused."""
    if (again := ids.is_duplicated()).any():
        row = int(again.arg_true()[1])
        raise UserError(f"{path.name}: row {row + 1}: {ids.name}={ids[row]} comes twice")
    return ids.sort()


def _known(path: Path, ids: pl.Series, known: pl.Series, where: Path) -> np.ndarray:
    found = dense(known, ids)
    if not found.all():
        row = int(np.argmin(found > 0))
        raise UserError(f"{path.name}: row {row + 1}: {ids.name}={ids[row]} is not in {where.name}")
    return found


def movie_table(movies: pl.DataFrame) -> tuple[np.ndarray, int]:
    """[1 + movies, C] int32: decade, then the genres, which share their ids; and the vocabulary's size."""
    decade = movies["Title"].str.extract(r"\((\d{3})\d\)\s*$")
    table, size = side_by_side([codes(decade)], 1)
    genres, count = several(movies["Genres"].str.split("|"))
    shared = np.where(genres > 0, genres + size - 1, 0)  # 0 = no more genres, as for an unknown value
    return np.concatenate([table, np.pad(shared, ((1, 0), (0, 0)))], axis=1).astype(np.int32), size + count


def convert(folder: Path, protocol: RatingsConfig, writer: StoreWriter, say: Callable[[str], None]) -> Facts:
    """Convert; see `data.sources.dataset`."""
    paths = [find(folder, name) for name in ("ratings.dat", "users.dat", "movies.dat")]
    table, users, movies = (read(path, of) for path, of in zip(paths, (RATINGS, USERS, MOVIES), strict=True))
    say(f"{paths[0].name}: {table.height:,} ratings")
    user_ids, movie_ids = _distinct(paths[1], users["UserID"]), _distinct(paths[2], movies["MovieID"])
    users, movies = users.sort("UserID"), movies.sort("MovieID")
    user = _known(paths[0], table["UserID"], user_ids, paths[1])
    movie = _known(paths[0], table["MovieID"], movie_ids, paths[2])
    again = ~table.select(pl.struct(pl.all()).is_first_distinct()).to_series()
    stars = table["Rating"].to_numpy()
    kept = ~np.isin(stars, protocol.dropped) & ~again.to_numpy()
    positive = (stars > protocol.positive_above).astype(np.float32)
    time = table["Timestamp"].to_numpy() * 1000
    found = protocols.Ratings(user, movie, positive, time).at(kept)
    published = "takes user_mean_rating and user_hist of the test part from the test part's own labels"
    lines, warnings = protocols.write(found, protocol, writer, "part", published)
    user_table, user_size = side_by_side([codes(users[name]) for name in ("Gender", "Age", "Occupation")], 1)
    item_table, item_size = movie_table(movies)
    writer.table("users", {"categorical": user_table})
    writer.table("items", {"categorical": item_table})
    pairs = table.select("UserID", "MovieID").filter(~again)
    removed = (
        f"removed {int(again.sum())} exact duplicates and {int(np.isin(stars, protocol.dropped).sum())} ratings of "
    )
    return Facts(
        spec=FeatureSpec(len(user_ids) + 1, len(movie_ids) + 1, user_size, item_size, protocols.TASKS, 1, 0),
        vocabulary={
            "user.id": len(user_ids) + 1,
            "items.id": len(movie_ids) + 1,
            "history.id": len(movie_ids) + 1,
        },
        zone=protocols.UTC,
        lines=[
            removed + f"{', '.join(map(str, protocol.dropped)) or 'no kind'} of {table.height:,}; "
            f"{pairs.height - pairs.n_unique()} later ratings of a movie rated before are kept",
            *lines,
        ],
        warnings=warnings,
        timed=protocol.split == "time",
    )


DATASETS = (
    DataSet(
        name="movielens",
        title="MovieLens-1M (Harper and Konstan, TiiS 2015)",
        papers="IntTower (CIKM 2022): click from ratings; RankFlow with another protocol",
        where="https://grouplens.org/datasets/movielens/1m/",
        licence="GroupLens terms: research use, no redistribution without permission, acknowledgement",
        files=(
            PublishedFile("ratings.dat", "24 MB, 1,000,209 ratings"),
            PublishedFile("users.dat", "6,040 users"),
            PublishedFile("movies.dat", "3,883 movies"),
        ),
        config=RatingsConfig,
        convert=convert,
        note="exposures are ratings: nothing is known of what was shown and not rated",
    ),
)
