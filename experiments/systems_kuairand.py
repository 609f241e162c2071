"""Every system side by side on the real logs of KuaiRand-Pure.

    python launch.py --experiment=systems_kuairand --data_dir=DIR [--test_from=YYYYMMDD]
    python launch.py --experiment=systems_kuairand --store=STORE

The data are those of `kuairand`, the rows and the tuning budget those of `systems`. The teacher is a DIN trained on
the same exposures. LightGBM on the same features stands in the table if it is installed (`pip install lightgbm`); it
is measured on exposed lists only, as it would have to score every pair of the whole catalogue anew.
"""

import dataclasses
from dataclasses import replace
from pathlib import Path

from experiments.experiment import Claim, Column, Experiment, Row
from experiments.kuairand import DATA, FLOORS, RECALLS, reference
from experiments.kuairand_ground import KuaiRandSystemsSettings, open_ground
from experiments.lightgbm_floor import lightgbm_metrics
from experiments.systems import COST_COLUMNS, PAPER, PICTURED, SYSTEM_ROWS
from experiments.systems_run import run_rows
from experiments.trials import Context, save_result
from hccp_jax import config
from hccp_jax.methods.registry import HyperConfigs
from hccp_jax.training.config import TrainConfig

LIGHTGBM = "lightgbm"


def run(context: Context) -> None:
    """Train and evaluate the pending trials."""
    settings: KuaiRandSystemsSettings = context.trials[0].settings
    ground = open_ground(context, settings, Path(context.trials[0].directory.parent.parent))
    curves: dict[str, dict]
    for trial in context.trials:
        if not trial.row.reference:
            continue
        if trial.row.name == LIGHTGBM:
            metrics, curves = lightgbm_metrics(ground, context.warn), {}
        else:
            metrics, curves = reference(ground.data, ground.lists, ground.view, trial.row.name)
        if metrics:
            save_result(context.experiment, trial, metrics, served="its own score", curves=curves)
    trained = [trial for trial in context.trials if not trial.row.reference]
    if trained:
        run_rows(context, ground, trained)


_NUMBERS = {"hyper.hccp.log_q": 1.0, "models.negatives.in_batch_rate": 1.0}
_RATES = {f"hyper.{field.name}.learning_rate": 1e-3 for field in dataclasses.fields(HyperConfigs)}

EXPERIMENT = Experiment(
    name="systems_kuairand",
    title="Every system side by side on the real logs of KuaiRand-Pure",
    paper=PAPER,
    table="the systems of the table `systems`, on real exposures",
    minutes=120,
    data=DATA,
    settings=replace(
        config.override(KuaiRandSystemsSettings(), _NUMBERS | _RATES),
        train=TrainConfig(steps=720, batch=128, chunk=30, checkpoint_every=720),
    ),
    smoke={"train.steps": 20, "train.chunk": 10, "train.batch": 32, "tune.trials": 2, "view_users": 200},
    rows=(
        *SYSTEM_ROWS,
        Row(LIGHTGBM, "LightGBM", reference=True),
        *FLOORS,
    ),
    columns=(
        Column("click/AUC", "click AUC"),
        Column("click/GAUC", "click GAUC"),
        Column("long_view/AUC", "long view AUC"),
        *RECALLS,
        Column("long_view/ndcg@100", "long view NDCG@100"),
        *COST_COLUMNS,
    ),
    claims=(
        Claim("SYSK-1", "HCCP Table 2", "HCCP is ahead of Base on click AUC.", "click/AUC", "hccp", "base", 0.001),
        Claim(
            "SYSK-2",
            "RankTower Table 1",
            "RankTower is ahead of Two-Tower on click recall@100.",
            "click/recall@100",
            "ranktower",
            "two_tower",
        ),
    ),
    seeds=3,
    run=run,
    pictured=(*PICTURED[:-2], "long_view_7d", "random"),
)
