"""CROLoss Figure 4: recall over N by alpha, with the sigmoid kernel.

    python launch.py --experiment=croloss_figure4 --store=STORE          about 21 minutes on two cores
    python launch.py --experiment=croloss_figure4 --smoke --store=STORE

A view of the runs of `croloss`: real sequences in STORE, nothing simulated. Beside the paper's panel stands the
difference to alpha 1, paired by seed: a line that falls says that this alpha suits small N. The claim compares what
alpha 1.2 gains over 0.6 at N = 50 with what it gains at N = 500, which Table 3 prints.
"""

from experiments.croloss_figure3 import recall_over_n
from experiments.croloss_rows import ALPHAS, gap, grid, view

CLAIMS = (
    gap(
        "CRO-figure 4",
        "Figure 4, Books",
        "With the sigmoid α = 1.2 gains more over α = 0.6 at N = 50 than at N = 500.",
        (1.0, "sigmoid_12", 50),
        (-1.0, "sigmoid_06", 50),
        (-1.0, "sigmoid_12", 500),
        (1.0, "sigmoid_06", 500),
    ),
)

EXPERIMENT = view(
    "croloss_figure4",
    "CROLoss Figure 4: recall over N by alpha",
    "Figure 4",
    ("sigmoid_1", *(grid("sigmoid", alpha) for alpha in ALPHAS if alpha != 1)),
    CLAIMS,
    figures=(
        (
            "figure4",
            "Recall at N with the sigmoid kernel, by α (log axis); right: minus α = 1, paired by seed. Line: mean over "
            "seeds; band: its 95 % interval.",
            recall_over_n,
        ),
    ),
)
