"""RankTower Table 3: which ranking loss on the hard labels, on KuaiRand-Pure with simulated stages.

    python launch.py --experiment=ranktower_table3 --data_dir=DIR          about 20 minutes on two cores
    python launch.py --experiment=ranktower_table3 --store=STORE --smoke

The hybrid loss, either of its parts and four others, each beside the same distillation; five seeds, an eighth of an
epoch each, no tuning. Real exposures, simulated candidates and stages; see `ranktower_rows`. The paper's losses need
repairs to be trained at all (its logarithm of 0, its ties): those of `losses.rankmax` and `losses.softsort`, SoftSort
with its targets as printed. Each loss is divided by the positives of a list, which the paper leaves open.
"""

from experiments.experiment import Claim
from experiments.ranktower_ground import run
from experiments.ranktower_rows import FULL, NDCG, RANKING, RECALL, SMALLEST, ahead, level, printed, table

SOURCE = "RankTower Table 3"

EXPERIMENT = table(
    3,
    "ranking losses",
    (FULL, *RANKING),
    ("full", "sorting", "am_rankmax"),
    minutes=20,
    run=run,
    printed=printed(
        {
            "full": (0.7182, 0.5551),
            "sorting": (0.7128, 0.5516),
            "am_rankmax": (0.7132, 0.5507),
            "rankmax": (0.7105, 0.5492),
            "softmax": (0.7109, 0.5498),
            "approx_ndcg": (0.7006, 0.5436),
            "ranknet": (0.7072, 0.5452),
        }
    ),
    claims=(
        *ahead("RT-3.a", SOURCE, "The hybrid loss is ahead of its sorting part alone", "full", "sorting"),
        *ahead("RT-3.b", SOURCE, "The hybrid loss is ahead of its AM-Rankmax part alone", "full", "am_rankmax"),
        level(
            "RT-3.c/Recall", SOURCE, "AM-Rankmax and sorting are level on Recall@100.", RECALL, "am_rankmax", "sorting"
        ),
        level("RT-3.c/NDCG", SOURCE, "AM-Rankmax and sorting are level on NDCG@100.", NDCG, "am_rankmax", "sorting"),
        *ahead("RT-3.d", SOURCE, "AM-Rankmax is ahead of the softmax", "am_rankmax", "softmax"),
        *ahead("RT-3.e", SOURCE, "Sorting is ahead of the softmax", "sorting", "softmax"),
        *ahead("RT-3.f", SOURCE, "AM-Rankmax is ahead of Rankmax", "am_rankmax", "rankmax"),
        *ahead("RT-3.g", SOURCE, "The softmax is ahead of Rankmax", "softmax", "rankmax"),
        *ahead("RT-3.h", SOURCE, "Rankmax is ahead of RankNet", "rankmax", "ranknet"),
        *ahead("RT-3.i", SOURCE, "RankNet is ahead of ApproxNDCG", "ranknet", "approx_ndcg"),
        Claim(
            "RT-3.best/Recall",
            SOURCE,
            "Of the single losses AM-Rankmax is the best on Recall@100: it is ahead of sorting.",
            RECALL,
            "am_rankmax",
            "sorting",
            SMALLEST,
        ),
        Claim(
            "RT-3.best/NDCG",
            SOURCE,
            "Of the single losses sorting is the best on NDCG@100: it is ahead of AM-Rankmax.",
            NDCG,
            "sorting",
            "am_rankmax",
            SMALLEST,
        ),
    ),
)
