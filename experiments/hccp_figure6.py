"""HCCP Figure 6: click and purchase rates of impressions by octile of item frequency, HCCP over Base, simulated.

    python launch.py --experiment=hccp_figure6

A view of the runs of hccp_table1, of their simulated online test. The paper draws improvements of CTR and CVR by
frequency relative to the most popular items (numbers not printed) and says that the purchase rate of the middle and the
tail improves most. CTR and CVR are expected clicks and purchases per impression of an item of the octile; the share of
impressions stands beside them, as a rate can rise because only the best of the tail is still shown.
"""

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments import hccp_table1
from experiments.claims import Record, difference
from experiments.experiment import Claim, Column, Experiment
from experiments.figures import OCTILES, line, panels, with_legend

SOURCE = "HCCP Figure 6"
PANELS = {"CTR": "clicks per impression", "CVR": "purchases per impression", "share": "share of impressions"}
COMPARED = ("without_up", "hccp")
CAPTION = (
    "Simulated online test: rates of impressions by octile of item frequency (1: most frequent, 8: rarest), relative "
    "to Base. Line: mean over seeds and worlds; band: its 95 % interval."
)


def figure6(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """Lifts over Base by octile, a panel a rate."""
    if not any("online/CTR/octile1" in record.metrics for record in records):
        return None
    figure, axes = panels(experiment, "Online rates over Base by octile", list(PANELS.values()), columns=1)
    for (name, title), axis in zip(PANELS.items(), axes, strict=True):
        for row_name in COMPARED:
            points = []
            for octile in OCTILES:
                if lift := difference(records, f"online/{name}/octile{octile}", row_name, "base", relative=True):
                    points.append((float(octile), lift))
            line(axis, experiment, experiment.row(row_name), points)
        axis.axhline(0, color="#333333", linewidth=0.8)
        axis.set(title=title, xlabel="octile of item frequency")
        axis.set_xticks(list(OCTILES))
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return with_legend(figure, axes[:1], experiment)


def _tail_over_head(rate: str, text: str) -> Claim:
    terms = []
    for octiles, sign in (((5, 6, 7, 8), 1.0), ((1, 2), -1.0)):
        for octile in octiles:
            metric = f"online/{rate}/octile{octile}"
            terms += [(sign / len(octiles), "hccp", metric), (-sign / len(octiles), "base", metric)]
    paper = SOURCE if rate == "CVR" else "ours: the text has it of CVR only"
    return Claim(f"HCCP-15.{rate}", paper, text, terms=tuple(terms), smallest_effect=0.001)


EXPERIMENT = replace(
    hccp_table1.EXPERIMENT,
    name="hccp_figure6",
    title="HCCP Figure 6: online rates by item frequency in a simulated funnel",
    table="Figure 6",
    columns=tuple(
        Column(f"online/{rate}/octile{octile}", f"{rate}, {octile}") for rate in PANELS for octile in OCTILES
    ),
    claims=(
        _tail_over_head("CTR", "HCCP lifts the click rate of octiles 5 to 8 more than that of 1 and 2, in points."),
        _tail_over_head("CVR", "HCCP lifts the purchase rate of octiles 5 to 8 more than that of 1 and 2, in points."),
    ),
    printed={},
    printed_note="",
    pictured=("base", *COMPARED),
    figures=(("figure6", CAPTION, figure6),),
)
