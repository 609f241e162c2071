"""The evidence of an experiment: its records, paired by seed, and the verdict on each claim that follows from them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.experiment import Claim, Experiment
from hccp_jax.errors import UserError
from hccp_jax.evaluation.statistics import Interval, paired_difference

SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE = "supported", "not_supported", "inconclusive"
SEEDS_NEEDED = 5


@dataclass(frozen=True)
class Record:
    """One finished trial: a line of results.jsonl with its result.json (empty if there is none) and its directory."""

    row: str
    seed: int
    metrics: Mapping[str, Any]
    result: Mapping[str, Any]
    directory: Path


def read_records(out_dir: Path | str, experiment: Experiment) -> list[Record]:
    """The results of an experiment in the order of its rows; the last line wins where a row and seed stand twice.

    Raises:
        UserError: if the directory has no results.jsonl.

    """
    path = Path(out_dir) / "results.jsonl"
    if not path.exists():
        raise UserError(f"{path}: no such file; run the experiment first")
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    latest = {(e["row"], int(e["seed"])): e for e in entries if e["experiment"] == experiment.name}
    order = [row.name for row in experiment.rows]
    keys = sorted((key for key in latest if key[0] in order), key=lambda key: (order.index(key[0]), key[1]))
    return [_record(Path(out_dir), latest[key]) for key in keys]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object on disk, or an empty one."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _record(out_dir: Path, entry: Mapping[str, Any]) -> Record:
    directory = out_dir / "trials" / str(entry["config_hash"])
    result = read_json(directory / "result.json")
    return Record(entry["row"], int(entry["seed"]), entry["metrics"], result, directory)


def by_seed(records: Iterable[Record], row: str, metric: str) -> dict[int, float]:
    """Seed -> value of a metric in a row, without the seeds in which it is missing, null or not finite."""
    values = {record.seed: record.metrics.get(metric) for record in records if record.row == row}
    return {seed: float(value) for seed, value in values.items() if value is not None and math.isfinite(value)}


def difference(records: Sequence[Record], metric: str, better: str, worse: str) -> Interval | None:
    """Mean and 95 % interval of `better - worse` over the seeds that both have, or None without a common seed."""
    ahead, behind = by_seed(records, better, metric), by_seed(records, worse, metric)
    seeds = sorted(ahead.keys() & behind.keys())
    return paired_difference([ahead[s] for s in seeds], [behind[s] for s in seeds]) if seeds else None


@dataclass(frozen=True)
class Verdict:
    """What the paired differences say about one claim.

    Attributes:
        claim: the claim.
        verdict: "supported", "not_supported" or "inconclusive".
        interval: of `better - worse`, or None without a common seed.
        reason: what is missing, where the verdict is inconclusive for lack of data.
    """

    claim: Claim
    verdict: str
    interval: Interval | None
    reason: str = ""

    @property
    def seeds(self) -> int:
        """Seeds that both rows have."""
        return self.interval.count if self.interval else 0

    @property
    def word(self) -> str:
        """The verdict as a reader sees it."""
        return self.verdict.replace("_", " ")

    @property
    def note(self) -> str:
        """The number of seeds, and whether it is too small to speak of a reproduction."""
        counted = f"{self.seeds} seed{'' if self.seeds == 1 else 's'}"
        few = "; five are needed to call it reproduced"
        return counted + (few if self.seeds < SEEDS_NEEDED else "")

    def as_json(self) -> dict[str, Any]:
        """The entry of claims.json."""
        low, high = (self.interval.low, self.interval.high) if self.interval else (None, None)
        entry = {
            "id": self.claim.id,
            "paper": self.claim.paper,
            "statement": self.claim.statement,
            "verdict": self.verdict,
            "effect": self.interval.mean if self.interval else None,
            "ci95": None if low is None or high is None else [low, high],
            "seeds": self.seeds,
        }
        return {**entry, "reason": self.reason} if self.reason else entry


def decide(claims: Iterable[Claim], records: Sequence[Record]) -> list[Verdict]:
    """The verdict on each claim, in order."""
    return [_verdict(claim, records) for claim in claims]


def _verdict(claim: Claim, records: Sequence[Record]) -> Verdict:
    interval = difference(records, claim.metric, claim.better, claim.worse)
    if interval is None:
        return Verdict(claim, INCONCLUSIVE, None, _why_not(claim, records))
    if interval.low is None or interval.high is None:
        return Verdict(claim, INCONCLUSIVE, interval, f"{interval.count} seed in common; an interval needs two")
    return Verdict(claim, judge(interval.mean, interval.low, interval.high, claim.smallest_effect), interval)


def judge(mean: float, low: float, high: float, smallest_effect: float) -> str:
    """The verdict of a 95 % interval of `better - worse`.

    Supported: wholly above 0 with a mean that matters. Not supported: wholly below the smallest effect that matters,
    whether it is negative or merely too small. Anything else is inconclusive.

    >>> judge(0.02, 0.01, 0.03, smallest_effect=0.005)
    'supported'
    >>> judge(0.002, 0.001, 0.003, smallest_effect=0.005)
    'not_supported'
    >>> judge(0.02, -0.01, 0.05, smallest_effect=0.005)
    'inconclusive'
    """
    if low > 0 and mean >= smallest_effect:
        return SUPPORTED
    return NOT_SUPPORTED if high < smallest_effect else INCONCLUSIVE


def _why_not(claim: Claim, records: Sequence[Record]) -> str:
    for row in (claim.better, claim.worse):
        if all(record.row != row for record in records):
            return f"row {row} has no results"
        if not by_seed(records, row, claim.metric):
            return f"row {row} has no {claim.metric}"
    return f"rows {claim.better} and {claim.worse} have no seed in common"
