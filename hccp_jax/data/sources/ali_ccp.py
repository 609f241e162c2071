"""Ali-CCP (Tianchi 408; Ma et al., SIGIR 2018): Taobao impressions with clicks and purchases, RankTower's Alimama.

Facts of the files that decide what is done here:

* A sample is an impression. What samples of a session have in common (the user, the user's past) is in another file,
  under a checksum; a request here is a session's samples in one context (field 301), cut into lists.
* There are no times. Training and test are published apart, and the order of a list is that of the file.
* A feature is a field, an id and a value. Ids are large and differ by field. Fields of the user's past have many ids:
  the heaviest are kept as categories of the request, since they are of categories, shops and brands, not of items.
* Crossed fields have ids, of pairs, and values, of how much the user did there before: the values are used.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hccp_jax.config import field
from hccp_jax.data import buckets, csv_stream
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.guards import PARTS
from hccp_jax.data.sources import ali_ccp_files as files
from hccp_jax.data.sources import bucket_shards
from hccp_jax.data.sources.ali_ccp_lists import CROSS, Known, requests
from hccp_jax.data.sources.dataset import DataSet, Facts, PublishedFile
from hccp_jax.data.store_writer import StoreWriter

USER, ITEM, CONTEXT = "101", "205", "301"
PROFILE = ("121", "122", "124", "125", "126", "127", "128", "129")
PAST = ("109_14", "110_14", "127_14", "150_14")  # the user's categories, shops, brands and intentions
ITEM_FIELDS, INTENTION = ("206", "207", "216"), "210"
PUBLISHED = ("train", "test")
_TABLES = {"train": ("train", "validation"), "test": ("test",)}
_ROW_BYTES, _WEIGHT = 100, 4  # of a sample's text, at least; a sample may become a list of its own


@dataclass(frozen=True)
class AliCcpConfig:
    """How the samples become requests."""

    width: int = field(20, "longest list; a longer one goes on as another", at_least=1)
    past: int = field(5, "heaviest ids kept of each field of the user's past", at_least=1)
    intentions: int = field(3, "heaviest ids kept of an item's intentions (field 210)", at_least=1)
    validation_percent: int = field(10, "of the published training sessions", at_least=1, at_most=50)
    rare: int = field(1, "users, items or training sessions that an id of a category needs to be one", at_least=1)

    @property
    def common(self) -> dict[str, int]:
        """Fields of the common features and their slots."""
        return {**dict.fromkeys((USER, *PROFILE), 1), **self.pasts}

    @property
    def pasts(self) -> dict[str, int]:
        """Fields of the user's past."""
        return dict.fromkeys(PAST, self.past)

    @property
    def skeleton(self) -> dict[str, int]:
        """Fields of the samples."""
        return {ITEM: 1, **self.item, CONTEXT: 1, **dict.fromkeys(CROSS, 1)}

    @property
    def item(self) -> dict[str, int]:
        """Fields of an item."""
        return {**dict.fromkeys(ITEM_FIELDS, 1), INTENTION: self.intentions}


def _sessions(path: Path, config: AliCcpConfig, work: Path, part: str, told: dict[str, int]) -> Iterator[pl.DataFrame]:
    """The common features; leaves the profiles and how often each id of a past is there."""
    names = files.slot_names(dict.fromkeys(PROFILE, 1))
    profiles, seen, rows = files.first_seen(f"{USER}.0", names), files.frequencies(), 0
    for frame in files.read(path, files.COMMON, config.common):
        rows += frame.height
        profiles.add(frame.select(f"{USER}.0", *names, varies=False))
        seen.add(files.counted(frame, config.pasts))
        yield frame.select("common_feature_index", "key", f"{USER}.0", *files.slot_names(config.pasts))
    profiles.table().write_ipc(work / f"profiles-{part}.arrow")
    seen.table().write_ipc(work / f"past-{part}.arrow")
    told["sessions"] = rows


def _samples(path: Path, config: AliCcpConfig, work: Path, part: str, told: dict[str, int]) -> Iterator[pl.DataFrame]:
    """The samples that have an item; leaves the items' features and how often each context is there."""
    names = files.slot_names(config.item)
    items, seen = files.first_seen(f"{ITEM}.0", names), files.frequencies()
    rows = impossible = no_item = 0
    for frame in files.read(path, files.SKELETON, config.skeleton):
        possible = frame.filter((pl.col("click") == 1) | (pl.col("purchase") == 0))
        kept = possible.filter(pl.col(f"{ITEM}.0") != files.NONE)
        rows += frame.height
        impossible += frame.height - possible.height
        no_item += possible.height - kept.height
        items.add(kept.select(f"{ITEM}.0", *names, varies=False))
        seen.add(files.counted(kept, {CONTEXT: 1}))
        values = [pl.col(f"{name}.value") for name in CROSS]
        labels = pl.col("click", "purchase").cast(pl.Int8)
        yield kept.select("common_feature_index", "key", "sample_id", labels, f"{ITEM}.0", f"{CONTEXT}.0", *values)
    items.table().write_ipc(work / f"items-{part}.arrow")
    seen.table().write_ipc(work / f"context-{part}.arrow")
    told |= {"rows": rows, "impossible": impossible, "no_item": no_item}


def _spread(
    frames: Callable[..., Any], path: Path, config: AliCcpConfig, work: Path, part: str, count: int, name: str
) -> dict[str, int]:
    told: dict[str, int] = {}
    rows = frames(path, config, work, part, told)
    buckets.scatter(rows, lambda n: buckets.of_key("key", n), count, work / f"{name}-{part}")
    return told


def _both(work: Path, name: str, key: str) -> tuple[pl.DataFrame, int]:
    """Features of all keys, training's first, by key; and how many of them vary."""
    parts = [pl.read_ipc(work / f"{name}-{part}.arrow") for part in PUBLISHED]
    names = [column for column in parts[0].columns if column not in (key, "varies")]
    merged = files.first_seen(key, names)
    for part in parts:
        merged.add(part)
    table = merged.table().filter(pl.col(key) != files.NONE).sort(key)
    return table, int(table["varies"].sum())


def _often(ids: np.ndarray, at_least: int) -> np.ndarray:
    """The ids, ascending, that are there often enough."""
    found, count = np.unique(ids[ids != files.NONE], return_counts=True)
    return found[count >= at_least]


def _coded(table: pl.DataFrame, widths: dict[str, int], at_least: int) -> tuple[np.ndarray, int]:
    """[1 + n, C] int32 categories of a table, fields side by side from 1, row 0 padding; and the vocabulary's end."""
    parts, first = [], 1
    for name, width in widths.items():
        ids = np.stack([table[column].to_numpy() for column in files.slot_names({name: width})], axis=1)
        known = _often(ids, at_least)
        parts.append(np.pad(files.codes(ids, known, first), ((1, 0), (0, 0))))
        first += len(known) + 2
    return np.concatenate(parts, axis=1), first


def _catalogue(config: AliCcpConfig, writer: StoreWriter) -> tuple[Known, FeatureSpec, list[str]]:
    """Write the tables of users and items; what all buckets need to know."""
    users, user_varies = _both(writer.work, "profiles", f"{USER}.0")
    items, item_varies = _both(writer.work, "items", f"{ITEM}.0")
    user_table, first = _coded(users, dict.fromkeys(PROFILE, 1), config.rare)
    item_table, item_end = _coded(items, config.item, config.rare)
    seen = pl.concat([pl.read_ipc(writer.work / f"{name}-train.arrow") for name in ("past", "context")])
    often = seen.filter(pl.col("count") >= config.rare).sort("field", "id")
    known: dict[str, tuple[np.ndarray, int]] = {}
    for name in (CONTEXT, *PAST):
        ids = often.filter(pl.col("field") == name)["id"].to_numpy()
        known[name] = (ids, first)
        first += len(ids) + 2
    user_ids, item_ids = users[f"{USER}.0"].to_numpy(), items[f"{ITEM}.0"].to_numpy()
    writer.table("items", {"categorical": item_table})
    writer.table("users", {"categorical": user_table})
    writer.table("published_items", {"id": np.pad(item_ids, (1, 0))})
    writer.table("published_users", {"id": np.pad(user_ids, (1, 0))})
    spec = FeatureSpec(
        users=len(user_ids) + 1,
        items=len(item_ids) + 1,
        user_categories=first,
        item_categories=item_end,
        tasks=("click", "purchase"),
        history_groups=1,
        cross=len(CROSS),
    )
    lines = [
        f"users: {len(user_ids):,}; the profile is that of a user's first session, {user_varies:,} have others too",
        f"items: {len(item_ids):,}; features are those of an item's first sample, {item_varies:,} have others too",
    ]
    return Known(user_ids, item_ids, known), spec, lines


def convert(folder: Path, config: AliCcpConfig, writer: StoreWriter, say: Callable[[str], None]) -> Facts:
    """Spread sessions and samples by the session's checksum, then make one shard of each part from each bucket."""
    kinds: dict[str, tuple[str, Callable[..., Any]]] = {
        "samples": ("sample_skeleton", _samples),
        "sessions": ("common_features", _sessions),
    }
    paths = {
        (name, part): csv_stream.find(folder, f"{file}_{part}.csv")
        for name, (file, _) in kinds.items()
        for part in PUBLISHED
    }
    count = max(bucket_shards.how_many(paths["samples", part], _ROW_BYTES, _WEIGHT) for part in PUBLISHED)
    told = {}
    for (name, part), path in paths.items():
        spread = functools.partial(_spread, kinds[name][1], path, config, writer.work, part, count, name)
        told[name, part] = writer.step(f"{name} {part}", spread)
        say(f"{path.name}: read")
    known, spec, lines = _catalogue(config, writer)
    totals = dict.fromkeys(("duplicates", "orphans", "twice"), 0)
    for part in PUBLISHED:
        for number in range(count):
            rows, sessions = (buckets.bucket_rows(writer.work / f"{name}-{part}", number) for name in kinds)
            if rows is None or sessions is None:
                totals["orphans"] += 0 if rows is None else rows.height
                continue
            make = functools.partial(requests, rows, sessions, known, config, part == "train")
            for name, more in bucket_shards.write(writer, f"{number:04}", _TABLES[part], make).items():
                totals[name] += more
            say(f"{part}: bucket {number + 1} of {count}")
    why = "{}: no sample of the {} part has common features; see validation_percent"
    bucket_shards.refuse_empty(writer, PARTS, lambda table: why.format(folder, table))
    vocabulary = {"items.id": spec.items, "history.id": spec.items, "user.id": spec.users}
    return Facts(
        spec=spec,
        vocabulary=vocabulary | {"user.categorical": spec.user_categories},
        lines=[*_lines(config, told, totals), *lines],
        warnings=_WARNINGS,
        timed=False,
        more={"cross": list(CROSS), "rank": "order of the file"},
    )


def _lines(config: AliCcpConfig, told: dict[tuple[str, str], dict[str, int]], totals: dict[str, int]) -> list[str]:
    lines = [
        f"{part} as published: {told['samples', part]['rows']:,} samples of {told['sessions', part]['sessions']:,} "
        f"sessions; {told['samples', part]['impossible']:,} samples bought without a click left out, "
        f"{told['samples', part]['no_item']:,} without an item (field {ITEM}) left out"
        for part in PUBLISHED
    ]
    return [
        *lines,
        f"{totals['duplicates']:,} samples repeat a sample_id and {totals['orphans']:,} are left out since"
        f" their common features are missing, {totals['twice']:,} sessions are there twice (the first counts)",
        f"lists: samples of a session and context ({CONTEXT}), in the order of sample_id, cut at {config.width} (the "
        "rest is a list of its own); stored clicked first",
        f"validation: {config.validation_percent} % of the published training sessions, by their checksum",
        f"user.categorical: the context, then the {config.past} heaviest ids of each of {', '.join(PAST)}; an id that "
        "training has not is rare",
    ]


_WARNINGS = (
    "no times: validation is drawn from the training sessions, and the order of a list (rank) is that of the file",
    "impressions only: no stage below exposure, and no ranker",
    "histories are empty: the user's past is known by category, shop, brand and intention, not by item; see user",
    "the meaning of the fields is as documented by others: 2.. items, 5.. 7.. 8.. crossed, 301 the context",
    "RankTower keeps users with 100 impressions and 20 positives and splits 70/10/20; here the published split is kept",
)
DATASETS = (
    DataSet(
        name="ali_ccp",
        title="Ali-CCP",
        papers="RankTower's Alimama; ESMM",
        where="https://tianchi.aliyun.com/dataset/408 (needs a login): sample_train.tar.gz, sample_test.tar.gz",
        licence="Tianchi's terms: research, no redistribution",
        files=(
            PublishedFile("sample_skeleton_train.csv", "42.3 million rows"),
            PublishedFile("sample_skeleton_test.csv", "43.0 million rows"),
            PublishedFile("common_features_train.csv", "730,600 rows"),
            PublishedFile("common_features_test.csv", "884,212 rows"),
        ),
        config=AliCcpConfig,
        convert=convert,
        note="the two archives have 9 GB; they are unpacked by the user",
    ),
)
