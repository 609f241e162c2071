"""What a training run is told: its length and rhythm, how tables are kept, and its members."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hccp_jax.config import field
from hccp_jax.training.tables import TablesConfig


@dataclass(frozen=True)
class TrainConfig:
    """Length and rhythm of training."""

    steps: int = field(400, "updates", at_least=1)
    batch: int = field(128, "requests an update, over all devices", at_least=2)
    chunk: int = field(25, "most updates between two looks at the log; no host contact inside", at_least=1)
    checkpoint_every: int = field(200, "updates between checkpoints", at_least=1)
    validate_every: int = field(
        0, "updates between validations that choose the best step; 0: keep the last", at_least=0
    )
    members: str = field(
        "auto",
        "runs that share a program: one after the other (map) or together (vmap); auto: together on an accelerator",
        choices=("auto", "map", "vmap"),
    )
    resident: str = field(
        "auto",
        "keep a stored log on the device; auto: on an accelerator with room for it",
        choices=("auto", "always", "never"),
    )
    tensorboard: bool = field(False, "also write TensorBoard event files (needs tensorboardX)")
    tables: TablesConfig = TablesConfig()

    @property
    def chunk_steps(self) -> int:
        """The largest divisor of `steps` within `chunk`: all chunks are alike, so one program serves them all."""
        return max(size for size in range(1, min(self.chunk, self.steps) + 1) if self.steps % size == 0)

    def due(self, step: int, every: int) -> bool:
        """Whether something done every so many updates is due after the chunk that ends at `step`."""
        return every > 0 and step // every > (step - self.chunk_steps) // every


@dataclass(frozen=True)
class Member:
    """One run of a population: its name for messages, its numbers, its seed and its directory."""

    name: str
    hyper: Any
    seed: int
    directory: Path
