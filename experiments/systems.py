"""Every system the five papers name, side by side on the simulated cascade.

    python launch.py --experiment=systems --seeds=3

One log for all rows, one pass, one evaluator, and one tuning budget: four settings a row (its defaults, two other step
sizes, one number of its own), each trained for half as long on a log of its own and compared on validation requests.
Where papers compare losses the rows share the three-tower network; where they compare architectures the parameters are
printed. The teacher is a DIN trained on impressions, whose calibrated predictions stand in the log.
"""

from dataclasses import replace
from pathlib import Path

from experiments.experiment import Claim, Column, Experiment, Row
from experiments.hccp_ladder import LABELS
from experiments.quickstart import REFERENCES, SMOKE
from experiments.settings import EvaluateConfig
from experiments.simulated import DATA, check_world, curves_of
from experiments.simulated_ground import SimulatedGround, open_ground
from experiments.systems_run import run_rows
from experiments.systems_settings import SystemsSettings
from experiments.trials import Context, by_world, save_result
from hccp_jax.evaluation.online import scores_of
from hccp_jax.evaluation.simulated import references
from hccp_jax.methods import croloss, hap, sdcl
from hccp_jax.methods.hccp import ROWS
from hccp_jax.training.config import TrainConfig

PAPER = "HCCP (JD), SDCL (Weibo), RankTower (Credit Karma), CROLoss (Alibaba), HAP-style (Toutiao) and their baselines"


def _within(system: str, field: str, changes: dict) -> dict:
    """Overrides of a row: its system, and changes of its numbers given by their names in `hyper.<field>`."""
    return {"system": system} | {f"hyper.{field}.{name}": value for name, value in changes.items()}


def _hccp(name: str) -> Row:
    return Row(
        name, LABELS[name], _within("hccp", "hccp", {k.removeprefix("hyper."): v for k, v in ROWS[name].items()})
    )


def _croloss(name: str, label: str) -> Row:
    changes = croloss.ROWS[name]
    static = {f"models.croloss.{field}": value for field, value in changes["config"].items()}
    return Row(f"croloss_{name}", label, _within("croloss", "croloss", changes["hyper"]) | static)


def _hap(name: str, label: str, row: str, combine: str = "sum") -> Row:
    return Row(name, label, _within("hap", "hap", hap.ROWS[row]) | {"models.hap_gradients.combine": combine})


SYSTEM_ROWS = (
    *(_hccp(name) for name in LABELS),
    Row("copr", "COPR-style", {"system": "copr"}),
    Row("rethink", "Rethink (ASMOL)", {"system": "rethink"}),
    Row("arf", "ARF", {"system": "arf"}),
    Row("lcron", "LCRON", {"system": "lcron"}),
    Row("fs_ltr", "FS-LTR", {"system": "fs_ltr"}),
    Row("multi_positive", "Multi-positive softmax", {"system": "multi_positive"}),
    Row("ranktower_loss", "RankTower losses, three towers", {"system": "ranktower_loss"}),
    Row("logistic_regression", "LR", {"system": "logistic_regression"}),
    Row("two_tower", "Two-Tower (DSSM)", {"system": "two_tower"}),
    Row("dat", "DAT", {"system": "dat"}),
    Row("cold", "COLD", {"system": "cold"}),
    Row("inttower", "IntTower", {"system": "inttower"}),
    Row("ranktower", "RankTower", {"system": "ranktower"}),
    Row("din", "DIN (the teacher's network)", {"system": "din"}),
    Row("snr", "SNR", _within("sdcl", "sdcl", sdcl.ROWS["snr"])),
    Row("snr_mtd", "SNR+MTD", _within("sdcl", "sdcl", sdcl.ROWS["snr_mtd"])),
    Row("snr_mtd_fixed", "SNR+MTD, fixed weights", _within("sdcl", "sdcl", sdcl.ROWS["snr_mtd_fixed"])),
    Row("sdcl", "SDCL", _within("sdcl", "sdcl", sdcl.ROWS["sdcl"])),
    _croloss("cross_entropy", "retrieval, softmax"),
    _croloss("triplet", "retrieval, triplet"),
    _croloss("bpr", "retrieval, BPR"),
    _croloss("croloss", "CROLoss"),
    _croloss("croloss_lambda", "CROLoss-lambda"),
    _hap("hap_mixed", "light model, mixed InfoNCE", "mixed"),
    _hap("hap_pcgrad", "light model, PCGrad", "light_only", "pcgrad"),
    _hap("hap_cagrad", "light model, CAGrad", "light_only", "cagrad"),
    _hap("hap_light", "light model, grouped", "light_only"),
    _hap("hap_heavy", "heavy model, grouped", "heavy_only"),
    _hap("hap", "HAP-style", "hap"),
)

PICTURED = ("base", "hccp", "rethink", "lcron", "ranktower", "sdcl", "croloss_croloss", "hap", "popularity", "truth")

COST_COLUMNS = (
    Column("parameters", "parameters", percent=False, decimals=0, cost=True),
    Column("kflops_per_candidate", "kFLOP/candidate", percent=False, decimals=2, cost=True),
    Column("train_requests_per_second", "training requests/s", percent=False, decimals=0, cost=True),
    Column("p50_ms", "p50 ms", percent=False, decimals=2, cost=True),
)


def run(context: Context) -> None:
    """Train and evaluate the pending trials, world after world."""
    for one in by_world(context):
        _run_world(one)


def _run_world(context: Context) -> None:
    settings: SystemsSettings = context.trials[0].settings
    check_world(settings.world, settings.sampling, settings.train)
    out = context.trials[0].directory.parent.parent
    teacher = any(not trial.row.reference for trial in context.trials)  # references learn from nobody
    run_on(context, open_ground(context, settings, training_seeds(context), Path(out), teacher))


def training_seeds(context: Context) -> list[int]:
    """Those of the pending trials."""
    return sorted({trial.seed for trial in context.trials if not trial.row.reference}) or [0]


def run_on(context: Context, ground: SimulatedGround) -> None:
    """Finish the pending trials of one world: references first, then the trained rows."""
    trained = [trial for trial in context.trials if not trial.row.reference]
    asked = [trial for trial in context.trials if trial.row.reference]
    known = references(ground.source.frequency)
    found = ground.evaluator.scores({trial.row.name: known[trial.row.name] for trial in asked})
    for trial in asked:
        result = found[trial.row.name]
        metrics, per_request = result.metrics, result.per_request
        for test in ground.online:
            earned, of_requests = test.measured(scores_of(test.data, known[trial.row.name]))
            metrics, per_request = metrics | earned, per_request | of_requests
        curves = curves_of(ground.evaluator, result)
        save_result(context.experiment, trial, metrics, per_request, served="its own score", curves=curves)
    if trained:
        run_rows(context, ground, trained)


SMALL = (  # of a smoke run: one of each kind, as every system is a program of its own
    *("base", "hccp", "copr", "rethink", "logistic_regression", "two_tower", "cold", "sdcl"),
    *("croloss_cross_entropy", "croloss_croloss", "hap_mixed", "hap_light", "hap"),
)

EXPERIMENT = Experiment(
    name="systems",
    title="Every system side by side on a simulated cascade",
    paper=PAPER,
    table="the systems of HCCP Table 1, SDCL Table 3, RankTower Table 1, CROLoss Table 2 and HAP's ablations",
    minutes=80,
    data=DATA,
    settings=replace(
        SystemsSettings(),
        train=TrainConfig(steps=400, batch=128, chunk=25, checkpoint_every=400),
        evaluate=EvaluateConfig(requests=768),
    ),
    smoke=SMOKE | {"train.steps": 10, "train.chunk": 5, "tune.requests": 64, "tune.trials": 2},
    smoke_rows=(*SMALL, *(row.name for row in REFERENCES)),
    rows=(*SYSTEM_ROWS, *REFERENCES),
    columns=(
        *(Column(f"{name}@{k}", f"{name}@{k}") for name in ("ISH", "ASH") for k in (10, 100, 1000)),
        Column("T@100", "T@100"),
        Column("NDCG@100", "NDCG@100"),
        Column("reverse@100", "reverse rate@100"),
        Column("AUC", "AUC"),
        Column("octile_spread", "octile spread"),
        *COST_COLUMNS,
    ),
    claims=(
        Claim("SYS-1", "HCCP Table 1", "HCCP is ahead of Base on ISH@100.", "ISH@100", "hccp", "base"),
        Claim("SYS-2", "HCCP Table 1", "HCCP is ahead of Rethink on ISH@100.", "ISH@100", "hccp", "rethink"),
        Claim("SYS-3", "HCCP Table 1", "Rethink is ahead of COPR-style on ISH@100.", "ISH@100", "rethink", "copr"),
        Claim("SYS-4", "SDCL Table 3", "SDCL is ahead of SNR on ISH@100.", "ISH@100", "sdcl", "snr"),
        Claim("SYS-5", "RankTower Table 1", "RankTower is ahead of Two-Tower.", "ISH@100", "ranktower", "two_tower"),
        Claim("SYS-6", "RankTower Table 1", "RankTower is ahead of ARF.", "ISH@100", "ranktower", "arf"),
        Claim(
            "SYS-7",
            "CROLoss Table 2",
            "CROLoss is ahead of the softmax on ISH@100.",
            "ISH@100",
            "croloss_croloss",
            "croloss_cross_entropy",
        ),
        Claim("SYS-8", "HAP", "Grouped losses beat mixed InfoNCE on ISH@100.", "ISH@100", "hap_light", "hap_mixed"),
        Claim("SYS-9", "HAP", "Two models in series beat the light one on ISH@100.", "ISH@100", "hap", "hap_light"),
    ),
    seeds=3,
    run=run,
    pictured=PICTURED,
)
