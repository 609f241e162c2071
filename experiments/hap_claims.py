"""HAP's claims with the HAP-style system on the simulated cascade: conflicting negatives, apart; two models in series.

    python launch.py --experiment=hap_claims
    python launch.py --experiment=hap_claims --smoke

Heterogeneity-Aware Adaptive Pre-ranking (Toutiao) could be read as abstract, public figure and second-hand notes only:
no equations, no tables. So nothing here is HAP itself, and there are no printed numbers beside ours; `methods/hap.py`
says what is known and what is inferred. Its claims are tested as hypotheses, five seeds in each of three worlds, one
tuning budget for all rows. The data set that its authors announced has not appeared; the logs are simulated.

Light rows train a light model alone (the heavy one is one unit wide and has no weight). The pair's rows at all routed
shares are one training: they differ in serving alone, and are tuned each by what it serves. As the figure has it, the
heavy model of a pair never sees an easy negative, so that routing everything asks it about candidates unlike any it
learned from; the row `heavy` is the fair single model, trained on impressions and on all other stages (its time holds
that of a light model, which claim HAP-6 takes off). Gradient norms are of each group's own loss, at the parameters
that training ends with. Rows are tuned by their step size alone: logits are compared, which have one temperature.
Mixed cross entropy is impressions with their labels and all other stages as 0.
"""

from dataclasses import replace
from itertools import pairwise

from experiments.experiment import Claim, Column, Experiment, Row
from experiments.hap_figures import FIGURES
from experiments.hap_run import run
from experiments.quickstart import REFERENCES, SMOKE
from experiments.settings import EvaluateConfig
from experiments.simulated import DATA
from experiments.systems_settings import SystemsSettings, TuneConfig
from hccp_jax.evaluation.negative_groups import LOSSES
from hccp_jax.methods.hap import GROUPS, ROWS
from hccp_jax.training.config import TrainConfig

PAPER = "Tong et al., Heterogeneity-Aware Adaptive Pre-ranking (HAP), WWW 2026; HAP-style, from abstract and figure"
SHARES = (0.1, 0.3, 0.6, 1.0)
NAMES = dict(zip(GROUPS, ("EN", "RN", "PRN", "GN"), strict=True))


def _light(name: str, label: str, row: str, combine: str = "sum", **sizes: int) -> Row:
    """A light model alone; `sizes` are of its towers."""
    layers = sizes.get("layers", 1)
    heavy = {"vector": 1, "hidden": 1, "width": 1, "layers": layers + 1}
    static: dict[str, object] = {f"models.hap.light.{field}": size for field, size in sizes.items()}
    static |= {f"models.hap.heavy.{field}": size for field, size in heavy.items()}
    changes = ROWS[row] | {"light_only": 1.0, "heavy": 0.0}
    return _row(name, label, changes, {"models.hap_gradients.combine": combine} | static)


def _row(name: str, label: str, changes: dict[str, float], static: dict[str, object] | None = None) -> Row:
    numbers = {f"hyper.hap.{field}": value for field, value in changes.items()}
    return Row(name, label, {"system": "hap"} | numbers | (static or {}))


def series(share: float) -> str:
    """Name of the row that routes this share."""
    return f"series_{share:g}"


TRAINED = (
    _light("mixed", "light, mixed InfoNCE", "mixed"),
    _light("cross_entropy", "light, mixed BCE", "cross_entropy_all"),
    _light("pcgrad", "light, PCGrad", "light_only", "pcgrad"),
    _light("cagrad", "light, CAGrad", "light_only", "cagrad"),
    _light("grouped", "light, grouped (GHCL-style)", "light_only"),
    _light("medium", "medium, grouped", "light_only", vector=24, hidden=64, width=48, layers=2),
    _light("large", "large, grouped", "light_only", vector=32, hidden=128, width=64, layers=3),
    _row("heavy", "heavy alone, all stages", {"on_policy": 1.0, "routed": 1.0}),
    _row(series(0), "in series, 0 routed", {"light_only": 1.0}),
    *(_row(series(share), f"in series, {share:g} routed", {"routed": share}) for share in SHARES),
)

SOURCE = "HAP abstract and figure"
NOTE = "a reading note of HAP"
QUALITY = ("ISH@100", "T@100")
BEST = series(0.3)


def _over(row: str, metric: str, other: str, other_metric: str = "") -> tuple[tuple[float, str, str], ...]:
    return ((1.0, row, metric), (-1.0, other, other_metric or metric))


def _gradients(row: str, loss: str) -> list[Claim]:
    """HAP-1 of the model that was trained with this loss, all groups in one."""
    of, norm = f"under mixed {'InfoNCE' if loss == 'infonce' else 'BCE'}", f"gradient/{loss}"
    hard, easy = GROUPS[0], GROUPS[-1]
    ordered = [
        Claim(
            f"HAP-1.{loss} {NAMES[a]} over {NAMES[b]}",
            SOURCE,
            f"The gradient of {NAMES[a]} is longer than that of {NAMES[b]} {of}, by 5 % at least (log10 of the norm).",
            smallest_effect=0.02,
            terms=_over(row, f"{norm}/{a}", row, f"{norm}/{b}"),
        )
        for a, b in pairwise(GROUPS)
    ]
    return [
        *ordered,
        Claim(
            f"HAP-1.{loss} tenfold",
            SOURCE,
            f"The gradient of EN is ten times as long as that of GN {of} (log10 of the ratio, 1 is ten times).",
            smallest_effect=1.0,
            terms=_over(row, f"{norm}/{hard}", row, f"{norm}/{easy}"),
        ),
        Claim(
            f"HAP-1.{loss} conflict",
            SOURCE,
            f"The gradients of EN and GN have a negative cosine {of} (its negative is tested).",
            smallest_effect=0.02,
            terms=((-1.0, row, f"cosine/{loss}/{hard}-{easy}"),),
        ),
    ]


def _lowered(name: str, statement: str, group: str, least: float) -> Claim:
    """That a group's mean logit is lower under grouped losses than under mixed InfoNCE."""
    return Claim(
        f"HAP-2.{name}", SOURCE, statement, smallest_effect=least, terms=_over("mixed", f"logit/{group}", "grouped")
    )


def _logits() -> list[Claim]:
    """HAP-2, in logits."""
    rising = [
        Claim(
            f"HAP-2.{row} {NAMES[a]} over {NAMES[b]}",
            SOURCE,
            f"The mean logit of {NAMES[a]} is above that of {NAMES[b]} under mixed {label}.",
            smallest_effect=0.05,
            terms=_over(row, f"logit/{a}", row, f"logit/{b}"),
        )
        for row, label in (("cross_entropy", "BCE"), ("mixed", "InfoNCE"))
        for a, b in pairwise(GROUPS)
    ]
    lower = [
        _lowered(
            f"lower {NAMES[group]}",
            f"Grouped losses lower the mean logit of {NAMES[group]}, against mixed InfoNCE.",
            group,
            0.05,
        )
        for group in GROUPS[2:]
    ]
    kept = [
        _lowered(
            f"{NAMES[group]} not raised",
            f"They do so without raising the mean logit of {NAMES[group]} (that it falls, too, is tested).",
            group,
            0.0,
        )
        for group in GROUPS[:2]
    ]
    traded = Claim(
        "HAP-2.not at the price of EN",
        SOURCE,
        "They lower GN by more than they raise EN, if they raise it.",
        smallest_effect=0.05,
        terms=(*_over("mixed", "logit/pool", "grouped"), *_over("mixed", "logit/exposed", "grouped")),
    )
    return [*rising, *lower, *kept, traded]


def _buckets() -> list[Claim]:
    """HAP-3 and HAP-4, in AUC."""
    better = [
        Claim(
            f"HAP-3.{NAMES[group]}",
            SOURCE,
            f"Grouped losses tell clicks from {NAMES[group]} better than mixed InfoNCE (AUC).",
            f"AUC/{group}",
            "grouped",
            "mixed",
            0.002,
        )
        for group in GROUPS
    ]
    most = [
        Claim(
            f"HAP-3.EN most, {NAMES[group]}",
            NOTE,
            f"What they gain is more on EN than on {NAMES[group]} (AUC).",
            smallest_effect=0.002,
            terms=(*_over("grouped", "AUC/exposed", "mixed"), *_over("mixed", f"AUC/{group}", "grouped")),
        )
        for group in GROUPS[1:]
    ]
    found = Claim("HAP-3.ISH@100", SOURCE, "Grouped losses beat mixed InfoNCE.", "ISH@100", "grouped", "mixed")
    sized = [
        Claim(
            f"HAP-4.{NAMES[group]}",
            NOTE,
            f"A larger model tells clicks from {NAMES[group]} better than a light one (AUC).",
            f"AUC/{group}",
            "large",
            "grouped",
            0.005,
        )
        for group in GROUPS[:2]
    ]
    same = [
        Claim(
            f"HAP-4.{NAMES[group]}",
            NOTE,
            f"On {NAMES[group]} a larger model moves AUC by less than half a point.",
            f"AUC/{group}",
            "large",
            "grouped",
            within=0.005,
        )
        for group in GROUPS[2:]
    ]
    return [*better, *most, found, *sized, *same]


def _routing() -> list[Claim]:
    """HAP-5 and HAP-6."""
    interior = [
        Claim(
            f"HAP-5.{metric} over {share:g}",
            NOTE,
            f"Routing 0.3 of the candidates is ahead of routing {share:g} on {metric}.",
            metric,
            BEST,
            series(share),
        )
        for metric in QUALITY
        for share in (SHARES[0], SHARES[-1])
    ]
    matches = [
        Claim(
            f"HAP-6.{metric}",
            SOURCE,
            f"Two models in series, 0.3 routed, reach 98 % of the {metric} of the heavy one alone.",
            smallest_effect=0.0,
            terms=((1.0, BEST, metric), (-0.98, "heavy", metric)),
        )
        for metric in QUALITY
    ]
    cost = "kflops_per_candidate"
    cheaper = Claim(
        "HAP-6.compute",
        SOURCE,
        "They cost a tenth less per candidate than the heavy one alone (a share of its cost; computed from sizes).",
        smallest_effect=0.1,
        relative=True,
        terms=((-1.0, series(0), cost), (-1.0, BEST, cost), (1.0, "heavy", cost)),
    )
    return [*interior, *matches, cheaper]


EXPERIMENT = Experiment(
    name="hap_claims",
    title="HAP-style: negatives apart and models in series, on a simulated cascade",
    paper=PAPER,
    table="the claims of its abstract and public figure",
    minutes=20,
    data=DATA,
    settings=replace(
        SystemsSettings(),
        tune=TuneConfig(trials=3, share=0.4, requests=256),  # the fourth would be a temperature
        train=TrainConfig(steps=250, batch=128, chunk=25, checkpoint_every=250),
        evaluate=EvaluateConfig(requests=512),
    ),
    smoke=SMOKE | {"train.steps": 10, "train.chunk": 5, "tune.requests": 64, "tune.trials": 1},
    rows=(*TRAINED, *REFERENCES),
    columns=(
        *(Column(metric, metric) for metric in ("ISH@10", "ISH@100", "ASH@100", "T@100")),
        *(Column(f"AUC/{group}", f"AUC against {NAMES[group]}") for group in GROUPS),
        *(Column(f"logit/{group}", f"mean logit of {NAMES[group]}", percent=False, decimals=2) for group in GROUPS),
        *(
            Column(f"gradient/{loss}/{group}", f"log10 gradient, {label}, {NAMES[group]}", percent=False, decimals=2)
            for loss, label in zip(LOSSES, ("InfoNCE", "BCE"), strict=True)
            for group in GROUPS
        ),
        *(
            Column(
                f"cosine/{loss}/exposed-{group}", f"cosine, {label}, EN to {NAMES[group]}", percent=False, decimals=2
            )
            for loss, label in zip(LOSSES, ("InfoNCE", "BCE"), strict=True)
            for group in GROUPS[1:]
        ),
        Column("parameters", "parameters", percent=False, decimals=0, cost=True),
        Column("kflops_per_candidate", "kFLOP/candidate", percent=False, decimals=2, cost=True),
        Column("p50_ms", "p50 ms", percent=False, decimals=2, cost=True),
        Column("p99_ms", "p99 ms", percent=False, decimals=2, cost=True),
    ),
    claims=(
        *_gradients("mixed", "infonce"),
        *_gradients("cross_entropy", "bce"),
        *_logits(),
        *_buckets(),
        *_routing(),
    ),
    seeds=5,
    run=run,
    worlds=3,
    shares="hap_claims",
    figures=FIGURES,
    pictured=("mixed", "cross_entropy", "grouped", "large", "heavy", *(series(share) for share in (0, *SHARES))),
)
