"""CROLoss Figure 5: what alpha = 1 gains over alpha = 0 with the kernels of the triplet loss and of BPR.

    python launch.py --experiment=croloss_figure5 --store=STORE          about 17 minutes on two cores
    python launch.py --experiment=croloss_figure5 --smoke --store=STORE

A view of the runs of `croloss`: real sequences in STORE, nothing simulated. Alpha 0 weights every rank alike, which is
the triplet loss with the hinge and BPR with the softplus; alpha 1 weights small ranks, and so hard negatives. Drawn is
the relative gain in recall over N. The paper's own gains follow from its Tables 2 and 3 and stand beside it, hollow.
"""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.claims import Record
from experiments.croloss_figure3 import Curve, curves, on_log_n
from experiments.croloss_printed import BOOKS, CUTOFFS, TAOBAO, Numbers
from experiments.croloss_rows import ahead, gap, view
from experiments.experiment import Experiment
from experiments.figures import colour, line, panels, pool, with_legend

WHERE = "Figure 5, Books"
PAIRS = {"hinge_1": ("triplet", "the triplet loss", "hinge"), "softplus_1": ("bpr", "BPR", "softplus")}
PRINTED = (("Amazon Books", BOOKS, "--", "o"), ("Taobao", TAOBAO, ":", "s"))

CLAIMS = tuple(
    claim
    for weighted, (plain, name, kernel) in PAIRS.items()
    for claim in (
        *(
            ahead(f"CRO-figure 5.{kernel}@{n}", WHERE, f"α = 1 is ahead of {name} at N = {n}.", weighted, plain, n)
            for n in CUTOFFS
        ),
        gap(
            f"CRO-figure 5.{kernel} small N",
            WHERE,
            f"α = 1 gains more over {name} at N = 50 than at N = 500.",
            (1.0, weighted, 50),
            (-1.0, plain, 50),
            (-1.0, weighted, 500),
            (1.0, plain, 500),
        ),
    )
)


def gain_over_n(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """Relative gain in recall of alpha 1 over alpha 0, over N, a panel a kernel; None without curves of all rows."""
    found = {row: curves(records, row) for weighted, (plain, *_) in PAIRS.items() for row in (weighted, plain)}
    if not all(found.values()):
        return None
    figure, axes = panels(experiment, "What α = 1 gains over α = 0", list(PAIRS))
    figure.set_figheight(figure.get_figheight() + 0.6)
    for axis, (weighted, (plain, name, kernel)) in zip(axes, PAIRS.items(), strict=True):
        row = experiment.row(weighted)
        seeds = sorted(found[weighted].keys() & found[plain].keys())
        line(axis, experiment, row, pool(_relative(found[weighted][seed], found[plain][seed]) for seed in seeds))
        printed = [_draw_printed(axis, colour(experiment, row), weighted, plain, *one) for one in PRINTED]
        axis.axhline(0.0, color="#333333", linewidth=0.8)
        axis.set(title=f"{kernel}: over {name}")
        axis.legend(handles=printed, title="printed", loc="lower left", fontsize=8, title_fontsize=8, frameon=False)
        on_log_n(axis)
    return with_legend(figure, axes, experiment)


def _relative(curve: Curve, base: Curve) -> tuple[list[float], list[float]]:
    """N and the gain over the base where that is not 0."""
    there = [n for n in curve if base[n] > 0]
    return list(there), [curve[n] / base[n] - 1 for n in there]


def _draw_printed(
    axis: Axes, its_colour: str, weighted: str, plain: str, corpus: str, numbers: Numbers, dashes: str, marker: str
) -> Line2D:
    """The gain that follows from the paper's tables."""
    gains = [one / other - 1 for one, other in zip(numbers[weighted], numbers[plain], strict=True)]
    style: dict[str, Any] = {
        "linestyle": dashes,
        "marker": marker,
        "markerfacecolor": "none",
        "markersize": 5,
        "linewidth": 1.0,
    }
    return axis.plot(CUTOFFS, gains, color=its_colour, label=corpus, **style)[0]


EXPERIMENT = view(
    "croloss_figure5",
    "CROLoss Figure 5: alpha as mining of hard negatives",
    "Figure 5",
    ("triplet", "hinge_1", "bpr", "softplus_1"),
    CLAIMS,
    figures=(
        (
            "figure5",
            "Relative gain in recall at N of α = 1 over α = 0 with the same kernel (log axis). Line: mean over seeds; "
            "band: its 95 % interval. Hollow: what the paper's Tables 2 and 3 print.",
            gain_over_n,
        ),
    ),
)
