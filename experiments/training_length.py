"""How long, and how often the same log: HCCP's ladder by training length and reuse, on the simulated cascade.

    python launch.py --experiment=training_length

All rows take the same number of steps; what differs is the size of the log that they are drawn from. One pass never
sees a request twice; 2 and 8 epochs reuse a log of a half and an eighth of the requests and keep the last step; "early-
stopped" reuses a log eight times and keeps the step that is each row's best on validation requests. The length decides
the size of the ladder and the sign of the simulated online effect, so a table at one length says little. The same axis
is open on every simulated table: --log.epochs, --log.keep and --train.steps.
"""

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.claims import Record, difference
from experiments.experiment import Claim, Column, Experiment, Row
from experiments.figures import COLOURS, half_width, panels
from experiments.hccp_ladder import LABELS
from experiments.online_map import CLICKS, METHODS, PURCHASES
from experiments.quickstart import PAPER, SMOKE
from experiments.settings import EvaluateConfig, SimulatedSettings
from experiments.simulated import DATA, run
from hccp_jax.methods.hccp import ROWS
from hccp_jax.training.config import TrainConfig

LENGTHS: dict[str, tuple[str, dict]] = {
    "one_pass": ("one pass", {}),
    "stopped": ("8 epochs, early-stopped", {"log.epochs": 8.0, "log.keep": "best"}),
    "epochs_2": ("2 epochs", {"log.epochs": 2.0, "log.keep": "last"}),
    "epochs_8": ("8 epochs", {"log.epochs": 8.0, "log.keep": "last"}),
}
OURS = "ours, simulated"


def _gap(length: str, metric: str, sign: float) -> tuple[tuple[float, str, str], ...]:
    return ((sign, f"{length}/hccp", metric), (-sign, f"{length}/base", metric))


def _of_each_length(number: int, paper: str, statement: str, metric: str, relative: bool, least: float) -> list[Claim]:
    return [
        Claim(
            f"LENGTH-{number}.{length}",
            paper,
            statement.format(label),
            metric,
            f"{length}/hccp",
            f"{length}/base",
            least,
            relative=relative,
        )
        for length, (label, _) in LENGTHS.items()
    ]


CLAIMS = (
    *_of_each_length(
        1, "HCCP Table 1, by training length", "HCCP is ahead of Base on ISH@100: {}.", "ISH@100", False, 0.005
    ),
    Claim(
        "LENGTH-2",
        OURS,
        "The gap of HCCP over Base on ISH@100 is wider after 8 epochs than after one pass.",
        terms=(*_gap("epochs_8", "ISH@100", 1.0), *_gap("one_pass", "ISH@100", -1.0)),
    ),
    *_of_each_length(3, "HCCP 4.3, by training length", "HCCP earns more clicks than Base: {}.", CLICKS, True, 0.002),
    Claim(
        "LENGTH-4",
        OURS,
        "Base finds more after one pass than after 8 epochs.",
        "ISH@100",
        "one_pass/base",
        "epochs_8/base",
    ),
)

PANELS = {"ISH@100": "ISH@100 over Base", CLICKS: "clicks over Base, online test"}
CAPTION = (
    "Each row against the Base of the same length and reuse of the log: points of ISH@100, and the lift in clicks of "
    "the simulated online test. Mean over seeds and worlds; bars: 95 % interval. Served: the click head."
)


def by_length(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """What the parts of HCCP add to Base, over training lengths."""
    if not records:
        return None
    figure, axes = panels(experiment, "By training length", list(PANELS))
    for (metric, title), axis in zip(PANELS.items(), axes, strict=True):
        for order, method in enumerate(METHODS[1:]):
            for place, length in enumerate(LENGTHS):
                pair = (f"{length}/{method}", f"{length}/base")
                found = difference(records, metric, *pair, relative=metric == CLICKS)
                if found is not None:
                    axis.errorbar(
                        place + 0.18 * (order - 1),
                        found.mean,
                        yerr=half_width(found),
                        fmt="o",
                        markersize=5,
                        color=COLOURS[order],
                        label=None if place else LABELS[method],
                    )
        axis.axhline(0, color="#333333", linewidth=0.8)
        axis.set_xticks(range(len(LENGTHS)), [label.replace(", ", ",\n") for label, _ in LENGTHS.values()], fontsize=8)
        axis.set_title(title)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


EXPERIMENT = Experiment(
    name="training_length",
    title="Training length and reuse of the log on a simulated cascade",
    paper=PAPER,
    table="the ablations of Table 1 by training length",
    minutes=30,
    data=DATA,
    settings=replace(
        SimulatedSettings(),
        train=TrainConfig(steps=400, batch=128, chunk=20, checkpoint_every=400),
        evaluate=EvaluateConfig(requests=512, fused=True, online=1024),
    ),
    smoke=SMOKE | {"train.steps": 16, "train.chunk": 2, "evaluate.online": 64},
    rows=tuple(
        Row(f"{length}/{name}", f"{LABELS[name]}, {label}", changes | ROWS[name], against=f"{length}/base")
        for length, (label, changes) in LENGTHS.items()
        for name in METHODS
    ),
    columns=(
        Column("ISH@100", "ISH@100"),
        Column("ASH@100", "ASH@100"),
        Column("T@100", "T@100"),
        Column("fused/ISH@100", "fused ISH@100"),
        Column("fused/T@100", "fused T@100"),
        Column(CLICKS, "clicks a request", percent=False, lift=True),
        Column(PURCHASES, "purchases a request", percent=False, lift=True),
        Column(f"fused/{CLICKS}", "fused: clicks", percent=False, lift=True),
        Column("tail_slots@100", "tail slots@100"),
    ),
    claims=CLAIMS,
    seeds=5,
    run=run,
    pictured=tuple(f"{length}/{name}" for length in LENGTHS for name in ("base", "hccp")),
    worlds=3,
    figures=(("by_length", CAPTION, by_length),),
)
