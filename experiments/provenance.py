"""Where the numbers of a run come from: its command, commit, machine and configuration."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.claims import Record, read_json, read_records
from experiments.experiment import Experiment, Kind
from hccp_jax import config

COMMAND = "command.txt"
CONFIGURATION, ENVIRONMENT = "config.json", "environment.json"
UNKNOWN = "not recorded"
PLACES = ("data_dir", "store")  # fields that say where data lie


@dataclass(frozen=True)
class Provenance:
    """What is needed to make the numbers of a run again.

    Attributes:
        command: the command line.
        commit: of the code, with `-dirty` where it was changed.
        machine: cores and devices.
        configuration: the hash of the resolved configuration.
        smoke: whether the run was shrunk to seconds.
        changed: what the command changed of the experiment's own configuration, as 'name: old -> new'.
    """

    command: str
    commit: str
    machine: str
    configuration: str
    smoke: bool
    changed: tuple[str, ...]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Name and value of each, in the order of the page."""
        return [
            ("Command", self.command),
            ("Commit", self.commit),
            ("Configuration", self.configuration),
            ("Machine", self.machine),
        ]


def provenance_of(out_dir: Path | str, experiment: Experiment, command: str = "") -> Provenance:
    """The provenance of the run in a directory; `command` is the one that runs now, else the one noted there."""
    out_dir = Path(out_dir)
    noted = out_dir / COMMAND
    command = command or (noted.read_text(encoding="utf-8").strip() if noted.exists() else UNKNOWN)
    found = read_json(out_dir / CONFIGURATION).get("config") or {}
    environment = read_json(out_dir / ENVIRONMENT) or _beside(out_dir, experiment)
    machine = [str(environment[name]) for name in ("machine", "device") if environment.get(name)]
    smoke = is_smoke_command(command) or _has_smoke_sizes(experiment, found)
    changes = [] if smoke or not found else config.difference(config.to_json(experiment.settings), found)
    return Provenance(
        command,
        str(environment.get("commit") or UNKNOWN),
        "; ".join(machine) or UNKNOWN,
        config.digest(found) if found else UNKNOWN,
        smoke,
        tuple(change for change in changes if change.partition(":")[0] not in PLACES),
    )


def _beside(out_dir: Path, experiment: Experiment) -> dict[str, Any]:
    """The environment in which the trials of a view were run, beside it; empty where that is not told."""
    for record in read_records(out_dir, experiment) if (out_dir / "results.jsonl").exists() else ():
        if found := read_json(record.directory.parent.parent / ENVIRONMENT):
            return found
    return {}


def portable(command: str) -> str:
    """The command with DIR and STORE for folders of data, which lie elsewhere on another machine.

    >>> portable("python launch.py --experiment=croloss --store=/mnt/games")
    'python launch.py --experiment=croloss --store=STORE'
    """
    shown = {f"--{name}": name.rpartition("_")[2].upper() for name in PLACES}
    pairs = [word.partition("=") for word in command.split()]
    return " ".join(f"{name}={shown[name]}" if name in shown else name + rest + value for name, rest, value in pairs)


def is_smoke_command(command: str) -> bool:
    """Whether a command line asks for a smoke run."""
    return any(word in ("--smoke", "--smoke=true", "--smoke=True", "--smoke=1") for word in command.split())


def _has_smoke_sizes(experiment: Experiment, found: Mapping[str, Any]) -> bool:
    """Whether a configuration has every size of a smoke run, whatever the command was."""
    if not experiment.smoke or not found:
        return False
    small = dict(flat(config.to_json(config.override(experiment.settings, experiment.smoke))))
    here = dict(flat(found))
    return all(here.get(name) == small[name] for name in experiment.smoke)


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted name and printed value of every leaf of nested objects."""
    leaves: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            leaves += flat(value, f"{prefix}{name}.")
        else:
            leaves.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)))
    return leaves


def kind_of_data(experiment: Experiment, records: Sequence[Record] = ()) -> Kind:
    """What the data are; of a store, what its description says in the results."""
    told = {str(record.result["data"]) for record in records if record.result.get("data")}
    if experiment.data.kind != Kind.STORED or not told:
        return experiment.data.kind
    return Kind.STAGED if any("simulated" in text.lower() for text in told) else Kind.REAL
