"""The record of a ledger, ledger.json: what every run said, kept where the runs themselves are not.

A full table takes hours and its trials gigabytes, so RESULTS.md is written from runs of more than one place and time.
Beside it lies RESULTS.json, its record: a run that is no longer there keeps its verdicts, with the commit and command
that made them, until it is run again.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.claims import INCONCLUSIVE, Verdict
from experiments.experiment import Claim, Experiment
from experiments.ledger import Entry, Ledger, Run, of_runs
from experiments.printed_effects import printed_effect
from experiments.provenance import Provenance, portable
from hccp_jax.errors import UserError
from hccp_jax.evaluation.statistics import Interval


def to_json(ledger: Ledger) -> str:
    """Counts, runs, claims, and what was left aside."""
    runs = [
        {
            "run": run.name,
            "experiment": run.experiment.name,
            "smoke": run.provenance.smoke,
            **{name.lower(): text for name, text in run.provenance.facts},
            "command": portable(run.provenance.command),
            "seeds_x_worlds": run.seeds,
            "size": run.size,
            "changed": list(run.provenance.changed),
            "data": run.data,
            "facts": list(run.facts),
        }
        for run in ledger.runs
    ]
    content = {
        "counts": ledger.counts,
        "runs": runs,
        "claims": [entry_json(entry) for entry in ledger.entries],
        "left_aside": [{"run": name, "reason": reason} for name, reason in ledger.aside],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def entry_json(entry: Entry) -> dict[str, Any]:
    """A claim and what one run says of it."""
    found = entry.verdict.as_json() if entry.verdict else {}
    return {
        "id": entry.claim.id,
        "paper": entry.claim.paper,
        "statement": entry.claim.statement,
        "measured": entry.claim.measured,
        "threshold": entry.claim.threshold,
        "status": entry.status,
        "effect": found.get("effect"),
        "ci95": found.get("ci95"),
        "printed_effect": printed_effect(entry.experiment, entry.claim),
        "by_world": found.get("effect_by_world", []),
        "p_holm": found.get("p_holm"),
        "seeds": found.get("seeds", 0),
        "worlds": found.get("worlds", 0),
        "data": entry.data,
        "experiment": entry.experiment.name,
        "run": entry.run.name if entry.run else "",
        "commit": entry.run.provenance.commit if entry.run else "",
        "reason": entry.reason,
    }


def with_recorded(ledger: Ledger, path: Path, experiments: Sequence[Experiment]) -> Ledger:
    """A ledger with the full runs of a record that it does not have itself.

    Args:
        ledger: of the runs that are here. A full run of it replaces the recorded one of its name; a smoke run does not.
        path: of the record; nothing is added if there is none.
        experiments: those whose claims are listed.

    Raises:
        UserError: if the file is no record of a ledger.
    """
    if not path.exists():
        return ledger
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = {experiment.name: experiment for experiment in experiments}
        lines = [line for line in content["runs"] if line["experiment"] in known and not line["smoke"]]
        recorded = [_run(line, known[line["experiment"]], content["claims"]) for line in lines]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: no record of a ledger ({why}); expected one as --claims writes it") from error
    runs = {_key(run): run for run in ledger.runs if run.provenance.smoke}
    runs |= {_key(run): run for run in recorded}
    runs |= {_key(run): run for run in ledger.runs if not run.provenance.smoke}
    return of_runs(ledger.out, [runs[key] for key in sorted(runs)], ledger.aside, experiments)


def _key(run: Run) -> tuple[str, str]:
    return run.name, run.experiment.name


def _run(line: Mapping[str, Any], experiment: Experiment, entries: Sequence[Mapping[str, Any]]) -> Run:
    own = {e["id"]: e for e in entries if e["run"] == line["run"] and e["experiment"] == experiment.name}
    told = (line["command"], line["commit"], line["machine"], line["configuration"])
    provenance = Provenance(*told, smoke=False, changed=tuple(line["changed"]))
    verdicts = tuple(_verdict(claim, own.get(claim.id)) for claim in experiment.claims)
    seeds, size, data, facts = line["seeds_x_worlds"], line["size"], line["data"], tuple(line["facts"])
    return Run(line["run"], experiment, verdicts, provenance, seeds, size, data, facts)


def _verdict(claim: Claim, found: Mapping[str, Any] | None) -> Verdict:
    """What a record says of a claim; nothing where the claim was not yet there or was decided otherwise."""
    if found is None or (found["measured"], found["threshold"]) != (claim.measured, claim.threshold):
        return Verdict(claim, INCONCLUSIVE, None, "not among the claims when it was run")
    if found["effect"] is None:
        return Verdict(claim, INCONCLUSIVE, None, found["reason"])
    low, high = found["ci95"] or (None, None)
    interval = Interval(found["effect"], low, high, found["seeds"] * found["worlds"])
    by_world = tuple(found["by_world"])
    return Verdict(claim, found["status"], interval, found["reason"], found["p_holm"], by_world, found["seeds"])
