"""When cross-stage coordination pays online: the parts of HCCP against Base in twelve simulated funnels.

    python launch.py --experiment=online_map

A funnel is the default world with one thing changed: the ranker (perfect, trained on its own log, its error not shrunk,
its error on rare items larger), the width of the bottleneck, the size of the catalogue, the skew of popularity, or the
bias of exposures. In each, Base and three rows of HCCP are trained in one pass over fresh requests and put into the
funnel (`cascade.ab_test`), served by the click head and fused. All funnels are reported, whatever they show. The other
view of the same runs is `hccp_sensitivity`: the offline ladder in each funnel.
"""

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.claims import Record, difference
from experiments.experiment import Claim, Column, Experiment, Row
from experiments.figures import COLOURS, DPI, WIDTH, half_width
from experiments.hccp_ladder import LABELS
from experiments.quickstart import PAPER, SMOKE
from experiments.settings import EvaluateConfig, SimulatedSettings
from experiments.simulated import DATA, run
from hccp_jax.methods.hccp import ROWS
from hccp_jax.training.config import TrainConfig

FUNNELS: dict[str, tuple[str, dict]] = {
    "default": ("default: shrunk ranker, 150 ranked", {}),
    "perfect": ("perfect ranker", {"world.ranker": "perfect"}),
    "trained": ("ranker trained on its own log", {"world.ranker": "trained"}),
    "not_shrunk": ("ranker error not shrunk", {"world.ranker_prior_std": 100.0}),
    "rare_error": ("ranker error on rare items 2.5", {"world.ranker_error_tail": 2.5}),
    "ranked_75": ("75 ranked", {"world.ranked": 75}),
    "ranked_600": ("600 ranked", {"world.ranked": 600}),
    "items_5000": ("5,000 items", {"world.items": 5000}),
    "items_50000": ("50,000 items", {"world.items": 50_000}),
    "zipf_05": ("popularity skew 0.5", {"world.zipf": 0.5}),
    "zipf_095": ("popularity skew 0.95", {"world.zipf": 0.95}),
    "explored": ("a tenth of the impressions random", {"world.exploration": 0.1}),
}
SMOKE_FUNNELS = ("default", "trained", "items_5000", "explored")  # each is a world of its own, with its own programs
METHODS = ("base", "without_up", "without_margin", "hccp")
CLICKS, PURCHASES = "online/clicks", "online/purchases"
HEADS = {"": "click head", "fused/": "fused"}
CAPTION = (
    "Simulated online test in twelve funnels: expected clicks and purchases a request over Base of the same funnel. "
    "Points: mean over seeds and worlds; bars: 95 % interval. Filled: click head; hollow: fused with the consistency "
    "head."
)


def rows() -> tuple[Row, ...]:
    """A row for each funnel and method, and the ranker's own order in each funnel."""
    trained = [
        Row(f"{funnel}/{name}", f"{LABELS[name]}, {label}", changes | ROWS[name], against=f"{funnel}/base")
        for funnel, (label, changes) in FUNNELS.items()
        for name in METHODS
    ]
    references = [
        Row(f"{funnel}/ranker", f"ranker's order, {label}", changes, reference=True)
        for funnel, (label, changes) in FUNNELS.items()
    ]
    return (*trained, *references)


def online_map(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """Lifts over Base, a line a funnel that was run, a panel for clicks and one for purchases."""
    run = {record.row.partition("/")[0] for record in records if CLICKS in record.metrics}
    funnels = [funnel for funnel in FUNNELS if funnel in run]
    if not funnels:
        return None
    figure = Figure(figsize=(WIDTH, 1.6 + 0.42 * len(funnels)), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axis, (metric, title) in zip(panels, ((CLICKS, "clicks"), (PURCHASES, "purchases")), strict=True):
        for place, funnel in enumerate(funnels):
            _points(axis, records, metric, funnel, place)
        axis.axvline(0, color="#333333", linewidth=0.8)
        axis.set(title=f"{title} over Base")
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.grid(alpha=0.25, axis="x")
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(funnels)), [FUNNELS[funnel][0] for funnel in funnels], fontsize=8)
    panels[0].invert_yaxis()
    figure.suptitle("When coordination pays online (simulated data)", fontsize=12, fontweight="bold")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _points(axis, records: Sequence[Record], metric: str, funnel: str, place: int) -> None:
    for order, method in enumerate(METHODS[1:]):
        for head in HEADS:
            found = difference(records, head + metric, f"{funnel}/{method}", f"{funnel}/base", relative=True)
            if found is None:
                continue
            colour = COLOURS[order]
            axis.errorbar(
                found.mean,
                place + (order - 1) * 0.26 + (0.1 if head else 0.0),
                xerr=half_width(found),
                fmt="o",
                markersize=4,
                color=colour,
                markerfacecolor="white" if head else colour,
                elinewidth=1.0,
                label=None if head or place else LABELS[method],
            )


def _claims() -> tuple[Claim, ...]:
    return tuple(
        Claim(
            f"ONLINE-{number}.{funnel}",
            "HCCP 4.3, in simulated funnels",
            f"HCCP earns more {what} than Base: {label}.",
            metric,
            f"{funnel}/hccp",
            f"{funnel}/base",
            0.002,
            relative=True,
        )
        for number, (metric, what) in enumerate(((CLICKS, "clicks"), (PURCHASES, "purchases")), start=1)
        for funnel, (label, _) in FUNNELS.items()
    )


EXPERIMENT = Experiment(
    name="online_map",
    title="When cross-stage coordination pays online: twelve simulated funnels",
    paper=PAPER,
    table="no table of the paper: the conditions of its online test",
    minutes=55,
    data=DATA,
    settings=replace(
        SimulatedSettings(),
        train=TrainConfig(steps=200, batch=128, chunk=25, checkpoint_every=200),
        evaluate=EvaluateConfig(requests=512, fused=True, online=1024),
    ),
    smoke=SMOKE
    | {"world.candidates": 1024, "world.ranker_requests": 256}  # as funnels need
    | {"train.steps": 4, "train.chunk": 2, "evaluate.online": 64},
    rows=rows(),
    smoke_rows=tuple(row.name for row in rows() if row.name.partition("/")[0] in SMOKE_FUNNELS),
    columns=(
        *(Column(f"{head}{CLICKS}", f"{name}: clicks", percent=False, lift=True) for head, name in HEADS.items()),
        *(Column(f"{head}{PURCHASES}", f"{name}: purchases", percent=False, lift=True) for head, name in HEADS.items()),
        Column("online/tail_share", "tail share"),
        Column("T@100", "T@100"),
    ),
    claims=_claims(),
    seeds=5,
    run=run,
    pictured=tuple(f"default/{name}" for name in METHODS),
    worlds=3,
    shares="online_map",
    figures=(("online_map", CAPTION, online_map),),
)
