"""Weak scaling of HCCP by counting: what a step costs each of 1 to 4,096 devices that keep their number of requests.

    python -m experiments.benchmarks.scaling                    exit code 1 if model and compiled programs disagree
    python -m experiments.benchmarks.scaling --tables=lazy --model=1,2 --rows=1048576 --accelerator=v5e
    python -m experiments.benchmarks.scaling --json=scaling.json

Operations, memory traffic and bytes sent are read from the package's own training step, compiled for simulated CPU
devices. A closed form of each (`cost_model`) is fitted to two device counts and checked on the others. The times are
predictions for a chip whose speeds are assumptions; only an accelerator of this machine is measured. Four minutes.

What the count does not see: loops count once, which leaves out some of ListMLE; the compiler of a CPU fuses otherwise
than that of an accelerator, so its memory traffic is a stand-in; beyond 4 MiB of in-batch scores a device (64 devices
at the default sizes) they are made twice; links are taken to be alike, without latency, and never to overlap with work.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from absl import flags

from experiments.benchmarks.bars import exit_with, parsed, write_json
from experiments.benchmarks.cost_model import ALL, Chip, CostModel, Counted, Line, apart, fitted
from hccp_jax.errors import UserError

CHIPS = {
    "h100": Chip("H100", 495e12, 3.35e12, 50e9),  # TF32 products, HBM3, one 400 Gb/s network port each
    "v5e": Chip("TPU v5e", 197e12, 819e9, 90e9),  # bfloat16 products, HBM2, two links of a torus at once
}
SIMULATED = (1, 2, 4, 8)  # times the model axis; the model is fitted to the middle two
PREDICTED = tuple(2**power for power in range(13))
MOST_APART = 0.03


@dataclass(frozen=True)
class Plan:
    """The result for one way to keep tables.

    Attributes:
        tables: of `TablesConfig.update`.
        programs: compiled.
        model: fitted.
        least: payloads by kind if everything were sent once.
    """

    tables: str
    programs: tuple[Counted, ...]
    model: CostModel
    least: dict[str, Line]

    @property
    def name(self) -> str:
        """For headings."""
        shared = f", each shared by {self.model.model} devices" if self.model.model > 1 else ""
        return f"{self.tables} tables{shared}"

    @property
    def agrees(self) -> bool:
        """Whether the model is that of the compiled programs."""
        return all(x[2] <= MOST_APART for program in self.programs for x in apart(self.model, program).values())


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The command's flags, with the chip under "chip"."""
    values = flags.FlagValues()
    flags.DEFINE_string("json", None, "file to write the same figures to", flag_values=values)
    flags.DEFINE_list("tables", ["dense", "lazy"], "updates of tables: dense, lazy, adagrad", flag_values=values)
    flags.DEFINE_list("model", ["1"], "devices that share each table by rows; not with dense", flag_values=values)
    flags.DEFINE_integer("requests", 128, "requests a device and step", lower_bound=2, flag_values=values)
    flags.DEFINE_integer("rows", 20_480, "rows of each of the two tables", lower_bound=2048, flag_values=values)
    flags.DEFINE_enum("accelerator", "h100", list(CHIPS), "whose assumed speeds to begin with", flag_values=values)
    flags.DEFINE_float("flops", None, "operations a second instead", lower_bound=0.0, flag_values=values)
    flags.DEFINE_float("memory_bandwidth", None, "bytes a second instead", lower_bound=0.0, flag_values=values)
    flags.DEFINE_float(
        "link_bandwidth", None, "bytes a second that a device sends, instead", lower_bound=0.0, flag_values=values
    )
    found = parsed(values, "scaling", arguments)
    for name in found["tables"]:
        if name not in ("dense", "lazy", "adagrad"):
            raise UserError(f"tables={name}: expected dense, lazy or adagrad")
    try:
        found["model"] = [int(text) for text in found["model"]]
    except ValueError:
        raise UserError(f"model={','.join(found['model'])}: expected whole numbers") from None
    for shared in found["model"]:
        if shared < 1 or found["rows"] % shared:
            raise UserError(f"model={shared}: expected a divisor of rows={found['rows']}")
    speeds = {name: found[name] for name in ("flops", "memory_bandwidth", "link_bandwidth") if found[name]}
    return found | {"chip": replace(CHIPS[found["accelerator"]], **speeds)}


def plan(tables: str, model: int, requests: int, rows: int) -> Plan:
    """Compile, fit and count by hand."""
    from experiments.benchmarks.step_programs import compiled, counted, described, least
    from experiments.settings import SimulatedSettings

    settings = SimulatedSettings()
    settings = replace(settings, world=replace(settings.world, items=rows - 1, users=rows - 1))
    programs = []
    for devices in (model * count for count in SIMULATED):
        step = described(settings, tables, requests, devices, model)
        programs.append(counted(compiled(step, settings), devices))
    by_hand = least(settings, step, devices, tables != "dense")
    return Plan(tables, tuple(programs), fitted(programs[1:3], model), by_hand)


def check_lines(of: Plan) -> list[str]:
    """What was compiled beside the model."""
    lines = [f"{'devices':>9}{'operations':>22}{'memory traffic, MB':>24}{'sent, MB':>20}"]
    for program in of.programs:
        cells = [f"{program.devices:9d}"]
        widths = {"operations": 22, "memory traffic": 24, "bytes sent": 20}
        for name, (there, model, difference) in apart(of.model, program).items():
            scale = 1e6
            cells.append(
                f"{there / scale:,.2f} ({model / there - 1 if there else difference:+.1%})".rjust(widths[name])
            )
        lines.append("".join(cells))
    return lines


def term_lines(of: Plan) -> list[str]:
    """The closed form, and how often its payloads are sent."""
    model = of.model
    lines = [f"  operations {_form(model.flops, 'M')}; memory traffic {_form(model.traffic, 'MB')}; D devices"]
    for kind, least in of.least.items():
        everywhere = model.payloads.get((kind, ALL), Line(0.0, 0.0))
        share = everywhere(1024) / least(1024)
        lines.append(f"  {kind} of {_form(everywhere, 'MB')}: {share:.2f} times what it must be at 1,024")
    for (kind, over), line in model.payloads.items():
        if over != ALL:
            lines.append(f"  {kind} over the {model.model} that share a table, of {_form(line, 'MB')}")
    return lines


def _form(line: Line, unit: str) -> str:
    return f"{line.own / 1e6:.2f} + {line.other / 1e6:.3f} D {unit}"


def prediction_lines(of: Plan, chip: Chip, requests: int) -> list[str]:
    """The table of predictions."""
    base = of.model.predict(of.model.model, chip)
    lines = [f"{'devices':>9}{'compute':>10}{'memory':>10}{'links':>10}{'step, us':>12}{'efficiency':>12}"]
    lines[0] += f"{'requests/s':>14}{'sent, MB':>12}{'held, MB':>11}"
    for devices in PREDICTED:
        if devices < of.model.model:
            continue
        one = of.model.predict(devices, chip)
        times = "".join(f"{1e6 * x:10,.0f}" for x in (one.compute, one.memory, one.links))
        rate = devices * requests / one.step
        line = f"{devices:9,d}{times}{1e6 * one.step:12,.0f}{base.step / one.step:12.1%}"
        lines.append(line + f"{rate:14,.0f}{one.sent / 1e6:12,.1f}{one.resident / 1e6:11,.0f}")
    return lines


def limits(of: Plan) -> list[str]:
    """What does not scale, in words."""
    lines = [
        "in-batch negatives: every device gathers the impressions of all, and scores its requests with a share of them"
    ]
    if of.tables == "dense":
        lines.append("the gradients of whole tables are summed at every step, however few rows a batch names")
        return lines
    lines.append(
        "the distinct rows of the batch of all devices are read, summed and updated by every device that holds them:"
        " with small tables or many devices this costs more than dense tables"
    )
    if of.model.model > 1:
        lines.append("sharing a table divides what is held of it, not the rows that are summed")
    return lines


def main(arguments: Sequence[str]) -> int:
    """Compile, check, predict, print; the exit code."""
    values = parse(arguments)
    every = [(name, model) for name in values["tables"] for model in values["model"]]
    pairs = [(name, model) for name, model in every if name != "dense" or model == 1]
    if not pairs:
        raise UserError("model: dense tables stay whole, expected 1 among them")
    _simulate(max(SIMULATED) * max(model for _, model in pairs))
    chip, requests = values["chip"], values["requests"]
    print(f"HCCP, three towers, {requests} requests a device, two tables of {values['rows']:,} rows")
    print(
        f"assumed, not measured: {chip.name}, {chip.flops / 1e12:g} T operations/s, memory"
        f" {chip.memory_bandwidth / 1e9:g} GB/s, links {chip.link_bandwidth / 1e9:g} GB/s a device"
    )
    plans = []
    for name, model in pairs:
        one = plan(name, model, requests, values["rows"])
        plans.append(one)
        print(f"\n{one.name}: compiled, in millions (and what the model says of it)")
        print("\n".join(check_lines(one)))
        print("\n".join(term_lines(one)))
        print("predicted")
        print("\n".join(prediction_lines(one, chip, requests)))
        print("\n".join(f"does not scale: {line}" for line in limits(one)), flush=True)
    from experiments.benchmarks.accelerator import asked_elsewhere

    seen = asked_elsewhere()
    print(f"\nmeasured here: {seen}" if seen else "\nno accelerator here: nothing of this is measured")
    write_json(values["json"], _record(values, plans, seen))
    bad = [one.name for one in plans if not one.agrees]
    print(f"model and programs are more than {MOST_APART:.0%} apart: {', '.join(bad)}" if bad else "the models hold")
    return 1 if bad else 0


def _simulate(devices: int) -> None:
    """Let JAX have so many CPU devices, unless it has them; only before its first use."""
    import jax

    if jax.config.jax_num_cpu_devices < devices:  # type: ignore[attr-defined]
        jax.config.update("jax_num_cpu_devices", devices)


def _record(values: dict[str, Any], plans: Sequence[Plan], seen: dict[str, Any] | None) -> dict[str, Any]:
    """What --json writes."""
    chip: Chip = values["chip"]
    found = []
    for one in plans:
        predicted = [one.model.predict(n, chip) for n in PREDICTED if n >= one.model.model]
        found.append(
            {
                "tables": one.tables,
                "model": one.model.model,
                "compiled": [asdict(program) for program in one.programs],
                "apart": [apart(one.model, program) for program in one.programs],
                "operations": asdict(one.model.flops),
                "memory_traffic": asdict(one.model.traffic),
                "payloads": {f"{kind} over {over}": asdict(x) for (kind, over), x in one.model.payloads.items()},
                "sent_once": {kind: asdict(line) for kind, line in one.least.items()},
                "predicted": [asdict(x) | {"step": x.step} for x in predicted],
                "agrees": one.agrees,
            }
        )
    sizes = {"requests": values["requests"], "rows": values["rows"]}
    return {"assumed": asdict(chip), **sizes, "plans": found, "measured": seen}


if __name__ == "__main__":
    # the devices are simulated, whatever this machine has; JAX reads this when it is loaded
    os.environ["JAX_PLATFORMS"] = "cpu"
    exit_with(main)
