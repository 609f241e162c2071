"""A prepared store in words: counts, rates, dates, what is simulated, and warnings.

python -m hccp_jax.data.describe --store=STORE
"""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from hccp_jax.data.guards import PARTS, blocks, period
from hccp_jax.data.requests import Stage
from hccp_jax.data.store import Store, Table, open_store
from hccp_jax.errors import UserError


def measured(name: str, table: Table, zone: int | None) -> list[str]:
    """Counts, rates and dates of a table of requests."""
    shown, slots = 0, dict.fromkeys(Stage, 0)
    positives: dict[str, float] = {}
    users: set[int] = set()
    for _, batch in blocks(table):
        exposed: Any = np.asarray(batch.exposed)
        shown += int(exposed.sum())
        for stage in Stage:
            slots[stage] += int((np.asarray(batch.stage) == stage).sum())
        for task, label in batch.labels.items():
            positives[task] = positives.get(task, 0.0) + float(np.asarray(label)[exposed].sum())
        if "id" in batch.user:
            users.update(np.unique(np.asarray(batch.user["id"])).tolist())
    users.discard(0)
    rates = ", ".join(f"{task} {count / max(shown, 1):.4f}" for task, count in positives.items())
    line = f"{name}: {len(table):,} requests of {len(users):,} users, {shown:,} impressions" + (
        f" ({rates})" if rates else ""
    )
    kinds = [f"{stage.name} {slots[stage] / len(table):.1f}" for stage in Stage if stage > 1 and slots[stage]]
    lines = [line + (f"; items a request: {', '.join(kinds)}" if kinds else "")]
    ends = period(table)
    if ends is not None:
        lines.append(f"{name}: {date(ends[0], zone)} to {date(ends[1], zone)}")
    return lines


def date(milliseconds: int, zone: int | None) -> str:
    """A time in words."""
    where = timezone(timedelta(hours=zone)) if zone is not None else UTC
    return datetime.fromtimestamp(int(milliseconds) / 1000, where).strftime("%Y-%m-%d %H:%M:%S %Z")


def text(manifest: Mapping[str, Any]) -> str:
    """The description of a store."""
    facts = manifest["facts"]
    lines = [f"{facts.get('title', 'a log')}", *facts.get("lines", ())]
    told = PARTS if facts.get("spec") else ()  # those that `measured` has lines of
    lines += [f"table {name}: {table['rows']:,} rows" for name, table in manifest["tables"].items() if name not in told]
    if facts.get("simulated"):
        lines.append(f"SIMULATED: {facts['simulated']}")
    return "\n".join([*lines, *(f"warning: {line}" for line in facts.get("warnings", ()))])


def main(arguments: Sequence[str]) -> int:
    """Print the description of a store."""
    try:
        word = arguments[0] if len(arguments) == 1 else ""
        folder = word.removeprefix("--store=")
        if folder in ("", word):
            raise UserError(f"{' '.join(arguments) or 'no store'}: expected --store=DIR and nothing else")
        store: Store = open_store(Path(folder), "full")
        print(text(store.manifest))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
