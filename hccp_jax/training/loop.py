"""The training loop: a population of runs, logged, checkpointed and resumable bit for bit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax

from hccp_jax.data.resident import placed
from hccp_jax.data.source import Source
from hccp_jax.methods.base import Method
from hccp_jax.training.checkpoints import Checkpoints, to_state
from hccp_jax.training.config import Member, TrainConfig
from hccp_jax.training.logbook import Logbook
from hccp_jax.training.program import Placement, Program
from hccp_jax.training.run import Report, Run, Validate, own_rows, stacked
from hccp_jax.training.state import TrainState


@dataclass(frozen=True)
class Trained:
    """What training leaves.

    Attributes:
        states: to evaluate, leaves [M, ...]; those of a member in `failed` are another's.
        steps: the step that each of them is of.
        requests_per_second: of one member on one device, from the median chunk, so that compilation is not in it; NaN
            where nothing was left to train.
        failed: index of a member whose loss was not finite -> one line that says when.
    """

    states: TrainState
    steps: list[int]
    requests_per_second: float
    failed: dict[int, str]


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
    stop: Callable[[], bool] = lambda: False,
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
        stop: asked after each chunk, on all processes alike; where it says True everything is saved first.

    Returns:
        The last states, or the best ones by validation. A member whose loss was not finite is frozen and named in
        `failed`; the others go on.

    Raises:
        Diverged: where no member has a finite loss left; the states before are kept.
        UserError: on bad placement.
        Stopped: where `stop` said so.
    """
    if program is None:  # one that is given has the featurisation of the source as it is
        source = placed(source, config.resident)
    seeds = sorted({member.seed for member in members})
    # shapes only; a chunk like all others, so that no other program is compiled for it
    sample = jax.tree.map(lambda leaf: leaf[0, 0], own_rows(source)(seeds, 0, config.chunk_steps))
    program = program or Program(method, source.featurise, placement, config.tables, config.members)
    run = Run(program, source, members, config, placement, seeds, sample, warn)
    books = [Checkpoints(member.directory / "checkpoints") for member in members]
    logs: list[Logbook] = []
    try:
        states, first = run.restore(books)
        for member, book in zip(members, books, strict=True):
            book.drop_after(first)
            logs.append(Logbook(member.directory, first, config.tensorboard))
        states = run.advance(states, first, books, logs, report, validate, stop)
        for book in books:
            book.wait()
        if not config.validate_every or validate is None:
            return Trained(run.to_evaluate(states), [config.steps] * len(members), run.requests_per_second, run.failed)
        best = [book.best_step or 0 for book in books]
        like = run.blank()
        trees = [book.load(step, like) for book, step in zip(books, best, strict=True)]
        return Trained(run.to_evaluate(to_state(stacked(trees))), best, run.requests_per_second, run.failed)
    finally:
        for log in logs:
            log.close()
        for book in books:
            book.close()
