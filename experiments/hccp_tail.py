"""Remedies for rare items on the simulated cascade, for HCCP's long-tail claims (Figures 6 and 7).

    python launch.py --experiment=hccp_tail

On the default world the negatives of HCCP push rare items out of the first 100 slots. Each remedy is tried on HCCP(w/o
Up) and on HCCP, so that a gain of the method is told from a gain of the remedy: id embeddings only from 0.8 times the
mean impressions on with a dropout of 0.3 (gate), logit adjustment with half of the log frequency, logQ on the in-batch
negatives, both gate and adjustment, popularity shown to the models (the default hides it), and a catalogue of a quarter
of the size. Tail hit rates stand beside the slots they take and beside the true mass T, which no log gives.
"""

from dataclasses import replace

from experiments.experiment import Claim, Column, Experiment, Row
from experiments.hccp_ladder import LABELS
from experiments.quickstart import PAPER, SMOKE
from experiments.settings import EvaluateConfig, SimulatedSettings
from experiments.simulated import DATA, run
from hccp_jax.methods.hccp import ROWS
from hccp_jax.training.config import TrainConfig

_GATE = {"model.id_gate": 0.8, "model.id_dropout": 0.3}
_ADJUSTED = {"hyper.adjustment": 0.5}
REMEDIES: dict[str, tuple[str, dict]] = {
    "none": ("no remedy", {}),
    "gate": ("id gate and dropout", _GATE),
    "adjusted": ("logit adjustment 0.5", _ADJUSTED),
    "log_q": ("logQ on in-batch", {"hyper.log_q": 1.0}),
    "both": ("gate and adjustment", _GATE | _ADJUSTED),
    "popular": ("popularity shown", {"world.observe_popularity": True}),
    "items_5000": ("5,000 items", {"world.items": 5000}),
}
METHODS = ("without_up", "hccp")
METRICS = ("ISH", "ASH", "T")
TAIL = (7, 8)


def _tail(sign: float, row: str, metric: str) -> tuple[tuple[float, str, str], ...]:
    return tuple((sign / len(TAIL), row, f"{metric}@100/octile{octile}") for octile in TAIL)


def _of_method(metric: str, remedy: str) -> Claim:
    return Claim(
        f"TAIL-1.{metric} {remedy}",
        "HCCP Figure 7, with remedies",
        f"HCCP finds more of octiles 7 and 8 than HCCP(w/o Up), {metric}: {REMEDIES[remedy][0]}.",
        terms=(*_tail(1.0, f"{remedy}/hccp", metric), *_tail(-1.0, f"{remedy}/without_up", metric)),
    )


def _of_remedy(remedy: str) -> Claim:
    return Claim(
        f"TAIL-2.{remedy}",
        "ours, simulated",
        f"The remedy lifts HCCP's true mass in octiles 7 and 8 (T@100): {REMEDIES[remedy][0]}.",
        terms=(*_tail(1.0, f"{remedy}/hccp", "T"), *_tail(-1.0, "none/hccp", "T")),
    )


EXPERIMENT = Experiment(
    name="hccp_tail",
    title="Remedies for rare items on a simulated cascade",
    paper=PAPER,
    table="Figures 6 and 7, with remedies",
    minutes=36,
    data=DATA,
    settings=replace(
        SimulatedSettings(),
        train=TrainConfig(steps=300, batch=128, chunk=25, checkpoint_every=300),
        evaluate=EvaluateConfig(requests=1024, online=1024),
    ),
    smoke=SMOKE | {"train.steps": 6, "train.chunk": 2, "evaluate.online": 64},
    rows=tuple(
        Row(f"{remedy}/{name}", f"{LABELS[name]}, {label}", ROWS[name] | changes, against=f"{remedy}/without_up")
        for remedy, (label, changes) in REMEDIES.items()
        for name in METHODS
    ),
    columns=(
        *(Column(f"{metric}@100", f"{metric}@100") for metric in METRICS),
        *(Column(f"{metric}@100/octile{place}", f"{metric}, {place}") for metric in METRICS for place in TAIL),
        Column("tail_slots@100", "tail slots@100"),
        Column("tail_hits_per_slot@100", "tail hits per slot@100"),
        Column("online/clicks", "online clicks", percent=False, lift=True),
        Column("online/tail_share", "online tail share"),
    ),
    claims=(
        *(_of_method(metric, remedy) for metric in METRICS for remedy in REMEDIES),
        *(_of_remedy(remedy) for remedy in REMEDIES if remedy not in ("none", "items_5000")),
    ),
    seeds=5,
    run=run,
    pictured=tuple(f"{remedy}/hccp" for remedy in REMEDIES),
    worlds=3,
)
