"""Quality over the cost of serving, for every system on the simulated cascade.

    python launch.py --experiment=cost_frontier

A view of the runs of systems: no table of a paper, and no claims. A pre-ranker is chosen by what it costs to serve, so
operations per candidate and the time of a request stand beside quality. A system is on the frontier if no other is
both cheaper and better. The HAP-style rows that differ in the share of candidates that the heavy model scores (none,
0.3, all) are one training under three ways to serve, joined by a line; hap_claims has more shares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, PercentFormatter

from experiments import systems
from experiments.claims import Record, by_seed, over_worlds
from experiments.experiment import Column, Experiment
from experiments.figures import ERRORS, MARKERS, OKABE_ITO, half_width, panels

PANELS = (("kflops_per_candidate", "T@100"), ("kflops_per_candidate", "ISH@100"), ("p50_ms", "T@100"))
NAMES = {
    "kflops_per_candidate": "kFLOP per candidate (log axis)",
    "p50_ms": "median time of a request in ms (log axis)",
    "T@100": "true expected clicks of the first 100 (T@100)",
    "ISH@100": "hit rate of clicks (ISH@100)",
}
ROUTED = ("hap_light", "hap", "hap_heavy")
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "HCCP and its parts": ("hccp",),
    "other losses on its three towers": (
        *("copr", "rethink", "arf", "lcron", "fs_ltr", "multi_positive", "ranktower_loss"),
    ),
    "other networks": ("logistic_regression", "two_tower", "dat", "cold", "inttower", "ranktower", "din"),
    "SDCL and its parts": ("sdcl",),
    "CROLoss and its like": ("croloss",),
    "HAP-style, share routed": ("hap",),
}
"""By `system`, which the rows set."""

CAPTION = (
    "Simulated. Each point is a system: quality over what serving costs. Grey steps: the frontier, systems that no "
    "other beats in both; they are named. Line: one HAP-style pair of models with none, 0.3 and all of the candidates "
    "scored by the heavy one. Error bars: 95 % interval over seeds."
)


class Point(NamedTuple):
    """A row's mean cost, mean quality, and half of the interval of its quality."""

    row: str
    cost: float
    quality: float
    half: float


def points(experiment: Experiment, records: Sequence[Record], cost: str, quality: str) -> list[Point]:
    """Of the trained rows that have both."""
    found = []
    for row in experiment.rows:
        costs, values = by_seed(records, row.name, cost), by_seed(records, row.name, quality)
        if costs and values and not row.reference:
            interval = over_worlds(values)
            found.append(Point(row.name, over_worlds(costs).mean, interval.mean, half_width(interval)))
    return found


def frontier(found: Sequence[Point]) -> list[Point]:
    """The points than which none is as cheap and better, or cheaper and as good; from the cheapest on.

    >>> [point.row for point in frontier([Point("a", 1, 5, 0), Point("b", 2, 4, 0), Point("c", 3, 6, 0)])]
    ['a', 'c']

    """
    kept: list[Point] = []
    for point in sorted(found, key=lambda point: (point.cost, -point.quality)):
        if not kept or point.quality > kept[-1].quality:
            kept.append(point)
    return kept


def cost_frontier(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """A panel a pair of cost and quality."""
    if not any("kflops_per_candidate" in record.metrics for record in records):
        return None
    figure, axes = panels(experiment, "Quality over the cost of serving", [NAMES[q] for _, q in PANELS], columns=1)
    figure.set_figheight(1.2 * figure.get_figheight())
    for (cost, quality), axis in zip(PANELS, axes, strict=True):
        found = points(experiment, records, cost, quality)
        _scatter(axis, experiment, found)
        _frontier(axis, experiment, frontier(found))
        axis.set_xscale("log")
        axis.set(xlabel=NAMES[cost], title=NAMES[quality])
        axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.margins(x=0.06, y=0.12)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _scatter(axis: Axes, experiment: Experiment, found: Sequence[Point]) -> None:
    system = {row.name: row.overrides.get("system") for row in experiment.rows}
    for place, (family, members) in enumerate(FAMILIES.items()):
        own = [point for point in found if system[point.row] in members]
        if not own:
            continue
        xs, ys, halves = ([getattr(point, name) for point in own] for name in ("cost", "quality", "half"))
        style: dict[str, Any] = {
            "color": OKABE_ITO[place],
            "marker": MARKERS[place],
            "markersize": 5,
            "linestyle": "none",
        }
        axis.errorbar(xs, ys, halves, label=family, zorder=3, **style, **ERRORS)
    routed = [point for name in ROUTED for point in found if point.row == name]
    colour = OKABE_ITO[list(FAMILIES).index("HAP-style, share routed")]
    axis.plot([p.cost for p in routed], [p.quality for p in routed], color=colour, linewidth=1.5, zorder=2)


def _frontier(axis: Axes, experiment: Experiment, kept: Sequence[Point]) -> None:
    xs, ys = [point.cost for point in kept], [point.quality for point in kept]
    axis.step(xs, ys, where="post", color="#999999", linewidth=1.2, zorder=1, label="frontier")
    for index, point in enumerate(kept):  # nothing is cheaper and better than these, so there is room to the left
        if any(point.cost < other.cost < 1.05 * point.cost for other in kept):
            continue  # the names of neighbours would lie on each other; the better one has its own
        label, at = experiment.row(point.row).label, (point.cost, point.quality)
        offset, side = ((-6, 2), "right") if index else ((-5, 8), "left")
        axis.annotate(label, at, offset, textcoords="offset points", fontsize=7, ha=side)


EXPERIMENT = replace(
    systems.EXPERIMENT,
    name="cost_frontier",
    title="Quality over the cost of serving on a simulated cascade",
    table="ours: costs and quality of the systems it names",
    columns=(
        *systems.COST_COLUMNS,
        Column("p99_ms", "p99 ms", percent=False, decimals=2, cost=True),
        Column("T@100", "T@100"),
        Column("ISH@100", "ISH@100"),
    ),
    claims=(),
    shares="systems",
    figures=(("cost_frontier", CAPTION, cost_frontier),),
)
