"""Exact dense ids: every distinct value of a column has its own number, 1 for the smallest; 0 is padding or unknown."""

import numpy as np
import polars as pl


class Distinct:
    """Distinct values of a column that comes a block at a time; what is held stays within twice their number."""

    def __init__(self) -> None:
        self._known: pl.Series | None = None
        self._fresh: list[pl.Series] = []

    def add(self, values: pl.Series) -> None:
        """Take another block."""
        self._fresh.append(values.unique())
        held = 0 if self._known is None else len(self._known)
        if sum(len(part) for part in self._fresh) > max(held, 1 << 16):  # merged when it doubles: n log n in all
            self._merge()

    def _merge(self) -> None:
        parts = [*([] if self._known is None else [self._known]), *self._fresh]
        if parts:
            self._known, self._fresh = pl.concat(parts).unique(), []

    def sorted(self) -> pl.Series:
        """All values that came, ascending."""
        self._merge()
        if self._known is None:
            raise ValueError("no values came")
        return self._known.drop_nulls().sort()


def dense(known: pl.Series, values: pl.Series) -> np.ndarray:
    """[n] int32 place of each value among the known ones, from 1; 0 for one that is not known.

    >>> dense(pl.Series(["a", "c"]), pl.Series(["c", "b", "a"])).tolist()
    [2, 0, 1]
    """
    if values.dtype.is_integer():  # nothing is built beside the answer, so that a vocabulary may be large
        place = np.searchsorted(known.to_numpy(), values.to_numpy())
        same = known.to_numpy()[np.minimum(place, len(known) - 1)] == values.to_numpy()
        return np.where(same, place + 1, 0).astype(np.int32)
    numbers = pl.DataFrame({"value": known}).with_row_index("number", 1)
    found = pl.DataFrame({"value": values}).join(numbers, on="value", how="left", maintain_order="left")["number"]
    return found.fill_null(0).cast(pl.Int32).to_numpy()
