"""HCCP Table 3: consistency of the order with the ranker's, MAP@K and NDCG@K, on the simulated cascade.

    python launch.py --experiment=hccp_table3

A view of the runs of hccp_table1: trials that are finished beside --out (runs/hccp_table1) are taken from there. The
relevant items of MAP@K and NDCG@K are the ranker's first K of all candidates. The paper prints differences to Base in
points; its finding is that full HCCP agrees most with the ranker at small K and less than some of its parts at K = 1000
(as printed MAP@100 is higher without N3 and N5, and at K = 1000 HCCP stays above HCCP without the margin).
"""

from dataclasses import replace

from experiments import hccp_table1
from experiments.experiment import Column
from experiments.hccp_table1 import CUTOFFS, ahead

SOURCE = "HCCP Table 3"

# points over Base at K = 10, 100, 1000
_PRINTED = {
    "MAP": {
        "base_listnet": (0.13, 0.03, -1.27),
        "base_listmle": (0.18, 0.30, -0.68),
        "copr": (1.11, 2.52, 2.85),
        "rethink": (1.77, 2.17, -2.44),
        "without_up": (1.40, 4.06, 5.61),
        "without_prc": (1.61, 3.93, 5.54),
        "without_neg": (1.77, 4.65, 6.07),
        "without_margin": (4.00, 4.11, -0.48),
        "hccp": (4.06, 4.29, -0.11),
    },
    "NDCG": {
        "base_listnet": (0.20, -0.02, -0.49),
        "base_listmle": (0.46, 0.45, -0.17),
        "copr": (2.95, 3.47, 1.11),
        "rethink": (3.96, 3.16, -0.83),
        "without_up": (3.63, 4.90, 1.77),
        "without_prc": (3.98, 4.94, 1.87),
        "without_neg": (4.29, 5.49, 1.97),
        "without_margin": (7.46, 5.46, -0.15),
        "hccp": (7.60, 5.63, 0.01),
    },
}

EXPERIMENT = replace(
    hccp_table1.EXPERIMENT,
    name="hccp_table3",
    title="HCCP Table 3: consistency with the ranker on a simulated cascade",
    table="Table 3",
    columns=(
        *(Column(f"{metric}@{k}", f"{metric}@{k}") for metric in _PRINTED for k in CUTOFFS),
        *(Column(f"fused/NDCG@{k}", f"fused NDCG@{k}") for k in CUTOFFS),
    ),
    claims=(
        ahead("HCCP-9.top 10, w/o Up", "hccp", "without_up", "NDCG@10", SOURCE),
        ahead("HCCP-9.top 10, w/o Neg", "hccp", "without_neg", "NDCG@10", SOURCE),
        ahead("HCCP-9.top 100, w/o Up", "hccp", "without_up", "NDCG@100", SOURCE),
        ahead("HCCP-9.top 100, Rethink", "hccp", "rethink", "NDCG@100", SOURCE),
        ahead("HCCP-9.deep, w/o Up", "without_up", "hccp", "NDCG@1000", SOURCE),
        ahead("HCCP-9.deep, w/o Neg", "without_neg", "hccp", "NDCG@1000", SOURCE),
        ahead("HCCP-9.deep, MAP", "without_up", "hccp", "MAP@1000", SOURCE),
    ),
    printed={
        f"{metric}@{k}": {row: numbers[place] for row, numbers in rows.items()}
        for metric, rows in _PRINTED.items()
        for place, k in enumerate(CUTOFFS)
    },
)
