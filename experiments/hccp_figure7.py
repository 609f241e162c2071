"""HCCP Figure 7: hit rates ISH@100 and ISPH@100 over Base by octile of item frequency, on the simulated cascade.

    python launch.py --experiment=hccp_figure7

A view of the runs of hccp_table1. Octile 1 holds the most popular items, octile 8 the rarest; each has an equal share
of the true click mass. The paper draws relative values without numbers: HCCP gains most in the middle and the tail
without hurting the head, HCCP(w/o Up) and COPR mostly at the head. A tail hit rate can be bought by flooding the first
100 with rare items, so their share of the slots and their hits a slot stand beside it. Purchases by octile are few.
"""

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments import hccp_table1
from experiments.claims import Record, difference
from experiments.experiment import Claim, Column, Experiment
from experiments.figures import ERRORS, OCTILES, colour, half_width, panels, with_legend

SOURCE = "HCCP Figure 7"
COMPARED = ("copr", "without_up", "hccp")
METRICS = ("ISH@100", "ISPH@100", "ASH@100", "T@100")
CAPTION = (
    "Hit rate at 100 by octile of item frequency (1: most frequent, 8: rarest), relative to Base. Bars: mean over "
    "seeds and worlds; error bars: 95 % interval."
)


def figure7(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """Bars of the lift over Base in each octile, a panel a metric."""
    names = [name for name in METRICS if any(f"{name}/octile1" in record.metrics for record in records)]
    if not names:
        return None
    figure, axes = panels(experiment, "Lift over Base by octile of item frequency", names)
    width = 0.8 / len(COMPARED)
    for name, axis in zip(names, axes, strict=True):
        for place, row_name in enumerate(COMPARED):
            row = experiment.row(row_name)
            lifts = {}
            for octile in OCTILES:
                if lift := difference(records, f"{name}/octile{octile}", row_name, "base", relative=True):
                    lifts[octile] = lift
            axis.bar(
                [octile + (place - 1) * width for octile in lifts],
                [lift.mean for lift in lifts.values()],
                width * 0.9,
                yerr=[half_width(lift) for lift in lifts.values()],
                label=row.label,
                error_kw=ERRORS,
                color=colour(experiment, row),
            )
        axis.axhline(0, color="#333333", linewidth=0.8)
        axis.set(title=name, xlabel="octile of item frequency")
        axis.set_xticks(list(OCTILES))
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.grid(visible=False, axis="x")
    return with_legend(figure, axes[:1], experiment)


def _mean_of(weight: float, row: str, metric: str, octiles: Sequence[int]) -> tuple[tuple[float, str, str], ...]:
    return tuple((weight / len(octiles), row, f"{metric}/octile{octile}") for octile in octiles)


def _over(better: str, worse: str, metric: str, octiles: Sequence[int], sign: float = 1.0) -> tuple:
    return (*_mean_of(sign, better, metric, octiles), *_mean_of(-sign, worse, metric, octiles))


HEAD, REST, TAIL = (1, 2), (3, 4, 5, 6, 7, 8), (7, 8)


def _claims(metric: str, source: str) -> tuple[Claim, ...]:
    return (
        Claim(
            f"HCCP-11.{metric} tail",
            source,
            f"HCCP finds more of octiles 7 and 8 than HCCP(w/o Up) ({metric}).",
            terms=_over("hccp", "without_up", metric, TAIL),
        ),
        Claim(
            f"HCCP-11.{metric} where",
            source,
            f"What HCCP gains over HCCP(w/o Up) is more in octiles 3 to 8 than at the head ({metric}).",
            terms=(*_over("hccp", "without_up", metric, REST), *_over("hccp", "without_up", metric, HEAD, -1.0)),
        ),
        Claim(
            f"HCCP-11.{metric} head",
            source,
            f"HCCP is ahead of HCCP(w/o Up) at the head, too (octiles 1 and 2, {metric}).",
            terms=_over("hccp", "without_up", metric, HEAD),
        ),
        *(
            Claim(
                f"HCCP-11.{metric} {row}",
                source,
                f"What {label} gains over Base is more at the head than in octiles 3 to 8 ({metric}).",
                terms=(*_over(row, "base", metric, HEAD), *_over(row, "base", metric, REST, -1.0)),
            )
            for row, label in (("without_up", "HCCP(w/o Up)"), ("copr", "COPR-style"))
        ),
    )


EXPERIMENT = replace(
    hccp_table1.EXPERIMENT,
    name="hccp_figure7",
    title="HCCP Figure 7: hit rates by item frequency on a simulated cascade",
    table="Figure 7",
    columns=(
        *(Column(f"ISH@100/octile{octile}", f"ISH@100, {octile}") for octile in OCTILES),
        *(Column(f"ASH@100/octile{octile}", f"ASH@100, {octile}") for octile in OCTILES),
        Column("tail_slots@100", "tail slots@100"),
        Column("tail_hits_per_slot@100", "tail hits per slot@100"),
    ),
    claims=(*_claims("ISH@100", SOURCE), *_claims("ASH@100", "ours: Figure 7 has ISH and ISPH")),
    printed={},
    printed_note="",
    pictured=("base", *COMPARED, "rethink", "ranker", "truth"),
    figures=(("figure7", CAPTION, figure7),),
)
