"""Trials on disk: one row and seed each, named by the hash of what decides its numbers."""

import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.atomic import write_atomically
from experiments.experiment import Experiment, Row
from hccp_jax import __version__, config
from hccp_jax.errors import UserError
from hccp_jax.training import hosts
from hccp_jax.training.program import Placement
from hccp_jax.training.run import Report


@dataclass(frozen=True)
class Trial:
    """One row with one seed.

    Attributes:
        row: the table's row.
        seed: training seed.
        settings: the resolved configuration.
        directory: where everything of the trial is kept; its name is the hash.
        world: which of the simulated worlds; 0 on real logs.
    """

    row: Row
    seed: int
    settings: Any
    directory: Path
    world: int = 0

    @property
    def name(self) -> str:
        """For messages."""
        return f"row {self.row.name}, " + (f"world {self.world}, " if self.world else "") + f"seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Whether it has a result."""
        return (self.directory / "result.json").exists()

    @property
    def result(self) -> dict[str, Any] | None:
        """The finished trial's result, or None."""
        path = self.directory / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if self.finished else None


@dataclass(frozen=True)
class Context:
    """What an experiment's `run` is given.

    Attributes:
        experiment: the experiment.
        trials: the trials asked for that are not finished.
        placement: devices.
        report: (label, total steps) -> a function that shows the progress of one population.
        say: shows some text.
        validated: whether results must say how good they are on validation data, as a sweep chooses by it.
        failed: a line for each trial whose loss was not finite, which leaves it without a result.
        stop: asked by training whether to save and stop.
    """

    experiment: Experiment
    trials: tuple[Trial, ...]
    placement: Placement
    report: Callable[[str, int], Report]
    say: Callable[[str], None]
    validated: bool = False
    failed: list[str] = field(default_factory=list)
    stop: Callable[[], bool] = lambda: False

    def warn(self, line: str) -> None:
        """Show a warning."""
        self.say(f"warning: {line}")


def make_trials(
    experiment: Experiment, settings: Any, rows: Sequence[Row], seeds: int, out: Path, worlds: int = 1
) -> list[Trial]:
    """The trials of an experiment; a row's own overrides come last, so that a row stays what it is called.

    A reference row does not depend on the training seed and is one trial a world.
    """
    trials = []
    owner = experiment.shares or experiment.name
    for row in rows:
        own = config.override(settings, row.overrides)
        for world in range(worlds):
            resolved = config.override(own, {"world.seed": own.world.seed + world}) if world else own
            for seed in range(1 if row.reference else seeds):
                name = config.digest(owner, row.name, seed, config.to_json(resolved), __version__)
                trials.append(Trial(row, seed, resolved, place_of(experiment, out, name), world))
    return trials


def place_of(experiment: Experiment, out: Path, name: str) -> Path:
    """The directory of a trial: in `out`, or beside it, if the same trial of a shared table is finished there."""
    own = out / "trials" / name
    if experiment.shares and not own.exists():
        for other in sorted(out.parent.glob(f"*/trials/{name}/result.json")):
            return other.parent
    return own


def by_world(context: "Context") -> list["Context"]:
    """The same context with the trials of one world each."""
    worlds = sorted({trial.world for trial in context.trials})
    return [replace(context, trials=tuple(t for t in context.trials if t.world == world)) for world in worlds]


def save_result(
    experiment: Experiment,
    trial: Trial,
    metrics: dict[str, float],
    per_request: dict[str, np.ndarray] | None = None,
    **more: Any,
) -> None:
    """Finish a trial: `result.json` appears whole or not at all; per-request values go beside it.

    Of several hosts only the primary writes.
    """
    if not hosts.is_primary():
        return
    trial.directory.mkdir(parents=True, exist_ok=True)
    if per_request:
        partial = trial.directory / "per_request.tmp.npz"
        np.savez_compressed(partial, allow_pickle=False, **per_request)
        os.replace(partial, trial.directory / "per_request.npz")
    result = {
        "experiment": experiment.name,
        "row": trial.row.name,
        "seed": trial.seed,
        "world": trial.world,
        "config_hash": trial.directory.name,
        "config": config.to_json(trial.settings),
        "metrics": {name: None if value != value else value for name, value in metrics.items()},
        **more,
    }
    write_atomically(trial.directory / "result.json", json.dumps(result, indent=1) + "\n")


def validated(value: float | None, by: str) -> dict[str, Any]:
    """What a result says of its validation; nothing without a value."""
    return {} if value is None else {"validation": float(value), "validated_by": by}


def collect(experiment: Experiment, trials: Iterable[Trial], out: Path) -> None:
    """Write results.jsonl from the finished trials, with the metrics that follow from their configuration."""
    keys = ("row", "seed", "world", "metrics", "config_hash")
    told = []
    for trial in trials:
        if (result := trial.result) is not None:
            derived = experiment.configured(trial.settings) if experiment.configured and not trial.row.reference else {}
            told.append({"world": trial.world} | result | {"metrics": result["metrics"] | derived})
    lines = [json.dumps({"experiment": experiment.name} | {key: result[key] for key in keys}) + "\n" for result in told]
    write_atomically(out / "results.jsonl", "".join(lines))


def open_output(experiment: Experiment, settings: Any, out: Path) -> None:
    """Create the output directory with config.json, or check that it belongs to this run; one of several hosts does.

    Raises:
        UserError: if it cannot be written, or holds another experiment or configuration.
    """
    if not hosts.is_primary():
        return
    wanted = {"experiment": experiment.name, "version": __version__, "config": config.to_json(settings)}
    try:
        out.mkdir(parents=True, exist_ok=True)
        path = out / "config.json"
        if path.exists() and (out / "trials").exists():  # a run that ended before its first trial claims nothing
            _refuse_other(json.loads(path.read_text(encoding="utf-8")), wanted, out)
        else:
            write_atomically(path, json.dumps(wanted, indent=1) + "\n")
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"out={out}: cannot be used ({error})") from None


def _refuse_other(found: dict[str, Any], wanted: dict[str, Any], out: Path) -> None:
    if changes := config.difference(found, wanted):
        shown = "; ".join(changes[:5]) + (f"; and {len(changes) - 5} more" if len(changes) > 5 else "")
        raise UserError(f"out={out}: holds a run with another configuration ({shown}); choose another --out")


def note_environment(out: Path) -> None:
    """Write environment.json; this starts JAX's backend."""
    if not hosts.is_primary():
        return
    write_atomically(out / "environment.json", json.dumps(environment(), indent=1) + "\n")


def environment() -> dict[str, str]:
    """Versions, device and commit."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    device = jax.devices()[0]
    return {
        "hccp_jax": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
        "device": f"{len(jax.devices())} x {device.device_kind}",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "commit": commit or "unknown",
    }


def groups(trials: Iterable[Trial]) -> list[list[Trial]]:
    """Trials that share a compiled program: they differ in seed and in traced numbers only."""
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        static = replace(trial.settings, hyper=None)
        found.setdefault(config.digest(repr(static)), []).append(trial)
    return list(found.values())
