"""SDCL Table 2: equal orders in every task do not make equal orders of the fused score.

    python launch.py --experiment=sdcl_table2                 about a minute, most of it starting

The paper's toy numbers of three samples, from which the orders, the fused scores (their sum) and the discordant pairs
are computed; nothing is trained and nothing is random. The seed changes only in which order the three samples are
stored, so that all seeds must agree and every interval has width zero.
"""

from dataclasses import dataclass

import numpy as np

from experiments.experiment import Claim, Column, Data, Experiment, Kind, Row
from experiments.sdcl_table3 import PAPER
from experiments.trials import Context, save_result
from hccp_jax.training.config import TrainConfig

SOURCE = "SDCL Table 2"
TASKS = ("ctr", "itr", "time")
PRERANKING = np.array([[0.4, 0.01, 6.2], [0.5, 0.02, 5.8], [0.6, 0.03, 5.5]])
RANKING = np.array([[0.2, 0.01, 7.7], [0.5, 0.02, 7.5], [0.8, 0.03, 7.3]])
"""[sample, task] scores of the two stages."""

FUSED = "fused"


@dataclass(frozen=True)
class ToySettings:
    """Nothing to choose; the launcher asks every experiment how it trains."""

    train: TrainConfig = TrainConfig()


def places(scores: np.ndarray) -> np.ndarray:
    """[n] place of each score, 1 the highest; scores must differ.

    >>> places(np.array([0.1, 0.3, 0.2])).tolist()
    [3, 1, 2]

    """
    return (scores[None, :] > scores[:, None]).sum(axis=1) + 1


def reverse_rate(first: np.ndarray, second: np.ndarray) -> float:
    """Share of the pairs of samples that two scores [n] order differently (Eq 9).

    >>> reverse_rate(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))
    0.3333333333333333

    """
    one, other = np.triu_indices(len(first), 1)
    return float(np.mean((first[one] - first[other]) * (second[one] - second[other]) < 0))


def compared(name: str, order: np.ndarray) -> dict[str, float]:
    """What the table has of one score, with the samples stored in `order` [3]."""
    if name == FUSED:
        early, late = PRERANKING.sum(axis=1)[order], RANKING.sum(axis=1)[order]
    else:
        early, late = (scores[order, TASKS.index(name)] for scores in (PRERANKING, RANKING))
    found = {"reverse": reverse_rate(early, late)}
    for stage, scores in (("preranking", early), ("ranking", late)):
        at = dict(zip(order.tolist(), places(scores).tolist(), strict=True))
        found |= {f"{stage}/place_{sample + 1}": float(at[sample]) for sample in range(len(order))}
    return found


def run(context: Context) -> None:
    """Compute the pending rows."""
    for trial in context.trials:
        order = np.random.default_rng(trial.seed).permutation(len(PRERANKING))
        save_result(context.experiment, trial, compared(trial.row.name, order))


def _column(stage: str, sample: int) -> Column:
    header = f"{'pre-ranking' if stage == 'preranking' else stage} place of sample {sample}"
    return Column(f"{stage}/place_{sample}", header, percent=False, decimals=0)


EXPERIMENT = Experiment(
    name="sdcl_table2",
    title="SDCL Table 2: consistent tasks, inconsistent fusion",
    paper=PAPER,
    table="Table 2",
    minutes=1,
    data=Data(Kind.COMPUTED, "The paper's toy numbers: three samples with given scores; nothing is trained."),
    settings=ToySettings(),
    smoke={},
    rows=(Row(FUSED, "fused: CTR + ITR + TIME"), Row("ctr", "CTR"), Row("itr", "ITR"), Row("time", "TIME")),
    columns=(
        *(_column(stage, sample) for stage in ("preranking", "ranking") for sample in (1, 2, 3)),
        Column("reverse", "reverse rate"),
    ),
    claims=(
        Claim(
            "SDCL-0",
            SOURCE,
            "Though no task orders a pair differently in the two stages, the fused score does.",
            smallest_effect=1 / 3,  # one pair of the three
            terms=((1.0, FUSED, "reverse"), *((-1.0, task, "reverse") for task in TASKS)),
        ),
    ),
    seeds=5,
    run=run,
    printed={
        f"{stage}/place_{sample}": {FUSED: float(place)}
        for stage, found in (("preranking", (1, 2, 3)), ("ranking", (3, 2, 1)))
        for sample, place in enumerate(found, start=1)
    },
    printed_note="the order of the fused score",
    printed_absolute=True,
)
