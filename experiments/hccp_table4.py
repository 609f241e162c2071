"""HCCP Table 4: parameters, training samples, training speed and serving latency, on the simulated cascade.

    python launch.py --experiment=hccp_table4

A view of the runs of hccp_table1. The paper prints #Param (6618w to 6641w, ten thousands), #Data in billions of samples
and TP99 of HCCP against Base. Samples a request are counted here: the slots of a list that a row's loss has a gradient
on, in a log of a small world (its impressions, the ranking sequence, N3, N5). A penalty on a network's output is no
sample: COPR-style's is off in the count, of which one request is seen once, with one item of each chunk.

Ours has absolute sizes of a research model, so lifts over Base stand beside the paper's. All rows of HCCP share one
program, heads that a row does not train among them: parameters and operations of Base and HCCP are equal by
construction, which says no more than that nothing else is hidden in them; COPR-style's relaxation and Rethink's head
are their own. The time is of one process on a CPU, and differs between runs. HCCP(Point), the same samples as separate
rows of a table, has no place in a list-wise log and is timed by `experiments.benchmarks.listwise`; the paper's
complexity F_u(d / r) + F_i(d) has its user tower once a request (r there is items a request, not requests as its text
says), and here it runs once a list.
"""

from dataclasses import fields, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import hccp_table1
from experiments.experiment import Claim, Column
from experiments.quickstart import SMOKE
from experiments.systems_settings import SystemsSettings
from hccp_jax import config
from hccp_jax.cascade import logs
from hccp_jax.cascade.logs import SamplingConfig, open_world
from hccp_jax.cascade.source import featurise
from hccp_jax.cascade.world import WorldConfig
from hccp_jax.data import hashing
from hccp_jax.data.requests import RequestBatch
from hccp_jax.evaluation.trained_slots import trained_slots
from hccp_jax.methods.hccp import Layout
from hccp_jax.methods.registry import build, numbers

SOURCE = "HCCP Table 4"
REQUESTS = 32  # of the log that samples are counted in
COUNTED: dict[str, Any] = {name: value for name, value in SMOKE.items() if name.startswith("world.")}
COUNTED |= {"world.seed": 0, "hyper.copr.regularization": 0.0}
STAGED = frozenset({"cross", "history", "ranked", "preranked", "pool", "teacher"})

# #Param in ten thousands, #Data in billions
_PARAMETERS: dict[str, float] = {"base": 6618, "copr": 6622, "rethink": 6640, "hccp": 6641}
_DATA = {"base": 0.395, "copr": 2.757, "rethink": 3.938, "hccp": 4.747}


def _lifts(values: dict[str, float]) -> dict[str, float]:
    return {row: 100 * (value / values["base"] - 1) for row, value in values.items() if row != "base"}


@cache
def _log(world: WorldConfig, sampling: SamplingConfig) -> RequestBatch:
    """Requests with a click, features attached; the teacher is drawn, as only which items it is for matters here."""
    opened = open_world(world)
    drawn_from = jax.jit(logs.training_batch, static_argnums=(1, 2, 5))(
        opened, world, sampling, logs.training_stream(0), 0, 4 * REQUESTS
    )
    # a small world has many requests without a click, which teach rows without a teacher nothing
    clicked = np.flatnonzero(np.asarray(drawn_from.labels[logs.TASKS[0]]).any(axis=-1))[:REQUESTS]
    batch = jax.tree.map(lambda leaf: leaf[clicked], drawn_from)
    drawn = hashing.uniform("teacher of a count", batch.user["request"][:, None], batch.items["id"])
    batch = replace(batch, teacher=dict.fromkeys(logs.TASKS, 0.1 + 0.8 * drawn))
    return featurise(batch, logs.catalogue(opened, world))


@cache
def _program(small: SystemsSettings) -> Any:
    """The count as a compiled function of the numbers; rows that differ in those share it."""
    spec, layout = logs.feature_spec(small.world), Layout(small.world.exposed, small.sampling.sequence)
    method = build(small.system, spec, small.models, layout, STAGED)
    batch, key = _log(small.world, small.sampling), jax.random.key(0)
    parameters = method.init(key, batch)
    return jax.jit(lambda hyper: trained_slots(method, parameters, hyper, batch, key))


@cache
def samples(settings: SystemsSettings) -> float:
    """Samples a request of one row, whatever its world and training."""
    small = config.override(settings, COUNTED)
    hyper = jax.tree.map(jnp.float32, numbers(small.system, small.hyper))
    only = {field.name: getattr(small, field.name) for field in fields(small) if field.name in _STATIC}
    return float(_program(replace(SystemsSettings(), **only))(hyper))


_STATIC = ("system", "world", "sampling", "models")


def configured(settings: SystemsSettings) -> dict[str, float]:
    """What Table 4 adds to the metrics of a run."""
    return {"samples": samples(settings)}


def _equal(name: str, metric: str, text: str) -> Claim:
    terms = ((1.0, "hccp", metric), (-1.0, "base", metric))
    return Claim(f"HCCP-16.{name}", SOURCE, text, terms=terms, relative=True, within=0.05)


EXPERIMENT = replace(
    hccp_table1.EXPERIMENT,
    name="hccp_table4",
    title="HCCP Table 4: training and serving cost on a simulated cascade",
    table="Table 4",
    columns=(
        Column("parameters", "parameters", percent=False, decimals=0, lift=True),
        Column("samples", "samples/request", percent=False, decimals=1, lift=True),
        Column("train_requests_per_second", "training requests/s", percent=False, decimals=0, lift=True),
        Column("kflops_per_candidate", "kFLOP/candidate", percent=False, decimals=2, lift=True),
        Column("p50_ms", "p50 ms", percent=False, decimals=2, lift=True),
        Column("p99_ms", "p99 ms", percent=False, decimals=2, lift=True),
    ),
    claims=(
        _equal("parameters", "parameters", "HCCP has as many parameters as Base, within 5 %."),
        _equal("serving", "kflops_per_candidate", "HCCP costs as much as Base to serve, within 5 % of operations."),
        Claim(
            "HCCP-16.samples",
            SOURCE,
            "HCCP trains on more samples a request than Rethink.",
            "samples",
            "hccp",
            "rethink",
            1.0,
        ),
    ),
    printed={"parameters": _lifts(_PARAMETERS), "samples": _lifts(_DATA), "p99_ms": {"hccp": 0.73}},
    printed_note="lifts over Base in per cent, of #Param, #Data and TP99, JD's production model and data",
    figures=(),
    configured=configured,
)
