"""The algebra of sweeps: a line of text that names settings to try -> a list of points, each some changed fields.

    hyper.margin=0,0.2,0.5 x hyper.learning_rate=1e-3,3e-3     a grid: every combination
    hyper.margin=0,0.9 & hyper.temperature=1,0.1               zip: the first with the first, the second with the second
    hyper.margin=0,0.2 + hyper.log_q=1                         one after the other
    hyper.margin=uniform(0,1) x hyper.learning_rate=log(1e-4,1e-2)     ranges, drawn at random: give a number of draws
    (train.steps=400 & train.batch=128 + train.steps=800 & train.batch=64) x hyper.margin=0,0.2

`&` binds closest, then `x`, then `+`. A value that is a list stands in brackets: `evaluate.cutoffs=[10,100],[20]`.
"""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from hccp_jax.errors import UserError

Point = dict[str, str]

_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_][\w.]*)\s*=\s*(?P<values>(?:\[[^\]]*\]|\w+\([^()]*\)|[^\s,&+()\[\]]+)"
    r"(?:\s*,\s*(?:\[[^\]]*\]|[^\s,&+()\[\]]+))*)|(?P<mark>[&+()])|(?P<product>x)(?=\s|\())"
)
_RANGE = re.compile(r"(uniform|log|int)\(([^()]*)\)")


@dataclass(frozen=True)
class Range:
    """Numbers between `low` and `high`, drawn evenly, evenly in the logarithm, or whole ones."""

    kind: str
    low: float
    high: float

    def at(self, share: float) -> str:
        """The number that a uniform draw in [0, 1) stands for, as text."""
        if self.kind == "log":
            return self.text(math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low))))
        if self.kind == "int":
            return self.text(int(self.low) + int(share * (int(self.high) - int(self.low) + 1)))
        return self.text(self.low + share * (self.high - self.low))

    def text(self, number: float) -> str:
        """A number of the range as a field's value."""
        return str(int(number)) if self.kind == "int" else f"{number:.6g}"


Cell = dict[str, str | Range]


def parse(text: str) -> list[Cell]:
    """The points of a sweep in its order; a value may still be a `Range`.

    Raises:
        UserError: on text that is no sweep, lists of unequal length in a zip, or a field named twice in one point.

    >>> parse("a=1,2 x b=3,4")
    [{'a': '1', 'b': '3'}, {'a': '1', 'b': '4'}, {'a': '2', 'b': '3'}, {'a': '2', 'b': '4'}]
    >>> parse("a=1,2 & b=3,4 + c=5")
    [{'a': '1', 'b': '3'}, {'a': '2', 'b': '4'}, {'c': '5'}]

    """
    return _Parser(text).whole()


class _Parser:
    """Recursive descent over the tokens of one sweep."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def refuse(self, problem: str) -> NoReturn:
        raise UserError(f"sweep={self.text!r}: {problem}")

    def look(self) -> re.Match | None:
        found = _TOKEN.match(self.text, self.at)
        if found is None and self.text[self.at :].strip():
            self.refuse(f"expected field=value,value at {self.text[self.at :].strip()!r}")
        return found

    def take(self, mark: str) -> bool:
        found = self.look()
        if found is None or (found["mark"] or found["product"]) != mark:
            return False
        self.at = found.end()
        return True

    def whole(self) -> list[Cell]:
        if not self.text.strip():
            self.refuse("expected field=value,value")
        points = self.chain()
        if self.look() is not None:
            self.refuse(f"expected x, & or + at {self.text[self.at :].strip()!r}")
        return points

    def chain(self) -> list[Cell]:
        points = self.product()
        while self.take("+"):
            points = points + self.product()
        return points

    def product(self) -> list[Cell]:
        points = self.zipped()
        while self.take("x"):
            points = [self.join(a, b) for a, b in itertools.product(points, self.zipped())]
        return points

    def zipped(self) -> list[Cell]:
        points = self.factor()
        while self.take("&"):
            other = self.factor()
            if len(points) != len(other):
                self.refuse(f"a zip of {len(points)} and {len(other)} values: expected as many on both sides of &")
            points = [self.join(a, b) for a, b in zip(points, other, strict=True)]
        return points

    def join(self, first: Cell, second: Cell) -> Cell:
        if both := first.keys() & second.keys():
            self.refuse(f"{min(both)} is set twice")
        return first | second

    def factor(self) -> list[Cell]:
        if self.take("("):
            points = self.chain()
            if not self.take(")"):
                self.refuse("expected a closing )")
            return points
        found = self.look()
        if found is None or not found["name"]:
            self.refuse(f"expected field=value,value at {self.text[self.at :].strip()!r}")
        self.at = found.end()
        return [{found["name"]: value} for value in self.values(found["name"], found["values"])]

    def values(self, name: str, text: str) -> list[str | Range]:
        if drawn := _RANGE.fullmatch(text.strip()):
            return [self.range(name, drawn[1], drawn[2])]
        if "(" in text:
            self.refuse(f"{name}={text}: expected uniform, log or int with two bounds")
        return [part.strip().strip("[]") for part in re.findall(r"\[[^\]]*\]|[^,]+", text)]

    def range(self, name: str, kind: str, bounds: str) -> Range:
        try:
            low, high = (float(part) for part in bounds.split(","))
        except ValueError:
            self.refuse(f"{name}={kind}({bounds}): expected two numbers")
        if not (low < high and math.isfinite(high - low)) or (kind == "log" and low <= 0):
            self.refuse(f"{name}={kind}({bounds}): expected two rising numbers{', above 0' if kind == 'log' else ''}")
        return Range(kind, low, high)


def listed(cells: Sequence[Cell]) -> list[Point]:
    """The points of a sweep without ranges, each once.

    Raises:
        UserError: where a value is a range.
    """
    for cell in cells:
        for name, value in cell.items():
            if isinstance(value, Range):
                raise UserError(f"sweep: {name} is a range: give the number of draws by --sweep_draws")
    return _distinct({name: str(value) for name, value in cell.items()} for cell in cells)


def drawn(cells: Sequence[Cell], number: int, seed: int) -> list[Point]:
    """`number` points at random: listed ones without replacement, ranges anew for each draw.

    The first n of more draws are the n draws: a longer sweep keeps what a shorter one has run.

    Args:
        cells: of `parse`.
        number: how many; fewer where no range is left to draw from.
        seed: of the draws.
    """
    return list(itertools.islice(_draws(cells, seed, number), number))


def _draws(cells: Sequence[Cell], seed: int, number: int) -> Iterator[Point]:
    order = np.random.default_rng(seed).permutation(len(cells))
    seen: set[tuple] = set()
    for index in range(number * 20):  # a range of few whole numbers runs out
        random = np.random.default_rng([seed, index])
        cell = cells[order[index % len(cells)]]
        point = {n: v.at(float(random.random())) if isinstance(v, Range) else v for n, v in sorted(cell.items())}
        key = tuple(point.items())
        if key not in seen:
            seen.add(key)
            yield point


def _distinct(points: Iterator[Point]) -> list[Point]:
    return [dict(key) for key in dict.fromkeys(tuple(point.items()) for point in points)]
