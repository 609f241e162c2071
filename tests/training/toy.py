"""A linear method and a source of its batches that compile in no time, to test what is around a method.

As a program (`python toy.py DIRECTORY`) it trains and says each step that it has done, slowly enough to be killed.
"""

import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hccp_jax.collectives import all_gather, global_mean
from hccp_jax.data.source import Source, rows_of_part
from hccp_jax.methods.base import Method
from hccp_jax.training.config import Member, TrainConfig
from hccp_jax.training.loop import train
from hccp_jax.training.program import Placement

WIDTH = 3
CONFIG = TrainConfig(steps=40, batch=8, chunk=5, checkpoint_every=10)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hyper:
    learning_rate: float = 0.05
    noise: float = 0.1
    crowd: float = 0.3


@dataclass
class Toy:
    """A method and a source that count: `traces` of the loss, `asked` chunks (seeds, first, steps, thread)."""

    size: int = CONFIG.batch
    broken_step: int | None = None  # its labels are NaN
    traces: list = field(default_factory=list)
    asked: list = field(default_factory=list)
    scale: float = 1.0

    def init(self, key, batch):
        assert batch["x"].shape == (1, WIDTH)
        return {"w": 0.1 * jax.random.normal(key, (WIDTH,)), "bias": jnp.zeros(())}

    def loss(self, parameters, hyper, batch, key, progress, axis):
        self.traces.append(1)
        mean = global_mean(axis)
        noisy = parameters["w"] + hyper.noise * jax.random.normal(key, (WIDTH,))
        predicted = batch["x"] @ noisy + parameters["bias"] * (1 - progress)
        fit = mean(jnp.square(predicted - batch["y"]), batch["where"])
        others = all_gather(batch["x"], axis) @ parameters["w"]
        crowd = mean(jax.nn.logsumexp(predicted[:, None] * others, axis=-1), batch["where"])
        return fit + hyper.crowd * crowd, {"fit": fit, "crowd": crowd}

    def batch(self, seed, step):
        rng = np.random.default_rng([seed, step])
        x = rng.normal(size=(self.size, WIDTH)).astype(np.float32)
        y = (x.sum(axis=-1) + 0.1 * rng.normal(size=self.size)).astype(np.float32)
        if step == self.broken_step:
            y[:] = np.nan
        # the first half has most of the rows that count, the last eighth has none
        chance = np.linspace(1.2, -0.2, self.size)
        where = rng.random(self.size) < chance
        where[0] = True
        return {"x": x, "y": y, "where": where}

    def chunk(self, seeds, first, steps, part=(0, 1)):
        self.asked.append((tuple(seeds), first, steps, threading.current_thread()))
        batches = [self.batch(seed, first + step) for seed in seeds for step in range(steps)]
        lead = (len(seeds), steps)
        own = rows_of_part(part, self.size)
        return jax.tree.map(lambda *leaves: np.stack(leaves).reshape(*lead, *leaves[0].shape)[:, :, own], *batches)

    @property
    def method(self) -> Method:
        return Method(self.init, self.loss, *[None] * 5)

    @property
    def source(self) -> Source:
        catalogue = {"scale": jnp.float32(self.scale)}

        def featurise(batch, catalogue):
            return batch | {"x": batch["x"] * catalogue["scale"]}

        return Source(None, catalogue, featurise, self.chunk, None, np.zeros(1))


def members(directory: Path, *hypers: tuple[int, Hyper]) -> list[Member]:
    return [Member(f"member {i}", hyper, seed, directory / str(i)) for i, (seed, hyper) in enumerate(hypers)]


def run(
    toy, who, config=CONFIG, placement=Placement(), report=lambda *_: None, warn=None, validate=None, stop=lambda: False
):
    """`train` with nothing to say; a warning is an error unless `warn` takes it."""

    def refuse(line):
        raise AssertionError(line)

    return train(toy.method, toy.source, who, config, placement, report, warn or refuse, validate, stop=stop)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_disable_most_optimizations", True)  # as in the tests

    def say(step, values):
        print(step, flush=True)
        time.sleep(0.15)

    run(Toy(), members(Path(sys.argv[1]), (0, Hyper())), report=say)
    print("done", flush=True)
