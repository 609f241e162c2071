"""ASMOL: "Rethinking the Role of Pre-ranking in Large-scale E-Commerce Searching System" (Zhang et al. 2023, Taobao).

All-scenario labels and list-wise losses over exposures (EX), ranking candidates (RC) and pre-ranking candidates (PRC):
three tasks, exposure <= click <= purchase, each a multi-positive softmax, and distillation from the ranker on the
exposures. Known from a translation. Departures: labels are those of the log at hand, in-scenario unless it has others;
the exposure head is one more head of the same towers; task weights are not given by the paper.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hccp_jax.collectives import Axis, global_mean
from hccp_jax.config import field
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.requests import RequestBatch, Stage
from hccp_jax.losses.distillation import softmax_distillation
from hccp_jax.losses.softmax import multi_positive_softmax
from hccp_jax.methods.base import Heads, Method, Parameters, by_task, scored_method, scorer, weighted_sum
from hccp_jax.models.three_tower import ModelConfig, ThreeTower

EXPOSURE = "exposure"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RethinkHyper:
    """The numbers of ASMOL."""

    exposure: float = field(1.0, "weight of the exposure task", at_least=0)
    click: float = field(1.0, "weight of the click task and its distillation", at_least=0)
    conversion: float = field(1.0, "weight of the second task and its distillation", at_least=0)
    distillation: float = field(1.0, "weight of both distillations; 0 switches them off", at_least=0)
    temperature: float = field(1.0, "divides the logits in every softmax", above=0)
    learning_rate: float = field(3e-3, "Adam step size", above=0)
    serve_click: float = field(1.0, "weight of the click logit in the served score", at_least=0)
    serve_conversion: float = field(0.0, "weight of the second task's logit in the served score", at_least=0)
    serve_exposure: float = field(0.0, "weight of the exposure logit in the served score", at_least=0)


def rethink(spec: FeatureSpec, model: ModelConfig) -> Method:
    """ASMOL on the three-tower model."""
    names = (*spec.tasks, EXPOSURE)
    of = scorer(ThreeTower(model, spec, names))

    def served(scores: Heads, hyper: Any) -> jax.Array:
        weights = (hyper.serve_click, hyper.serve_conversion, hyper.serve_exposure)
        return weighted_sum(scores, dict(zip(names, weights, strict=True)))

    def loss(
        parameters: Parameters, hyper: Any, batch: RequestBatch, key: jax.Array, progress: jax.Array, axis: Axis
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        mean, exposed = global_mean(axis), batch.exposed
        logits = jnp.moveaxis(of.logits(parameters, batch), 1, 0) / hyper.temperature
        # AEL >= ASCL >= ASPL: whatever has the stronger feedback has the weaker as well
        second = (batch.labels[spec.tasks[1]] > 0) & exposed
        first = ((batch.labels[spec.tasks[0]] > 0) & exposed) | second
        labels = jnp.stack([first, second, exposed])
        # S = EX + RC + PRC
        listed = jnp.broadcast_to(batch.mask & (batch.stage != Stage.POOL), labels.shape)
        tasks = multi_positive_softmax(logits, labels, where=listed, reduce_fn=mean)
        click = batch.teacher[spec.tasks[0]]
        # p_ctr, and p_ctr p_cvr: the teacher of the second task predicts both together
        teacher = jnp.stack([click, batch.teacher[spec.tasks[1]]])
        shown = jnp.broadcast_to(exposed, teacher.shape)
        distilled = softmax_distillation(logits[:2], teacher, where=shown, reduce_fn=mean)
        weights = jnp.stack([hyper.click, hyper.conversion, hyper.exposure])
        total = jnp.sum(weights * tasks) + hyper.distillation * jnp.sum(weights[:2] * distilled)
        terms = {f"softmax/{name}": tasks[index] for index, name in enumerate(names)}
        return total, terms | {f"distill/{name}": distilled[index] for index, name in enumerate(spec.tasks)}

    needs = frozenset({"ranked", "preranked", "teacher"})
    return scored_method(of, spec, loss, needs, served, partial(by_task, tasks=names))
