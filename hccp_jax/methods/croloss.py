"""CROLoss: recall at a chosen cut as the loss of a retrieval model (Tang et al., CIKM 2022), and what it generalises.

Equation numbers are the paper's. The rows of its Table 2 differ in kernels, which are static, and in alpha.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from hccp_jax.collectives import Axis, all_gather, global_mean
from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.losses.pairs import Pairs
from hccp_jax.losses.recall import KERNELS, croloss_in_batch
from hccp_jax.methods.base import Heads, Method, Parameters, scored_method, scorer
from hccp_jax.models.mean_history import MeanHistory, MeanHistoryConfig
from hccp_jax.models.table import identity

NO_KERNEL = "none"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HyperConfig:
    """The numbers of CROLoss; each is traced, so changing one compiles nothing."""

    # Eq 12 prints alpha <= 0 where >= 0 is meant: the experiments use 0.6 to 1.6
    alpha: float = field(1.0, "weight on small cuts N of Recall@N; 0: all cuts alike", at_least=0)
    scale: float = field(10.0, "factor of the cosine, tau in the paper", above=0)
    learning_rate: float = field(3e-3, "Adam step size; the paper's 0.02 belongs to another scale of W", above=0)


@dataclass(frozen=True)
class KernelConfig:
    """Which member of the family of losses; static."""

    kernel: str = field(
        "softplus", "phi, or phi2 of the Lambda method", choices=tuple(name for name in KERNELS if name != "unit_step")
    )
    weight_kernel: str = field(
        "sigmoid", "phi1 of the Lambda method; none: the plain loss", choices=(NO_KERNEL, *KERNELS)
    )
    hinge_margin: float = field(5.0, "m of the hinge; the paper's own condition asks for 0.5 to 1", at_least=0)
    rank: str = field("scaled", "estimate of the rank: Eq 24, or its unbiased form", choices=("scaled", "unbiased"))
    weight_scale: str = field(
        "log", "log: W times log(|I| + 1), as in the released code; none: Eq 13 as printed", choices=("log", "none")
    )
    negatives: int = field(10, "random items taken of each request, at most", at_least=1)


def croloss_system(spec: FeatureSpec, model: MeanHistoryConfig, kernels: KernelConfig, exposed: int) -> Method:
    """CROLoss on the two-tower model of its experiments.

    Positives are the clicked impressions, each a pair (u, v) of Eq 16; the loss is the mean over the pairs of all
    devices. Negatives are the pool items of all requests on all devices, shared by all positives as in 4.1: n_rn = 10
    uniform items a request here, a positive there, which is the same where a request has one click. Eq 24 leaves v out
    of its own negatives; here no clicked item of the request is one, by id. The paper's next-item task has no such
    list, and its data no impressions: a training sample is a request here.

    Args:
        spec: feature sizes; |I| is its items without the padding. Each task is served by the one score.
        model: width.
        kernels: the loss; a kernel that does not exist is refused where the configuration is read.
        exposed: impressions lie in this many leading slots.
    """
    of = scorer(MeanHistory(model, spec))
    click = spec.tasks[0]

    def loss(
        parameters: Parameters, hyper: HyperConfig, batch: RequestBatch, key: jax.Array, progress: jax.Array, axis: Axis
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        mean = global_mean(axis)
        users = of.user_side(parameters, batch).astype(jnp.float32)
        shown = {name: leaf[:, :exposed] for name, leaf in identity(batch.items).items()}
        ids = shown["id"]
        positive = ((batch.labels[click] > 0) & batch.exposed)[:, :exposed]
        positives = of.item_side(parameters, shown).astype(jnp.float32)
        column = all_gather(_random_items(batch, kernels.negatives), axis)
        negatives = of.item_side(parameters, identity(column)).astype(jnp.float32)
        # one row a slot of an impression: [U * exposed, d]
        rows = jnp.repeat(hyper.scale * users, ids.shape[1], axis=0)
        own = jnp.where(positive, ids, -1)
        value = croloss_in_batch(
            rows,
            positives.reshape(rows.shape),
            negatives,
            items=spec.items - 1,
            alpha=hyper.alpha,
            kernel=kernels.kernel,  # type: ignore[arg-type]
            weight_kernel=None if kernels.weight_kernel == NO_KERNEL else kernels.weight_kernel,  # type: ignore[arg-type]
            hinge_margin=kernels.hinge_margin,
            rank=kernels.rank,  # type: ignore[arg-type]
            scale=kernels.weight_scale,  # type: ignore[arg-type]
            where=positive.ravel(),
            pairs=Pairs(
                column_where=column["where"],
                row_ids=jnp.repeat(own, ids.shape[1], axis=0),
                column_ids=column["id"],
            ),
            reduce_fn=mean,
        )
        cosine = jnp.einsum("ud,ued->ue", users, positives)
        return value, {"croloss": value, "cosine/positive": mean(cosine.ravel(), positive.ravel())}

    def served(scores: Heads, hyper: Any) -> jax.Array:
        return hyper.scale * scores[click]

    return scored_method(of, spec, loss, frozenset({"history", "pool"}), served)


def _random_items(batch: RequestBatch, count: int) -> dict[str, jax.Array]:
    """The first `count` pool items of each request: what tells them apart and "where", [U * count] each."""
    pool = batch.stage == Stage.POOL
    found, slots = jax.lax.top_k(pool.astype(jnp.int32), min(count, pool.shape[1]))  # among equals the first slots
    drawn = {name: jnp.take_along_axis(leaf, slots, axis=1).ravel() for name, leaf in identity(batch.items).items()}
    return drawn | {"where": (found > 0).ravel()}


def _row(alpha: float, kernel: str, weight_kernel: str = NO_KERNEL) -> dict[str, dict]:
    return {"config": {"kernel": kernel, "weight_kernel": weight_kernel}, "hyper": {"alpha": alpha}}


# The rows of Table 2. Its footnotes give the best kernels and alpha of each data set, Amazon Books and Taobao.
ROWS: dict[str, dict[str, dict]] = {
    "cross_entropy": _row(1.0, "exponential"),  # Eq 17
    "triplet": _row(0.0, "hinge"),  # Eq 18
    "bpr": _row(0.0, "softplus"),  # Eq 19
    "croloss": _row(1.0, "softplus"),
    "croloss_lambda": _row(1.0, "softplus", "sigmoid"),
    "croloss_large": _row(1.4, "exponential"),
    "croloss_lambda_large": _row(1.4, "exponential", "sigmoid"),
}
