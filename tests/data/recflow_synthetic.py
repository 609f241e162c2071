"""Tiny RecFlow files in exactly the published schema, with its traps."""

import datetime
import pickle
import sys
import types
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import feather

HEADS = ("request_id", "request_timestamp", "user_id", "device_id", "age", "gender", "province")
VIDEOS = (
    *("video_id", "author_id", "category_level_one", "category_level_two"),
    *("upload_type", "upload_timestamp", "duration"),
)
FLAGS = ("realshow", "rerank_pos", "rerank_neg", "rank_pos", "rank_neg", "coarse_neg", "prerank_neg")
LABELS = ("effective_view", "long_view", "like", "follow", "forward", "comment")
COLUMNS = (*HEADS, *VIDEOS, *FLAGS, "rank_index", "rerank_index", "playing_time", *LABELS)
PAST = (
    *("video_id", "author_id", "category_level_two", "category_level_one", "upload_type"),
    *("upload_timestamp", "duration", "request_timestamp", "playing_time", "request_id"),
)
SPACED = {"category_level_two": " category_level_two"}


def begin(day: str) -> int:
    """Milliseconds of its midnight in Shanghai."""
    return int(datetime.datetime.fromisoformat(f"{day}T00:00:00+08:00").timestamp() * 1000)


class World:
    """Fixed features of videos and users, ids from 0 with holes."""

    def __init__(self, rng: np.random.Generator, videos: int = 60, users: int = 6) -> None:
        ids = np.sort(rng.choice(5 * videos, videos, replace=False))
        self.videos = {
            int(video): {
                "video_id": int(video),
                "author_id": int(rng.integers(0, 40)),
                "category_level_one": int(rng.integers(0, 5)),
                "category_level_two": int(rng.integers(0, 9)),
                "upload_type": int(rng.integers(0, 3)),
                "upload_timestamp": int(rng.choice([0, rng.integers(10**9, 17 * 10**8)], p=[0.1, 0.9])),
                "duration": int(rng.choice([-1, 0, rng.integers(1000, 10**6)])),
            }
            for video in ids
        }
        self.users = [{"user_id": 3 * u, "age": u % 4, "gender": u % 2} for u in range(users)]


def rows_of_day(rng: np.random.Generator, world: World, day: str, requests: int, first: int) -> list[dict]:
    """Rows of `all_stage`, in random order."""
    rows = []
    for number in range(requests):
        user = world.users[rng.integers(len(world.users))]
        head = {
            "request_id": first + number,
            "request_timestamp": begin(day) + int(rng.integers(0, 24 * 3_600_000)),
            "device_id": int(rng.integers(0, 9)),
            "province": int(rng.integers(0, 5)),
            **user,
        }
        chosen = rng.choice(list(world.videos), rng.integers(1, min(30, len(world.videos))), replace=False)
        places = rng.permutation(len(chosen)) + 1
        for video, place in zip(chosen, places, strict=True):
            flags = dict.fromkeys(FLAGS, 0)
            for flag in rng.choice(FLAGS, rng.choice([0, 1, 2], p=[0.05, 0.65, 0.3]), replace=False):
                flags[flag] = 1
            ranked = any(flags[flag] for flag in FLAGS[:5])
            shown = flags["realshow"] == 1
            row = {**head, **world.videos[int(video)], **flags}
            row |= {"rank_index": int(place) if ranked else -1, "rerank_index": -1, "playing_time": 0}
            rows.append(row | {label: int(shown and rng.random() < 0.4) for label in LABELS})
    return [rows[i] for i in rng.permutation(len(rows))]


def history_of(rng: np.random.Generator, world: World, rows: list[dict], late: bool = False) -> dict:
    """{request_id: [50, 10]}, left-padded; with `late`, one behaviour is of the time of its request."""
    found: dict = defaultdict(tuple)
    for request, time in {row["request_id"]: row["request_timestamp"] for row in rows}.items():
        events = np.zeros((50, 10), np.int64)
        count = int(rng.choice([0, 3, 50]))
        times = np.sort(time - rng.integers(1, 10**9, count))
        for slot, when in enumerate(times, start=50 - count):
            past = {**world.videos[int(rng.choice(list(world.videos)))], "request_timestamp": int(when)}
            events[slot] = [past.get(name, 7) for name in PAST]
        if late and count:
            events[-1, 7] = time
        found[int(request)] = events
    return found


def write_table(path: Path, rows: list[dict], columns=COLUMNS, chunk: int = 16, **names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {names.get(name, name): np.array([row[name] for row in rows], np.int64) for name in columns}
    feather.write_feather(pa.table(values), str(path), compression="lz4", chunksize=chunk)


def write_pickle(path: Path, value: object, protocol: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol))


def with_published_factory(value: dict) -> bytes:
    """A pickle whose factory is `utils.defaultdict_tuple`, as published."""
    module = types.ModuleType("utils")

    def defaultdict_tuple():
        return defaultdict(tuple)

    defaultdict_tuple.__module__, defaultdict_tuple.__qualname__ = "utils", "defaultdict_tuple"
    module.defaultdict_tuple = defaultdict_tuple
    before = sys.modules.get("utils")
    sys.modules["utils"] = module
    try:
        return pickle.dumps(defaultdict(defaultdict_tuple, value), 3)
    finally:
        del sys.modules["utils"]
        if before is not None:
            sys.modules["utils"] = before


def write(folder: Path, seed: int, days: list[str], requests: int = 4, late: bool = False) -> dict[str, tuple]:
    """Write a data set; day -> (rows, histories)."""
    rng = np.random.default_rng(seed)
    world = World(rng)
    written = {}
    for number, day in enumerate(days):
        rows = rows_of_day(rng, world, day, requests, first=1000 * number)
        history = history_of(rng, world, rows, late)
        write_table(folder / "all_stage" / f"{day}.feather", rows, **(SPACED if number % 2 else {}))
        (folder / "seq_effective_50_dict").mkdir(parents=True, exist_ok=True)
        (folder / "seq_effective_50_dict" / f"{day}.pkl").write_bytes(with_published_factory(history))
        written[day] = (rows, history)
    return written
