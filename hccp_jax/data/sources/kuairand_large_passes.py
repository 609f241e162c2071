"""The passes over the exposures of KuaiRand-1K and KuaiRand-27K, each a step that a stopped conversion does once.

Memory holds arrays by published video and one file of users, never the log.
"""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hccp_jax.data import buckets
from hccp_jax.data.kuairand import TABS
from hccp_jax.data.sources import kuairand_large_files as files
from hccp_jax.data.sources.kuairand_large_requests import RARE, Periods, merged
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

GROUP_BYTES = 512 << 20  # of the requests of a file of users, if every list had one exposure
MOST_GROUPS = 512  # files open at once
BLOCK = 1 << 20  # rows at a time of what is read in order
_ROW_BYTES = {".csv": 70, ".gz": 16}  # of a published row, about
_MEASURES = (pl.len().alias("exposures"), pl.col("click").sum().alias("clicks"), pl.col("view").sum().alias("views"))


class Passes:
    """The exposures on disk.

    Args:
        logs: of standard exposures.
        drawn: logs of videos shown at random; may be empty.
        users: [n] published ids, ascending.
        request_bytes: of a request in a store.
        writer: whose steps the passes are, and whose `work` folder they use.
    """

    def __init__(
        self, logs: list[Path], drawn: list[Path], users: np.ndarray, request_bytes: int, writer: StoreWriter
    ) -> None:
        self.paths, self.users, self.writer, self.work = {"raw": logs, "random": drawn}, users, writer, writer.work
        rows = sum(path.stat().st_size // _ROW_BYTES[path.suffix] for path in logs)
        self.groups = max(1, min(MOST_GROUPS, -(-rows * request_bytes // GROUP_BYTES)))

    def read(self, name: str) -> dict[str, Any]:
        """Spread "raw" or "random" exposures over files by user; what `Scanned` says of them."""

        def make() -> dict[str, Any]:
            scanned = files.Scanned()
            self._spread(files.exposures(self.paths[name], self.users, scanned), name)
            return {**vars(scanned), "days": sorted(scanned.days)}

        return self.writer.step(name, make)

    def merge(self, first: int) -> dict[str, int]:
        """Sort each user's exposures and remove duplicates: see `merged`."""
        found = {"rows": 0, "duplicates": 0, "conflicts": 0}

        def frames() -> Iterator[pl.DataFrame]:
            for rows in self._each("raw"):
                once, duplicates, conflicts = merged(rows, first)
                counts = {"rows": once.height, "duplicates": duplicates, "conflicts": conflicts}
                found.update({name: found[name] + count for name, count in counts.items()})
                yield once

        def make() -> dict[str, int]:
            self._spread(frames(), "log")
            return found

        told = self.writer.step("merge", make)
        shutil.rmtree(self.work / "raw", ignore_errors=True)
        return told

    def count(self, days: np.ndarray) -> np.ndarray:
        """Spread sums of each video and day over files by day; [D, tabs, 3] int64 sums of each day and tab."""
        sums = np.zeros((len(days), TABS, len(_MEASURES)), np.int64)

        def frames() -> Iterator[pl.DataFrame]:
            for rows in self._each("log"):
                by_tab = rows.group_by("day", "tab").agg(_MEASURES).cast(pl.Int64).to_numpy()
                np.add.at(sums, (np.searchsorted(days, by_tab[:, 0]), by_tab[:, 1]), by_tab[:, 2:])
                yield rows.group_by("day", "video").agg(_MEASURES).cast(pl.Int32)

        def make() -> list:
            first, last = int(days[0]), int(days[-1])
            number: Callable[[int], pl.Expr] = lambda _: (pl.col("day") - first).cast(pl.UInt32)  # noqa: E731
            buckets.scatter(frames(), number, last - first + 1, self.work / "days")
            return sums.tolist()

        return np.array(self.writer.step("count", make), np.int64)

    def of_day(self, number: int) -> Iterator[pl.DataFrame]:
        """Sums of each video on a day, counted from the first; a video comes more than once."""
        rows = buckets.bucket_rows(self.work / "days", number)
        return iter(()) if rows is None else rows.iter_slices(BLOCK)

    def keep(self, days: np.ndarray, periods: Periods, videos: int, least: int) -> dict[str, int]:
        """Choose the videos with an item of their own: those with at least so many exposures before validation.

        Leaves arrays: "item_of" [videos] int32 item of each published id; "published" and "exposures" [items], the
        published id of each item (-1 where there is none) and its exposures in training.

        Raises:
            UserError: if there is none.
        """

        def make() -> dict[str, int]:
            past, trained = np.zeros(videos, np.int32), np.zeros(videos, np.int32)
            for day in days[days < periods.starts[periods.validation]]:
                for frame in self.of_day(int(day - days[0])):
                    video, shown = frame["video"].to_numpy(), frame["exposures"].to_numpy()
                    np.add.at(past, video, shown)
                    if day >= periods.starts[periods.train]:
                        np.add.at(trained, video, shown)
            kept = np.flatnonzero(past >= least).astype(np.int32)
            if not len(kept):
                raise UserError(f"video_min_exposures={least}: no video has so many, expected at most {past.max()}")
            item_of = np.full(videos, RARE, np.int32)
            item_of[kept] = np.arange(2, 2 + len(kept))
            rare = trained.sum(dtype=np.int64) - trained[kept].sum(dtype=np.int64)
            np.save(self.work / "item_of.npy", item_of)
            np.save(self.work / "published.npy", np.concatenate([np.full(2, -1, np.int32), kept]))
            np.save(self.work / "exposures.npy", np.concatenate([[0, rare], trained[kept]]).astype(np.float32))
            return {"items": 2 + len(kept), "seen": int((past > 0).sum())}

        return self.writer.step("keep", make)

    def array(self, name: str) -> np.ndarray:
        """What `keep` left."""
        return np.load(self.work / f"{name}.npy")

    def rows(self, name: str, group: int) -> pl.DataFrame:
        """The exposures "log" or "random" of a file of users."""
        found = buckets.bucket_rows(self.work / name, group)
        return pl.DataFrame(schema=files.EXPOSURE) if found is None else found

    def _each(self, name: str) -> Iterator[pl.DataFrame]:
        return (self.rows(name, group) for group in range(self.groups))

    def _spread(self, frames: Iterator[pl.DataFrame], name: str) -> None:
        buckets.scatter(frames, partial(buckets.of_key, "user"), self.groups, self.work / name)
