"""RecFlow (Liu et al., ICLR 2025, Kuaishou): the one public log with samples of every stage of a real funnel.

Everything is read twice, a record batch at a time: first for the ids that occur, then, a day at a time, spread over
buckets of requests that fit memory, for the lists. A day's pickle of histories is in memory whole, about 1 GB.
`all_stage` holds all that `realshow` and `request_id_dict` repeat, so these are not read (the rows of `realshow` are
counted, to compare); `ubm_seq_request_id_dict` and the daily video tables have no use here.
"""

import datetime
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hccp_jax.config import field
from hccp_jax.data import buckets
from hccp_jax.data.sources import recflow_files as files
from hccp_jax.data.sources import recflow_ids as ids
from hccp_jax.data.sources.dataset import DataSet, Facts, PublishedFile
from hccp_jax.data.sources.recflow_facts import facts_of
from hccp_jax.data.sources.recflow_lists import LCRON_GROUPS, Layout, context_end, lists_of
from hccp_jax.data.sources.recflow_tables import item_tables, user_table
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.errors import UserError

TEST_DAYS = {"recflow": "2024-02-18", "lcron": "2024-02-04"}
_FOREVER = np.iinfo(np.int64).max
_LCRON_EACH = 10


@dataclass(frozen=True)
class RecFlowConfig:
    """Which days and items become lists.

    The published protocols have no validation day: `validation_days=0` trains as they do.
    """

    protocol: str = field(
        "recflow",
        "recflow: items of all stages, tested on 2024-02-18; lcron: 10 items each of rank_pos, rank_neg, coarse_neg "
        "and prerank_neg, tested on 2024-02-04",
        choices=("recflow", "lcron"),
    )
    first_day: str = field("", "first day of training, YYYY-MM-DD; empty: the first there is")
    test_day: str = field("", "the day to test on, YYYY-MM-DD; empty: the protocol's")
    validation_days: int = field(1, "days before the test day that are kept from training", at_least=0)
    tasks: tuple[str, ...] = field(
        ("effective_view", "long_view"), "labels of exposed items, the first one is the click", choices=files.FEEDBACK
    )
    history: int = field(50, "earlier effective views of the user, of the 50 there are", at_least=1, at_most=50)
    exposed: int = field(10, "exposed items of a training list at most (recflow)", at_least=1)
    each: int = field(10, "items of a training list at most that have the same deepest flag (recflow)", at_least=1)
    slots: int = field(512, "items of a list of validation or test at most (recflow)", at_least=1)
    authors: bool = field(True, "whether the author, of tens of millions, is a feature of a video")


@dataclass(frozen=True)
class _Plan:
    """The days of each part and the published list of candidates, if it is there."""

    days: dict[str, list[str]]
    candidates: Path | None
    missing: list[str]

    @property
    def all(self) -> list[str]:
        """Every day, in order."""
        return [day for part in self.days.values() for day in part]


def _plan(folder: Path, config: RecFlowConfig) -> _Plan:
    """Which files are which part.

    Raises:
        UserError: if the days asked for are not there.
    """
    there = files.days(folder)
    test = config.test_day or TEST_DAYS[config.protocol]
    for name in ("first_day", "test_day"):
        if getattr(config, name) and not files.is_day(getattr(config, name)):
            raise UserError(f"{name}={getattr(config, name)!r}: expected a day YYYY-MM-DD")
    before = [day for day in there if (config.first_day or there[0]) <= day < test]
    border = len(before) - config.validation_days
    if test not in there or border < 1:
        asked = f"test_day={test}, validation_days={config.validation_days}"
        raise UserError(f"{asked}: expected days of all_stage, of which there are {there[0]} to {there[-1]}")
    days = {"train": before[:border], "validation": before[border:], "test": [test]}
    for day in (*before, test):
        _histories(folder, day)
    candidates = files.find(folder, "others/coarse_rank_test.feather", "others/prerank_test.feather")
    wanted = config.protocol == "recflow" and test == TEST_DAYS["recflow"]
    whole = datetime.date.fromisoformat(before[0]).toordinal(), datetime.date.fromisoformat(test).toordinal()
    span = {datetime.date.fromordinal(number).isoformat() for number in range(*whole)}
    days = {part: found for part, found in days.items() if found}
    return _Plan(days, candidates if wanted else None, sorted(span - set(before)))


def _histories(folder: Path, day: str) -> Path:
    found = files.find(folder, f"seq_effective_50_dict/{day}.pkl")
    if found is None:
        raise UserError(f"input={folder}: no seq_effective_50_dict/{day}.pkl there or in its data folder")
    return found


def _stages(folder: Path, day: str) -> Path:
    return files.find(folder, f"all_stage/{day}.feather") or folder


def convert(folder: Path, config: RecFlowConfig, writer: StoreWriter, say: Callable[[str], None]) -> Facts:
    """Write `train`, `validation` and `test`, `items`, `users`, and `candidates` where the published lists are there.

    Raises:
        UserError: if a file is not as published.
    """
    if not config.tasks or len(set(config.tasks)) < len(config.tasks):
        raise UserError(f"tasks={','.join(config.tasks)}: expected some of {', '.join(files.FEEDBACK)}, once each")
    plan = _plan(folder, config)
    counts = {}
    for before, day in zip([None, *plan.all], plan.all, strict=False):
        tables = [(_stages(folder, day), day)]
        if plan.candidates and day == plan.days["test"][0]:
            tables.append((plan.candidates, day))
        read = partial(ids.first_reading, tables, _histories(folder, day), writer.work, day, before)
        counts[day] = writer.step(f"ids-{day}", read)
        say(f"{day}: {counts[day]['rows']:,} rows")
    known = ids.vocabularies(ids.Seen.load(writer.work / f"seen-{plan.all[-1]}.npz"))
    items = item_tables(writer, plan.all, known, config.authors)
    layouts = _layouts(config, plan, counts, known)
    first = context_end(layouts["train"])
    user_categories = user_table(writer, plan.all, known, first)
    totals = {}
    for part, days in plan.days.items():
        for day in days:
            totals[day] = _lists(writer, part, day, _stages(folder, day), _histories(folder, day), known, layouts[part])
            say(f"{part}: {day} has {totals[day]['requests']:,} requests")
    if plan.candidates:
        day = plan.days["test"][0]
        _lists(writer, "candidates", day, plan.candidates, _histories(folder, day), known, layouts["test"])
    shown = {day: _exposures(folder, day) for day in plan.all}
    sizes = {name: vocabulary.size for name, vocabulary in known.items()}
    return facts_of(config.tasks, plan.days, plan.missing, counts, totals, shown, sizes, items, user_categories)


def _layouts(
    config: RecFlowConfig, plan: _Plan, counts: dict[str, Any], known: dict[str, ids.Vocabulary]
) -> dict[str, Layout]:
    """Of each part; a request belongs to a part only if it is before the next part's first."""
    limits: tuple[int, ...] = (config.exposed, *[config.each] * (len(files.FLAGS) - 1))
    groups: tuple[str, ...] = files.FLAGS
    slots = config.slots
    if config.protocol == "lcron":
        limits = (_LCRON_EACH,) * len(LCRON_GROUPS)
        groups, slots = LCRON_GROUPS, sum(limits)
    contexts = (known["device_id"].size, known["province"].size)
    begins = {part: min(counts[day]["begin"] for day in days) for part, days in plan.days.items()}
    following = dict(zip(plan.days, [*list(begins.values())[1:], _FOREVER], strict=True))
    layout = Layout(groups, limits, sum(limits), config.history, config.tasks, _FOREVER, contexts)
    held = layout if config.protocol == "lcron" else replace(layout, limits=None, slots=slots)
    return {part: replace(layout if part == "train" else held, until=until) for part, until in following.items()}


def _lists(
    writer: StoreWriter,
    part: str,
    day: str,
    path: Path,
    histories: Path,
    known: dict[str, ids.Vocabulary],
    layout: Layout,
) -> dict[str, int]:
    """Write the lists of a day as shards of a part, a bucket at a time; counts."""
    name = f"{part}-{day}"
    places = {"rows": writer.work / f"rows-{name}", "past": writer.work / f"past-{name}"}

    def scatter() -> int:
        count = buckets.how_many(files.rows(path))
        by_request = partial(buckets.of_key, "request")
        buckets.scatter(spread(path, day, known), by_request, count, places["rows"])
        buckets.scatter(_past(histories, known), by_request, count, places["past"])
        return count

    totals: Counter[str] = Counter({"requests": 0})
    for number in range(writer.step(f"scatter-{name}", scatter)):
        made: dict[str, np.ndarray] = {}

        def make(number: int = number, made: dict[str, np.ndarray] = made) -> dict[str, int]:
            rows = buckets.bucket_rows(places["rows"], number)
            if rows is None:
                return {}
            columns, counts = lists_of(rows, buckets.bucket_rows(places["past"], number), layout, files.told(path))
            made.update(columns)
            return {**counts, "requests": len(columns["mask"])}

        def columns(make: Callable[[], Any] = make, made: dict[str, np.ndarray] = made) -> dict[str, np.ndarray]:
            if not made:
                make()
            return made

        # the step keeps the counts for a conversion that goes on, the shard the columns
        counted = writer.step(f"lists-{name}-{number:03}", make)
        totals.update(counted)
        if counted:
            writer.shard(part, f"{day}-{number:03}", columns)
    for place in places.values():
        shutil.rmtree(place, ignore_errors=True)
    return dict(totals)


def spread(path: Path, day: str, known: dict[str, ids.Vocabulary]) -> Iterator[pl.DataFrame]:
    """The rows of a table with numbers for ids and a bit for each flag (in the order of FLAGS) and label (FEEDBACK).

    A table of candidates has no flags: what was viewed was shown, of the rest it is not told and they count as
    `coarse_neg`, unranked.
    """
    limits = files.bounds(day)
    staged = path.parent.name == "all_stage"
    labels = files.FEEDBACK if staged else files.FEEDBACK[:1]
    more = (*files.FLAGS, "rank_index") if staged else ()
    names = ("request_id", "request_timestamp", *_NUMBERED.values(), *more, *labels)
    for frame in files.table(path, {name: limits[name] for name in names}):
        numbers = {short: known[name](frame[name].to_numpy()) for short, name in _NUMBERED.items()}
        feedback = _bits(frame, labels)
        flags = _bits(frame, files.FLAGS) if staged else np.where(feedback > 0, 1, _COARSE_NEG).astype(np.uint8)
        best = frame["rank_index"].to_numpy() if staged else np.full(frame.height, files.RANK_MISSING)
        fixed = {"request": frame["request_id"], "time": frame["request_timestamp"], **numbers}
        yield pl.DataFrame({**fixed, "flags": flags, "feedback": feedback, "rank_index": best.astype(np.int32)})


_NUMBERED = {"user": "user_id", "device": "device_id", "province": "province", "video": "video_id"}
_COARSE_NEG = 1 << files.FLAGS.index("coarse_neg")


def _bits(frame: pl.DataFrame, names: tuple[str, ...]) -> np.ndarray:
    found = np.zeros(frame.height, np.uint8)
    for index, name in enumerate(names):
        found |= frame[name].to_numpy().astype(np.uint8) << index
    return found


def _past(path: Path, known: dict[str, ids.Vocabulary]) -> Iterator[pl.DataFrame]:
    for frame in files.histories(path):
        video = known["video_id"](frame["video_id"].to_numpy())
        yield pl.DataFrame({"request": frame["request_id"], "video": video, "time": frame["time"]})


def _exposures(folder: Path, day: str) -> int | None:
    path = files.find(folder, f"realshow/{day}.feather")
    return None if path is None else files.rows(path)


DATASETS = (
    DataSet(
        name="recflow",
        title="RecFlow (Kuaishou)",
        papers="RecFlow (ICLR 2025): recall and ndcg of the coarse ranking; LCRON (ICML 2025): recall of a cascade",
        where="https://rec.ustc.edu.cn/share/f8e5adc0-2e57-11ef-bea5-3b4cac9d110e "
        "(the repository github.com/RecFlow-ICLR/RecFlow holds empty files only)",
        licence="CC BY-SA 4.0 (its repository; its paper says CC BY-NC-SA 4.0)",
        files=(
            PublishedFile("all_stage/YYYY-MM-DD.feather", "37 days, 2024-01-13 to 2024-02-18; 1.9 billion rows"),
            PublishedFile("seq_effective_50_dict/YYYY-MM-DD.pkl", "one for each day, about 1 GB"),
            PublishedFile("others/coarse_rank_test.feather", "optional, or prerank_test.feather: candidates"),
            PublishedFile("realshow/YYYY-MM-DD.feather", "optional: its rows are counted and compared"),
        ),
        config=RecFlowConfig,
        convert=convert,
        note="LCRON needs the days to 2024-02-04 only. Pickles are read without running them.",
    ),
)
