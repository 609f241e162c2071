"""KuaiRand-Pure (Gao et al., CIKM 2022): real exposures of 7,583 videos, with simulated stages below exposure.

`hccp_jax.data.kuairand` reads and splits the files, `kuairand_features` makes statistics of the past, and
`kuairand_cascade` simulates what a request retrieved and ranked; the store holds what `kuairand_dataset.load` makes, so
that `stored` gives the same data without reading the files again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hccp_jax.data.catalogue import Catalogue
from hccp_jax.data.catalogue_view import CatalogueView
from hccp_jax.data.kuairand import KuaiRandConfig
from hccp_jax.data.kuairand_dataset import KuaiRand, load
from hccp_jax.data.sources.dataset import DataSet, Facts, PublishedFile
from hccp_jax.data.store import Store, columns_of
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.data.stored import spec_of
from hccp_jax.errors import UserError

ZONE = 8  # hours east of UTC, Asia/Shanghai
RANDOM = "test_random"
COUNTED = ("train ", "validation ", "test ", "SIMULATED")  # lines that the description of any store has


def convert(folder: Path, config: KuaiRandConfig, writer: StoreWriter, say: Callable[[str], None]) -> Facts:
    """Write requests, features and whole-catalogue views."""
    data: Any = load(folder, config)
    say(f"{data.spec.users - 1:,} users and {data.spec.items - 1:,} videos read")
    for part in ("train", "validation", "test"):
        writer.requests(part, getattr(data, part), data.times[part])
    if data.random is not None:
        writer.requests(RANDOM, data.random)
    catalogue = data.catalogue
    writer.table("items", catalogue.items | {"exposures": data.item_exposures})
    writer.table("users", catalogue.users)
    periods, items, width = catalogue.daily.shape
    writer.table("daily", {"statistics": catalogue.daily.reshape(periods * items, width)}, rows=1 << 20)
    for name, view in data.views.items():
        positives = {f"positives.{task}": ids for task, ids in view.positives.items()}
        seen = {"seen": np.packbits(view.seen, axis=1)}
        writer.table(f"view_{name}", columns_of(view.requests) | positives | seen)
        writer.table(f"floors_{name}", view.popularity)
    vocabulary = {"items.id": data.spec.items, "history.id": data.spec.items, "user.id": data.spec.users}
    return Facts(
        spec=data.spec,
        vocabulary=vocabulary | {"user.categorical": data.spec.user_categories},
        zone=ZONE,
        lines=[line for line in data.summary.split("\n") if not line.startswith(COUNTED)],
        warnings=[] if data.random is not None else ["no log of videos shown at random: no unbiased test"],
        simulated="what a training request retrieved, pre-ranked and ranked; exposures and labels are real",
        more={"periods": periods},
    )


def stored(store: Store, config: KuaiRandConfig) -> KuaiRand:
    """What `load` made, from its store; logs stay on disk.

    Raises:
        UserError: if the store is of another source or protocol.
    """
    facts = store.facts
    if facts.get("source") != "kuairand":
        raise UserError(f"store={store.directory}: holds {facts.get('source', 'a log')}, expected kuairand")
    for name, made in facts["protocol"].items():
        if getattr(config, name) != made:
            raise UserError(f"{name}={getattr(config, name)}: the store was made with {name}={made}; say the same")
    spec = spec_of(store)
    items: Any = {name: np.asarray(store["items"][name][:]) for name in store["items"].columns}
    users: Any = {name: np.asarray(store["users"][name][:]) for name in store["users"].columns}
    shown = items.pop("exposures")
    daily: Any = np.asarray(store["daily"]["statistics"][:]).reshape(facts["more"]["periods"], spec.items, -1)
    return KuaiRand(
        catalogue=Catalogue(users=users, items=items, daily=daily),
        spec=spec,
        train=store["train"].requests(),
        validation=store["validation"].loaded(),
        test=store["test"].loaded(),
        item_exposures=shown,
        views={name: _view(store, name, spec.items) for name in ("validation", "test")},
        summary="\n".join(facts["lines"]),
        random=store[RANDOM].loaded() if RANDOM in store else None,
    )


def _view(store: Store, name: str, items: int) -> CatalogueView:
    table, floors = store[f"view_{name}"], store[f"floors_{name}"]
    positives: Any = {
        column.removeprefix("positives."): np.asarray(table[column][:])
        for column in table.columns
        if column.startswith("positives.")
    }
    seen: Any = np.unpackbits(np.asarray(table["seen"][:]), axis=1, count=items).astype(bool)
    popularity: Any = {floor: np.asarray(floors[floor][:]) for floor in floors.columns}
    return CatalogueView(table.loaded(), positives, seen, popularity)


DATASETS = (
    DataSet(
        name="kuairand",
        title="KuaiRand-Pure",
        papers="the real benchmark here; RankTower uses KuaiRand",
        where="https://kuairand.com, https://zenodo.org/records/10439422",
        licence="CC BY-SA 4.0",
        files=(
            PublishedFile("log_standard_4_22_to_5_08_pure.csv", "80 MB"),
            PublishedFile("log_standard_4_08_to_4_21_pure.csv", "83 MB; earlier exposures, optional"),
            PublishedFile("log_random_4_22_to_5_08_pure.csv", "21 MB; the unbiased test, optional"),
            PublishedFile("user_features_pure.csv"),
            PublishedFile("video_features_basic_pure.csv"),
        ),
        config=KuaiRandConfig,
        convert=convert,
        note="video_features_statistic_pure.csv is not read: its means of the whole month know the future.",
    ),
)
