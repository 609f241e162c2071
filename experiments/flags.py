"""Command-line flags made from a configuration class: one declaration serves types, defaults, help and checks."""

from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments.experiment import Experiment
from hccp_jax import config
from hccp_jax.errors import UserError


def launcher_flags() -> flags.FlagValues:
    """The flags that every experiment shares."""
    values = flags.FlagValues()
    define: Any = {"flag_values": values, "module_name": "launch"}
    flags.DEFINE_string("experiment", "quickstart", "table or figure to run; --list shows them", **define)
    flags.DEFINE_boolean("list", False, "list the experiments and stop", **define)
    flags.DEFINE_boolean(
        "claims", False, "write the ledger of all claims from the runs below --out, and stop", **define
    )
    flags.DEFINE_string(
        "results", "", "with --claims: RESULTS.md, the ledger with a preface; runs recorded beside it stay", **define
    )
    flags.DEFINE_boolean("help", False, "list every flag with its meaning and default, and stop", **define)
    flags.DEFINE_list("rows", [], "rows to run, comma-separated; empty: all", **define)
    flags.DEFINE_integer("seeds", None, "training seeds of each row; empty: the experiment's own", **define)
    flags.DEFINE_integer("worlds", None, "simulated worlds, each with all seeds; empty: the experiment's own", **define)
    flags.DEFINE_string("sweep", "", "settings to try, such as 'hyper.margin=0,0.9 x train.steps=200,400'", **define)
    flags.DEFINE_string("sweep_file", "", "file with a sweep a line", **define)
    flags.DEFINE_integer("sweep_draws", 0, "random settings of the sweep; 0: all of them", **define)
    flags.DEFINE_integer("sweep_seed", 0, "seed of the random settings", **define)
    flags.DEFINE_string("out", None, "directory of the results; empty: runs/NAME", **define)
    flags.DEFINE_boolean(
        "smoke", False, "minutes become seconds; the same code path, numbers that mean nothing", **define
    )
    flags.DEFINE_integer(
        "search", 0, "settings of the sweep that Optuna's TPE chooses, each row; 0: no search", **define
    )
    flags.DEFINE_integer("search_batch", 0, "settings asked at once; 0: as many as processes, or 4", **define)
    flags.DEFINE_string("search_storage", "", "URL of the search's data base; empty: search.db in --out", **define)
    engines = "where trials run: local: processes of this machine; ray: a Ray cluster; print: print the commands"
    flags.DEFINE_enum("engine", "local", ["local", "print", "ray"], engines, **define)
    flags.DEFINE_integer("processes", 1, "workers at a time; 1: none, trials run in this process", **define)
    flags.DEFINE_integer("retries", 2, "how often a worker that died is started again", **define)
    flags.DEFINE_list("only", [], "hashes of the trials to run, without a table: the command of a worker", **define)
    address = "Ray cluster, all of whose nodes see --out and this code; empty: RAY_ADDRESS, or a local one"
    flags.DEFINE_string("ray_address", "", address, **define)
    flags.DEFINE_float("ray_cpus", 1.0, "cores that a job asks Ray for", **define)
    flags.DEFINE_float("ray_gpus", 0.0, "GPUs that a job asks Ray for; a fraction shares one", **define)
    flags.DEFINE_list("ray_resources", [], "what else a job asks Ray for, such as TPU=4", **define)
    flags.DEFINE_integer("devices", 1, "devices that share each batch", **define)
    flags.DEFINE_integer("model_devices", 1, "how many of these share each table of users or items by rows", **define)
    flags.DEFINE_boolean("distributed", False, "one of several hosts, told by Slurm, Open MPI, GKE or a TPU", **define)
    flags.DEFINE_string("coordinator", "", "host:port of the first of several hosts, where nothing tells", **define)
    flags.DEFINE_integer("host_count", None, "how many hosts; with --coordinator", **define)
    flags.DEFINE_integer("host_index", None, "which of them, from 0; with --coordinator", **define)
    flags.DEFINE_integer("profile_steps", 0, "steps of the first training to profile, into OUT/profile", **define)
    flags.DEFINE_enum("parallel", "mesh", ["mesh", "pmap"], "how devices share a batch", **define)
    flags.DEFINE_string("cache_dir", None, "compile cache; empty: ~/.cache/hccp_jax; 'none' switches it off", **define)
    return values


def settings_flags(values: flags.FlagValues, experiment: Experiment) -> None:
    """Add one dotted flag for each field of the experiment's configuration."""
    defaults = config.flatten(experiment.settings)
    for name, hint, item in config.leaves(type(experiment.settings)):
        text = item.metadata["help"] + (f" ({'|'.join(item.metadata['choices'])})" if item.metadata["choices"] else "")
        default = defaults[name]
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        define = flags.DEFINE_boolean if hint is bool else flags.DEFINE_string
        define(name, None, f"{text} [{shown}]", flag_values=values, module_name=experiment.name)


def parse(values: flags.FlagValues, arguments: Sequence[str]) -> list[str]:
    """Parse the arguments (without the program's name).

    Raises:
        UserError: on an unknown flag (with the near miss), a bad value or a stray word.
    """
    try:
        rest = values(["launch.py", *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        name = error.flagname
        raise UserError(f"unknown flag --{name}; {config.near_miss(name, values)}") from None
    except flags.Error as error:
        raise UserError(str(error).replace("\n", " ")) from None
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}; flags look like --name=value")
    return rest


def chosen_experiment(arguments: Sequence[str]) -> str:
    """The value of --experiment before the other flags can be known."""
    values = launcher_flags()
    known = [a for i, a in enumerate(arguments) if a.lstrip("-").startswith("experiment")]
    for index, argument in enumerate(arguments):
        if argument.lstrip("-") == "experiment" and index + 1 < len(arguments):
            known = [argument, arguments[index + 1]]
    parse(values, known)
    return str(values["experiment"].value)


def changes(values: flags.FlagValues, experiment: Experiment) -> dict[str, Any]:
    """The dotted fields that were given on the command line."""
    names = [name for name, _, _ in config.leaves(type(experiment.settings))]
    return {name: values[name].value for name in names if values[name].present}


def describe(values: flags.FlagValues, experiment: Experiment) -> str:
    """The text of --help."""
    lines = [f"{experiment.title}\n\nusage: python launch.py [--flag=value ...]\n"]
    for module, found in values.flags_by_module_dict().items():
        lines.append(f"{'launcher' if module == 'launch' else 'configuration of ' + str(module)}:")
        for flag in sorted(found, key=lambda f: f.name) if module == "launch" else found:
            default = f" [{flag.default_unparsed}]" if module == "launch" and flag.default_unparsed else ""
            lines.append(f"  --{flag.name}: {flag.help}{default}")
        lines.append("")
    return "\n".join(lines)
