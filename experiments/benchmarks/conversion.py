"""How fast a public log becomes a store, in how much memory, and how far a step of it is from being read.

    python -m experiments.benchmarks.conversion                 a line a bar; exit code 1 if any is short
    python -m experiments.benchmarks.conversion --rows=2000000 --source=plain --json=conversion.json

Rows as Tianchi publishes UserBehavior, in no order, are written to a temporary folder (40 bytes each; the conversion
needs twice as much) and converted by a process on one core. Memory is what no file backs, as the system can drop the
pages of a memory map at any time. Linux only. Let nothing else run; the last line says how busy others kept the cores.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from absl import flags

from experiments.benchmarks.bars import Neighbours, Outcome, exit_with, finish, line, outcome, parsed
from hccp_jax.config import near_miss
from hccp_jax.data import buckets
from hccp_jax.data.csv_stream import Column, stream
from hccp_jax.data.order import rows_at
from hccp_jax.data.sources.registry import SOURCES
from hccp_jax.data.store import Table, open_store
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

FILE = "UserBehavior.csv"
BEHAVIORS = ("pv", "fav", "cart", "buy")
COLUMNS = {name: Column(low=0) for name in ("user", "item", "category", "behavior", "timestamp")}
COLUMNS["behavior"] = Column("text", choices=BEHAVIORS)
FIRST, DAYS = 1_511_539_200, 9  # 2017-11-25 in China, seconds

RATE, MEMORY, OPENED, FAR = 300_000, 2.0, 1000.0, 2.0  # the bars: rows/s, GiB, ms, a far batch over the first
BATCH, FAR_STEP, READ = 512, 10**9, 20
_BLOCK = 1 << 20
_ROOT = Path(__file__).parent.parent.parent
PLAIN = "plain"
DEFAULT = "userbehavior" if "userbehavior" in SOURCES else PLAIN


def write_rows(path: Path, rows: int) -> None:
    """A log like UserBehavior.csv: 100 events a user, items by a power law, a few times outside the days."""
    with path.open("wb") as file:
        for begin in range(0, rows, _BLOCK):
            random = np.random.default_rng(begin)
            count = min(_BLOCK, rows - begin)
            item = (1 + rows // 25 * random.random(count) ** 3).astype(np.int64)
            inside = random.random(count) < 0.999
            frame = {
                "user": random.integers(1, 2 + rows // 100, count),
                "item": item,
                "category": item % 9_439,
                "behavior": np.array(BEHAVIORS)[random.choice(4, count, p=(0.9, 0.03, 0.05, 0.02))],
                "timestamp": FIRST + random.integers(0, DAYS * 86_400, count) - np.where(inside, 0, 50_000_000),
            }
            pl.DataFrame(frame).write_csv(file, include_header=False)


def plain(path: Path, output: Path) -> None:
    """The least that any source does: spread over buckets of users, and write those sorted."""
    with StoreWriter(output, {}) as writer:
        count = buckets.how_many(path.stat().st_size // 36)
        number_of = pl.col("behavior").cast(pl.Enum(BEHAVIORS)).to_physical().cast(pl.Int64)
        frames = (frame.with_columns(number_of) for frame in stream(path, COLUMNS, names=list(COLUMNS)))
        by_user = partial(buckets.of_key, "user")
        writer.step("rows", lambda: buckets.scatter(frames, by_user, count, writer.work / "rows"))
        for number in range(count):
            writer.shard("events", f"{number:04}", partial(_events, writer.work / "rows", number))
        writer.finish({})


def _events(folder: Path, number: int) -> dict[str, np.ndarray]:
    """Columns [n] int32 of a bucket."""
    frame = buckets.bucket_rows(folder, number)
    if frame is None:
        return {name: np.zeros(0, np.int32) for name in COLUMNS}
    frame = frame.sort("user", "timestamp", maintain_order=True)
    return {name: frame[name].to_numpy().astype(np.int32) for name in COLUMNS}


def converted(source: str, folder: Path, output: Path) -> tuple[float, float, float]:
    """Convert on one core: seconds, those that the processor was at it, and the peak of anonymous memory in GiB.

    Raises:
        UserError: if it fails.
    """
    command = ["-m", "hccp_jax.data.convert", f"--source={source}", f"--input={folder}", f"--output={output}"]
    if source == PLAIN:
        call = f"conversion.plain(conversion.Path({str(folder / FILE)!r}), conversion.Path({str(output)!r}))"
        command = ["-c", f"from experiments.benchmarks import conversion; {call}"]
    before, peak = _used(), 0.0
    with tempfile.TemporaryFile() as told:
        begin = time.perf_counter()
        with _one_core():
            process = subprocess.Popen([sys.executable, *command], cwd=_ROOT, stdout=told, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(0.01)
        seconds = time.perf_counter() - begin
        told.seek(0)
        if process.returncode:
            raise UserError(f"the conversion failed: {told.read().decode().strip().splitlines()[-1]}")
    return seconds, _used() - before, peak


def _used() -> float:
    """Seconds that the processor was at ended child processes."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


@contextmanager
def _one_core() -> Iterator[None]:
    """Processes that are begun meanwhile have one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _anonymous(process: int) -> float:
    """Memory of a process that no file backs, GiB; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{process}/status").read_text().split()
        return int(fields[fields.index("RssAnon:") + 1]) / (1 << 20)
    except (OSError, ValueError):
        return 0.0


def seconds_of_batches(table: Table, first: int) -> list[float]:
    """Seconds of each of READ batches that begin at a step."""
    found = []
    for step in range(first, first + READ):
        begin = time.perf_counter()
        rows = rows_at(0, step, BATCH, len(table))
        for name in table.columns:
            table[name][rows]
        found.append(time.perf_counter() - begin)
    return found


def measured(source: str, rows: int) -> list[Outcome]:
    """Every bar."""
    kernel, shape = f"conversion, {source}", f"{rows / 1e6:g}M rows"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "input")
        folder.mkdir()
        write_rows(folder / FILE, rows)
        seconds, used, peak = converted(source, folder, Path(name, "store"))
        begin = time.perf_counter()
        store = open_store(Path(name, "store"), "quick")
        table = max((store[part] for part in store.manifest["tables"]), key=len)
        near = seconds_of_batches(table, 0)
        opened = time.perf_counter() - begin - sum(near[1:])
        times = {name: seconds_of_batches(table, step) for name, step in (("step 0", 0), ("far step", FAR_STEP))}
    first, far = (statistics.median(one) for one in times.values())
    told = f"{RATE:,} rows/s: {rows / seconds:,.0f} ({rows / used:,.0f} of CPU time)"
    seek = f"step {FAR_STEP:.0e} over step 0; {1e3 * far:.2f} ms"
    held = f"{len(table) / 1e6:g}M rows"
    return [
        outcome(kernel, shape, "ours", told, rows / seconds / RATE, 1.0, "at least", {"ours": [seconds]}),
        outcome(kernel, shape, "GiB of anonymous memory at its peak", "", peak, MEMORY, "at most"),
        outcome("store", held, "ms to open it and read a batch", "", 1e3 * opened, OPENED, "at most"),
        outcome("store", f"{held}, B={BATCH}", seek, "", far / first, FAR, "at most", times),
    ]


def main(arguments: Sequence[str]) -> int:
    """Measure, print and judge; the exit code."""
    values = flags.FlagValues()
    flags.DEFINE_integer("rows", 20_000_000, "rows of the log", lower_bound=1000, flag_values=values)
    flags.DEFINE_string("source", DEFAULT, "plain, or a source of this format", flag_values=values)
    flags.DEFINE_string("json", None, "file to write the same records to", flag_values=values)
    found = parsed(values, "conversion", arguments)
    if found["source"] not in (PLAIN, *SOURCES):
        raise UserError(f"source={found['source']!r}: {near_miss(found['source'], (PLAIN, *SOURCES))}")
    neighbours = Neighbours()
    judgements = measured(found["source"], found["rows"])
    print("\n".join(map(line, judgements)), flush=True)
    code = finish(judgements, found, "part")
    busy = neighbours.cores()
    if busy is not None:
        print(f"other processes kept {busy:.1f} cores busy meanwhile")
    return code


if __name__ == "__main__":
    exit_with(main)
