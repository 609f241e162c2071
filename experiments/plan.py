"""What a command asks for: an experiment, its configuration, rows, seeds, and where the results go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from absl import flags

from experiments import sweeps
from experiments.experiment import Experiment, Row
from experiments.flags import changes
from experiments.sweeps import Tried
from experiments.trials import Trial, make_trials
from hccp_jax import config
from hccp_jax.errors import UserError

# what a worker is not told
LAUNCHER_ONLY = (
    *("out", "only", "engine", "processes", "retries", "ray_address", "ray_cpus", "ray_gpus", "ray_resources"),
    *("search", "search_batch", "search_storage"),
)
AT_LEAST_1 = ("seeds", "worlds", "devices", "model_devices", "processes")
AT_LEAST_0 = ("retries", "sweep_draws", "search", "search_batch", "ray_cpus", "ray_gpus", "profile_steps")


@dataclass(frozen=True)
class Plan:
    """All that decides which trials there are.

    Attributes:
        experiment: as it is run; a sweep has made its rows.
        rows: those asked for.
        settings: the configuration before a row's own overrides.
        seeds: of each trained row.
        worlds: simulated worlds, each with all rows and seeds.
        out: directory of the results.
        over: what a sweep tries; empty without one.
        words: the flags that say all this, for the command line of a worker.
    """

    experiment: Experiment
    rows: tuple[Row, ...]
    settings: Any
    seeds: int
    worlds: int
    out: Path
    over: tuple[Tried, ...]
    words: tuple[str, ...]

    @cached_property
    def _trials(self) -> tuple[Trial, ...]:
        return tuple(make_trials(self.experiment, self.settings, self.rows, self.seeds, self.out, self.worlds))

    def trials(self) -> list[Trial]:
        """Every trial, finished or not."""
        return list(self._trials)

    def at(self, over: Sequence[Tried], sweep: str = "") -> "Plan":
        """The same plan with the trained rows of a sweep in the place of its own; `sweep` is the text of its points."""
        wide = sweeps.widened(self.experiment, self.rows, over)
        words = (*(word for word in self.words if not word.startswith("--sweep")), f"--sweep={sweep}")
        return replace(self, experiment=wide, rows=wide.rows, over=tuple(over), words=words if sweep else self.words)


def make(experiment: Experiment, values: flags.FlagValues) -> Plan:
    """The plan of parsed flags.

    Raises:
        UserError: for what no flag alone can see, and values out of their range.
    """
    given: dict[str, Any] = {name: values[name].value for name in values}
    for name in (*AT_LEAST_1, *AT_LEAST_0):
        if given[name] is not None and given[name] < (least := int(name in AT_LEAST_1)):
            raise UserError(f"{name}={given[name]}: expected at least {least}")
    changed = (dict(experiment.smoke) if given["smoke"] else {}) | changes(values, experiment)
    settings = config.override(experiment.settings, changed)
    if hasattr(settings, "train") and settings.train.batch % given["devices"]:
        raise UserError(f"train.batch={settings.train.batch}: expected a multiple of the {given['devices']} devices")
    if (given["worlds"] or 1) > 1 and not hasattr(settings, "world"):
        raise UserError(f"worlds={given['worlds']}: expected 1, as {experiment.name} runs on real logs")
    name = experiment.name + (f"-{config.digest(settings)[:8]}" if changed else "")
    words = [values[n].serialize() for n in values if values[n].present and n not in LAUNCHER_ONLY]
    plan = Plan(
        experiment,
        tuple(_rows(experiment, given["rows"], given["smoke"])),
        settings,
        _how_many(experiment.seeds, given["seeds"], min(2, experiment.seeds) if given["smoke"] else None),
        _how_many(experiment.worlds, given["worlds"], 1 if given["smoke"] else None),
        Path(given["out"] or Path("runs") / name),
        (),
        tuple(word for word in words if word),
    )
    plan = plan if given["search"] else _swept(plan, given)
    known = {trial.directory.name for trial in plan.trials()} if given["only"] else set()
    for name in given["only"]:
        if name not in known:
            raise UserError(f"only={name!r}: expected the hash of one of the {len(known)} trials of this command")
    return plan


def _how_many(usual: int, asked: int | None, smoke: int | None) -> int:
    return asked if asked is not None else usual if smoke is None else smoke


def _swept(plan: Plan, given: Mapping[str, Any]) -> Plan:
    if not given["sweep"] and not given["sweep_file"]:
        return plan
    at = sweeps.points(given["sweep"], given["sweep_file"], given["sweep_draws"], given["sweep_seed"])
    return plan.at(sweeps.tried(plan.rows, plan.settings, at))


def _rows(experiment: Experiment, names: Sequence[str], smoke: bool) -> list[Row]:
    known = {row.name: row for row in experiment.rows}
    for name in names:
        if name not in known:
            raise UserError(f"rows={name!r}: unknown; {config.near_miss(name, known)}")
    # the references of a table cost seconds, so they stay in it
    run = [row for row in experiment.rows if not row.derived]
    if smoke and experiment.smoke_rows:
        run = [row for row in run if row.name in (*experiment.smoke_rows, *names)]
    return [row for row in run if not names or row.name in names or row.reference]
