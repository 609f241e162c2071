"""Figures of an experiment from its trials: hit rate over K, training curves, octiles of item frequency."""

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator, PercentFormatter

from experiments.atomic import write_atomically
from experiments.claims import Record, Values, by_seed, over_worlds, read_records
from experiments.experiment import Experiment, Kind, Row
from hccp_jax.evaluation.statistics import Interval

WIDTH, DPI = 6.4, 187.5  # inches and dots an inch: 1200 pixels, with letters that are still read on a phone
LEGEND_LINE = 0.22  # inches
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLOURS = (*OKABE_ITO, "#882255", "#999933", "#332288")  # three of Tol's, for more rows than those have
MARKERS = "osD^vP*Xph"
GREYS = ("#555555", "#777777", "#8c8c8c", "#a0a0a0")
DASHES: tuple[Any, ...] = ("--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))
BINS = 60  # steps of a training curve are averaged in so many bins
TERMS = 6  # small multiples of loss terms at most
NOT_TERMS = {"step", "epoch", "epochs", "time", "seconds", "elapsed", "requests_per_second", "gradient_norm"}
OCTILES = range(1, 9)
OCTILE_METRICS = ("ISH@100", "T@100", "click/recall@100", "long_view/recall@100")
TAIL_SHARE = "tail_slots@100"
ERRORS: dict[str, Any] = {"elinewidth": 0.8, "ecolor": "#333333"}

CAPTIONS = {
    "hit_rate_curves": "Hit rate over the number K of candidates that the pre-ranker passes on (log axis). Line: mean "
    "over seeds; band: its 95 % interval. Dashed grey: references that are not trained.",
    "training_curves": f"Training loss and its terms over steps, averaged in {BINS} bins. Line: mean over seeds; band: "
    "its 95 % interval. Losses of rows that define them differently cannot be compared with each other.",
    "octiles": "By octile of item frequency: 1 the most frequent items, 8 the rarest, each with an equal share of the "
    "positives. The share of the first 100 slots that goes to the tail (octiles 7 and 8) tells a tail hit rate that is "
    "earned from one bought by flooding the slots with rare items. Error bars: 95 % interval over seeds. Grey: "
    "references that are not trained.",
}


def save_all(out_dir: Path | str, experiment: Experiment, records: Sequence[Record] | None = None) -> list[Path]:
    """Write figures/*.png and return their paths; a figure without data is left out.

    A figure of the experiment's own chooses its rows itself; the others show those that are pictured.
    """
    records = read_records(out_dir, experiment) if records is None else records
    pictured = [record for record in records if not experiment.pictured or record.row in experiment.pictured]
    own = [(name, make, records) for name, _, make in experiment.figures]
    usual = [(make.__name__, make, pictured) for make in (hit_rate_curves, training_curves, octiles)]
    paths = []
    for name, make, shown in (*own, *usual):
        figure = make(experiment, shown)
        if figure is not None:
            paths.append(save(out_dir, name, figure))
    return paths


def save(out_dir: Path | str, name: str, figure: Figure) -> Path:
    """Write figures/NAME.png whole or not at all."""
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    return write_atomically(Path(out_dir) / "figures" / f"{name}.png", image.getvalue())


def hit_rate_curves(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """Hit rate over K on a log axis, one panel a curve of result.json, one line a row; None without curves."""
    names = list(dict.fromkeys(name for record in records for name in record.result.get("curves") or {}))
    if not names:
        return None
    figure, axes = panels(experiment, "Hit rate over K", names)
    for name, axis in zip(names, axes, strict=True):
        for row in experiment.rows:
            own = [r for r in records if r.row == row.name and name in (r.result.get("curves") or {})]
            curves = [r.result["curves"][name] for r in own]
            points = pool(((curve["cutoffs"], curve["values"]) for curve in curves), [r.world for r in own])
            line(axis, experiment, row, points)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.set(title=f"{name}@K", xlabel="K")
        axis.set_ylim(0, min(1.0, 1.05 * axis.dataLim.ymax))
    return with_legend(figure, axes, experiment)


def training_curves(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """The loss and a few of its terms over steps, one panel a term, one line a trained row; None without logs."""
    logs = [(r.row, log) for r in records if (log := training_log(r.directory / "metrics.jsonl"))]
    terms = {name for _, log in logs for line in log for name in line if name not in NOT_TERMS}
    names = sorted(terms, key=lambda name: (name != "loss", name))[:TERMS]
    if not names:
        return None
    figure, axes = panels(experiment, "Training loss and its terms", names)
    last = max(line["step"] for _, log in logs for line in log)
    for name, axis in zip(names, axes, strict=True):
        for row in experiment.rows:
            line(axis, experiment, row, pool(_binned(log, name, last) for owner, log in logs if owner == row.name))
        axis.set(title=name, xlabel="step")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return with_legend(figure, axes, experiment)


def training_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none where there is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("}")]  # a run that was killed may leave half a line
    return [entry for entry in entries if "step" in entry]


def _binned(log: Iterable[Mapping[str, Any]], name: str, last: int) -> tuple[list[float], list[float]]:
    """Centre and mean value of each of BINS bins of the steps up to `last` that holds a number."""
    bins: dict[int, list[float]] = {}
    for line in log:
        if _is_number(line.get(name)):
            bins.setdefault(BINS * int(line["step"]) // (last + 1), []).append(line[name])
    filled = sorted(bins)
    return [(index + 0.5) * (last + 1) / BINS for index in filled], [float(np.mean(bins[index])) for index in filled]


def octiles(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """Hit rates by octile of item frequency and the tail's share of the slots; None without octiles."""
    found = {name.partition("/octile")[:2] for r in records for name, value in r.metrics.items() if _is_number(value)}
    names = [name for name in OCTILE_METRICS if (name, "/octile") in found]
    shares = any(_is_number(record.metrics.get(TAIL_SHARE)) for record in records)
    if not names:
        return None
    figure, axes = panels(experiment, "By octile of item frequency", [*names, *[TAIL_SHARE] * shares], columns=1)
    for name, axis in zip(names, axes, strict=False):
        _octile_panel(axis, experiment, records, name)
    if shares:
        _share_panel(axes[-1], experiment, records)
    return with_legend(figure, axes[:1], experiment)


def _octile_panel(axis: Axes, experiment: Experiment, records: Sequence[Record], name: str) -> None:
    present = {record.row for record in records}
    trained = [row for row in experiment.rows if not row.reference and row.name in present]
    width = 0.8 / max(len(trained), 1)
    for row in experiment.rows:
        seeds = [by_seed(records, row.name, f"{name}/octile{octile}") for octile in OCTILES]
        points = [(octile, over_worlds(s)) for octile, s in zip(OCTILES, seeds, strict=True) if s]
        if row.reference:
            line(axis, experiment, row, points)
        elif points:
            offset = (trained.index(row) - (len(trained) - 1) / 2) * width
            at, means = [octile + offset for octile, _ in points], [interval.mean for _, interval in points]
            errors = [half_width(interval) for _, interval in points]
            axis.bar(
                at, means, width * 0.9, yerr=errors, label=row.label, error_kw=ERRORS, color=colour(experiment, row)
            )
    axis.set(title=name, xlabel="octile of item frequency (1: most frequent, 8: rarest)")
    axis.set_xticks(list(OCTILES))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.grid(visible=False, axis="x")
    axis.set_ylim(0, 1)


def _share_panel(axis: Axes, experiment: Experiment, records: Sequence[Record]) -> None:
    rows = [row for row in reversed(experiment.rows) if by_seed(records, row.name, TAIL_SHARE)]
    for place, row in enumerate(rows):
        interval = over_worlds(by_seed(records, row.name, TAIL_SHARE))
        axis.barh(place, interval.mean, 0.7, xerr=half_width(interval), error_kw=ERRORS, color=colour(experiment, row))
    axis.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=min(9, 100 / max(len(rows), 1)))
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set(title=f"Share of slots taken by the tail ({TAIL_SHARE})")
    axis.set_xlim(left=0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def half_width(interval: Interval) -> float:
    """Half of a 95 % interval; 0 where there is none."""
    return 0.0 if interval.low is None or interval.high is None else (interval.high - interval.low) / 2


def pool(
    curves: Iterable[tuple[Sequence[float], Sequence[float]]], worlds: Iterable[int] = ()
) -> list[tuple[float, Interval]]:
    """Where each curve is one seed's (x, y): the mean and interval at every x, over `worlds` where they are told."""
    at: dict[float, Values] = {}
    for place, ((xs, ys), world) in enumerate(zip(curves, chain(worlds, repeat(0)), strict=False)):
        for x, y in zip(xs, ys, strict=True):
            if _is_number(y):
                at.setdefault(x, {})[world, place] = y
    return [(x, over_worlds(at[x])) for x in sorted(at)]


def line(axis: Axes, experiment: Experiment, row: Row, points: Sequence[tuple[float, Interval]]) -> None:
    """Draw a row's mean over x with the band of its interval; nothing without points."""
    if not points:
        return
    xs = [x for x, _ in points]
    lows = [interval.mean - half_width(interval) for _, interval in points]
    highs = [interval.mean + half_width(interval) for _, interval in points]
    axis.plot(
        xs, [i.mean for _, i in points], label=row.label, **_line_style(experiment, row, markers=len(points) <= 16)
    )
    axis.fill_between(xs, lows, highs, color=colour(experiment, row), alpha=0.18, linewidth=0)


def _kin(experiment: Experiment, row: Row) -> int:
    """Place of a row among the trained rows or the references, pictured ones first: the same in every figure."""
    names = [other.name for other in experiment.rows if other.reference == row.reference]
    return sorted(names, key=lambda name: name not in experiment.pictured).index(row.name)


def colour(experiment: Experiment, row: Row) -> str:
    """The colour of a row, the same in every picture."""
    colours = GREYS if row.reference else COLOURS
    return colours[_kin(experiment, row) % len(colours)]


def _line_style(experiment: Experiment, row: Row, markers: bool) -> dict[str, Any]:
    place = _kin(experiment, row)
    if row.reference:
        style: dict[str, Any] = {"linestyle": DASHES[place % len(DASHES)], "linewidth": 1.4, "zorder": 3}
    else:
        style = {"linestyle": "-" if place < len(COLOURS) else "--", "linewidth": 1.8, "zorder": 4}
    marker = MARKERS[place % len(MARKERS)] if markers and not row.reference else ""
    return {**style, "marker": marker, "markersize": 4, "color": colour(experiment, row)}


def panels(
    experiment: Experiment, title: str, names: Sequence[str], columns: int | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each name, in rows of `columns`, two unless told."""
    columns = columns or (1 if len(names) == 1 else 2)
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(WIDTH, 1.2 + 2.4 * lines), dpi=DPI, layout="constrained")
    axes = [figure.add_subplot(lines, columns, index + 1) for index in range(len(names))]
    for axis in axes:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    simulated = " (simulated data)" if experiment.data.kind == Kind.SIMULATED else ""
    figure.suptitle(f"{title}{simulated}", fontsize=12, fontweight="bold")
    return figure, axes


def with_legend(figure: Figure, axes: Sequence[Axes], experiment: Experiment) -> Figure:
    """One legend below the panels, in the order of the table, in as many columns as its labels leave room for."""
    entries = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    labels = [row.label for row in experiment.rows if row.label in entries]
    columns = max(1, int(WIDTH * 72 / (48 + 6 * max(map(len, labels), default=1))))
    lines = [entries[label] for label in labels]
    figure.legend(lines, labels, loc="outside lower center", ncols=min(columns, 4), frameon=False)
    # the panels keep their height, however long the legend
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * max(0, math.ceil(len(labels) / min(columns, 4)) - 3))
    return figure
