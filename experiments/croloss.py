"""CROLoss against softmax, BPR and triplet losses on real sequences: all rows of its Tables 2-4 in one run.

    python -m hccp_jax.data.convert --source=comirec --input=DIR --output=STORE
    python launch.py --experiment=croloss --store=STORE          about 140 minutes on two cores, 60 with 2,000 steps
    python launch.py --experiment=croloss --smoke --store=STORE

STORE holds sequences of one of the sources comirec, userbehavior or amazon_books. `croloss_table2`, `croloss_table3`,
`croloss_table4`, `croloss_figure3`, `croloss_figure4` and `croloss_figure5` are views of these runs, with the claims:
with the same settings they take what is finished beside their --out and train the rest.

The protocol is the paper's (4.1) and its released code's: a row keeps the step that is best by recall@100 of the
validation users; see `experiments.croloss_run`. The step size is the one that the paper prints; it is not tuned a row.
"""

from experiments import (
    croloss_figure3,
    croloss_figure4,
    croloss_figure5,
    croloss_table2,
    croloss_table3,
    croloss_table4,
)
from experiments.croloss_rows import ROWS, view

_VIEWS = (croloss_table2, croloss_table3, croloss_table4, croloss_figure3, croloss_figure4, croloss_figure5)

EXPERIMENT = view(
    "croloss",
    "CROLoss and the losses that it generalises, on real sequences",
    "Tables 2-4 and Figures 3-5",
    [row.name for row in ROWS],
    [claim for module in _VIEWS for claim in module.EXPERIMENT.claims],
    pictured=(
        *("cross_entropy", "bpr", "triplet", "triplet_half", "softplus_06", "softplus_1", "sigmoid_1", "hinge_1"),
        *("lambda_sigmoid_softplus", "popularity"),
    ),
)
