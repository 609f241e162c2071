"""HCCP Figure 8 and its appendix: what a hard negative's gradient is under BCE, InfoNCE and Margin InfoNCE, computed.

    python launch.py --experiment=hccp_figure8                seconds; nothing is trained

The paper argues that a negative with a low score, which may be a potential positive, is pushed down less by Margin
InfoNCE than by BCE. It draws g(y) = 1 / (1 + e^-y) and f(y) = 1 / tau / (1 + c e^((q - y) / tau)) for a few q, c and
tau. Here the gradients are automatic ones of the package's own kernels on drawn lists: one positive, 50 hard and 20
easy negatives with normal scores and norms, one hard negative moved from -6 to 6. The appendix prints wrong signs in Eq
9 and 10 (the automatic gradient of Eq 5 decides), and its argument holds for any InfoNCE; so the row without a margin
stands beside it. A seed is a draw of lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.claims import Record
from experiments.experiment import Claim, Column, Data, Experiment, Kind, Row
from experiments.figures import line, panels, pool, with_legend
from experiments.quickstart import PAPER
from experiments.trials import Context, save_result
from hccp_jax.config import field
from hccp_jax.losses.contrastive import margin_info_nce
from hccp_jax.losses.pointwise import binary_cross_entropy

MOVED = np.linspace(-6.0, 6.0, 49)
TABLE = (-4.0, -2.0, 0.0, 2.0, 4.0)


@dataclass(frozen=True)
class DrawnConfig:
    """The drawn lists."""

    lists: int = field(256, "lists of a seed", at_least=1)
    hard: int = field(50, "hard negatives of a list", at_least=1)
    easy: int = field(20, "easy negatives of a list", at_least=1)
    positive: float = field(2.0, "mean logit of the positive")
    negative: float = field(0.0, "mean logit of hard negatives; easy ones are 2 lower")
    temperature: float = field(0.5, "tau", above=0)


@dataclass(frozen=True)
class GradientSettings:
    """What is computed."""

    loss: str = field("bce", "whose gradient", choices=("bce", "info_nce"))
    margin: float = field(0.0, "m of Eq 5", at_least=0)
    drawn: DrawnConfig = DrawnConfig()


def gradients(settings: GradientSettings, seed: int) -> np.ndarray:
    """[len(MOVED)] mean gradient with respect to one hard negative's logit, over drawn lists."""
    drawn = settings.drawn
    scores, norms = jax.random.split(jax.random.key(seed))
    size = 1 + drawn.hard + drawn.easy
    kind = jnp.array([0] + [1] * drawn.hard + [2] * drawn.easy)
    mean = jnp.array([drawn.positive, drawn.negative, drawn.negative - 2.0])[kind]
    logits = mean + jax.random.normal(scores, (drawn.lists, size))
    products = jnp.exp(0.3 * jax.random.normal(norms, (drawn.lists, size)))

    def loss(moved: jax.Array, logits: jax.Array, products: jax.Array) -> jax.Array:
        logits = logits.at[1].set(moved)
        if settings.loss == "bce":
            return binary_cross_entropy(logits[1:2], jnp.zeros(1), reduce_fn=lambda values, _: values)
        return margin_info_nce(
            logits,
            products,
            positive=kind == 0,
            hard=kind == 1,
            easy=kind == 2,
            margin=settings.margin,
            temperature=drawn.temperature,
            reduce_fn=lambda values, _: values,
        )

    every = jax.vmap(jax.vmap(jax.grad(loss), (None, 0, 0)), (0, None, None))
    return np.asarray(every(jnp.asarray(MOVED, jnp.float32), logits, products), np.float64).mean(axis=1)


def run(context: Context) -> None:
    """Compute the pending rows."""
    for trial in context.trials:
        values = gradients(trial.settings, trial.seed)
        metrics = {f"gradient@{y:g}": float(values[np.argmin(np.abs(MOVED - y))]) for y in TABLE}
        curves = {"gradient": {"cutoffs": MOVED.tolist(), "values": values.tolist()}}
        save_result(context.experiment, trial, metrics, curves=curves, served="nothing is served", epochs=0.0)


def figure8(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """Gradient over the negative's logit, a line a loss."""
    figure, axes = panels(experiment, "Gradient of a hard negative", ["gradient"])
    for row in experiment.rows:
        curves = [record.result["curves"]["gradient"] for record in records if record.row == row.name]
        line(axes[0], experiment, row, pool((curve["cutoffs"], curve["values"]) for curve in curves))
    axes[0].set(xlabel="logit of the negative", ylabel="mean gradient")
    return with_legend(figure, axes, experiment)


def _claim(name: str, better: str, worse: str, y: float, text: str) -> Claim:
    return Claim(f"HCCP-10.{name}", "HCCP appendix, Figure 8", text, f"gradient@{y:g}", better, worse, 0.001)


EXPERIMENT = Experiment(
    name="hccp_figure8",
    title="HCCP Figure 8: the gradient of a hard negative",
    paper=PAPER,
    table="Figure 8 and the appendix",
    minutes=0.2,
    data=Data(Kind.COMPUTED, "Lists of drawn scores and norms; nothing is trained."),
    settings=GradientSettings(),
    smoke={"drawn.lists": 32},
    rows=(
        Row("bce", "BCE, g(y)", {"loss": "bce"}),
        Row("info_nce", "InfoNCE", {"loss": "info_nce", "margin": 0.0}),
        Row("margin_info_nce", "Margin InfoNCE, f(y)", {"loss": "info_nce", "margin": 0.9}),
    ),
    columns=tuple(Column(f"gradient@{y:g}", f"y = {y:g}", percent=False, decimals=4) for y in TABLE),
    claims=(
        _claim("low", "bce", "margin_info_nce", -2.0, "A hard negative at y = -2 is pushed less than by BCE."),
        _claim("zero", "bce", "margin_info_nce", 0.0, "So is one at y = 0."),
        _claim("high", "margin_info_nce", "bce", 4.0, "A high-scored one (y = 4) is pushed more than by BCE."),
        _claim("any", "bce", "info_nce", -2.0, "InfoNCE without a margin pushes it less than BCE, too."),
        replace(
            _claim("margin", "info_nce", "margin_info_nce", -2.0, "The margin adds to that: less than InfoNCE."),
            paper="ours: the appendix compares with BCE",
        ),
    ),
    seeds=5,
    run=run,
    figures=(
        (
            "figure8",
            "Gradient of the loss with respect to one hard negative's logit, mean over drawn lists. Band: 95 % "
            "interval over seeds.",
            figure8,
        ),
    ),
)
