"""Full-stage logs from logs of exposures: what each request would have retrieved, pre-ranked and ranked.

    python -m experiments.full_stage_logs --store=STORE --output=STAGED [--past=0.5] [--cascade.retrieved=500] ...

Exposures, labels and features stay as they are. The stages below exposure are SIMULATED by a cascade over the real
catalogue, whose three models are trained on the exposures of an earlier period alone: a retrieval model (a user vector
from past items, softmax over random ones), a pre-ranker (two towers on the log), and a DIN as the ranker, calibrated on
the last tenth of that period. The requests of the rest of the training period get what these would have found: the
ranker's order with its probabilities as the teacher, items that the pre-ranker cut, and random ones. What the earlier
period exposed is no longer in the training part. Whatever is made from such a store says so.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.logs_ground import featurise_of
from experiments.past_cascade import PastCascade, PastCascadeConfig
from hccp_jax import __version__, config
from hccp_jax.config import field
from hccp_jax.data import describe, guards
from hccp_jax.data.lists import lists_by, local_day, padded
from hccp_jax.data.requests import RequestBatch, Stage, first_slots
from hccp_jax.data.simulated_stages import append
from hccp_jax.data.store import Store, open_store
from hccp_jax.data.store_writer import StoreWriter
from hccp_jax.data.stored import StoredLogs, read_logs
from hccp_jax.errors import UserError
from hccp_jax.training.teacher import write_teacher

HELD_OUT = 0.1  # of the past, which calibrates the ranker


@dataclass(frozen=True)
class FullStageConfig:
    """How exposures become full-stage logs."""

    past: float = field(0.5, "share of the training period that the cascade learns from", above=0, at_most=0.95)
    cascade: PastCascadeConfig = PastCascadeConfig()


def staged(store: Store, output: Path, settings: FullStageConfig, say: Callable[[str], None]) -> Store:
    """Write the full-stage store of a store of exposures.

    Raises:
        UserError: if the store has no times or too few requests, or the output cannot be written.
    """
    logs = read_logs(store)
    if guards.TIME not in store["train"].columns:
        raise UserError(f"store={store.directory}: its requests have no time; the past cannot be told from the rest")
    identity = {"store": store.manifest["identity"], "settings": config.to_json(settings), "version": __version__}
    with StoreWriter(output, identity) as writer, tempfile.TemporaryDirectory() as folder:
        try:
            past = _write_train(writer, logs, settings, Path(folder), say)
            for name in store.manifest["tables"]:
                if name != "train":
                    table = store[name]
                    writer.table(name, {column: np.asarray(table[column][:]) for column in table.columns})
            facts = _facts(writer, store, settings, past)
        except UserError:
            writer.discard()
            raise
        return writer.finish(facts)


def _write_train(
    writer: StoreWriter, logs: StoredLogs, settings: FullStageConfig, folder: Path, say: Callable[[str], None]
) -> str:
    """The later part of training with its stages; returns what the models are of, in words."""
    table = logs.store["train"]
    zone = logs.store.facts["zone"]
    times = np.asarray(table[guards.TIME][:])
    first, last = int(times.min()), int(times.max())
    calibrated, border = (first + round(settings.past * part * (last - first)) for part in (1 - HELD_OUT, 1))
    rows = {
        "to learn from": np.flatnonzero(times < calibrated),
        "to calibrate by": np.flatnonzero((times >= calibrated) & (times < border)),
        "to stage": np.flatnonzero(times >= border),
    }
    for (name, found), least in zip(rows.items(), (settings.cascade.batch, 1, 1), strict=True):
        if len(found) < least:
            raise UserError(f"past={settings.past}: {len(found)} requests {name}, expected at least {least}")
    past, held_out, batch = (_exposures(table.requests(), found, logs.exposed) for found in rows.values())
    told = f"{len(past.mask):,} requests before {describe.date(calibrated, zone)}"
    say(f"the cascade learns from {told}")
    cascade = PastCascade(logs, featurise_of(logs.store), past, held_out, settings.cascade, folder, say)
    seen = _seen_that_day(batch, times[rows["to stage"]], zone or 0)
    full = append(batch, cascade.stages(batch, np.concatenate([seen, np.asarray(batch.history["id"])], axis=1)))
    ranked: Any = (full.stage == Stage.EXPOSED) | (full.stage == Stage.RANKED)
    full = write_teacher(full, cascade.predict(full), cascade.calibrations, ranked)
    beside = [name for name in (guards.TIME, guards.HISTORY_TIME) if name in table.columns]
    writer.requests("train", full, {name: np.asarray(table[name][:])[rows["to stage"]] for name in beside})
    return told


def _facts(writer: StoreWriter, store: Store, settings: FullStageConfig, past: str) -> dict[str, Any]:
    """Guards are on as for a conversion."""
    facts = dict(store.facts)
    parts = {part: writer.opened(part) for part in guards.PARTS if part in writer.tables}
    known = guards.check(parts, facts["vocabulary"], facts["timed"])
    counted = [line for part, table in parts.items() for line in describe.measured(part, table, facts["zone"])]
    simulated = "what a training request retrieved, pre-ranked and ranked, and the ranker's probabilities, by models of"
    return facts | {
        "title": f"{facts['title']} with simulated stages",
        "lines": [*counted, *known],
        "simulated": f"{simulated} {past}; exposures and labels are real",
        "full_stage": config.to_json(settings),
    }


def _exposures(train: RequestBatch, rows: np.ndarray, exposed: int) -> RequestBatch:
    """Some requests with their impressions alone."""
    return replace(first_slots(jax.tree.map(lambda leaf: np.asarray(leaf[rows]), train), exposed), teacher={})


def _seen_that_day(batch: RequestBatch, times: np.ndarray, zone: int) -> np.ndarray:
    """[n, W] ids that the user of each request was shown on its day, in any request."""
    user, day = np.asarray(batch.user["id"]), local_day(times, zone)
    request, slot = np.nonzero(np.asarray(batch.mask))
    item = np.asarray(batch.items["id"])[request, slot]
    order = np.lexsort((day[request], user[request]))
    request, item = request[order], item[order]
    slots = lists_by((user[request], day[request]), len(item))
    of = np.zeros(len(user), np.int64)
    of[request] = slots.row
    return padded(slots, int(slots.slot.max()) + 1, item)[of].astype(np.int32)


def main(arguments: Sequence[str]) -> int:
    """Run the command; the exit code."""
    try:
        given = config.named(arguments)
        if "help" in given:
            known = [f"  --{name}: {item.metadata['help']} [{item.default}]" for name, _, item in _flags()]
            print(__doc__, *known, sep="\n")
            return 0
        for key in ("store", "output"):
            if not given.get(key):
                raise UserError(f"{key}='': expected --store=STORE --output=STAGED")
        where, output = Path(given.pop("store")), Path(given.pop("output"))
        settings = config.override(FullStageConfig(), given)
        made = staged(open_store(where), output, settings, lambda line: print(line, flush=True))
        print(describe.text(made.manifest))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _flags() -> Any:
    return config.leaves(FullStageConfig)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
