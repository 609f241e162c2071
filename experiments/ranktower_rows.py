"""What RankTower's four tables share: rows, settings, columns and the picture of differences, paper beside ours.

The metric. The paper ranks unstated lists (its recall at 100 is .72). Here each test user has one list: all videos
shown in the test days and what the simulated retrieval draws for this user; the table states its length. recall@100 and
NDCG@100 are of the videos with feedback, NDCG weighs a click as 1, a long view as 1 more. Whole-catalogue recall and
AUC of exposures stand beside.

Not as in the paper: its users have 100 impressions and 20 positives at least, which 3 users of this excerpt reach, so
nobody is left out; its split is 70/10/20, unknown whether by time, ours is by days; its candidate samples, stages and
ranker are unknown, as the log has none: ours are simulated, the teacher is a DIN on the impressions; and its sizes,
weights and temperatures are not given, so all rows of RankTower have the defaults of `RankTowerHyper`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure

from experiments.claims import Record, contrast, over_worlds
from experiments.experiment import Claim, Column, Experiment, Row
from experiments.figures import colour, half_width, panels
from experiments.kuairand import DATA, FLOORS
from experiments.ranktower_ground import RankTowerSettings
from hccp_jax.training.config import TrainConfig

PAPER = "RankTower: A Synergistic Framework for Enhancing Two-Tower Pre-Ranking Model (Credit Karma, 2024)"
RECALL, NDCG = "lists/recall@100", "lists/ndcg@100"
SHARES = "ranktower"
SMALLEST = 0.002  # of recall and NDCG: a third of the smallest step of recall in the paper's Table 2


def _ranktower(name: str, label: str, **choices: Any) -> Row:
    return Row(name, label, {"system": "ranktower"} | {f"models.ranktower_loss.{k}": v for k, v in choices.items()})


FULL = _ranktower("full", "RankTower")
SAMPLING = (
    _ranktower("without_random", "w/o random samples", random=False),
    _ranktower("without_candidates", "w/o candidate samples", candidates=False),
    _ranktower("without_both", "w/o candidate and random samples", candidates=False, random=False),
)
RANKING = (
    _ranktower("sorting", "Sorting", ranking="sorting"),
    _ranktower("am_rankmax", "AM-Rankmax", ranking="am_rankmax"),
    _ranktower("rankmax", "Rankmax", ranking="rankmax"),
    _ranktower("softmax", "Softmax", ranking="softmax"),
    _ranktower("approx_ndcg", "ApproxNDCG", ranking="approx_ndcg"),
    _ranktower("ranknet", "RankNet", ranking="ranknet"),
)
DISTILLATION = (
    _ranktower("weighted_log_loss", "Distillation (weighted log-loss)", distillation="weighted_log_loss"),
    _ranktower("pairwise_log_loss", "Distillation (pairwise log-loss)", distillation="pairwise_log_loss"),
    _ranktower("no_distillation", "No distillation", distillation="none"),
)
REFERENCES = tuple(row for row in FLOORS if row.name in ("popularity_7d", "random"))

SETTINGS = replace(
    RankTowerSettings(view_users=128, list_users=1000),
    train=TrainConfig(steps=90, batch=128, chunk=30, checkpoint_every=90),
)
SETTINGS = replace(SETTINGS, tune=replace(SETTINGS.tune, trials=1), teacher=replace(SETTINGS.teacher, steps=360))

COLUMNS = (
    Column(RECALL, "Recall@100", decimals=2),
    Column(NDCG, "NDCG@100", decimals=2),
    Column("click/recall@100", "whole catalogue: click recall@100", decimals=2),
    Column("click/ndcg@100", "whole catalogue: click NDCG@100", decimals=2),
    Column("click/AUC", "click AUC of exposures"),
    Column("train_requests_per_second", "training requests/s", percent=False, decimals=0, cost=True),
)


def printed(numbers: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    """Metric -> row -> per cent, of row -> (Recall@K, NDCG@K) as the paper prints them."""
    return {
        metric: {row: round(100 * pair[place], 2) for row, pair in numbers.items()}
        for place, metric in enumerate((RECALL, NDCG))
    }


def ahead(name: str, source: str, statement: str, better: str, worse: str) -> tuple[Claim, Claim]:
    """That one row is ahead of another, on recall and on NDCG."""
    recall, ndcg = (
        Claim(f"{name}/{short}", source, f"{statement} on {short}@100.", metric, better, worse, SMALLEST)
        for short, metric in (("Recall", RECALL), ("NDCG", NDCG))
    )
    return recall, ndcg


def level(name: str, source: str, statement: str, metric: str, one: str, other: str) -> Claim:
    """That two rows are within half a point of each other."""
    return Claim(name, source, statement, metric, one, other, SMALLEST, within=0.005)


def beside_the_paper(experiment: Experiment, records: Sequence[Record]) -> Figure | None:
    """Points of each row over the full RankTower, ours with intervals and the paper's; None without the full row."""
    rows = [row for row in experiment.rows if not row.reference and row.name != FULL.name]
    found = {
        (row.name, metric): over_worlds(sums)
        for row in rows
        for metric in (RECALL, NDCG)
        if (sums := contrast(records, Claim("", "", "", metric, row.name, FULL.name)))
    }
    rows = [row for row in reversed(rows) if (row.name, RECALL) in found]
    if not rows:
        return None
    figure, axes = panels(experiment, f"Difference to {FULL.label}", ("Recall@100", "NDCG@100"))
    for metric, axis, title in zip((RECALL, NDCG), axes, ("Recall@100", "NDCG@100"), strict=True):
        axis.axvline(0, color="#555555", linewidth=0.8)
        for place, row in enumerate(rows):
            interval = found[row.name, metric]
            axis.errorbar(
                100 * interval.mean,
                place,
                xerr=100 * half_width(interval),
                fmt="o",
                color=colour(experiment, row),
                capsize=3,
            )
            if row.name in experiment.printed.get(metric, {}):
                paper = experiment.printed[metric][row.name] - experiment.printed[metric][FULL.name]
                axis.plot(paper, place, "D", markerfacecolor="none", markeredgecolor="#333333")
        shown = axis is axes[0]
        axis.set_yticks(range(len(rows)), [row.label if shown else "" for row in rows], fontsize=8)
        axis.set_ylim(-0.6, len(rows) - 0.4)
        axis.set(title=title, xlabel="points")
    figure.set_figheight(1.4 + 0.32 * len(rows))
    return figure


def table(number: int, title: str, rows: Sequence[Row], small: Sequence[str] = (), **more: Any) -> Experiment:
    """One of the four tables.

    Args:
        number: of the table.
        title: what it compares.
        rows: without references.
        small: trained rows of a smoke run, as each is a program of its own; empty for all.
        more: claims, printed numbers, minutes and run.
    """
    return Experiment(
        name=f"ranktower_table{number}",
        title=f"RankTower Table {number}: {title}, on KuaiRand-Pure with simulated stages",
        paper=PAPER,
        table=f"Table {number}",
        data=DATA,
        settings=SETTINGS,
        smoke=SMOKE,
        smoke_rows=(*small, *(row.name for row in REFERENCES)) if small else (),
        rows=(*rows, *REFERENCES),
        columns=COLUMNS,
        seeds=5,
        shares=SHARES,
        printed_note="per cent; users of KuaiRand with 100 impressions, lists and candidates unstated",
        printed_absolute=True,
        figures=(("beside_the_paper", CAPTION, beside_the_paper),),
        **more,
    )


SMOKE = {
    "every": 100,
    "train.steps": 4,
    "train.chunk": 2,
    "train.batch": 32,
    "teacher.steps": 4,
    "view_users": 16,
    "list_users": 64,
}
CAPTION = (
    "Dots: points of Recall@100 and NDCG@100 over the full RankTower, mean and 95 % interval over seeds, paired. "
    "Diamonds: the same difference in the paper's table, on its own users and candidates."
)
