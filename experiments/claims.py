"""The evidence of an experiment: its records, paired by world and seed, and the verdict on each claim that follows."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.experiment import Claim, Experiment
from experiments.trials import place_of
from hccp_jax.errors import UserError
from hccp_jax.evaluation.statistics import LEVEL, Interval, holm, nested_interval

SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE = "supported", "not_supported", "inconclusive"
SEEDS_NEEDED = 5
Values = dict[tuple[int, int], float]  # (world, seed) -> value


@dataclass(frozen=True)
class Record:
    """One finished trial: a line of results.jsonl with its result.json (empty if there is none) and its directory."""

    row: str
    seed: int
    metrics: Mapping[str, Any]
    result: Mapping[str, Any]
    directory: Path
    world: int = 0


def read_records(out_dir: Path | str, experiment: Experiment) -> list[Record]:
    """The results of an experiment in the order of its rows; the last line wins where a trial stands twice.

    Raises:
        UserError: if the directory has no results.jsonl.

    """
    path = Path(out_dir) / "results.jsonl"
    if not path.exists():
        raise UserError(f"{path}: no such file; run the experiment first")
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    own = [entry for entry in entries if entry["experiment"] == experiment.name]
    latest = {(e["row"], int(e.get("world", 0)), int(e["seed"])): e for e in own}
    order = [row.name for row in experiment.rows]
    keys = sorted((key for key in latest if key[0] in order), key=lambda key: (order.index(key[0]), *key[1:]))
    records = [_record(experiment, Path(out_dir), latest[key]) for key in keys]
    return records + (list(experiment.derive(records)) if experiment.derive else [])


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object on disk, or an empty one."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _record(experiment: Experiment, out_dir: Path, entry: Mapping[str, Any]) -> Record:
    directory = place_of(experiment, out_dir, str(entry["config_hash"]))
    result = read_json(directory / "result.json")
    return Record(entry["row"], int(entry["seed"]), entry["metrics"], result, directory, int(entry.get("world", 0)))


def by_seed(records: Iterable[Record], row: str, metric: str) -> Values:
    """(World, seed) -> value of a metric in a row, without those in which it is missing, null or not finite."""
    values = {(record.world, record.seed): record.metrics.get(metric) for record in records if record.row == row}
    return {key: float(value) for key, value in values.items() if value is not None and math.isfinite(value)}


def over_worlds(values: Values) -> Interval:
    """Mean and 95 % interval of values by world and seed; see `nested_interval`."""
    worlds = sorted({world for world, _ in values})
    return nested_interval([[value for (w, _), value in sorted(values.items()) if w == world] for world in worlds])


def contrast(records: Sequence[Record], claim: Claim, references: Iterable[str] = ()) -> Values:
    """A claim's weighted sum for every world and seed that all its rows have.

    A reference row has one trial a world, whose value stands for all seeds; `references` names those rows.
    """
    fixed = set(references)
    parts = [by_seed(records, row, metric) for _, row, metric in claim.contrast]
    trained = [part for part, (_, row, _) in zip(parts, claim.contrast, strict=True) if row not in fixed]
    keys = set.intersection(*map(set, trained or parts))
    sums: Values = {}
    for world, seed in sorted(keys):
        looked = [
            part.get((world, seed), part.get((world, 0)) if row in fixed else None)
            for part, (_, row, _) in zip(parts, claim.contrast, strict=True)
        ]
        values = [value for value in looked if value is not None]
        if len(values) == len(parts) and not (claim.relative and values[-1] == 0):  # a share of nothing is none
            total = sum(weight * value for (weight, _, _), value in zip(claim.contrast, values, strict=True))
            sums[world, seed] = total / values[-1] if claim.relative else total
    return sums


def difference(
    records: Sequence[Record], metric: str, better: str, worse: str, relative: bool = False
) -> Interval | None:
    """Mean and 95 % interval of `better - worse` over the worlds and seeds that both have, or None without any.

    With `relative`, as a share of `worse`.
    """
    found = contrast(records, Claim("", "", "", metric, better, worse, relative=relative))
    return over_worlds(found) if found else None


@dataclass(frozen=True)
class Verdict:
    """What the paired differences say about one claim.

    Attributes:
        claim: the claim.
        verdict: "supported", "not_supported" or "inconclusive".
        interval: of `better - worse`, or None without a common seed.
        reason: what is missing, where the verdict is inconclusive for lack of data.
        chance: p-value against the bound that the verdict turns on, by Holm over the claims of its family.
        by_world: the effect in each world.
        seeds: fewest training seeds of a world.
    """

    claim: Claim
    verdict: str
    interval: Interval | None
    reason: str = ""
    chance: float | None = None
    by_world: tuple[float, ...] = ()
    seeds: int = 0

    @property
    def word(self) -> str:
        """The verdict as a reader sees it."""
        return self.verdict.replace("_", " ")

    @property
    def note(self) -> str:
        """The number of seeds, and whether it is too small to speak of a reproduction."""
        counted = f"{self.seeds} seed{'' if self.seeds == 1 else 's'}"
        counted += f" x {len(self.by_world)} worlds" if len(self.by_world) > 1 else ""
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
            "worlds": len(self.by_world),
            "effect_by_world": list(self.by_world),
            "p_holm": self.chance,
        }
        return {**entry, "reason": self.reason} if self.reason else entry


def decide(claims: Iterable[Claim], records: Sequence[Record], references: Iterable[str] = ()) -> list[Verdict]:
    """The verdict on each claim of one table, in order.

    The more a statement claims, the more of it chance alone would support, so a verdict other than inconclusive must
    hold at 5 % after Holm's adjustment over all claims of a family that have an interval.
    """
    found = [_verdict(claim, records, references) for claim in claims]
    families: dict[str, list[int]] = {}
    for index, verdict in enumerate(found):
        if verdict.chance is not None:
            families.setdefault(verdict.claim.family, []).append(index)
    for places in families.values():
        adjusted = holm([found[index].chance or 0.0 for index in places])
        for index, chance in zip(places, adjusted, strict=True):
            found[index] = _adjusted(found[index], chance, len(places))
    return found


def _adjusted(verdict: Verdict, chance: float, claims: int) -> Verdict:
    if verdict.verdict == INCONCLUSIVE or chance <= 1 - LEVEL:
        return replace(verdict, chance=chance)
    reason = f"{verdict.word} on its own, not after Holm's adjustment over {claims} claims"
    return replace(verdict, verdict=INCONCLUSIVE, reason=reason, chance=chance)


def _verdict(claim: Claim, records: Sequence[Record], references: Iterable[str]) -> Verdict:
    """The verdict of a claim on its own."""
    found = contrast(records, claim, references)
    if not found:
        return Verdict(claim, INCONCLUSIVE, None, _why_not(claim, records))
    interval = over_worlds(found)
    worlds = sorted({world for world, _ in found})
    seeds = min(sum(w == world for w, _ in found) for world in worlds)
    means = tuple(_mean([value for (w, _), value in found.items() if w == world]) for world in worlds)
    if interval.low is None or interval.high is None:
        reason = f"{interval.count} seed in common; an interval needs two"
        return Verdict(claim, INCONCLUSIVE, interval, reason, None, means, seeds)
    verdict, chance = (_small if claim.within else _large)(claim, interval)
    return Verdict(claim, verdict, interval, "", chance, means, seeds)


def _large(claim: Claim, interval: Interval) -> tuple[str, float]:
    """Whether an effect is above 0 and large enough to matter, and the p-value against the bound this turns on."""
    verdict = judge(interval.mean, interval.low or 0.0, interval.high or 0.0, claim.smallest_effect)
    bound = 0.0 if verdict == SUPPORTED or interval.mean >= claim.smallest_effect else claim.smallest_effect
    return verdict, interval.chance(bound)


def _small(claim: Claim, interval: Interval) -> tuple[str, float]:
    """Whether an effect is of no importance: its interval within the claim's bounds (two one-sided tests)."""
    low, high = interval.low or 0.0, interval.high or 0.0
    chance = max(interval.chance(bound) for bound in (-claim.within, claim.within))  # against the nearer bound
    if -claim.within < low and high < claim.within:
        return SUPPORTED, chance
    outside = high < -claim.within or low > claim.within
    return (NOT_SUPPORTED if outside else INCONCLUSIVE), chance


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


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
    for _, row, metric in claim.contrast:
        if all(record.row != row for record in records):
            return f"row {row} has no results"
        if not by_seed(records, row, metric):
            return f"row {row} has no {metric}"
    return f"rows {' and '.join(dict.fromkeys(row for _, row, _ in claim.contrast))} have no seed in common"
