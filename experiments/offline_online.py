"""Which offline metric predicts the order of an online test: rank correlations over all systems, simulated.

    python launch.py --experiment=offline_online

Every system is trained in each of several worlds, measured offline and put into the simulated funnel. In each world and
seed the systems are ranked by an offline metric and by what they earn online (expected clicks, expected purchases), and
Spearman's correlation of the two orders is one value; the table gives its mean with a 95 % interval over seeds and
worlds. T@K, the true expected clicks in the first K, is an oracle that only a simulator has. All systems have their
defaults and a short training, so that their quality spreads. No paper orders its systems by it; that the funnel's
ranker decides what an order is worth is what `online_map` shows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from experiments import systems
from experiments.claims import Record, over_worlds
from experiments.experiment import Claim, Column, Experiment, Row
from experiments.figures import ERRORS, half_width, panels
from experiments.settings import EvaluateConfig
from experiments.simulated import DATA
from experiments.systems_settings import SystemsSettings, TuneConfig
from hccp_jax.evaluation.statistics import rank_correlation
from hccp_jax.training.config import TrainConfig

# each with the sign that makes larger better
METRICS = {
    **{f"T@{k}": 1 for k in (10, 100, 1000)},
    **{f"ISH@{k}": 1 for k in (10, 100, 1000)},
    **{f"ASH@{k}": 1 for k in (10, 100, 1000)},
    **{f"NDCG@{k}": 1 for k in (10, 100, 1000)},
    "MAP@100": 1,
    "reverse@100": -1,
    "AUC": 1,
}
EARNED = {"clicks": "online/clicks", "purchases": "online/purchases"}
FEWEST = 4  # systems that an order needs
CAPTION = (
    "Spearman's correlation, over systems, of an offline metric with what the systems earn in the simulated online "
    "test. Bars: mean over seeds and worlds; error bars: 95 % interval. T@K needs the truth."
)


def correlations(records: Sequence[Record], rows: Iterable[str]) -> list[Record]:
    """A record "by/METRIC" for each world and seed, with the correlation over the systems that have both numbers."""
    systems_of: dict[tuple[int, int], list[Record]] = {}
    wanted = set(rows)
    for record in records:
        if record.row in wanted:
            systems_of.setdefault((record.world, record.seed), []).append(record)
    found = []
    for (world, seed), own in sorted(systems_of.items()):
        for metric, sign in METRICS.items():
            values = {}
            for name, earned in EARNED.items():
                both = [r for r in own if None not in (r.metrics.get(metric), r.metrics.get(earned))]
                if len(both) >= FEWEST:
                    pairs = [(sign * r.metrics[metric], r.metrics[earned]) for r in both]
                    values[f"spearman/{name}"] = rank_correlation(*zip(*pairs, strict=True))
            found.append(Record(f"by/{metric}", seed, values, {}, Path(), world))
    return found


def figure(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """Bars of the correlations, a panel for clicks and one for purchases."""
    derived = [record for record in records if record.row.startswith("by/")]
    if not any(record.metrics for record in derived):
        return None
    drawn, axes = panels(experiment, "Which offline metric predicts the online order", list(EARNED))
    for name, axis in zip(EARNED, axes, strict=True):
        for place, metric in enumerate(reversed(METRICS)):
            values = {
                (r.world, r.seed): value
                for r in derived
                if r.row == f"by/{metric}" and (value := r.metrics.get(f"spearman/{name}")) is not None
            }
            if values:
                interval = over_worlds(values)
                colour = "#0072B2" if metric.startswith("T@") else "#D55E00"
                axis.barh(place, interval.mean, 0.7, xerr=half_width(interval), error_kw=ERRORS, color=colour)
        axis.set_yticks(range(len(METRICS)), list(reversed(METRICS)), fontsize=8)
        axis.axvline(0, color="#333333", linewidth=0.8)
        axis.set(title=name, xlabel="rank correlation")
        axis.set_xlim(-1, 1)
    drawn.set_figheight(1.4 + 0.24 * len(METRICS))
    return drawn


def ahead(name: str, better: str, worse: str, text: str) -> Claim:
    """The claim that one metric predicts the order of clicks better than another."""
    return Claim(name, "ours, simulated", text, "spearman/clicks", f"by/{better}", f"by/{worse}", 0.05)


DERIVED = tuple(Row(f"by/{metric}", metric, reference=True, derived=True) for metric in METRICS)
COLUMNS = tuple(Column(f"spearman/{name}", f"Spearman with {name}", percent=False, decimals=2) for name in EARNED)
CLAIMS = (
    ahead("OFFLINE-1.ISH", "T@100", "ISH@100", "The true T@100 predicts the order of clicks better than ISH@100."),
    ahead("OFFLINE-1.ASH", "T@100", "ASH@100", "The true T@100 predicts the order of clicks better than ASH@100."),
    ahead("OFFLINE-1.NDCG", "T@100", "NDCG@100", "The true T@100 predicts it better than NDCG@100."),
    ahead("OFFLINE-2", "ASH@100", "ISH@100", "ASH@100 predicts the order of clicks better than ISH@100."),
    ahead("OFFLINE-3", "NDCG@100", "ISH@100", "Consistency (NDCG@100) predicts it better than ISH@100."),
    *(
        Claim(
            f"OFFLINE-4.{metric}",
            "ours, simulated",
            f"Systems that are better on {metric} earn more clicks.",
            terms=((1.0, f"by/{metric}", "spearman/clicks"),),
            smallest_effect=0.1,
        )
        for metric in ("T@100", "ISH@100", "ASH@100", "NDCG@100", "AUC")
    ),
)


def derive(records: Sequence[Record]) -> list[Record]:
    """Over all trained systems."""
    return correlations(records, [row.name for row in systems.SYSTEM_ROWS])


EXPERIMENT = Experiment(
    name="offline_online",
    title="Which offline metric predicts the order of a simulated online test",
    paper=systems.PAPER,
    table="no table of a paper: offline against online",
    minutes=240,
    data=DATA,
    settings=replace(
        SystemsSettings(),
        tune=TuneConfig(trials=1, requests=64),
        train=TrainConfig(steps=100, batch=128, chunk=25, checkpoint_every=100),
        evaluate=EvaluateConfig(requests=512, online=1024),
    ),
    smoke=dict(systems.EXPERIMENT.smoke)
    | {"train.steps": 2, "train.chunk": 1, "tune.trials": 1, "evaluate.online": 64},
    smoke_rows=(*systems.SMALL, *(row.name for row in DERIVED)),
    rows=(*systems.SYSTEM_ROWS, *DERIVED),
    columns=COLUMNS,
    claims=CLAIMS,
    seeds=5,
    run=systems.run,
    pictured=systems.PICTURED[:8],
    worlds=3,
    derive=derive,
    figures=(("offline_online", CAPTION, figure),),
)
