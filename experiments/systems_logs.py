"""Every system side by side on any public data set that was converted to a store of impressions.

    python -m hccp_jax.data.convert --source=taobao_ads --input=DIR --output=STORE
    python launch.py --experiment=systems_logs --store=STORE --rows=three_tower,two_tower,din
    python -m experiments.full_stage_logs --store=STORE --output=STAGED
    python launch.py --experiment=systems_logs --store=STAGED --rows=three_tower,base,hccp

Rows that the data cannot feed (no stages below exposure, no cross features) stay empty, with a line that says why; the
baseline is Base on impressions alone, which any log can feed.
Exposed lists of the test part: AUC, AUC by user and log-loss of each label, by its own head. The rows and the tuning
budget are those of `systems`; the teacher is a DIN trained on the same impressions where the store has none.
"""

from dataclasses import replace
from pathlib import Path

from experiments.experiment import Claim, Column, Data, Experiment, Kind, Row
from experiments.logs_ground import LogsSettings, open_ground, opened
from experiments.systems import COST_COLUMNS, PAPER, PICTURED, SYSTEM_ROWS
from experiments.systems_run import run_rows
from experiments.trials import Context, save_result
from hccp_jax.data import describe
from hccp_jax.errors import UserError
from hccp_jax.methods.hccp import Layout
from hccp_jax.methods.registry import build
from hccp_jax.training.config import TrainConfig

TASKS = ("click", "long_view", "effective_view", "purchase", "like", "watched", "positive")


def run(context: Context) -> None:
    """Train and evaluate the pending trials that the data can feed."""
    settings: LogsSettings = context.trials[0].settings
    logs = opened(settings)
    context.say(describe.text(logs.store.manifest))
    layout, has = Layout(logs.exposed, logs.sequence), logs.has | ({"cross"} if logs.spec.cross else set())
    fed, teach = [], False
    for trial in context.trials:
        own: LogsSettings = trial.settings
        try:
            method = build(own.system, logs.spec, own.models, layout, frozenset(has | {"teacher"}))
        except UserError as error:
            context.warn(f"row {trial.row.name}: {error}")
            save_result(context.experiment, trial, {}, note=str(error))
            continue
        fed.append(trial)
        teach |= "teacher" in method.needs and "teacher" not in has
    if fed:
        out = Path(context.trials[0].directory.parent.parent)
        run_rows(context, open_ground(context, settings, logs, teach, out), fed)


EXPERIMENT = Experiment(
    name="systems_logs",
    title="Every system side by side on a store of public logs",
    paper=PAPER,
    table="the systems of the table `systems`, on the impressions of a store",
    minutes=60,
    data=Data(Kind.STORED, "Exposed lists of the store's test part."),
    settings=replace(LogsSettings(), train=TrainConfig(steps=720, batch=128, chunk=30, checkpoint_every=720)),
    smoke={"train.steps": 20, "train.chunk": 10, "train.batch": 32, "tune.trials": 1},
    rows=(Row("three_tower", "three towers, impressions alone", {"system": "three_tower"}), *SYSTEM_ROWS),
    columns=(
        *(
            Column(f"{task}/{name}", f"{task.replace('_', ' ')} {name.replace('_', '-')}", percent=name != "log_loss")
            for task in TASKS
            for name in ("AUC", "GAUC", "log_loss")
        ),
        *COST_COLUMNS,
    ),
    claims=(
        Claim(
            "HCCP-8",
            "HCCP Table 2",
            "HCCP has a higher click AUC than Base.",
            "click/AUC",
            "hccp",
            "three_tower",
            0.001,
        ),
    ),
    seeds=3,
    run=run,
    pictured=PICTURED[:-2],
)
