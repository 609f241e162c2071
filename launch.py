"""The one command: experiment -> trials -> training -> table, verdicts, report.

    python launch.py                                       the quickstart
    python launch.py --list                                every experiment
    python launch.py --experiment=hccp_ladder --seeds=5 --out=runs/ladder
    python launch.py --rows=base,hccp --hyper.margin=0.2 --train.steps=800
    python launch.py --help                                every flag of the chosen experiment

Exit codes: 0 done; 2 a mistake in the command, the data or the checkpoints, told in one line; 1 anything else.
"""

import importlib
import os
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from hccp_jax import config
from hccp_jax.errors import UserError

EXPERIMENTS = ("quickstart", "hccp_ladder", "systems", "kuairand", "systems_kuairand")


def _load(name: str):
    if name not in EXPERIMENTS:
        raise UserError(f"experiment={name!r}: unknown; {config.near_miss(name, EXPERIMENTS)}")
    return importlib.import_module(f"experiments.{name}").EXPERIMENT


def _list(console: Console) -> None:
    for name in EXPERIMENTS:
        experiment = _load(name)
        minutes = f"about {experiment.minutes:g} min"
        console.print(
            f"{name:17}{minutes:>14}  {experiment.title}: {experiment.table}. {experiment.paper}", soft_wrap=True
        )


def _start_jax(cache: str | None, devices: int, smoke: bool) -> int:
    """Settle JAX's configuration before its backend starts; returns the devices left to spread trials over."""
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", max(devices, cores if devices == 1 else 1))
    if cache != "none":
        directory = (
            Path(cache) if cache else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hccp_jax"
        )
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cache_dir={directory}: cannot be written ({error.strerror})") from None
        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    if smoke:  # half the compile time, which is most of it
        jax.config.update("jax_disable_most_optimizations", True)
    if len(jax.devices()) < devices:
        raise UserError(f"devices={devices}: only {len(jax.devices())} of {jax.default_backend()} are there")
    return len(jax.devices()) if devices == 1 else 1


def _run(arguments: Sequence[str], console: Console) -> None:
    from experiments import flags, sweeps

    experiment = _load(flags.chosen_experiment(arguments))
    values = flags.launcher_flags()
    flags.settings_flags(values, experiment)
    flags.parse(values, arguments)
    if values["help"].value:
        console.print(flags.describe(values, experiment), highlight=False, markup=False, soft_wrap=True)
        return
    if values["list"].value:
        _list(console)
        return
    given: dict[str, Any] = {name: values[name].value for name in values}
    rows = _rows(experiment, given["rows"])
    seeds = experiment.seeds if given["seeds"] is None else given["seeds"]
    if seeds < 1:
        raise UserError(f"seeds={seeds}: expected at least 1")
    if given["devices"] < 1:
        raise UserError(f"devices={values['devices'].value}: expected at least 1")
    if given["sweep_draws"] < 0:
        raise UserError(f"sweep_draws={given['sweep_draws']}: expected at least 0")
    changed = (dict(experiment.smoke) if given["smoke"] else {}) | flags.changes(values, experiment)
    settings = config.override(experiment.settings, changed)
    if settings.train.batch % given["devices"]:
        raise UserError(f"train.batch={settings.train.batch}: expected a multiple of the {given['devices']} devices")
    over = []
    if given["sweep"] or given["sweep_file"]:
        at = sweeps.points(given["sweep"], given["sweep_file"], given["sweep_draws"], given["sweep_seed"])
        over = sweeps.tried(rows, settings, at)
        experiment = sweeps.widened(experiment, rows, over)
        rows = experiment.rows
    spread = _start_jax(given["cache_dir"], given["devices"], given["smoke"])

    from experiments import locks, report, trials
    from experiments.progress import reporter
    from hccp_jax.training.program import Placement

    name = experiment.name + (f"-{config.digest(settings)[:8]}" if changed else "")
    out = Path(given["out"] or Path("runs") / name)
    trials.open_output(experiment, settings, out)
    everything = trials.make_trials(experiment, settings, rows, seeds, out)
    pending = tuple(trial for trial in everything if trial.result is None)
    if len(pending) < len(everything):
        console.print(
            f"{len(everything) - len(pending)} of {len(everything)} trials are finished in {out}", highlight=False
        )
    if pending:
        # data-parallel runs use the wrapper that was asked for; otherwise trials are spread over the devices
        many = given["devices"] > 1
        kind = given["parallel"] if many or spread > 1 else "single"
        kind = "mesh" if not many and spread > 1 else kind
        placement = Placement(kind, given["devices"], spread)
        say = partial(console.print, highlight=False, markup=False)
        known = {trial.directory.name: trial for trial in pending}

        def run(names: list[str]) -> None:
            mine = tuple(known[name] for name in names)
            experiment.run(trials.Context(experiment, mine, placement, reporter(console), say, bool(over)))

        def waiting(count: int) -> None:
            say(f"{count} trials are run by another process; waiting for them")

        locks.run_each_once(out / "locks", list(known), lambda name: known[name].result is not None, run, waiting)
    trials.collect(experiment, everything, out)
    report.write_all(out, experiment, "python launch.py " + shlex.join(arguments), console, over)
    console.print(f"results, pictures and report.html are in {out}", highlight=False)


def _rows(experiment, names: Sequence[str]):
    known = {row.name: row for row in experiment.rows}
    for name in names:
        if name not in known:
            raise UserError(f"rows={name!r}: unknown; {config.near_miss(name, known)}")
    # the references of a table cost seconds, so they stay in it
    return [row for row in experiment.rows if not names or row.name in names or row.reference]


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a log file has no width of its own
    try:
        _run(arguments, console)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
