"""CROLoss Table 2: CROLoss and its Lambda method against the softmax, BPR and the triplet loss.

    python launch.py --experiment=croloss_table2 --store=STORE          about 35 minutes on two cores
    python launch.py --experiment=croloss_table2 --smoke --store=STORE

A view of the runs of `croloss`: real sequences in STORE, nothing simulated. The paper takes the best kernels and alpha
of each corpus; both choices are rows here, of Amazon Books (softplus, alpha 1; sigmoid-softplus, alpha 1) and of Taobao
(exponential, alpha 1.4; sigmoid-exponential, alpha 1.4). The triplet loss with margin 0.5 is ours: 5, which the paper
prints, breaks its own condition on kernels.

The order is claimed at each N that the paper prints, and where its own numbers make an exception (BPR at N = 500, the
Lambda method at N = 50, both on Books) the exception is claimed. What counts is 0.3 points. The Lambda method's lead on
Books is 0.04 to 0.18 points, so a lead of the printed size would not be supported; on Taobao it is 0.5 to 1.4.

Not reproducible: the paper's numbers themselves, where STORE is another corpus; the released code's early stopping
after ten evaluations without gain (here a fixed number of steps, of which the best by validation is kept).
"""

from experiments.croloss_printed import CUTOFFS
from experiments.croloss_rows import SMALLEST, ahead, gap, view

WHERE, BOOKS, TAOBAO = "Table 2", "Table 2, Books", "Table 2, Taobao"
_LAMBDA, _LARGE = "lambda_sigmoid_softplus", "lambda_sigmoid_exponential_14"

CLAIMS = (
    gap(
        "CRO-1.a@50",
        BOOKS,
        "CROLoss-λ and CROLoss are level at N = 50 (printed: CROLoss ahead by 0.03 points).",
        (1.0, _LAMBDA, 50),
        (-1.0, "softplus_1", 50),
        within=SMALLEST,
    ),
    *(
        ahead(f"CRO-1.a@{n}", BOOKS, f"CROLoss-λ is ahead of CROLoss at N = {n}.", _LAMBDA, "softplus_1", n)
        for n in (100, 200, 500)
    ),
    *(
        ahead(f"CRO-1.b@{n}", BOOKS, f"CROLoss is ahead of the softmax at N = {n}.", "softplus_1", "cross_entropy", n)
        for n in CUTOFFS
    ),
    *(
        ahead(f"CRO-1.c@{n}", BOOKS, f"The softmax is ahead of BPR at N = {n}.", "cross_entropy", "bpr", n)
        for n in (50, 100, 200)
    ),
    ahead("CRO-1.c@500", BOOKS, "BPR is ahead of the softmax at N = 500.", "bpr", "cross_entropy", 500),
    *(
        ahead(f"CRO-1.d@{n}", BOOKS, f"BPR is ahead of the triplet loss at N = {n}.", "bpr", "triplet", n)
        for n in CUTOFFS
    ),
    *(
        ahead(f"CRO-1.e@{n}", BOOKS, f"CROLoss is ahead of the triplet loss at N = {n}.", "softplus_1", "triplet", n)
        for n in CUTOFFS
    ),
    ahead("CRO-1.f@100", "ours", "BPR is ahead of the triplet loss with margin 0.5.", "bpr", "triplet_half"),
    *(
        ahead(
            f"CRO-1 large.a@{n}",
            TAOBAO,
            f"As chosen on Taobao, λ is ahead of CROLoss at N = {n}.",
            _LARGE,
            "exponential_14",
            n,
        )
        for n in CUTOFFS
    ),
    gap(
        "CRO-1 large.b@500",
        TAOBAO,
        "As chosen on Taobao, CROLoss and the softmax are level at N = 500 (printed: 13.13 both).",
        (1.0, "exponential_14", 500),
        (-1.0, "cross_entropy", 500),
        within=SMALLEST,
    ),
)

EXPERIMENT = view(
    "croloss_table2",
    "CROLoss Table 2: CROLoss against conventional losses",
    WHERE,
    (
        *("cross_entropy", "triplet", "triplet_half", "bpr", "softplus_1", "lambda_sigmoid_softplus"),
        *("exponential_14", "lambda_sigmoid_exponential_14"),
    ),
    CLAIMS,
)
