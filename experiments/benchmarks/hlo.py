"""Collectives of a compiled program: what is sent, by kind and by the devices that take part.

Reads the text of an optimized program as `compiled.as_text()` gives it.
"""

import math
import re
from dataclasses import dataclass

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "bf16": 16, "tf32": 32, **{f"{kind}{bits}": bits for kind in "suf" for bits in (8, 16, 32, 64)}}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_LINE = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(KINDS)})(-start)?\(")
_LISTED = re.compile(r"replica_groups=\{(?:\{([\d,]*)\}.*?)?\}")
_COUNTED = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=")


@dataclass(frozen=True)
class Collective:
    """One collective as a device sees it.

    Attributes:
        kind: one of KINDS.
        group: devices that take part together; 0 stands for all of the program.
        payload: bytes of the whole array: what is summed, or what is there after a gather or before a scatter.
    """

    kind: str
    group: int
    payload: int

    def wire(self, devices: int) -> float:
        """Bytes that a device sends by ring algorithms, of `devices` in all."""
        return wire(self.kind, self.payload, self.group or devices)


def wire(kind: str, payload: float, group: int) -> float:
    """Bytes that each device of a ring of `group` sends.

    A sum is a scatter of sums and a gather of them, and each of these sends every part but the device's own.

    >>> wire("all-reduce", 800.0, 4), wire("all-gather", 800.0, 4), wire("all-reduce", 800.0, 1)
    (1200.0, 600.0, 0.0)

    """
    if kind == "collective-permute":
        return payload if group > 1 else 0.0
    passes = 2 if kind == "all-reduce" else 1
    return passes * payload * (group - 1) / group


def size_of(types: str) -> int:
    """Bytes of an array type of HLO or a tuple of them.

    >>> size_of("f32[20,16]{1,0}"), size_of("(s32[8]{0}, pred[3]{0}, f32[])")
    (1280, 39)

    """
    total = 0
    for name, shape in _ARRAY.findall(types):
        if name not in _BITS:
            raise ValueError(f"type {name} of {types} is unknown")
        total += math.prod(int(n) for n in shape.split(",") if n) * _BITS[name] // 8
    return total


def collectives(text: str) -> list[Collective]:
    """The collectives that one run of a program executes.

    Args:
        text: of the program.

    Raises:
        ValueError: for one outside the entry, since how often it runs is unknown, or an asynchronous one, which the
            compiler of the CPU does not write.
    """
    found, entry = [], False
    for line in text.splitlines():
        if not line.startswith(" "):
            entry = line.startswith("ENTRY")
        match = _LINE.search(line)
        if match is None:
            continue
        types, kind, start = match.groups()
        if start or not entry:
            where = "asynchronous" if start else "in a loop or a branch"
            raise ValueError(f"a collective is {where}: {line.strip()[:120]}")
        group = _group(line)
        size = size_of(types)
        if kind == "reduce-scatter":
            if not group:
                raise ValueError(f"a reduce-scatter without groups: {line.strip()[:120]}")
            size *= group
        found.append(Collective(kind, group, size))
    return found


def _group(line: str) -> int:
    """Devices in a group; 0 for all. Permutations name pairs, and are taken to move everywhere."""
    if counted := _COUNTED.search(line):
        return int(counted.group(2))
    if (listed := _LISTED.search(line)) and listed.group(1):
        return len(listed.group(1).split(","))
    return 0
