"""CROLoss's online test (4.5) as far as a simulation goes: retrieval losses as pre-rankers of the simulated cascade.

    python launch.py --experiment=croloss_online                 about 16 minutes on two cores
    python launch.py --experiment=croloss_online --smoke

The paper's test: fourteen days on Alibaba's advertising platform, the two-tower retrieval model trained with CROLoss
against the same model trained with the softmax; recall +6.50 %, revenue of cost-per-click advertising +4.75 %. Neither
traffic, kernels and alpha, spread nor the number of users is printed.

Ours is simulated, all of it: users, items, the funnel and the clicks. The model does not retrieve from a corpus: it
ranks the candidates of a request for the simulated ranker, which decides what is shown. No ad is paid for, so expected
clicks a request stand for the revenue. Five seeds in each of three worlds, the losses of Table 2 with the kernels of
Amazon Books, each tuned with the same budget. What counts is a lift of 1 %. Recall is ISH@100, the hit rate of
in-scenario clicks.
"""

from experiments.croloss_rows import PAPER
from experiments.experiment import Claim, Column, Experiment
from experiments.hccp_table1 import EXPERIMENT as HCCP_TABLE
from experiments.quickstart import REFERENCES
from experiments.simulated import DATA
from experiments.systems import SYSTEM_ROWS, run

WHERE = "CROLoss 4.5"
SMALLEST_LIFT = 0.01


ROWS = tuple(
    row
    for name in ("cross_entropy", "triplet", "bpr", "croloss", "croloss_lambda")
    for row in SYSTEM_ROWS
    if row.name == f"croloss_{name}"
)


def lift(
    name: str, paper: str, statement: str, metric: str, better: str, worse: str = "croloss_cross_entropy"
) -> Claim:
    """A claim on the relative lift of a metric."""
    terms = ((1.0, better, metric), (-1.0, worse, metric))
    return Claim(name, paper, statement, smallest_effect=SMALLEST_LIFT, terms=terms, relative=True)


CLAIMS = (
    lift("CRO-online.recall", WHERE, "CROLoss improves recall over the softmax.", "ISH@100", "croloss_croloss"),
    lift("CRO-online.clicks", WHERE, "CROLoss earns more clicks than the softmax.", "online/clicks", "croloss_croloss"),
    lift("CRO-online λ.recall", "ours", "So does CROLoss-λ: recall.", "ISH@100", "croloss_croloss_lambda"),
    lift("CRO-online λ.clicks", "ours", "So does CROLoss-λ: clicks.", "online/clicks", "croloss_croloss_lambda"),
)

EXPERIMENT = Experiment(
    name="croloss_online",
    title="CROLoss online, simulated: retrieval losses as pre-rankers of a simulated cascade",
    paper=PAPER,
    table="the online test of 4.5",
    minutes=16,
    data=DATA,
    settings=HCCP_TABLE.settings,
    smoke=HCCP_TABLE.smoke,
    rows=(*ROWS, *REFERENCES),
    columns=(
        Column("online/clicks", "clicks a request", percent=False, decimals=3),
        Column("online/purchases", "purchases a request", percent=False, decimals=4),
        Column("online/tail_share", "tail's share"),
        Column("ISH@100", "ISH@100"),
        Column("ASH@100", "ASH@100"),
        Column("T@100", "T@100"),
    ),
    claims=CLAIMS,
    seeds=5,
    run=run,
    worlds=3,
)
