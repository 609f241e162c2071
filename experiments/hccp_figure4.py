"""HCCP Figure 4: all-scenario hit rate ASH@K of the ranker and of pre-rankers over K, on the simulated cascade.

    python launch.py --experiment=hccp_figure4

A view of the runs of hccp_table1. The paper's curves (JD, numbers not printed) cross near K = 600: the ranker is better
on the first items and the pre-ranker deeper, which is why HCCP samples more from the top of the ranking. The ranker's
curve is its order of all candidates; the pre-rankers' that of the served click head.
"""

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure

from experiments import hccp_table1
from experiments.claims import Record
from experiments.experiment import Claim, Column, Experiment
from experiments.figures import hit_rate_curves

PICTURED = ("base", "without_up", "hccp", "ranker", "truth", "random")
CAPTION = (
    "All-scenario click hit rate of the ranker and of pre-rankers over K (log axis). Line: mean over seeds and worlds; "
    "band: its 95 % interval. The paper finds that the pre-ranker passes the ranker at large K."
)


def figure4(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """The curves of ASH alone, of the rows that are pictured."""
    kept = []
    for record in (record for record in records if record.row in PICTURED):
        curves = record.result.get("curves") or {}
        kept.append(replace(record, result={"curves": {name: curves[name] for name in ("ASH",) if name in curves}}))
    return hit_rate_curves(experiment, kept)


def _claim(name: str, better: str, worse: str, k: int, text: str) -> Claim:
    return Claim(f"HCCP-1.{name}", "HCCP Figure 4", text, f"ASH@{k}", better, worse)


EXPERIMENT = replace(
    hccp_table1.EXPERIMENT,
    name="hccp_figure4",
    title="HCCP Figure 4: ASH@K of ranker and pre-rankers on a simulated cascade",
    table="Figure 4",
    columns=tuple(Column(f"ASH@{k}", f"ASH@{k}") for k in hccp_table1.CUTOFFS),
    claims=(
        _claim("top", "ranker", "hccp", 10, "The ranker is ahead of the pre-ranker HCCP on ASH@10."),
        _claim("top, Base", "ranker", "base", 10, "The ranker is ahead of the pre-ranker Base on ASH@10."),
        _claim("deep", "hccp", "ranker", 1000, "The pre-ranker HCCP is ahead of the ranker on ASH@1000."),
        _claim("deep, Base", "base", "ranker", 1000, "The pre-ranker Base is ahead of the ranker on ASH@1000."),
    ),
    printed={},
    printed_note="",
    pictured=PICTURED,
    figures=(("figure4", CAPTION, figure4),),
)
