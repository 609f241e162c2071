"""The rows of CROLoss's Tables 2-4 and what they claim: kernels, which are static, and alpha, which is a number.

Eq 17-19 make three rows special cases of the loss: alpha 1 with the exponential is the softmax, alpha 0 with the
softplus is BPR, alpha 0 with the hinge the triplet loss. The paper's hinge has margin 5, which breaks its own condition
on kernels; 0.5 is a margin that holds it.
"""

from experiments.experiment import Claim, Row
from hccp_jax.methods.croloss import NO_KERNEL

FLOOR = Row("popularity", "popularity", reference=True)


def _row(name: str, label: str, kernel: str, alpha: float, weight: str = NO_KERNEL, margin: float = 5.0) -> Row:
    static = {"kernels.kernel": kernel, "kernels.weight_kernel": weight, "kernels.hinge_margin": margin}
    return Row(name, label, static | {"hyper.alpha": alpha})


ALPHAS = (0.6, 1.0, 1.4)
ROWS = (
    _row("cross_entropy", "softmax cross-entropy (exponential, α = 1)", "exponential", 1.0),
    _row("bpr", "BPR (softplus, α = 0)", "softplus", 0.0),
    _row("triplet", "triplet, margin 5 (hinge, α = 0)", "hinge", 0.0),
    _row("triplet_half", "triplet, margin 0.5 (hinge, α = 0)", "hinge", 0.0, margin=0.5),
    *(
        _row(f"{kernel}_{alpha:g}".replace(".", ""), f"CROLoss, {kernel}, α = {alpha:g}", kernel, alpha)
        for kernel in ("softplus", "sigmoid", "exponential", "hinge")
        for alpha in ALPHAS
        if (kernel, alpha) != ("exponential", 1.0)  # the softmax above
    ),
    *(
        _row(f"lambda_{weight}_{kernel}", f"CROLoss-λ, {weight.replace('_', ' ')}-{kernel}, α = 1", kernel, 1.0, weight)
        for weight in ("sigmoid", "unit_step")
        for kernel in ("softplus", "exponential")  # a sigmoid under a sigmoid weight is CROLoss's own gradient
    ),
)


def _claim(name: str, where: str, statement: str, better: str, worse: str, n: int = 100, least: float = 0.003) -> Claim:
    return Claim(name, f"CROLoss {where}", statement, f"recall@{n}", better, worse, least)


CLAIMS = (
    _claim("CRO-1a", "Table 2", "CROLoss-λ is ahead of CROLoss.", "lambda_sigmoid_softplus", "softplus_1"),
    _claim("CRO-1b", "Table 2", "CROLoss is ahead of the softmax.", "softplus_1", "cross_entropy"),
    _claim("CRO-1c", "Table 2", "The softmax is ahead of BPR.", "cross_entropy", "bpr"),
    _claim("CRO-1d", "Table 2", "BPR is ahead of the triplet loss with margin 5.", "bpr", "triplet"),
    _claim("CRO-1e", "Table 2", "BPR is ahead of the triplet loss with margin 0.5.", "bpr", "triplet_half"),
    _claim("CRO-1f", "Table 2", "BPR is ahead of the softmax at N = 500.", "bpr", "cross_entropy", 500),
    _claim("CRO-1g", "Table 2", "CROLoss is ahead of triplet, margin 5, at N = 500.", "softplus_1", "triplet", 500),
    _claim("CRO-2a", "Table 3", "At N = 50 α = 1.4 beats α = 0.6 (softplus).", "softplus_14", "softplus_06", 50),
    _claim("CRO-2b", "Table 3", "At N = 500 α = 0.6 beats α = 1.4 (softplus).", "softplus_06", "softplus_14", 500),
    _claim("CRO-2c", "Table 3", "At N = 50 α = 1.4 beats α = 0.6 (sigmoid).", "sigmoid_14", "sigmoid_06", 50),
    _claim("CRO-2d", "Table 3", "At N = 500 α = 0.6 beats α = 1.4 (sigmoid).", "sigmoid_06", "sigmoid_14", 500),
    _claim(
        "CRO-3a", "Table 3", "On a small corpus softplus beats exponential, α = 0.6.", "softplus_06", "exponential_06"
    ),
    _claim("CRO-3b", "Table 3", "Sigmoid beats hinge, α = 1.", "sigmoid_1", "hinge_1"),
    _claim("CRO-3c", "Table 3", "Exponential beats hinge, α = 1.", "cross_entropy", "hinge_1"),
    _claim(
        "CRO-4a",
        "Table 4",
        "A sigmoid weight beats a unit step (softplus).",
        "lambda_sigmoid_softplus",
        "lambda_unit_step_softplus",
    ),
    _claim(
        "CRO-4b",
        "Table 4",
        "On a small corpus softplus beats exponential under a sigmoid weight.",
        "lambda_sigmoid_softplus",
        "lambda_sigmoid_exponential",
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
