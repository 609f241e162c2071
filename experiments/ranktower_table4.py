"""RankTower Table 4: how the ranker is distilled, on KuaiRand-Pure with simulated stages.

    python launch.py --experiment=ranktower_table4 --data_dir=DIR          about 12 minutes on two cores
    python launch.py --experiment=ranktower_table4 --store=STORE --smoke

A softmax, a weighted log-loss, a pairwise log-loss of the teacher's click probabilities on the impressions, or none;
five seeds, an eighth of an epoch each, no tuning. Real exposures, simulated candidates and stages; the teacher is a DIN
trained on the same impressions, not a production ranker, and knows little that the labels do not. See `ranktower_rows`.
"""

from experiments.ranktower_ground import run
from experiments.ranktower_rows import DISTILLATION, FULL, ahead, printed, table

SOURCE = "RankTower Table 4"

EXPERIMENT = table(
    4,
    "distillation losses",
    (FULL, *DISTILLATION),
    ("full", "weighted_log_loss", "no_distillation"),
    minutes=12,
    run=run,
    printed=printed(
        {
            "full": (0.7182, 0.5551),
            "weighted_log_loss": (0.7130, 0.5519),
            "pairwise_log_loss": (0.7071, 0.5432),
            "no_distillation": (0.7108, 0.5495),
        }
    ),
    claims=(
        *ahead("RT-4.a", SOURCE, "Softmax is ahead of the weighted log-loss", "full", "weighted_log_loss"),
        *ahead("RT-4.b", SOURCE, "The weighted log-loss is ahead of none", "weighted_log_loss", "no_distillation"),
        *ahead("RT-4.c", SOURCE, "The pairwise log-loss hurts: none is ahead", "no_distillation", "pairwise_log_loss"),
    ),
)
