"""The configuration of a table of systems, and the search space of each of them."""

from dataclasses import dataclass
from typing import Any

from experiments.settings import EvaluateConfig, LogConfig
from hccp_jax.cascade.logs import SamplingConfig
from hccp_jax.cascade.world import WorldConfig
from hccp_jax.config import field
from hccp_jax.methods.registry import SYSTEMS, HyperConfigs, SystemConfig, numbers
from hccp_jax.training.config import TrainConfig

MOST_TRIALS = 4


@dataclass(frozen=True)
class TuneConfig:
    """The tuning budget, the same for every row."""

    trials: int = field(
        MOST_TRIALS, "settings tried for each row; 1: its defaults, no tuning", at_least=1, at_most=MOST_TRIALS
    )
    share: float = field(0.5, "length of a trial, as a share of train.steps", above=0, at_most=1)
    requests: int = field(256, "validation requests that choose among the trials (simulated data)", at_least=64)


@dataclass(frozen=True)
class TeacherConfig:
    """The teacher DIN, whose calibrated predictions are written into the log of all rows."""

    steps: int = field(0, "updates of the teacher; 0: train.steps", at_least=0)
    learning_rate: float = field(3e-3, "Adam step size of the teacher", above=0)


@dataclass(frozen=True)
class SystemsSettings:
    """Everything that decides the numbers of the table on the simulated cascade."""

    system: str = field("hccp", "which system; the rows of the table set it", choices=tuple(SYSTEMS))
    world: WorldConfig = WorldConfig()
    sampling: SamplingConfig = SamplingConfig()
    models: SystemConfig = SystemConfig()
    hyper: HyperConfigs = HyperConfigs()
    log: LogConfig = LogConfig()
    tune: TuneConfig = TuneConfig()
    teacher: TeacherConfig = TeacherConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


# What a row tries beside its defaults: two other step sizes, and one number of its own. It is none that tells rows of
# one system apart: tuning may not make one row of another.
OWN: dict[str, dict[str, float]] = {
    "hccp": {"conversion": 1.0},
    "copr": {"consistency": 0.1},
    "rethink": {"temperature": 0.3},
    "arf": {"temperature": 10.0},
    "lcron": {"temperature": 10.0},
    "fs_ltr": {"temperature": 0.3},
    "multi_positive": {"temperature": 0.3},
    "logistic_regression": {"negatives": 1.0},
    "two_tower": {"negatives": 1.0},
    "three_tower": {"negatives": 1.0},
    "cold": {"negatives": 1.0},
    "din": {"negatives": 1.0},
    "dat": {"negatives": 0.1},
    "inttower": {"negatives": 1.0},
    "ranktower": {"sort_temperature": 0.3},
    "ranktower_loss": {"sort_temperature": 0.3},
    "sdcl": {"rank_conversion": 0.3},
    "croloss": {"scale": 20.0},
    "hap": {"temperature": 0.3},
}


def search_space(system: str, hypers: HyperConfigs, trials: int) -> list[dict[str, Any]]:
    """The first `trials` settings of a system, as changes of its numbers; the first is none.

    The step size is multiplied by 1/3 and 3, and one number of the system's own takes another value.

    >>> search_space("hccp", HyperConfigs(), 4)
    [{}, {'learning_rate': 0.009}, {'learning_rate': 0.001}, {'conversion': 1.0}]

    """
    rate = numbers(system, hypers).learning_rate
    space = [{}, {"learning_rate": round(3 * rate, 6)}, {"learning_rate": round(rate / 3, 6)}, OWN[system]]
    return space[:trials]
