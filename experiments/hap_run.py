"""Runs rows of the HAP-style system: beside the usual metrics, what each group of negatives does to the light model.

Measured when training ends, on held-out lists staged as the training log's are, of the table's own requests, on which
nothing is chosen: norms and cosines of the gradients of each group's loss, mean logits, AUC by group.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.simulated import check_world
from experiments.simulated_ground import SimulatedGround, SimulatedJudge, open_ground
from experiments.systems import run_on, training_seeds
from experiments.systems_run import Measured
from experiments.systems_settings import SystemsSettings
from experiments.trials import Context, Trial, by_world
from hccp_jax.cascade import logs
from hccp_jax.cascade.logs import STREAMS, open_world
from hccp_jax.cascade.source import featurise
from hccp_jax.data.catalogue import Catalogue
from hccp_jax.data.requests import RequestBatch
from hccp_jax.evaluation.negative_groups import LOSSES, bucket_auc, group_losses, mean_logits
from hccp_jax.methods.base import Method
from hccp_jax.methods.hap import GROUPS, HEAVY_HEAD, LIGHT_HEAD, negatives
from hccp_jax.training.gradients import gradient_cosines, gradient_norms, group_gradients

PAIRS = tuple(combinations(range(len(GROUPS)), 2))


@dataclass
class HapGround(SimulatedGround):
    """The simulated cascade, with held-out lists of impressions and sampled negatives, [n, ...]."""

    lists: RequestBatch | None = None

    def judge(self, method: Method) -> "HapJudge":
        """An evaluator of this method."""
        return HapJudge(self, method)


class HapJudge(SimulatedJudge):
    """See `systems_run.Judge`."""

    ground: HapGround

    def __init__(self, ground: HapGround, method: Method) -> None:
        super().__init__(ground, method)
        self.looked = jax.jit(looker(method, ground.source.spec.tasks[0]))

    def measure(self, parameters: Any, hyper: Any, trial: Trial) -> Measured:
        """All metrics, and those by group of negatives."""
        found = super().measure(parameters, hyper, trial)
        tau = jnp.float32(hyper.temperature)
        looked = jax.device_get(self.looked(parameters, tau, self.ground.lists, self.ground.source.catalogue))
        last = LIGHT_HEAD if hyper.light_only > 0 else HEAVY_HEAD
        return found._replace(metrics=found.metrics | by_group(looked, last))


def looker(method: Method, task: str) -> Callable[..., dict[str, Any]]:
    """A function of parameters, tau, lists and catalogue; what it gives `by_group` makes into metrics."""

    def look(parameters: Any, tau: jax.Array, lists: RequestBatch, catalogue: Catalogue) -> dict[str, Any]:
        batch = featurise(lists, catalogue)
        positive = (batch.labels[task] > 0) & batch.exposed
        groups = negatives(batch, positive)

        def losses(parameters: Any) -> jax.Array:
            return group_losses(method.heads(parameters, batch)[LIGHT_HEAD], positive, groups, tau).ravel()

        stack = group_gradients(losses, parameters)
        shape = (len(LOSSES), len(GROUPS))
        cosines = gradient_cosines(stack).reshape(shape + shape)
        heads = method.heads(parameters, batch)
        return {
            "norms": gradient_norms(stack).reshape(shape),
            "cosines": jnp.stack([cosines[index, :, index] for index in range(len(LOSSES))]),
            "logits": {name: heads[name] for name in (LIGHT_HEAD, HEAVY_HEAD)},
            "positive": positive,
            "groups": groups,
        }

    return look


def by_group(looked: dict[str, Any], last: str) -> dict[str, float]:
    """Metrics by group of negatives.

    Args:
        looked: norms [2, G] and cosines [2, G, G] of the light model's gradients by loss, logits [U, K] by model,
            positive [U, K] and groups [G, U, K] bool.
        last: the model whose score decides among the candidates it sees, "light" or "heavy"; AUC is of its logits,
            before routing, as a share of a short list says nothing about a share of all candidates.

    Returns:
        "gradient/<loss>/<group>" log10 of the norm, so that a ratio of ten is a difference of 1, "cosine/<loss>/<group>
        -<group>", "logit/<group>" the light model's mean, "AUC/<group>".
    """
    found: dict[str, float] = {}
    with np.errstate(divide="ignore"):
        logs10 = np.log10(looked["norms"])
    for index, loss in enumerate(LOSSES):
        found |= {f"gradient/{loss}/{name}": float(logs10[index, place]) for place, name in enumerate(GROUPS)}
        for one, other in PAIRS:
            found[f"cosine/{loss}/{GROUPS[one]}-{GROUPS[other]}"] = float(looked["cosines"][index, one, other])
    means = mean_logits(looked["logits"][LIGHT_HEAD], looked["groups"])
    areas = bucket_auc(looked["logits"][last], looked["positive"], looked["groups"])
    found |= {f"logit/{name}": float(value) for name, value in zip(GROUPS, means, strict=True)}
    return found | {f"AUC/{name}": float(value) for name, value in zip(GROUPS, areas, strict=True)}


def run(context: Context) -> None:
    """Train and evaluate the pending trials, world after world."""
    for one in by_world(context):
        run_on(one, _opened(one))


def _opened(context: Context) -> HapGround:
    settings: SystemsSettings = context.trials[0].settings
    check_world(settings.world, settings.sampling, settings.train)
    out = context.trials[0].directory.parent.parent
    ground = open_ground(context, settings, training_seeds(context), Path(out), teacher=False)
    staged = jax.jit(logs.training_batch, static_argnums=(1, 2, 5))
    held_out = (STREAMS["evaluation"], 0, settings.evaluate.requests)
    lists = staged(open_world(settings.world), settings.world, settings.sampling, *held_out)
    return HapGround(**vars(ground), lists=lists)
