"""SDCL Table 5: AUC of each task with 8, 18 and 28 sampled negatives a request, on the simulated cascade.

    python launch.py --experiment=sdcl_table5                 about 18 minutes on two cores
    python launch.py --experiment=sdcl_table5 --smoke

Three SNR models of one architecture, whose training requests hold different numbers of sampled negatives, which count
as y = 0 in Eq 3; no distillation and no contrastive loss (the paper: "same network architecture (SNR)"). Of 8, 18 and
28 negatives 4, 11 and 18 are Ranking NS, 2, 4 and 6 Pre-ranking NS, the rest Matching NS (decision: the paper states no
split); so their mix shifts with their number, and what `own` lists are made of with it. Click stands for CTR and
purchase for ITR; the simulated world has no watch time, so TIME is missing.

The paper does not say on what AUC is measured. So it stands here twice: `own` are held-out lists sampled like the row's
training lists, whose negatives change with the row; `common` are the same lists for all rows, with 25 Ranking, 15
Pre-ranking and 10 Matching NS. Only the latter compares models. Rows are not tuned. AUC is over all entries together.
"""

from dataclasses import replace

from experiments.experiment import Claim, Column, Experiment, Row
from experiments.sdcl_run import SdclSettings, run
from experiments.sdcl_table3 import PAPER, SETTINGS, SMALL
from experiments.simulated import DATA
from experiments.systems_settings import TuneConfig
from hccp_jax.training.config import TrainConfig

SOURCE = "SDCL Table 5"
TITLES = {"click": "CTR", "purchase": "ITR"}

PLAIN = {"system": "sdcl"} | {f"hyper.sdcl.{name}": 0.0 for name in ("distill", "ranker", "contrast")}
"""SNR alone, with sampled negatives as y = 0."""

SHORT: SdclSettings = replace(
    SETTINGS,
    tune=TuneConfig(trials=1, requests=64),
    train=TrainConfig(steps=120, batch=128, chunk=20, checkpoint_every=120),
    evaluate=replace(SETTINGS.evaluate, requests=128),
    lists=1024,
)
SMALL_LISTS = SMALL | {"lists": 64}


def _row(count: int, sequence: int, preranked: int, pool: int) -> Row:
    """A row whose lists hold `sequence` minus ten impressions Ranking NS; seven chunks divide the sequence."""
    sizes = {"sampling.sequence": sequence, "sampling.preranked": preranked, "sampling.pool": pool}
    return Row(f"negatives_{count}", f"{count} negatives", PLAIN | sizes)


_PRINTED = {"own/click/AUC": (83.8, 85.2, 88.9), "own/purchase/AUC": (95.9, 94.6, 96.2)}
ROWS = (_row(8, 14, 2, 2), _row(18, 21, 4, 3), _row(28, 28, 6, 4))


def _rise(on: str, more: str, fewer: str) -> Claim:
    statement = f"CTR's AUC on {on} lists rises from {fewer.partition('_')[2]} to {more.partition('_')[2]} negatives."
    return Claim(f"SDCL-4.{on} {more}", SOURCE, statement, f"{on}/click/AUC", more, fewer)


def _flat(on: str) -> Claim:
    statement = f"ITR's AUC on {on} lists moves by less than a point from 8 to 28 negatives."
    metric = f"{on}/purchase/AUC"
    return Claim(f"SDCL-4.{on} ITR", SOURCE, statement, metric, "negatives_28", "negatives_8", within=0.01)


def auc_columns(*more: str) -> tuple[Column, ...]:
    """AUC of both tasks on own and common lists, and on common lists against kinds of negatives alone."""
    return (
        *(
            Column(f"{on}/{task}/AUC", f"{title}, {on} lists")
            for on in ("own", "common")
            for task, title in TITLES.items()
        ),
        *(
            Column(f"common/{task}/AUC/{kind}", f"{title}, {kind} only")
            for task, title in TITLES.items()
            for kind in more
        ),
    )


EXPERIMENT = Experiment(
    name="sdcl_table5",
    title="SDCL Table 5: the number of sampled negatives on a simulated cascade",
    paper=PAPER,
    table="Table 5",
    minutes=18,
    data=DATA,
    settings=SHORT,
    smoke=SMALL_LISTS,
    rows=ROWS,
    columns=(*auc_columns("impressions"), Column("ISH@100", "Recall@100"), Column("reverse", "reverse rate")),
    claims=(
        *(
            _rise(on, more, fewer)
            for on in ("own", "common")
            for more, fewer in (("negatives_18", "negatives_8"), ("negatives_28", "negatives_18"))
        ),
        *(_flat(on) for on in ("own", "common")),
    ),
    seeds=5,
    run=run,
    worlds=3,
    printed={
        metric: {row.name: number for row, number in zip(ROWS, numbers, strict=True)}
        for metric, numbers in _PRINTED.items()
    },
    printed_note="per cent, on Weibo's private production data; on what lists is not stated",
    printed_absolute=True,
)
