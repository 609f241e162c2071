"""HCCP Table 1's ablation ladder on the simulated cascade: all eight rows, served by the click head and fused.

    python launch.py --experiment=hccp_ladder

Five training seeds, fresh requests, one pass. The rows differ in traced numbers only, so one program trains them all.
The paper's table is in differences to Base on private JD data; its order of the rows at K = 10 and 100 is what is
tested. `fused` columns serve click plus consistency logit. Four rows beside the paper's eight show what the margin
does: 0.2 instead of the printed 0.9, and both on free dot products instead of cosine-normalised towers.
"""

import itertools
from dataclasses import replace

from experiments.experiment import Claim, Column, Experiment, Row
from experiments.quickstart import PAPER, PAPER_SIZE, REFERENCES, SMOKE
from experiments.settings import EvaluateConfig, SimulatedSettings
from experiments.simulated import DATA, run
from hccp_jax.methods.hccp import ROWS
from hccp_jax.training.config import TrainConfig

LABELS = {
    "base": "Base",
    "base_listnet": "Base+ListNet",
    "base_listmle": "Base+ListMLE",
    "without_up": "HCCP(w/o Up)",
    "without_prc": "HCCP(w/o PRC)",
    "without_neg": "HCCP(w/o Neg)",
    "without_margin": "HCCP(w/o Margin)",
    "hccp": "HCCP",
}

_LADDER = ("base", "without_up", "without_prc", "without_neg", "without_margin", "hccp")


def _step(number: int, worse: str, better: str, metric: str) -> Claim:
    statement = f"{LABELS[better]} is ahead of {LABELS[worse]} on {metric} (click head)."
    return Claim(f"HCCP-5.{number}", "HCCP Table 1", statement, metric, better, worse)


EXPERIMENT = Experiment(
    name="hccp_ladder",
    title="The ablation ladder of HCCP on a simulated cascade",
    paper=PAPER,
    table="Tables 1 and 3, the rows that are HCCP or its parts",
    minutes=6,
    data=DATA,
    settings=replace(
        SimulatedSettings(),
        train=TrainConfig(steps=400, batch=128, chunk=25, checkpoint_every=200),
        evaluate=EvaluateConfig(requests=1536, fused=True),
    ),
    smoke=SMOKE,
    rows=(
        *(Row(name, label, ROWS[name]) for name, label in LABELS.items()),
        Row("hccp_margin_0.2", "HCCP, m = 0.2", {"hyper.margin": 0.2}),
        Row("without_margin_free", "HCCP(w/o Margin), free dot", ROWS["without_margin"] | {"model.normalize": False}),
        Row("hccp_free", "HCCP, free dot, m = 0.9", {"model.normalize": False}),
        Row("hccp_free_margin_0.2", "HCCP, free dot, m = 0.2", {"model.normalize": False, "hyper.margin": 0.2}),
        *REFERENCES,
    ),
    columns=(
        Column("ISH@10", "ISH@10"),
        Column("ISH@100", "ISH@100"),
        Column("ISH@1000", "ISH@1000"),
        Column("ISPH@100", "ISPH@100"),
        Column("ASH@10", "ASH@10"),
        Column("ASH@100", "ASH@100"),
        Column("ASH@1000", "ASH@1000"),
        Column("T@10", "T@10"),
        Column("T@100", "T@100"),
        Column("NDCG@10", "NDCG@10"),
        Column("NDCG@100", "NDCG@100"),
        Column("NDCG@1000", "NDCG@1000"),
        Column("MAP@100", "MAP@100"),
        Column("AUC", "AUC"),
        Column("fused/ISH@100", "fused ISH@100"),
        Column("fused/ASH@100", "fused ASH@100"),
        Column("fused/T@100", "fused T@100"),
        Column("fused/NDCG@1000", "fused NDCG@1000"),
        Column("tail_slots@100", "tail slots@100"),
        Column("tail_hits_per_slot@100", "tail hits per slot@100"),
    ),
    claims=(
        *(
            Claim(
                f"HCCP-4{letter}",
                "HCCP Table 1",
                f"{LABELS[row]} moves ISH@100 of Base by less than 2 points.",
                "ISH@100",
                row,
                "base",
                within=0.02,
            )
            for letter, row in (("a", "base_listnet"), ("b", "base_listmle"))
        ),
        *(
            _step(number, worse, better, "ISH@100")
            for number, (worse, better) in enumerate(itertools.pairwise(_LADDER), start=1)
        ),
        _step(6, "base", "without_up", "ASH@100"),
        _step(7, "without_up", "without_margin", "ASH@100"),
        _step(8, "without_up", "without_margin", "ISH@100"),
        Claim("HCCP-6a", "HCCP Table 1", "The margin lifts ISH@10.", "ISH@10", "hccp", "without_margin"),
        Claim("HCCP-6b", "HCCP Table 1", "The margin lifts ASH@100.", "ASH@100", "hccp", "without_margin"),
        Claim(
            "HCCP-6d",
            "ours: the paper has 0.9",
            "A margin of 0.2 lifts ISH@100.",
            "ISH@100",
            "hccp_margin_0.2",
            "without_margin",
        ),
        Claim(
            "HCCP-6e",
            "HCCP Table 1",
            "On free dot products a margin of 0.9 lifts ISH@100.",
            "ISH@100",
            "hccp_free",
            "without_margin_free",
        ),
        Claim("HCCP-6c", "simulated truth", "The margin lifts T@100.", "T@100", "hccp", "without_margin"),
        Claim(
            "HCCP-9",
            "HCCP Table 3",
            "w/o Up agrees more with the ranker than HCCP at K = 1000.",
            "NDCG@1000",
            "without_up",
            "hccp",
        ),
    ),
    seeds=5,
    run=run,
    paper_size=PAPER_SIZE,
)
