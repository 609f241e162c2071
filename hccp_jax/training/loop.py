"""The training loop: chunks of steps for a population of runs, logged, checkpointed and resumable bit for bit."""

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hccp_jax.config import field
from hccp_jax.data.source import Source
from hccp_jax.errors import UserError
from hccp_jax.methods.base import Method
from hccp_jax.training.checkpoints import Checkpoints, as_tree, to_host, to_state
from hccp_jax.training.logbook import Logbook
from hccp_jax.training.program import Placement, Program
from hccp_jax.training.state import TrainState, stack_numbers


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
    tensorboard: bool = field(False, "also write TensorBoard event files (needs tensorboardX)")

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


@dataclass(frozen=True)
class Trained:
    """What training leaves.

    Attributes:
        states: to evaluate, leaves [M, ...].
        steps: the step that each of them is of.
        requests_per_second: of one member on one device, from the median chunk, so that compilation is not in it; NaN
            where nothing was left to train.
    """

    states: TrainState
    steps: list[int]
    requests_per_second: float


Report = Callable[[int, dict[str, float]], None]
Validate = Callable[[TrainState], np.ndarray]


def train(
    method: Method,
    source: Source,
    members: Sequence[Member],
    config: TrainConfig,
    placement: Placement,
    report: Report,
    warn: Callable[[str], None],
    validate: Validate | None = None,
    program: Program | None = None,
) -> Trained:
    """Train a population of runs that differ in seed and traced numbers only.

    The decisions of a start, in order: (1) open each member's checkpoints, dropping half-written ones; (2) resume from
    the newest step that every member can load, an unreadable checkpoint being skipped with a warning; (3) else start
    from step 0; (4) drop checkpoints and log lines beyond that step.

    Args:
        method: what to train.
        source: where batches come from.
        members: the runs; `seed` gives the initial parameters, the order of requests and all draws.
        config: length and rhythm.
        placement: devices.
        report: called with (step, means over members) after each chunk.
        warn: called with one line.
        validate: states -> [M] numbers, larger is better; used every `config.validate_every` updates.
        program: of the same method, featurisation and placement, to compile nothing again; None makes one.

    Returns:
        The last states, or the best ones by validation.

    Raises:
        UserError: on a loss that is not finite (the checkpoint before it is kept), or bad placement.
    """
    seeds = sorted({member.seed for member in members})
    # shapes only; a chunk like all others, so that no other program is compiled for it
    sample = jax.tree.map(lambda leaf: leaf[0, 0], source.chunk(seeds, 0, config.chunk_steps))
    program = program or Program(method, source.featurise, placement)
    run = _Run(program, source, members, config, placement, seeds, sample)
    books = [Checkpoints(member.directory / "checkpoints") for member in members]
    logs: list[Logbook] = []
    try:
        states = run.restore(books, warn)
        first = int(np.asarray(states.step)[0])
        for member, book in zip(members, books, strict=True):
            book.drop_after(first)
            logs.append(Logbook(member.directory, first, config.tensorboard))
        states = run.advance(states, first, books, logs, report, validate)
        for book in books:
            book.wait()
        if not config.validate_every or validate is None:
            return Trained(states, [config.steps] * len(members), run.requests_per_second)
        best = [book.best_step or 0 for book in books]
        like = run.blank()
        trees = [book.load(step, like) for book, step in zip(books, best, strict=True)]
        return Trained(to_state(_stack(trees)), best, run.requests_per_second)
    finally:
        for log in logs:
            log.close()
        for book in books:
            book.close()


def _stack(trees: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


class _Run:
    """The pieces of one call of `train`."""

    def __init__(self, program, source, members, config, placement, seeds, sample) -> None:
        self.source, self.members, self.config = source, members, config
        self.seeds, self.placement = seeds, placement
        if config.batch % placement.devices:
            raise UserError(f"train.batch={config.batch}: expected a multiple of the {placement.devices} devices")
        self.wrapped, self.start = program.wrapped, program.start
        # members fill the population axis; the last one stands in for the empty places
        self.places = -(-len(members) // self.wrapped.population) * self.wrapped.population
        filled = list(members) + [members[-1]] * (self.places - len(members))
        self.hypers = stack_numbers([member.hyper for member in filled])
        self.streams = jnp.array([seeds.index(m.seed) for m in filled], jnp.int32)
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        one_request = jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), sample)
        self.arguments = (keys, one_request, source.catalogue)
        self.requests_per_second = float("nan")

    def blank(self) -> dict[str, Any]:
        """A tree of one member's shapes and dtypes."""
        shapes = jax.eval_shape(lambda *a: as_tree(self.start(*a)), *self.arguments)
        return jax.tree.map(lambda x: np.zeros(x.shape[1:], x.dtype), shapes)

    def restore(self, books: Sequence[Checkpoints], warn: Callable[[str], None]) -> TrainState:
        """The states to begin with, [places, ...]."""
        for book in books:
            for path in book.damaged:
                warn(f"checkpoint {path}: cannot be read; trying an earlier one")
        size = self.config.chunk_steps  # what a loss that is not finite left inside a chunk is no place to go on from
        common = set.intersection(*({step for step in book.steps if step % size == 0} for book in books))
        for step in sorted(common, reverse=True):
            try:
                like = self.blank()
                trees = [book.load(step, like) for book in books]
            except UserError as error:
                warn(f"{error}; trying an earlier one")
                continue
            trees += [trees[-1]] * (self.places - len(trees))
            joined = jax.tree.map(jnp.asarray, _stack(trees))
            return to_state(joined | {"alive": jnp.ones_like(joined["alive"])})
        if common:
            raise UserError(
                f"checkpoints in {books[0].directory.parent}: none can be read; remove the directory to start afresh"
            )
        fresh = to_host(self.start(*self.arguments))  # one state a seed: rows begin alike
        return to_state(jax.tree.map(lambda leaf: leaf[np.asarray(self.streams)], fresh))

    def advance(
        self,
        states: TrainState,
        first: int,
        books: Sequence[Checkpoints],
        logs: Sequence[Logbook],
        report: Report,
        validate: Validate | None,
    ) -> TrainState:
        """Run the remaining chunks."""
        config, size, catalogue = self.config, self.config.chunk_steps, self.source.catalogue
        total = jnp.float32(config.steps)
        started, done = time.monotonic(), 0
        seconds: list[float] = []
        with closing(self.batches(first)) as chunks:
            for step, batches in zip(range(first, config.steps, size), chunks, strict=True):
                begun = time.monotonic()
                states, metrics = self.wrapped.run(states, self.hypers, self.streams, batches, catalogue, total)
                end = step + size
                values = {name: np.asarray(leaf)[: len(self.members)] for name, leaf in metrics.items()}
                seconds.append(time.monotonic() - begun)
                self._refuse_not_finite(values, step, states, books)
                for index, log in enumerate(logs):
                    log.write(end, {name: float(leaf[index].mean()) for name, leaf in values.items()})
                done += size * config.batch * len(self.members)
                mean = {name: float(leaf.mean()) for name, leaf in values.items()}
                report(end, mean | {"requests_per_second": done / (time.monotonic() - started)})
                self._keep(states, end, books, validate)
        if seconds:
            # members run one after the other on each device of the population axis
            in_turn = self.places // self.wrapped.population
            work = size * config.batch / self.placement.devices * in_turn
            self.requests_per_second = work / float(np.median(seconds))
        return to_state(self.own(states))

    def batches(self, first: int) -> Generator[Any, None, None]:
        """The chunks from a step on; the next one is made while the last one trains.

        Not with several data devices: their collectives and another program may wait for each other on a CPU.
        """
        size, steps = self.config.chunk_steps, self.config.steps
        make = partial(self.source.chunk, self.seeds)
        if self.placement.devices > 1:
            yield from (make(step, size) for step in range(first, steps, size))
            return
        with ThreadPoolExecutor(1) as ahead:
            starts = range(first, steps, size)
            pending = [ahead.submit(make, step, size) for step in starts[:1]]
            for step in starts:
                batch = pending.pop().result()
                pending += [ahead.submit(make, later, size) for later in (step + size,) if later < steps]
                yield batch

    def own(self, states: TrainState) -> dict[str, Any]:
        """The members' states on the host, without those that fill empty places."""
        return jax.tree.map(lambda leaf: leaf[: len(self.members)], to_host(states))

    def _keep(self, states: TrainState, end: int, books: Sequence[Checkpoints], validate: Validate | None) -> None:
        """Validate and checkpoint if due."""
        validated = validate is not None and (
            self.config.due(end, self.config.validate_every)
            or (self.config.validate_every and end == self.config.steps)
        )
        if not (validated or self.config.due(end, self.config.checkpoint_every) or end == self.config.steps):
            return
        tree = self.own(states)
        scores = validate(to_state(tree)) if validated and validate is not None else [None] * len(self.members)
        for index, (book, score) in enumerate(zip(books, scores, strict=True)):
            book.save(jax.tree.map(lambda leaf, i=index: leaf[i], tree), None if score is None else float(score))

    def _refuse_not_finite(
        self, values: dict[str, np.ndarray], step: int, states: TrainState, books: Sequence[Checkpoints]
    ) -> None:
        """Stop at the first non-finite loss; the states did not change from that step on and are saved."""
        bad = ~(np.isfinite(values["loss"]) & np.isfinite(values["gradient_norm"]))
        if not bad.any():
            return
        offset, member = np.argwhere(bad.T)[0]  # the first step, then the first member
        terms = [name for name, leaf in values.items() if name != "loss" and not np.isfinite(leaf[member, offset])]
        tree = self.own(states)
        for index, book in enumerate(books):
            book.save(jax.tree.map(lambda leaf, i=index: leaf[i], tree))
            book.wait()
        raise UserError(
            f"{self.members[member].name}: loss is not finite at step {step + int(offset) + 1} "
            f"(terms: {', '.join(terms) or 'loss'}); the state before it is kept; try a smaller hyper.learning_rate"
        )
