"""How the cost of a step grows with the devices when each keeps its number of requests: a closed form by term.

Every term is a + b D of D devices: a is what a device does for its own requests and the parameters, b what it does for
the requests of each other device. Both follow from two compiled programs; other compiled programs check them. The
sizes behind b: in-batch negatives are gathered from everyone, and with updates by rows every device reads and updates
the distinct rows of everyone's batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from experiments.benchmarks.hlo import Collective, wire

ALL, MODEL = "all", "model"


@dataclass(frozen=True)
class Counted:
    """A compiled step, per device.

    Attributes:
        devices: that split the batch.
        flops: operations, loops counted once.
        traffic: bytes that its instructions read and write.
        resident: bytes of state and batch, and of what is set aside.
        collectives: what it sends.
    """

    devices: int
    flops: float
    traffic: float
    resident: float
    collectives: tuple[Collective, ...]

    def payloads(self, model: int) -> dict[tuple[str, str], float]:
        """Bytes by (kind, over whom), where a group smaller than all devices is the model axis."""
        found: dict[tuple[str, str], float] = {}
        for one in self.collectives:
            small = 0 < one.group < self.devices and one.group == model
            key = (one.kind, MODEL if small else ALL)
            found[key] = found.get(key, 0.0) + one.payload
        return found

    @property
    def wire(self) -> float:
        """Bytes that a device sends."""
        return sum(one.wire(self.devices) for one in self.collectives)


@dataclass(frozen=True)
class Line:
    """The term own + other x devices."""

    own: float
    other: float

    def __call__(self, devices: float) -> float:
        """Its value.

        >>> through((2, 10.0), (4, 14.0))(8)
        22.0

        """
        return self.own + self.other * devices


def through(first: tuple[int, float], second: tuple[int, float]) -> Line:
    """The line through two points (devices, value)."""
    slope = (second[1] - first[1]) / (second[0] - first[0])
    return Line(first[1] - slope * first[0], slope)


@dataclass(frozen=True)
class Chip:
    """What a device is assumed to do; nothing here is measured.

    Attributes:
        name: what it is called.
        flops: operations a second.
        memory_bandwidth: bytes a second.
        link_bandwidth: bytes a second that it sends to others.
    """

    name: str
    flops: float
    memory_bandwidth: float
    link_bandwidth: float


@dataclass(frozen=True)
class Prediction:
    """A step on so many devices, in seconds; `step` adds the links to the slower of the other two: no overlap."""

    devices: int
    compute: float
    memory: float
    links: float
    sent: float
    resident: float

    @property
    def step(self) -> float:
        """Seconds."""
        return max(self.compute, self.memory) + self.links


@dataclass(frozen=True)
class CostModel:
    """Terms of a step.

    Attributes:
        model: devices that share the tables.
        flops, traffic, resident: per device.
        payloads: of the collectives, by (kind, over whom).
    """

    model: int
    flops: Line
    traffic: Line
    resident: Line
    payloads: dict[tuple[str, str], Line] = field(default_factory=dict)

    def wire(self, devices: int) -> float:
        """Bytes that a device sends."""
        total = 0.0
        for (kind, over), line in self.payloads.items():
            total += wire(kind, line(devices), self.model if over == MODEL else devices)
        return total

    def predict(self, devices: int, chip: Chip) -> Prediction:
        """The step on a chip."""
        sent = self.wire(devices)
        return Prediction(
            devices,
            self.flops(devices) / chip.flops,
            self.traffic(devices) / chip.memory_bandwidth,
            sent / chip.link_bandwidth,
            sent,
            self.resident(devices),
        )


def fitted(two: Sequence[Counted], model: int) -> CostModel:
    """The model through two compiled programs, both on more devices than share the tables."""
    one, other = two
    payloads = [counted.payloads(model) for counted in two]
    keys = sorted(payloads[0].keys() | payloads[1].keys())

    def line(a: float, b: float) -> Line:
        return through((one.devices, a), (other.devices, b))

    return CostModel(
        model,
        line(one.flops, other.flops),
        line(one.traffic, other.traffic),
        line(one.resident, other.resident),
        {key: line(*(found.get(key, 0.0) for found in payloads)) for key in keys},
    )


def apart(model: CostModel, counted: Counted) -> dict[str, tuple[float, float, float]]:
    """(compiled, by the model, relative difference) of operations, traffic and bytes sent."""
    pairs = {
        "operations": (counted.flops, model.flops(counted.devices)),
        "memory traffic": (counted.traffic, model.traffic(counted.devices)),
        "bytes sent": (counted.wire, model.wire(counted.devices)),
    }
    return {name: (a, b, abs(a - b) / max(abs(a), 1.0)) for name, (a, b) in pairs.items()}
