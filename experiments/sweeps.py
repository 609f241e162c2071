"""A sweep: an experiment whose rows are tried at many settings, each of them a row of its own.

`--sweep='hyper.margin=0,0.2 x hyper.learning_rate=1e-3,3e-3'` tries every row at every point; the algebra is that of
`sweep_space`. Points that differ in traced numbers only share a compiled program, as rows do. What a row fixes stays
fixed: a point that changes nothing about a row is tried once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments import sweep_space
from experiments.experiment import Experiment, Row
from experiments.sweep_space import Point
from hccp_jax import config
from hccp_jax.errors import UserError


@dataclass(frozen=True)
class Tried:
    """A row of a sweep: which row of the experiment, and the fields of the point that it leaves open."""

    row: Row
    of: Row
    point: Point


def points(text: str, file: str, draws: int, seed: int) -> list[Point]:
    """The points that the flags of a sweep ask for.

    Args:
        text: of --sweep.
        file: of --sweep_file: a sweep a line, one after the other; # begins a comment.
        draws: of --sweep_draws; 0 lists all points.
        seed: of --sweep_seed, for the draws.

    Raises:
        UserError: for both a text and a file, a file that cannot be read, or text that is no sweep.
    """
    if text and file:
        raise UserError(f"sweep_file={file}: expected --sweep or --sweep_file, not both")
    cells = sweep_space.parse(text) if text else [cell for line in _lines(file) for cell in sweep_space.parse(line)]
    return sweep_space.drawn(cells, draws, seed) if draws else sweep_space.listed(cells)


def _lines(file: str) -> list[str]:
    try:
        content = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"sweep_file={file}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    lines = [line.partition("#")[0].strip() for line in content.splitlines()]
    if not any(lines):
        raise UserError(f"sweep_file={file}: expected a sweep, such as hyper.margin=0,0.2")
    return [line for line in lines if line]


def tried(rows: Sequence[Row], settings: Any, at: Sequence[Point]) -> list[Tried]:
    """Every trained row at every point, without those that are the same configuration of the same row.

    Raises:
        UserError: for a field that the experiment has not, or a value out of its range.
    """
    found: dict[tuple[str, str], Tried] = {}
    for row in rows:
        if row.reference:
            continue
        for point in at:
            resolved = config.override(config.override(settings, point), row.overrides)
            free = {name: value for name, value in point.items() if name not in row.overrides}
            text = ", ".join(f"{name.rpartition('.')[2]}={value}" for name, value in free.items())
            name = f"{row.name}-{config.digest(config.to_json(resolved))[:8]}"
            one = Row(name, f"{row.label}: {text}" if text else row.label, {**point, **row.overrides})
            found.setdefault((row.name, name), Tried(one, row, free))
    return list(found.values())


def widened(experiment: Experiment, rows: Sequence[Row], over: Sequence[Tried]) -> Experiment:
    """The experiment with the rows of a sweep and the asked references; without claims, which name its own rows."""
    kept = tuple(row for row in rows if row.reference)
    return replace(experiment, rows=(*(one.row for one in over), *kept), claims=(), pictured=_ten(over, kept))


def _ten(over: Sequence[Tried], references: Sequence[Row]) -> tuple[str, ...]:
    """Names of as many rows as the pictures have colours."""
    return tuple(row.name for row in (*(one.row for one in over[: 10 - len(references)]), *references))
