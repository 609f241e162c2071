"""PaddleRec's form of ComiRec's data: a user a line, `user_id:7 target_item:0 hist_item:5 ... eval_item:9 ...`."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hccp_jax.errors import UserError

FORM = r"^user_id:\d{1,9} target_item:\d+( hist_item:\d{1,9})+( eval_item:\d{1,9})+ ?$"
EXPECTED = "user_id:N target_item:N, then hist_item:N .. and eval_item:N .., one or more each"
SHARE = 0.8  # of a sequence, before what is to be predicted


def by_line(path: Path, largest: int, warn: Callable[[str], None]) -> Iterator[pl.DataFrame]:
    """The events of a file: user_id, item_id, order, row.

    Args:
        path: the file; all of it fits memory.
        largest: item id.
        warn: told of a last line that is cut, and of histories that are.

    Raises:
        UserError: for a line of another form, a user twice or an item id out of range.
    """
    opened: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            text = file.read()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path.name}: row 1: cannot be read ({error})") from None
    lines = text.splitlines()
    if lines and not text.endswith("\n"):
        warn(f"{path.name}: its last user has no end of line, may be cut and is left out")
        lines.pop()
    line = pl.Series("line", lines, dtype=pl.String)
    wrong = np.flatnonzero(~line.str.contains(FORM).to_numpy())
    if len(wrong) or not lines:
        row = int(wrong[0]) if lines else 0
        raise UserError(f"{path.name}: row {row + 1}: {line[row][:40] if lines else ''!r}, expected {EXPECTED}")
    frame = pl.DataFrame(
        {
            "user_id": line.str.extract(r"user_id:(\d+)").cast(pl.Int64),
            "item_id": line.str.extract_all(r"(?:hist|eval)_item:\d+"),
            "row": pl.arange(len(line), eager=True, dtype=pl.Int64),
        }
    )
    twice = np.flatnonzero(~frame["user_id"].is_first_distinct().to_numpy())
    if len(twice):
        raise UserError(f"{path.name}: row {twice[0] + 1}: user_id={frame['user_id'][int(twice[0])]} again")
    _tell_cut(path, line, warn)
    frame = frame.with_columns(pl.int_ranges(0, pl.col("item_id").list.len()).alias("order")).explode(
        "item_id", "order"
    )
    frame = frame.with_columns(pl.col("item_id").str.extract(r":(\d+)").cast(pl.Int64))
    wrong = np.flatnonzero(~frame["item_id"].is_between(1, largest).to_numpy())
    if len(wrong):
        row, item = frame["row"][int(wrong[0])] + 1, frame["item_id"][int(wrong[0])]
        raise UserError(f"{path.name}: row {row}: item={item}, expected an integer in [1, {largest}]")
    yield frame.select("user_id", "item_id", "order", "row")


def _tell_cut(path: Path, line: pl.Series, warn: Callable[[str], None]) -> None:
    """Histories that the published split of a whole sequence does not explain have lost their beginning."""
    past, later = (line.str.count_matches(f"{word}_item:").to_numpy() for word in ("hist", "eval"))
    cut = int(((SHARE * (past + later)).astype(int) != past).sum())
    if cut:
        warn(
            f"{path.name}: {cut} of {len(line)} histories are cut to their last {past.max()} items; what is predicted "
            "for these users is fewer or more than in the whole sequence"
        )
