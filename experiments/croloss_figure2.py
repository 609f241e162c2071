"""CROLoss Figure 2 and Eq 17-19: the comparison kernels, and the losses that they make.

    python launch.py --experiment=croloss_figure2                seconds
    python launch.py --experiment=croloss_figure2 --smoke

Nothing is trained and no data is read. The figure draws the kernels and their slopes from the functions that train. A
row compares the gradients of CROLoss and of another loss, written out from its own formula, on drawn batches of unit
vectors: the largest difference of a component once one gradient is scaled to the other, over the largest component, in
float32. Eq 17-19 say that it is nothing for the softmax, the triplet loss and BPR (CRO-0); the same holds of a Lambda
method with equal kernels, which is why Table 4 leaves those out. One row must fail: softplus with alpha 1 is not BPR.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.claims import Record
from experiments.croloss_rows import PAPER
from experiments.experiment import Claim, Column, Data, Experiment, Kind, Row
from experiments.figures import COLOURS, panels
from experiments.trials import Context, save_result
from hccp_jax.config import field
from hccp_jax.losses.recall import croloss_in_batch, kernel_function
from hccp_jax.methods.croloss import NO_KERNEL, HyperConfig, KernelConfig
from hccp_jax.training.config import TrainConfig

DATA = Data(Kind.COMPUTED, "Drawn vectors; nothing is trained and no data is read.")
ROUNDING = 1e-5  # of float32 sums over thousands of negatives
Vectors = tuple[jax.Array, jax.Array, jax.Array]  # users [R, d], positives [R, d], negatives [N, d]


@dataclass(frozen=True)
class IdentitySettings:
    """Which two losses are compared, and on what."""

    against: str = field("softmax", "the other loss", choices=("softmax", "triplet", "bpr", "plain"))
    items: int = field(300_000, "items ranked", at_least=1)
    vector: int = field(32, "numbers of a vector", at_least=1)
    kernels: KernelConfig = KernelConfig(weight_kernel=NO_KERNEL)
    hyper: HyperConfig = HyperConfig()
    train: TrainConfig = TrainConfig(batch=256)  # its batch: positives; the rest has no part in this


def drawn(settings: IdentitySettings, key: jax.Array) -> Vectors:
    """Unit vectors in random directions, those of users times the scale; ten negatives a positive as in 4.1."""
    rows = settings.train.batch
    sizes = (rows, rows, rows * settings.kernels.negatives)
    keys = jax.random.split(key, len(sizes))
    raw = [jax.random.normal(key, (size, settings.vector)) for key, size in zip(keys, sizes, strict=True)]
    users, positives, negatives = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in raw)
    return settings.hyper.scale * users, positives, negatives


def croloss_of(settings: IdentitySettings, vectors: Vectors, weight_kernel: str) -> jax.Array:
    """CROLoss as it is trained."""
    kernels = settings.kernels
    return croloss_in_batch(
        *vectors,
        items=settings.items,
        alpha=settings.hyper.alpha,
        kernel=kernels.kernel,  # type: ignore[arg-type]
        weight_kernel=None if weight_kernel == NO_KERNEL else weight_kernel,  # type: ignore[arg-type]
        hinge_margin=kernels.hinge_margin,
    )


def other_loss(settings: IdentitySettings, vectors: Vectors) -> jax.Array:
    """The loss to compare with, mean over positives: Eq 1, 2 or 4, or CROLoss without the Lambda method."""
    if settings.against == "plain":
        return croloss_of(settings, vectors, NO_KERNEL)
    users, positives, negatives = vectors
    own = jnp.sum(users * positives, axis=-1)  # [R]
    others = users @ negatives.T  # [R, N]
    if settings.against == "softmax":
        return jnp.mean(jax.nn.logsumexp(jnp.column_stack([own, others]), axis=-1) - own)
    if settings.against == "triplet":
        return jnp.mean(jnp.sum(jax.nn.relu(others - own[:, None] + settings.kernels.hinge_margin), axis=-1))
    return jnp.mean(jnp.sum(-jax.nn.log_sigmoid(own[:, None] - others), axis=-1))


def compare(settings: IdentitySettings, seed: int) -> dict[str, float]:
    """The factor between two gradients, by least squares, and what is left of their difference."""
    ours, other = (_flat(gradient) for gradient in _gradients(settings, jax.random.key(seed)))
    factor = float(ours @ other / (other @ other))
    left = np.abs(ours - factor * other).max() / np.abs(ours).max()
    return {"gradient_difference": float(left), "factor": factor}


@partial(jax.jit, static_argnums=0)
def _gradients(settings: IdentitySettings, key: jax.Array) -> tuple[Vectors, Vectors]:
    vectors = drawn(settings, key)
    ours = jax.grad(lambda v: croloss_of(settings, v, settings.kernels.weight_kernel))(vectors)
    return ours, jax.grad(lambda v: other_loss(settings, v))(vectors)


def _flat(gradients: Vectors) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in gradients])


def run(context: Context) -> None:
    """Compare the gradients of each row; a seed is a batch."""
    for trial in context.trials:
        save_result(context.experiment, trial, compare(trial.settings, trial.seed), served="nothing is served")


def kernels_and_slopes(experiment: Experiment, records: Sequence[Record]) -> Figure:
    """The kernels over the gap between a negative's score and the positive's, and their slopes."""
    gaps = np.linspace(-6.0, 4.0, 801)
    drawn_kernels = [("unit_step", 5.0), ("sigmoid", 5.0), ("softplus", 5.0), ("exponential", 5.0)]
    drawn_kernels += [("hinge", 0.5), ("hinge", 5.0)]
    figure, (left, right) = panels(experiment, "Comparison kernels", ["kernel", "slope"])
    figure.set_figheight(figure.get_figheight() + 0.8)
    for (kernel, margin), its_colour in zip(drawn_kernels, COLOURS, strict=False):
        value, slope = kernel_function(kernel, margin)(jnp.asarray(gaps))  # type: ignore[arg-type]
        label = f"hinge, m = {margin:g}" if kernel == "hinge" else kernel.replace("_", " ")
        left.plot(gaps, value, color=its_colour, linewidth=1.8, label=label)
        right.plot(gaps, slope, color=its_colour, linewidth=1.8)
    left.plot([0, 0], [0.5, 1.0], color="#333333", linewidth=5, alpha=0.5, solid_capstyle="butt")
    left.annotate("condition iv", (0.1, 0.7), (1.4, 0.2), fontsize=8, arrowprops={"arrowstyle": "-", "linewidth": 0.6})
    left.set(title="φ(gap), as in the paper", xlabel="gap", ylim=(-0.1, 6.0))
    right.set(title="φ'(gap), which moves scores", xlabel="gap", ylim=(-0.1, 3.0))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _row(name: str, label: str, against: str, kernel: str, alpha: float, weight: str = NO_KERNEL, margin: float = 5.0):
    static = {"kernels.kernel": kernel, "kernels.weight_kernel": weight, "kernels.hinge_margin": margin}
    return Row(name, label, static | {"hyper.alpha": alpha, "against": against})


ROWS = (
    _row("softmax", "exponential, α = 1, and the softmax (Eq 17)", "softmax", "exponential", 1.0),
    _row("triplet", "hinge, α = 0, and the triplet loss (Eq 18)", "triplet", "hinge", 0.0),
    _row("triplet_half", "the same with margin 0.5", "triplet", "hinge", 0.0, margin=0.5),
    _row("bpr", "softplus, α = 0, and BPR (Eq 19)", "bpr", "softplus", 0.0),
    _row("lambda", "λ, sigmoid-sigmoid, and the sigmoid, α = 1", "plain", "sigmoid", 1.0, "sigmoid"),
    _row("control", "softplus, α = 1, and BPR: not the same", "bpr", "softplus", 1.0),
)


def _same(name: str, paper: str, statement: str, row: str) -> Claim:
    return Claim(name, paper, statement, terms=((1.0, row, "gradient_difference"),), within=ROUNDING)


EXPERIMENT = Experiment(
    name="croloss_figure2",
    title="CROLoss Figure 2 and Eq 17-19: kernels, and the losses that they make",
    paper=PAPER,
    table="Figure 2 and Eq 17-19",
    minutes=1,
    data=DATA,
    settings=IdentitySettings(),
    smoke={"train.batch": 32},
    rows=ROWS,
    columns=(
        Column("gradient_difference", "largest difference", percent=False, decimals=9),
        Column("factor", "factor of the gradients", percent=False, decimals=6, cost=True),
    ),
    claims=(
        _same("CRO-0.softmax", "CROLoss Eq 17", "With the exponential and α = 1 CROLoss is the softmax.", "softmax"),
        _same("CRO-0.triplet", "CROLoss Eq 18", "With the hinge and α = 0 CROLoss is the triplet loss.", "triplet"),
        _same("CRO-0.margin", "CROLoss Eq 18", "So it is with margin 0.5.", "triplet_half"),
        _same("CRO-0.bpr", "CROLoss Eq 19", "With the softplus and α = 0 CROLoss is BPR.", "bpr"),
        _same("CRO-0.lambda", "CROLoss Eq 20 and 22", "With equal kernels the Lambda method is CROLoss.", "lambda"),
        Claim(
            "CRO-0 control",
            "ours",
            "With α = 1 the softplus is not BPR: gradients differ by more than a tenth.",
            smallest_effect=0.1,
            terms=((1.0, "control", "gradient_difference"),),
        ),
    ),
    seeds=5,
    run=run,
    figures=(
        (
            "figure2",
            "Left: comparison kernels φ over the gap, the score of a negative minus that of the positive. The bar is "
            "the paper's condition iv, 0.5 ≤ φ(0) ≤ 1, which the hinge with the printed margin 5 breaks. Right: "
            "their slopes.",
            kernels_and_slopes,
        ),
    ),
)
