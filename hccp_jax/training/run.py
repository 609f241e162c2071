"""One call of `loop.train` at work: restoring, running chunks, freezing members that diverge, keeping states."""

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hccp_jax.data.requests import RequestBatch
from hccp_jax.data.source import Source
from hccp_jax.errors import Diverged, Stopped, UserError
from hccp_jax.training.checkpoints import Checkpoints, as_tree, to_host, to_state
from hccp_jax.training.hosts import is_alone
from hccp_jax.training.logbook import Logbook
from hccp_jax.training.state import TrainState, stack_numbers

SHOWN_TERMS = 4
Report = Callable[[int, dict[str, float]], None]
Validate = Callable[[TrainState], np.ndarray]


def own_rows(source: Source) -> Callable[[Sequence[int], int, int], RequestBatch]:
    """The chunks of a source with the rows of each batch that belong to this process."""
    return source.chunk if is_alone() else partial(source.chunk, part=(jax.process_index(), jax.process_count()))


def stacked(trees: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Trees of single members as one, leaves [M, ...]."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


class Run:
    """The pieces of one call of `loop.train`."""

    def __init__(self, program, source, members, config, placement, seeds, sample, warn) -> None:
        self.source, self.members, self.config = source, members, config
        self.seeds, self.placement = seeds, placement
        if config.batch % placement.devices:
            raise UserError(f"train.batch={config.batch}: expected a multiple of the {placement.devices} devices")
        self.wrapped, self.start, self.settle = program.wrapped, program.start, program.settle
        # members fill the population axis; the last one stands in for the empty places
        self.places = -(-len(members) // self.wrapped.population) * self.wrapped.population
        filled = list(members) + [members[-1]] * (self.places - len(members))
        self.hypers = stack_numbers([member.hyper for member in filled])
        self.streams = jnp.array([seeds.index(m.seed) for m in filled], jnp.int32)
        total = jnp.float32(config.steps)
        self.constants = self.wrapped.place(self.hypers, self.streams, source.catalogue, total)
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        one_request = jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), sample)
        self.arguments = (keys, one_request, source.catalogue)
        self.requests_per_second = float("nan")
        self.warn = warn
        self.failed: dict[int, str] = {}

    def blank(self) -> dict[str, Any]:
        """A tree of one member's shapes and dtypes."""
        shapes = jax.eval_shape(lambda *a: as_tree(self.start(*a)), *self.arguments)
        return jax.tree.map(lambda x: np.zeros(x.shape[1:], x.dtype), shapes)

    def restore(self, books: Sequence[Checkpoints]) -> tuple[TrainState, int]:
        """The states to begin with, [places, ...], and the step that they are of."""
        for book in books:
            for path in book.damaged:
                self.warn(f"checkpoint {path}: cannot be read; trying an earlier one")
        size = self.config.chunk_steps  # what a loss that is not finite left inside a chunk is no place to go on from
        common = set.intersection(*({step for step in book.steps if step % size == 0} for book in books))
        for step in sorted(common, reverse=True):
            try:
                like = self.blank()
                trees = [book.load(step, like) for book in books]
            except UserError as error:
                self.warn(f"{error}; trying an earlier one")
                continue
            trees += [trees[-1]] * (self.places - len(trees))
            found = {}
            for index, (member, tree) in enumerate(zip(self.members, trees, strict=False)):
                tree["alive"] = np.asarray(int(tree["step"]) == step)  # behind its checkpoint lies a frozen one only
                if not tree["alive"]:
                    found[index] = f"{member.name}: loss was not finite at step {int(tree['step']) + 1}"
            self._freeze(found)
            return to_state(stacked(trees)), step
        if common:
            raise UserError(
                f"checkpoints in {books[0].directory.parent}: none can be read; remove the directory to start afresh"
            )
        fresh = to_host(self.start(*self.arguments))  # one state a seed: rows begin alike
        return to_state(jax.tree.map(lambda leaf: leaf[np.asarray(self.streams)], fresh)), 0

    def advance(
        self,
        states: TrainState,
        first: int,
        books: Sequence[Checkpoints],
        logs: Sequence[Logbook],
        report: Report,
        validate: Validate | None,
        stop: Callable[[], bool],
    ) -> TrainState:
        """Run the remaining chunks."""
        config, size = self.config, self.config.chunk_steps
        hypers, streams, catalogue, total = self.constants
        started, done = time.monotonic(), 0
        seconds: list[float] = []
        guarded = self.wrapped.put is not None and is_alone()
        with closing(self.batches(first)) as chunks:
            for step, batches in zip(range(first, config.steps, size), chunks, strict=True):
                begun = time.monotonic()
                # after the first chunk nothing but the batches, put there ahead, may cross to the device
                with jax.transfer_guard_host_to_device("disallow" if guarded and step > first else "allow"):
                    states, metrics = self.wrapped.run(states, hypers, streams, batches, catalogue, total)
                end = step + size
                values = {name: np.asarray(leaf)[: len(self.members)] for name, leaf in metrics.items()}
                seconds.append(time.monotonic() - begun)
                self._freeze_not_finite(values, step, states, books)
                left = [index for index in range(len(self.members)) if index not in self.failed]
                for index in left:
                    logs[index].write(end, {name: float(leaf[index].mean()) for name, leaf in values.items()})
                done += size * config.batch * len(left)
                mean = {name: float(leaf[left].mean()) for name, leaf in values.items()}
                report(end, mean | {"requests_per_second": done / (time.monotonic() - started)})
                stopping = stop() and end < config.steps
                self._keep(states, end, books, validate, stopping)
                if stopping:
                    raise Stopped(end)
        if seconds:
            # members run one after the other on each device of the population axis
            in_turn = self.places // self.wrapped.population
            work = size * config.batch / self.placement.devices * in_turn
            self.requests_per_second = work / float(np.median(seconds))
        return to_state(self.own(states))

    def batches(self, first: int) -> Generator[Any, None, None]:
        """The chunks from a step on, on the device; the next one is made and moved while the last one trains.

        Not with several data devices of a CPU: their collectives and another program may wait for each other.
        """
        size, steps = self.config.chunk_steps, self.config.steps
        put = self.wrapped.put or (lambda batches: batches)

        def make(step: int) -> Any:
            return put(own_rows(self.source)(self.seeds, step, size))

        starts = range(first, steps, size)
        if self.placement.devices > 1 and jax.default_backend() == "cpu":
            yield from map(make, starts)
            return
        with ThreadPoolExecutor(1) as ahead:
            pending = [ahead.submit(make, step) for step in starts[:1]]
            for step in starts:
                batch = pending.pop().result()
                pending += [ahead.submit(make, later) for later in (step + size,) if later < steps]
                yield batch

    def own(self, states: TrainState) -> dict[str, Any]:
        """The members' states on the host, without those that fill empty places."""
        return jax.tree.map(lambda leaf: leaf[: len(self.members)], self.wrapped.fetch(as_tree(states)))

    def to_evaluate(self, states: TrainState) -> TrainState:
        """The members' states with all rows of tables caught up, and in the place of a frozen one another's.

        What a loss that is not finite left may have no finite score, and evaluation takes all members together.
        """
        if self.failed:
            count = len(self.members)
            sound = next(index for index in range(count) if index not in self.failed)
            places = np.array([sound if index in self.failed else index for index in range(count)])
            states = jax.tree.map(lambda leaf: leaf[places], states)
        if self.settle is None:
            return states
        rates = jax.tree.map(lambda leaf: leaf[: len(self.members)], self.hypers.learning_rate)
        return replace(states, parameters=self.settle(states, rates))

    def _keep(
        self, states: TrainState, end: int, books: Sequence[Checkpoints], validate: Validate | None, stopping: bool
    ) -> None:
        """Validate and checkpoint if due."""
        validated = validate is not None and (
            self.config.due(end, self.config.validate_every)
            or (self.config.validate_every and end == self.config.steps)
        )
        due = self.config.due(end, self.config.checkpoint_every) or end == self.config.steps
        if not (validated or due or stopping):
            return
        tree = self.own(states)
        scores: Any = [None] * len(self.members)
        if validated and validate is not None:
            scores = validate(self.to_evaluate(to_state(tree)))
        for index, (book, score) in enumerate(zip(books, scores, strict=True)):
            kept = None if score is None or index in self.failed else float(score)
            book.save(jax.tree.map(lambda leaf, i=index: leaf[i], tree), kept, end)
        if stopping:
            for book in books:
                book.wait()

    def _freeze(self, found: dict[int, str]) -> None:
        self.failed |= found
        if len(self.failed) == len(self.members):
            line = next(iter(self.failed.values()))
            raise Diverged(f"{line}; the state before it is kept; try a smaller hyper.learning_rate")
        for line in found.values():
            self.warn(f"{line}; it stays there, the others go on")

    def _freeze_not_finite(
        self, values: dict[str, np.ndarray], step: int, states: TrainState, books: Sequence[Checkpoints]
    ) -> None:
        """Note the members whose loss is not finite; their states do not change from that step on.

        Raises:
            Diverged: if none is left; the states before are saved.
        """
        bad = ~(np.isfinite(values["loss"]) & np.isfinite(values["gradient_norm"]))
        found = {}
        for member in sorted(np.flatnonzero(bad.any(axis=1)), key=lambda m: int(np.argmax(bad[m]))):
            offset = int(np.argmax(bad[member]))
            terms = [name for name, leaf in values.items() if name != "loss" and not np.isfinite(leaf[member, offset])]
            line = f"{self.members[member].name}: loss is not finite at step {step + offset + 1}"
            more = f" and {len(terms) - SHOWN_TERMS} more" if len(terms) > SHOWN_TERMS else ""
            found[int(member)] = f"{line} (terms: {', '.join(terms[:SHOWN_TERMS]) or 'loss'}{more})"
        found = {index: line for index, line in found.items() if index not in self.failed}
        if len(self.failed) + len(found) == len(self.members):
            tree = self.own(states)
            for index, book in enumerate(books):
                book.save(jax.tree.map(lambda leaf, i=index: leaf[i], tree))
                book.wait()
        self._freeze(found)
