"""The rows of CROLoss's Tables 2-4: kernels, which are static, and alpha, which is a number; and views of their runs.

Eq 17-19 make three rows special cases of the loss: alpha 1 with the exponential is the softmax, alpha 0 with the
softplus is BPR, alpha 0 with the hinge the triplet loss. The paper's hinge has margin 5, which breaks its own condition
on kernels; 0.5 is a margin that holds it.

The grid of alpha is that of Amazon Books (0.6 to 1.2), the smaller of the paper's corpora, and 1.4, which its Table 2
takes on Taobao. Left out are alpha 1.6 and the rest of the Lambda method's grid on Taobao; and a sigmoid under a
sigmoid weight, which is CROLoss's own gradient (`croloss_figure2` measures that).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from experiments.croloss_printed import BOOKS, CUTOFFS, by_metric
from experiments.croloss_run import DATA, CROLossSettings, run
from experiments.experiment import Claim, Column, Experiment, Row
from hccp_jax.methods.croloss import NO_KERNEL
from hccp_jax.training.config import TrainConfig

PAPER = "CROLoss (Alibaba), Tang et al., CIKM 2022"
SMALLEST = 0.003  # recall: 0.3 points
SECONDS = 50  # of a trial of 5,000 steps on two cores
SEEDS = 5

FLOOR = Row("popularity", "popularity", reference=True)


def _row(name: str, label: str, kernel: str, alpha: float, weight: str = NO_KERNEL, margin: float = 5.0) -> Row:
    static = {"kernels.kernel": kernel, "kernels.weight_kernel": weight, "kernels.hinge_margin": margin}
    return Row(name, label, static | {"hyper.alpha": alpha})


def _digits(alpha: float) -> str:
    return f"{alpha:g}".replace(".", "")


def _lambda(weight: str, kernel: str, alpha: float = 1.0) -> Row:
    name = f"lambda_{weight}_{kernel}" + (f"_{_digits(alpha)}" if alpha != 1 else "")
    return _row(name, f"CROLoss-λ, {weight.replace('_', ' ')}-{kernel}, α = {alpha:g}", kernel, alpha, weight)


ALPHAS = (0.6, 0.8, 1.0, 1.2, 1.4)
KERNELS = ("hinge", "sigmoid", "exponential", "softplus")
LAMBDA = "lambda_sigmoid_softplus"
ROWS = (
    _row("cross_entropy", "softmax cross-entropy (exponential, α = 1)", "exponential", 1.0),
    _row("bpr", "BPR (softplus, α = 0)", "softplus", 0.0),
    _row("triplet", "triplet, margin 5 (hinge, α = 0)", "hinge", 0.0),
    _row("triplet_half", "triplet, margin 0.5 (hinge, α = 0)", "hinge", 0.0, margin=0.5),
    *(
        _row(f"{kernel}_{_digits(alpha)}", f"CROLoss, {kernel}, α = {alpha:g}", kernel, alpha)
        for kernel in KERNELS
        for alpha in ALPHAS
        if (kernel, alpha) != ("exponential", 1.0)  # the softmax above
    ),
    *(
        _lambda(weight, kernel)
        for weight in ("unit_step", "sigmoid")
        for kernel in ("hinge", "exponential", "softplus")
    ),
    *(_lambda("sigmoid", "softplus", alpha) for alpha in ALPHAS if alpha != 1),
    _lambda("sigmoid", "exponential", 1.4),
)


def grid(kernel: str, alpha: float) -> str:
    """Name of the row of a kernel of Table 3, "lambda" among them, at an alpha.

    >>> grid("softplus", 0.6), grid("exponential", 1.0), grid("lambda", 1.0), grid("lambda", 1.2)
    ('softplus_06', 'cross_entropy', 'lambda_sigmoid_softplus', 'lambda_sigmoid_softplus_12')
    """
    if (kernel, alpha) == ("exponential", 1.0):
        return "cross_entropy"
    if kernel == "lambda":
        return LAMBDA if alpha == 1 else f"{LAMBDA}_{_digits(alpha)}"
    return f"{kernel}_{_digits(alpha)}"


def ahead(name: str, where: str, statement: str, better: str, worse: str, n: int = 100) -> Claim:
    """A claim on recall@N."""
    return Claim(name, f"CROLoss {where}", statement, f"recall@{n}", better, worse, SMALLEST)


def gap(name: str, where: str, statement: str, *terms: tuple[float, str, int], within: float = 0.0) -> Claim:
    """A claim on a sum of (weight, row, N) of recall@N."""
    summed = tuple((weight, row, f"recall@{n}") for weight, row, n in terms)
    return Claim(name, f"CROLoss {where}", statement, smallest_effect=SMALLEST, terms=summed, within=within)


def view(
    name: str,
    title: str,
    table: str,
    rows: Iterable[str],
    claims: Sequence[Claim],
    *,
    pictured: Sequence[str] = (),
    figures: Sequence[tuple[str, str, Any]] = (),
) -> Experiment:
    """An experiment on some of the rows; all of them share their trials, so that each is run once.

    Args:
        name: of the experiment.
        title: its heading.
        table: of the paper.
        rows: names of `ROWS`, in the order of the table; the first is what others are compared with.
        claims: what is tested.
        pictured: names of the rows in pictures; empty: all.
        figures: of its own.
    """
    known: Mapping[str, Row] = {row.name: row for row in ROWS}
    names = list(rows)
    settings = replace(
        CROLossSettings(),
        train=TrainConfig(steps=5000, batch=256, chunk=250, checkpoint_every=1000, validate_every=1000),
    )
    smoke = {"steps": 4, "chunk": 2, "checkpoint_every": 4, "validate_every": 4, "batch": 32}
    return Experiment(
        name=name,
        title=title,
        paper=PAPER,
        table=table,
        minutes=round(len(names) * SEEDS * SECONDS / 60),
        data=DATA,
        settings=settings,
        smoke={f"train.{field}": number for field, number in smoke.items()} | {"users": 64},
        rows=(*(known[row] for row in names), FLOOR),
        columns=(
            *(Column(f"recall@{n}", f"R@{n}") for n in CUTOFFS),
            *(Column(f"micro_recall@{n}", f"micro R@{n}") for n in (100, 500)),
            *(Column(f"ndcg@{n}", f"NDCG@{n}") for n in (50, 500)),
            *(Column(f"hit_rate@{n}", f"hit@{n}") for n in (50, 500)),
        ),
        claims=tuple(claims),
        seeds=SEEDS,
        run=run,
        pictured=tuple(pictured),
        shares="croloss",
        printed=by_metric(BOOKS, names),
        printed_note="per cent on Amazon Books, the smaller of the paper's two corpora (313,966 items)",
        printed_absolute=True,
        figures=tuple(figures),
    )
