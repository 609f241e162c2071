"""Runs of a small experiment as they stand on disk, written from numbers that are known."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from experiments.experiment import Claim, Column, Data, Experiment, Kind, Row
from hccp_jax import config

DATA = Data(Kind.SIMULATED, "Simulated: every request is drawn from the simulated world.")


@dataclass(frozen=True)
class Train:
    steps: int = config.field(400, "updates")
    batch: int = config.field(128, "requests of one")


@dataclass(frozen=True)
class Settings:
    train: Train = field(default_factory=Train)


ROWS = (
    Row("base", "Base"),
    Row("good", "Good & <b>bold</b>"),
    Row("poor", "Poor_%"),
    Row("level", "Level"),
    Row("truth", "Truth", reference=True),
)
LEVELS = {"base": 0.3, "good": 0.6, "poor": 0.2, "level": 0.3, "truth": 0.97}
PRINTED = {"ISH@100": {"good": 20.0, "poor": 5.0, "level": 1.25}, "ASH@100": {"good": 3.0}}


def claim(name: str, better: str, worse: str = "base", paper: str = "HCCP Table 1") -> Claim:
    return Claim(name, paper, f"{better} is ahead of {worse}.", "ISH@100", better, worse)


def experiment(name: str = "demo", **changes) -> Experiment:
    """An experiment with four trained rows and one reference, five claims, and the paper's numbers for three rows."""
    fields = {
        "title": "Demo <script>alert(1)</script>",
        "paper": "A. Author",
        "table": "Table 1",
        "minutes": 1,
        "data": DATA,
        "settings": Settings(),
        "smoke": {"train.steps": 10},
        "rows": ROWS,
        "columns": (Column("ISH@100", "ISH@100"), Column("ASH@100", "ASH@100")),
        "claims": (
            claim("HCCP-10", "good"),
            claim("HCCP-2.b", "poor"),
            claim("HCCP-2.a", "level"),
            claim("RT-1", "absent", paper="RankTower Table 1"),
            claim("SYS-1", "good", paper="our own"),
        ),
        "seeds": 5,
        "run": print,
        "printed": PRINTED,
        "printed_note": "points over Base",
        "paper_size": "a billion requests.",
    }
    return Experiment(name=name, **(fields | changes))


def write_run(
    directory: Path,
    of: Experiment,
    worlds: int = 1,
    steps: int = 400,
    command: str = "python launch.py",
    **levels: float,
) -> Path:
    """A directory with the results of five seeds in each world, a little apart; ASH@100 is ISH@100 halved."""
    lines = []
    for row in of.rows:
        for world in range(worlds):
            for seed in range(1 if row.reference else 5):
                spread = 0.002 * ((seed * 3 + len(row.name) + 2 * world) % 5 - 2)
                level = (LEVELS | levels)[row.name] + spread
                name = f"{row.name}-{world}-{seed}"
                entry = {"experiment": of.name, "row": row.name, "seed": seed, "world": world, "config_hash": name}
                entry["metrics"] = {"ISH@100": level, "ASH@100": level / 2, "parameters": 1234}
                curves = {"ISH": {"cutoffs": [10, 100], "values": [level / 2, level]}}
                (directory / "trials" / name).mkdir(parents=True)
                (directory / "trials" / name / "result.json").write_text(
                    json.dumps(entry | {"curves": curves, "epochs": 1.0})
                )
                lines.append(json.dumps(entry) + "\n")
    (directory / "results.jsonl").write_text("".join(lines))
    settings = config.to_json(config.override(of.settings, {"train.steps": steps}))
    (directory / "config.json").write_text(json.dumps({"experiment": of.name, "config": settings}))
    (directory / "environment.json").write_text(
        '{"machine": "Linux, 2 cores", "device": "2 x cpu", "commit": "abc123"}'
    )
    (directory / "command.txt").write_text(command + "\n")
    return directory
