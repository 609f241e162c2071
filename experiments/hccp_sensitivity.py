"""HCCP's offline ladder in twelve simulated funnels, beyond the default world.

    python launch.py --experiment=hccp_sensitivity

A view of the runs of `online_map`, which says what the funnels are: bottleneck, ranker, catalogue, popularity and
exposure are changed one at a time. Every funnel is reported, and both served heads.
"""

from dataclasses import replace

from experiments import online_map
from experiments.experiment import Claim, Column
from experiments.hccp_ladder import LABELS
from experiments.online_map import FUNNELS

STEPS = (("without_up", "base"), ("without_margin", "without_up"), ("hccp", "without_margin"))

EXPERIMENT = replace(
    online_map.EXPERIMENT,
    name="hccp_sensitivity",
    title="HCCP's ladder in twelve simulated funnels",
    table="the ablations of Table 1, in other worlds",
    columns=(
        *(Column(f"{metric}@100", f"{metric}@100") for metric in ("ISH", "ASH", "T", "NDCG")),
        *(Column(f"fused/{metric}@100", f"fused {metric}@100") for metric in ("ISH", "ASH", "T")),
        Column("tail_slots@100", "tail slots@100"),
    ),
    claims=tuple(
        Claim(
            f"HCCP-5 in other worlds.{number} {funnel}",
            "HCCP Table 1, in simulated funnels",
            f"{LABELS[better]} is ahead of {LABELS[worse]} on ISH@100: {label}.",
            "ISH@100",
            f"{funnel}/{better}",
            f"{funnel}/{worse}",
        )
        for number, (better, worse) in enumerate(STEPS, start=1)
        for funnel, (label, _) in FUNNELS.items()
    ),
    figures=(),
)
