"""The configuration tree of an experiment on the simulated cascade."""

from dataclasses import dataclass

from hccp_jax.cascade.logs import SamplingConfig
from hccp_jax.cascade.world import WorldConfig
from hccp_jax.config import field
from hccp_jax.methods.hccp import HyperConfig, NegativesConfig
from hccp_jax.models.three_tower import ModelConfig
from hccp_jax.training.config import TrainConfig


@dataclass(frozen=True)
class EvaluateConfig:
    """Held-out requests and cutoffs."""

    requests: int = field(768, "held-out requests, scored with all their candidates", at_least=1)
    cutoffs: tuple[int, ...] = field((10, 100, 1000), "K of the tables", at_least=1)
    fused: bool = field(False, "also report the fused score, click plus consistency logit")


@dataclass(frozen=True)
class LogConfig:
    """Fresh requests, or a log that is reused."""

    requests: int = field(0, "requests of a reused log; 0: every training request is fresh", at_least=0)
    on_disk: bool = field(False, "keep the log in OUT/log and train from there, not from memory")


@dataclass(frozen=True)
class SimulatedSettings:
    """Everything that decides the numbers of an experiment on the simulated cascade."""

    world: WorldConfig = WorldConfig()
    sampling: SamplingConfig = SamplingConfig()
    log: LogConfig = LogConfig()
    model: ModelConfig = ModelConfig()
    negatives: NegativesConfig = NegativesConfig()
    hyper: HyperConfig = HyperConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
