"""CROLoss Table 3: recall at N by kernel and alpha.

    python launch.py --experiment=croloss_table3 --store=STORE          about 105 minutes on two cores
    python launch.py --experiment=croloss_table3 --smoke --store=STORE

A view of the runs of `croloss`: real sequences in STORE, nothing simulated. The grid of alpha is the paper's of Amazon
Books, 0.6 to 1.2, and 1.4; see `experiments.croloss_rows`. The figure shows where on it each kernel is best.

That the best alpha falls with N is claimed by its ends: at N = 50 alpha 1.2 beats 0.6, at N = 500 the other way round.
The printed exception on Books, where the exponential is best at 1.2 for every N, is claimed as printed. The four claims
with 1.4 are ours and were stated before 0.8 and 1.2 were rows. The paper says of the sigmoid that it "can best match
the weighting parameter": its swing is what 1.2 gains at N = 50 plus what 0.6 gains at N = 500, compared with the swing
of each other kernel. By that measure the paper's own numbers put the hinge ahead (3.15 points against 1.41); it is
claimed all the same. Kernels are ordered as on Books; that the exponential beats the hinge at alpha 1 is printed on
Taobao only, so that of CRO-3.c and its reverse CRO-3.d one must fail on any store.
"""

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure

from experiments.claims import Record, by_seed, over_worlds
from experiments.croloss_figure3 import PER_CENT
from experiments.croloss_printed import CUTOFFS
from experiments.croloss_rows import ALPHAS, KERNELS, ahead, gap, grid, view
from experiments.experiment import Claim, Experiment, Row
from experiments.figures import line, panels, with_legend

BOOKS = "Table 3, Books"
LINES = (*KERNELS, "lambda")
LABELS = {"lambda": "λ, sigmoid-softplus"}


def _shift(
    kernel: str, low: float, high: float, family: str, where: str, exception: bool = False
) -> tuple[Claim, Claim]:
    """The two claims that a larger alpha suits a smaller N."""
    small, large = grid(kernel, low), grid(kernel, high)
    first = ahead(
        f"{family}.{kernel}@50", where, f"At N = 50 α = {high:g} beats α = {low:g} ({kernel}).", large, small, 50
    )
    better, worse, words = (large, small, (high, low)) if exception else (small, large, (low, high))
    told = f"At N = 500 α = {words[0]:g} beats α = {words[1]:g} ({kernel})."
    return first, ahead(f"{family}.{kernel}@500", where, told, better, worse, 500)


def _swing(kernel: str, sign: float) -> tuple[tuple[float, str, int], ...]:
    """What 1.2 gains over 0.6 at N = 50 plus what 0.6 gains over 1.2 at N = 500."""
    low, high = grid(kernel, 0.6), grid(kernel, 1.2)
    return ((sign, high, 50), (-sign, low, 50), (sign, low, 500), (-sign, high, 500))


CLAIMS = (
    *(
        claim
        for kernel in LINES
        for claim in _shift(kernel, 0.6, 1.2, "CRO-2", BOOKS, exception=kernel == "exponential")
    ),
    *(claim for kernel in ("softplus", "sigmoid") for claim in _shift(kernel, 0.6, 1.4, "CRO-2 wide", "ours")),
    ahead("CRO-3.a", BOOKS, "Softplus beats exponential, α = 0.6.", "softplus_06", "exponential_06"),
    ahead("CRO-3.b", BOOKS, "Sigmoid beats hinge, α = 1.", "sigmoid_1", "hinge_1"),
    ahead("CRO-3.c", BOOKS, "Hinge beats exponential, α = 1.", "hinge_1", "cross_entropy"),
    ahead("CRO-3.d", "Table 3, Taobao", "Exponential beats hinge, α = 1.", "cross_entropy", "hinge_1"),
    ahead("CRO-3.e", BOOKS, "Softplus beats sigmoid, α = 1.", "softplus_1", "sigmoid_1"),
    ahead("CRO-3.f", BOOKS, "Softplus beats hinge, α = 1.", "softplus_1", "hinge_1"),
    *(
        gap(
            f"CRO-3 swing.{kernel}",
            "4.3",
            f"The sigmoid follows α more than {kernel} does.",
            *_swing("sigmoid", 1.0),
            *_swing(kernel, -1.0),
        )
        for kernel in ("hinge", "exponential", "softplus")
    ),
    Claim(
        "CRO-5",
        "ours",
        "CROLoss with softplus and α = 0.6 is ahead of the softmax by 1.5 points.",
        "recall@100",
        "softplus_06",
        "cross_entropy",
        0.015,
    ),
)


def recall_over_alpha(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """Recall over alpha, a panel for each N, a line for each kernel; None before some kernel has two alphas."""
    present = {record.row for record in records}
    if not any(sum(grid(kernel, alpha) in present for alpha in ALPHAS) > 1 for kernel in LINES):
        return None
    kernels = tuple(Row(kernel, LABELS.get(kernel, kernel)) for kernel in LINES)
    by_kernel = replace(experiment, rows=kernels, pictured=())
    figure, axes = panels(by_kernel, "Recall over α by kernel", [f"recall@{n}" for n in CUTOFFS])
    for n, axis in zip(CUTOFFS, axes, strict=True):
        for row in kernels:
            found = {alpha: by_seed(records, grid(row.name, alpha), f"recall@{n}") for alpha in ALPHAS}
            line(axis, by_kernel, row, [(alpha, over_worlds(values)) for alpha, values in found.items() if values])
        axis.set(title=f"N = {n}", xlabel="α", xticks=ALPHAS)
        axis.yaxis.set_major_formatter(PER_CENT)
    return with_legend(figure, axes, by_kernel)


EXPERIMENT = view(
    "croloss_table3",
    "CROLoss Table 3: kernels and alpha",
    "Table 3",
    (
        "cross_entropy",
        *(name for kernel in LINES for alpha in ALPHAS if (name := grid(kernel, alpha)) != "cross_entropy"),
    ),
    CLAIMS,
    pictured=(
        *("cross_entropy", "hinge_1", "sigmoid_1", "softplus_1", "lambda_sigmoid_softplus"),
        *("sigmoid_06", "softplus_06", "sigmoid_14", "softplus_14", "popularity"),
    ),
    figures=(
        (
            "table3",
            "Recall at N over α, by kernel. The paper expects the best α to fall as N grows. Line: mean over seeds; "
            "band: its 95 % interval.",
            recall_over_alpha,
        ),
    ),
)
