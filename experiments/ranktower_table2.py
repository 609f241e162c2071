"""RankTower Table 2: which samples it is trained on, on KuaiRand-Pure with simulated stages.

    python launch.py --experiment=ranktower_table2 --data_dir=DIR          about 15 minutes on two cores
    python launch.py --experiment=ranktower_table2 --store=STORE --smoke

Impressions alone, with ranking and pre-ranking candidates, with random samples, or all three; five seeds, an eighth of
an epoch each, no tuning. Real exposures, simulated candidates and stages. The metric, the data and what cannot be
reproduced are described in `ranktower_rows`. The full row stands in Tables 1 to 4 and is trained once.
"""

from experiments.ranktower_ground import run
from experiments.ranktower_rows import FULL, SAMPLING, ahead, printed, table

SOURCE = "RankTower Table 2"

EXPERIMENT = table(
    2,
    "sampling",
    (FULL, *SAMPLING),
    ("full", "without_random", "without_candidates"),
    minutes=15,
    run=run,
    printed=printed(
        {
            "full": (0.7182, 0.5551),
            "without_random": (0.7125, 0.5437),
            "without_candidates": (0.7040, 0.5401),
            "without_both": (0.6981, 0.5323),
        }
    ),
    claims=(
        *ahead("RT-2.a", SOURCE, "Random samples help", "full", "without_random"),
        *ahead("RT-2.b", SOURCE, "Candidate samples help", "full", "without_candidates"),
        # full - without_candidates > full - without_random
        *ahead("RT-2.c", SOURCE, "Candidates matter more than random samples", "without_random", "without_candidates"),
        *ahead("RT-2.d", SOURCE, "Random samples help without candidates", "without_candidates", "without_both"),
    ),
)
