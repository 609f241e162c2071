"""The one command: experiment -> trials -> training -> table, verdicts, report.

    python launch.py                                       the quickstart
    python launch.py --list                                every experiment
    python launch.py --claims                              what the runs below runs/ say of every claim
    python launch.py --experiment=hccp_ladder --seeds=5 --out=runs/ladder
    python launch.py --rows=base,hccp --hyper.margin=0.2 --train.steps=800
    python launch.py --processes=4                         in four workers of this machine; --engine=ray|print elsewhere
    python launch.py --help                                every flag of the chosen experiment

Exit codes: 0 done; 2 a mistake in the command, the data or the checkpoints, told in one line; 1 anything else, such as
trials that are missing in the table; 130 stopped by Ctrl-C; 143 by SIGTERM, after everything was saved.
"""

import errno
import importlib
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from hccp_jax import config
from hccp_jax.errors import Stopped, UserError

EXPERIMENTS = (
    *("quickstart", "hccp_ladder", "systems", "kuairand", "systems_kuairand", "systems_logs", "croloss"),
    *("hccp_table1", "hccp_table2", "hccp_table3", "hccp_table4"),
    *("hccp_figure4", "hccp_figure6", "hccp_figure7", "hccp_figure8", "hccp_online", "hccp_offline_online"),
    *("sdcl_table2", "sdcl_table3", "sdcl_table4", "sdcl_table5", "sdcl_table6", "sdcl_table7"),
    *("sdcl_figure3", "sdcl_online"),
    *("ranktower_table1", "ranktower_table2", "ranktower_table3", "ranktower_table4"),
    *("croloss_table2", "croloss_table3", "croloss_table4"),
    *("croloss_figure2", "croloss_figure3", "croloss_figure4", "croloss_figure5", "croloss_online"),
    *("hap_claims", "cost_frontier"),
    *("online_map", "hccp_sensitivity", "training_length", "hccp_tail", "online_days", "offline_online"),
)


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


def _claims(given: dict[str, Any], asked: Sequence[str], arguments: Sequence[str], console: Console) -> int:
    from experiments import ledger, ledger_files

    if not given["claims"]:
        raise UserError(f"results={given['results']!r}: expected --claims with it")
    if ignored := [name for name in asked if name not in ("claims", "results", "out")]:
        raise UserError(f"{ignored[0]}={given[ignored[0]]!r}: expected only --out and --results with --claims")
    experiments = [_load(name) for name in EXPERIMENTS]
    found = ledger.read_ledger(given["out"] or "runs", experiments)
    command = "python launch.py " + shlex.join(arguments)
    ledger_files.write_all(found, command, console)
    if given["results"]:
        ledger_files.write_results(found, experiments, Path(given["results"]), command, console)
    return 0


def _run(arguments: Sequence[str], console: Console) -> int:
    from experiments import flags, plan

    experiment = _load(flags.chosen_experiment(arguments))
    values = flags.launcher_flags()
    flags.settings_flags(values, experiment)
    flags.parse(values, arguments)
    if values["help"].value:
        console.print(flags.describe(values, experiment), highlight=False, markup=False, soft_wrap=True)
        return 0
    if values["list"].value:
        _list(console)
        return 0
    given: dict[str, Any] = {name: values[name].value for name in values}
    if given["claims"] or given["results"]:
        return _claims(given, [name for name in values if values[name].present], arguments, console)
    asked = plan.make(experiment, values)

    from experiments import search, startup, study, trials
    from experiments.engines import choice, here, printed
    from hccp_jax.training import hosts

    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    run = choice.workers(given, say)
    knobs = search.asked_space(given, asked)
    if given["engine"] == "print" and not given["only"]:
        trials.open_output(asked.experiment, asked.settings, asked.out)
        printed.print_jobs(asked, given["processes"])
        return 0
    if not knobs and not startup.many_hosts(given):
        finished = [trial.finished for trial in asked.trials()]
        if any(finished):
            trials.open_output(asked.experiment, asked.settings, asked.out)
            say(f"{sum(finished)} of {len(finished)} trials are finished in {asked.out}")
        if all(finished):
            return 0 if given["only"] else _conclude(asked, (), arguments, console)
    if run is not None:  # a launcher of workers does not start JAX's backend
        trials.open_output(asked.experiment, asked.settings, asked.out)
    else:
        placement = startup.start_jax(given)
        console.quiet = not hosts.is_primary()
        trials.open_output(asked.experiment, asked.settings, asked.out)
        trials.note_environment(asked.out)
        run = partial(here.run_plan, placement=placement, console=console, given=given)
    if given["only"]:
        return _worked(run(asked))
    if knobs:
        asked, failures = search.search(asked, study.studies(asked, knobs, given), search.batch(given), run, say)
    else:
        failures = [*run(asked)]
    return _conclude(asked, failures, arguments, console)


def _worked(failures: Sequence[Any]) -> int:
    """The exit code of a worker."""
    from experiments.engines.workers import DIVERGED

    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return DIVERGED if failures else 0


def _conclude(asked, failures: Sequence[Any], arguments: Sequence[str], console: Console) -> int:
    """Write what follows from the finished trials; returns the exit code."""
    from experiments import report, trials
    from hccp_jax.training import hosts

    if not hosts.is_primary():
        return 0
    everything = asked.trials()
    missing = sum(not trial.finished for trial in everything)
    trials.collect(asked.experiment, everything, asked.out)
    if missing < len(everything):
        command = "python launch.py " + shlex.join(arguments)
        report.write_all(asked.out, asked.experiment, command, console, asked.over)
        console.print(f"results, pictures and report.html are in {asked.out}", highlight=False)
    if missing:
        why = "; ".join(map(str, failures)) or "another command has them"
        print(f"error: {missing} of {len(everything)} trials are missing: {why}", file=sys.stderr)
    return 1 if missing else 0


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a log file has no width of its own
    try:
        return _run(arguments, console)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        print(f"error: {error.strerror}: {error.filename or 'the results'}; nothing finished is lost", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
