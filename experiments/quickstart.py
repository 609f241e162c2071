"""Base against HCCP on the simulated cascade, in about a minute.

    python launch.py

Three training seeds, fresh requests, one pass. Not a table of the paper: the smallest run that shows its method beat
its baseline, with the floors and ceilings that a simulated world can give.
"""

from dataclasses import replace

from experiments.experiment import Claim, Column, Experiment, Row
from experiments.settings import EvaluateConfig, SimulatedSettings
from experiments.simulated import DATA, run
from hccp_jax.methods.hccp import ROWS
from hccp_jax.training.config import TrainConfig

PAPER = "Zhao et al., A Hybrid Cross-Stage Coordination Pre-ranking Model, WWW Companion 2025 (HCCP)"
PAPER_SIZE = (
    "JD's home page, one week: 0.395 billion samples for Base to 4.747 billion for HCCP, 66.2 to 66.4 million "
    "parameters (Table 4)."
)

REFERENCES = (
    Row("truth", "truth (ceiling)", reference=True),
    Row("ranker", "ranker (its own order)", reference=True),
    Row("popularity", "popularity", reference=True),
    Row("random", "random (floor)", reference=True),
)

COLUMNS = (
    Column("T@100", "T@100"),
    Column("ISH@10", "ISH@10"),
    Column("ISH@100", "ISH@100"),
    Column("ISH@1000", "ISH@1000"),
    Column("ASH@100", "ASH@100"),
    Column("NDCG@100", "NDCG@100"),
    Column("AUC", "AUC"),
    Column("tail_slots@100", "tail slots@100"),
)

SMOKE = {
    "world.items": 2000,
    "world.users": 500,
    "world.candidates": 256,
    "world.ranked": 40,
    "world.rerank": 30,
    "world.clusters": 32,
    "world.frequency_requests": 256,
    "train.steps": 20,
    "train.batch": 32,
    "train.chunk": 10,
    "evaluate.requests": 64,
}

EXPERIMENT = Experiment(
    name="quickstart",
    title="Base and HCCP on a simulated cascade",
    paper=PAPER,
    table="the first and the last row of Table 1, in small",
    minutes=1,
    data=DATA,
    settings=replace(
        SimulatedSettings(),
        train=TrainConfig(steps=120, batch=128, chunk=24, checkpoint_every=48),
        evaluate=EvaluateConfig(requests=768),
    ),
    smoke=SMOKE,
    rows=(Row("base", "Base", ROWS["base"]), Row("hccp", "HCCP", ROWS["hccp"]), *REFERENCES),
    columns=COLUMNS,
    claims=(
        Claim(
            "HCCP-2a",
            "HCCP Table 1",
            "HCCP finds more in-scenario clicks than Base at K = 100.",
            "ISH@100",
            "hccp",
            "base",
        ),
        Claim(
            "HCCP-2b",
            "HCCP Table 1",
            "HCCP finds more all-scenario clicks than Base at K = 100.",
            "ASH@100",
            "hccp",
            "base",
        ),
    ),
    seeds=3,
    run=run,
    paper_size=PAPER_SIZE,
)
