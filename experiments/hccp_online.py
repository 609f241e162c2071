"""HCCP's online test (4.3), simulated: each trained pre-ranker in the funnel, clicks and purchases a request.

    python launch.py --experiment=hccp_online

A view of the runs of hccp_table1. Every arm answers the same requests, which no offline metric saw, with the same
random numbers (`cascade.ab_test`): retrieval, ranker, re-ranking and users' luck are shared, so arms that deliver the
same items earn the same. `clicks` and `purchases` are expected counts a request given what is shown, which have a
fraction of the variance of the realised ones. The paper reports UCTR (clicks per exposed user) and UCVR (purchases per
exposed user): HCCP +1.3 % and +14.9 % over a control that it does not name, HCCP(w/o Up) +0.6 % and +7.1 %, without
error bars. A request stands for a user here. How many requests such a test needs stands under the table
(`online_power`). This is one funnel; under which funnels Base loses is the experiment `online_map`.
"""

from dataclasses import replace

from experiments import hccp_table1
from experiments.experiment import Claim, Column
from experiments.online_power import power_notes

SOURCE = "HCCP 4.3, online test"


def lift(name: str, better: str, worse: str, metric: str, text: str, least: float = 0.002) -> Claim:
    """The claim that one arm earns more than another, as a share of what the other earns."""
    return Claim(name, SOURCE, text, metric, better, worse, least, relative=True)


CLICKS, PURCHASES = "online/clicks", "online/purchases"

EXPERIMENT = replace(
    hccp_table1.EXPERIMENT,
    name="hccp_online",
    title="HCCP's online test in a simulated funnel",
    table="the online test of section 4.3",
    columns=(
        Column(CLICKS, "clicks a request", percent=False, lift=True),
        Column(PURCHASES, "purchases a request", percent=False, lift=True),
        Column("online/realised_clicks", "realised clicks", percent=False, lift=True),
        Column("online/tail_share", "tail share"),
        Column("online/gini", "Gini of impressions", percent=False),
        Column("online/distinct_items", "items shown", percent=False, decimals=0),
        Column("fused/online/clicks", "fused: clicks", percent=False, lift=True),
        Column("fused/online/purchases", "fused: purchases", percent=False, lift=True),
        Column("fused/online/tail_share", "fused: tail share"),
    ),
    claims=(
        lift("HCCP-13.UCTR", "hccp", "base", CLICKS, "HCCP earns more clicks than Base (paper: +1.3 %)."),
        lift("HCCP-13.UCVR", "hccp", "base", PURCHASES, "HCCP earns more purchases than Base (paper: +14.9 %)."),
        lift("HCCP-13.Up UCTR", "without_up", "base", CLICKS, "w/o Up earns more clicks than Base (+0.6 %)."),
        lift("HCCP-13.Up UCVR", "without_up", "base", PURCHASES, "w/o Up earns more purchases than Base (+7.1 %)."),
        lift("HCCP-13.full UCTR", "hccp", "without_up", CLICKS, "HCCP earns more clicks than w/o Up (+0.7 %)."),
        lift("HCCP-13.full UCVR", "hccp", "without_up", PURCHASES, "HCCP earns more purchases than w/o Up (+7.8 %)."),
        Claim(
            "HCCP-14",
            "ours: the paper has rates by frequency only",
            "HCCP shows more of the tail (octiles 7 and 8) than Base.",
            "online/tail_share",
            "hccp",
            "base",
        ),
    ),
    printed={
        CLICKS: {"hccp": 1.3, "without_up": 0.6},
        PURCHASES: {"hccp": 14.9, "without_up": 7.1},
    },
    notes=power_notes,
    printed_note="lifts over Base in per cent, JD's production system, seven days, no error bars",
)
