"""The configuration tree of an experiment on the simulated cascade."""

import math
from dataclasses import dataclass, replace

from hccp_jax.cascade.logs import SamplingConfig
from hccp_jax.cascade.world import WorldConfig
from hccp_jax.config import field
from hccp_jax.errors import UserError
from hccp_jax.methods.hccp import HyperConfig, NegativesConfig
from hccp_jax.models.three_tower import ModelConfig
from hccp_jax.training.config import TrainConfig


@dataclass(frozen=True)
class EvaluateConfig:
    """Held-out requests and cutoffs."""

    requests: int = field(768, "held-out requests, scored with all their candidates", at_least=1)
    cutoffs: tuple[int, ...] = field((10, 100, 1000), "K of the tables", at_least=1)
    fused: bool = field(False, "also report the fused score, click plus consistency logit")
    online: int = field(0, "requests of the simulated online test, a stream of its own; 0: none", at_least=0)
    sessions: int = field(0, "sessions of the simulated online test of sessions; 0: none", at_least=0)


@dataclass(frozen=True)
class LogConfig:
    """Fresh requests, or a log that is reused."""

    requests: int = field(0, "requests of a reused log; 0: every training request is fresh", at_least=0)
    epochs: float = field(0.0, "passes over a reused log, which sets its size; 0: log.requests decides", at_least=0)
    keep: str = field("best", "which step a row keeps of a reused log, by validation", choices=("best", "last"))
    on_disk: bool = field(False, "keep the log in OUT/log and train from there, not from memory")

    def size(self, requests: int) -> int:
        """Requests of the reused log for a training of so many request visits; 0: every one is fresh."""
        if self.epochs and self.requests:
            raise UserError(f"log.epochs={self.epochs:g}: expected 0 with log.requests={self.requests}")
        return self.requests or (math.ceil(requests / self.epochs) if self.epochs else 0)

    def rhythm(self, train: TrainConfig) -> TrainConfig:
        """The rhythm of training on the log: reuse measures overfitting, so a row keeps its own best step."""
        reused = self.size(train.steps * train.batch) > 0
        if train.validate_every or not reused or self.keep == "last":
            return train
        return replace(train, validate_every=max(train.chunk_steps, train.steps // 10))


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
