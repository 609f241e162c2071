"""CROLoss Figure 3: recall over N by comparison kernel.

    python launch.py --experiment=croloss_figure3 --store=STORE          about 17 minutes on two cores
    python launch.py --experiment=croloss_figure3 --smoke --store=STORE

A view of the runs of `croloss`: real sequences in STORE, nothing simulated. The paper does not say at which alpha it
drew; here it is 1, where the exponential is the softmax. Beside its panel stands the difference to the softmax, paired
by seed, since the lines of the first all but coincide. What the text reads off the figure is that the exponential loses
ground to the others as N grows; claimed from N = 50 to N = 500, which Table 3 prints.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, ScalarFormatter

from experiments.claims import Record
from experiments.croloss_printed import CUTOFFS
from experiments.croloss_rows import gap, grid, view
from experiments.experiment import Experiment, Row
from experiments.figures import line, panels, pool, with_legend

PER_CENT = FuncFormatter(lambda value, _: f"{100 * value:.3g}%")  # with the decimals that it needs
SMALLEST_N = 10  # below it a curve is a handful of hits
KERNELS = ("softplus", "sigmoid", "exponential", "hinge")
Curve = dict[int, float]  # N -> recall


def curves(records: Sequence[Record], row: str) -> dict[int, Curve]:
    """Seed -> recall over N of the trials of a row."""
    found = {}
    for record in records:
        if record.row == row and (curve := (record.result.get("curves") or {}).get("recall")):
            points = zip(curve["cutoffs"], curve["values"], strict=True)
            found[record.seed] = {n: value for n, value in points if n >= SMALLEST_N}
    return found


def recall_over_n(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """Recall over N of the trained rows, and its difference to the baseline; None without curves."""
    rows = [row for row in experiment.rows if not row.reference]
    found = {row.name: curves(records, row.name) for row in rows}
    base = found[experiment.baseline.name]
    if not base:
        return None
    figure, (left, right) = panels(experiment, "Recall over N", ["recall", "difference"])
    figure.set_figheight(figure.get_figheight() + 0.6)
    for row in rows:
        line(left, experiment, row, _pooled(found[row.name]))
        paired = {seed: _minus(curve, base[seed]) for seed, curve in found[row.name].items() if seed in base}
        line(right, experiment, row, _pooled(paired))
    left.set(title="recall@N")
    right.set(title=f"minus {_short(experiment.baseline)}")
    for axis in (left, right):
        on_log_n(axis)
    return with_legend(figure, (left, right), experiment)


def on_log_n(axis: Axes) -> None:
    """N from left to right on a log axis, with the N of the tables as ticks, and per cent upwards."""
    axis.set_xscale("log")
    axis.set_xticks((SMALLEST_N, *CUTOFFS))
    axis.minorticks_off()
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_major_formatter(PER_CENT)
    axis.set(xlabel="N")


def _short(row: Row) -> str:
    return row.label.partition(" (")[0].removeprefix("CROLoss, ")


def _minus(curve: Curve, base: Curve) -> Curve:
    return {n: value - base[n] for n, value in curve.items()}


def _pooled(by_seed: dict[int, Curve]):
    return pool((list(curve), list(curve.values())) for curve in by_seed.values())


CLAIMS = tuple(
    gap(
        f"CRO-figure 3.{kernel}",
        "Figure 3, Books",
        f"The exponential falls further behind {kernel} from N = 50 to N = 500, α = 1.",
        (1.0, f"{kernel}_1", 500),
        (-1.0, "cross_entropy", 500),
        (-1.0, f"{kernel}_1", 50),
        (1.0, "cross_entropy", 50),
    )
    for kernel in ("softplus", "sigmoid", "hinge")
)

EXPERIMENT = view(
    "croloss_figure3",
    "CROLoss Figure 3: recall over N by kernel",
    "Figure 3",
    ("cross_entropy", *(grid(kernel, 1.0) for kernel in KERNELS if kernel != "exponential")),
    CLAIMS,
    figures=(
        (
            "figure3",
            "Recall at N by comparison kernel, α = 1 (log axis); right: minus the softmax, paired by seed. Line: mean "
            "over seeds; band: its 95 % interval.",
            recall_over_n,
        ),
    ),
)
