"""The instruction set: what a device does, in order, to answer one request.

A :class:`Plan` is what the simulator prices, the shard writer cuts by and the workers run.
Steps are immutable and know nothing of torch; tensors are named, and names are local to a device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from sepnas.plan.wire import FRAME_HEADER_BYTES, WireFormat, payload_bytes
from sepnas.spec.device_profile import OperatorKind

CLIENT = -1
"""The rank of the client: it sends the input to every device and receives the answer."""

MergeKind = Literal["mean", "weighted", "sum", "concat", "paste"]


@dataclass(frozen=True, slots=True)
class Shape:
    """One sample of a tensor: channels, height, width (a vector is ``channels x 1 x 1``)."""

    channels: int
    height: int = 1
    width: int = 1
    num_values: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # kept, for a search asks for it more often than it makes a shape
        object.__setattr__(self, "num_values", self.channels * self.height * self.width)


@dataclass(frozen=True, slots=True)
class Region:
    """A channel range and a row range of a tensor; ``stop`` is exclusive, all columns belong."""

    channels: tuple[int, int]
    rows: tuple[int, int]

    @classmethod
    def whole(cls, shape: Shape) -> Region:
        return cls((0, shape.channels), (0, shape.height))

    def shape(self, of: Shape) -> Shape:
        """The shape of this region of a tensor of shape ``of``."""
        return Shape(self.channels[1] - self.channels[0], self.rows[1] - self.rows[0], of.width)


@dataclass(frozen=True, slots=True)
class Compute:
    """Run ``segment`` on ``inputs``; needs nothing from outside the device."""

    segment: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, slots=True)
class Send:
    """Post a region of ``tensor`` to rank ``to``; never waits for the peer.

    ``scale`` names the number of the device's tensors that is the step between two levels, where it was learned.
    """

    tensor: str
    region: Region
    wire: WireFormat
    to: int
    tag: int
    scale: str | None = None


@dataclass(frozen=True, slots=True)
class Recv:
    """Wait for message ``tag`` from rank ``source`` and call it ``tensor``."""

    tag: int
    source: int
    tensor: str


@dataclass(frozen=True, slots=True)
class Merge:
    """Join ``inputs`` into ``output``.

    ``mean`` and ``weighted`` keep the shape of ``inputs[0]`` (the device's own tensor); the others may
    hold fewer channels, a prefix, and touch only those. Per channel ``mean`` divides by the number of
    inputs that hold it; ``weighted`` is ``own + sum_j a_j * (input_j - own)`` with the numbers ``a`` of
    the device's tensor ``parameter``. ``sum``, ``concat`` (of channels) and ``paste`` (of rows) serve exact splits.
    """

    kind: MergeKind
    inputs: tuple[str, ...]
    output: str
    parameter: str | None = None


Step: TypeAlias = Compute | Send | Recv | Merge
StepKind = Literal["compute", "send", "recv", "merge"]


def describe_step(step: Step) -> tuple[StepKind, str, int | None, int | None]:
    """What a step is called in traces and time lines: kind; segment or tensor; a message's peer and tag."""
    if isinstance(step, Compute):
        return "compute", step.segment, None, None
    if isinstance(step, Send):
        return "send", step.tensor, step.to, step.tag
    if isinstance(step, Recv):
        return "recv", step.tensor, step.source, step.tag
    return "merge", step.output, None, None


@dataclass(frozen=True, slots=True)
class Operator:
    """What an engine computes at one go, for one sample: the unit that a device is measured in.

    ``conv`` has its batch norm and its activation in it, ``linear`` its bias; ``add`` is the residual's addition with
    its activation; ``pool`` is the mean over windows of ``kernel`` (a global one: the side of its input, which is then
    its ``stride`` too). ``height`` and ``width`` are those of the output.
    """

    kind: OperatorKind
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    height: int = 1
    width: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates; elementwise operators and means have none."""
        if self.kind in ("add", "pool"):
            return 0
        return self.num_weights * self.height * self.width

    @property
    def num_weights(self) -> int:
        """Weights without biases."""
        if self.kind in ("add", "pool"):
            return 0
        return self.in_channels * self.out_channels * self.kernel**2 // self.groups

    @property
    def input_values(self) -> int:
        """Numbers of one input; a side is taken as stride times the output's."""
        return self.in_channels * self.height * self.width * self.stride**2

    @property
    def output_values(self) -> int:
        return self.out_channels * self.height * self.width

    @property
    def values_moved(self) -> int:
        """Numbers that are read or written: inputs, output, weights."""
        inputs = self.input_values * (2 if self.kind == "add" else 1)
        biases = self.out_channels if self.num_weights else 0
        return inputs + self.output_values + self.num_weights + biases


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of one device's network: consecutive ``layers`` that need nothing from outside.

    ``flops`` and ``activation_bytes`` (the peak while it runs, fp32) are for one sample; ``num_kernels`` counts
    its convolutions and matrix products, ``operators`` are these and all others in the order in which they run.
    """

    name: str
    device: int
    layers: tuple[str, ...]
    flops: int
    num_kernels: int
    weight_bytes: int
    activation_bytes: int
    operators: tuple[Operator, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Message:
    """One transfer of a plan, seen from outside: who sends what to whom; ``scale`` is that of :class:`Send`."""

    tag: int
    source: int
    destination: int
    tensor: str
    shape: Shape
    wire: WireFormat
    scale: str | None = None

    def payload_bytes(self, batch: int = 1) -> int:
        return payload_bytes(self.shape.num_values, self.wire, batch, self.scale is not None)

    def wire_bytes(self, batch: int = 1) -> int:
        return self.payload_bytes(batch) + FRAME_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class Plan:
    """What each device does for one request.

    Tags rise along every dependency: no message depends on one of a higher tag.

    Attributes:
        programs: for each rank its steps in order; empty for a device that the answer does not need.
        segments: each rank's segments by name.
        shapes: each rank's tensors: name to the shape of one sample.
        answer: the shape of the answer that ``reader`` sends to the client.
        reader: the rank that holds the answer.
        even: whether all devices are known to compute the same: their parts are alike.
    """

    programs: tuple[tuple[Step, ...], ...]
    segments: tuple[Mapping[str, Segment], ...]
    shapes: tuple[Mapping[str, Shape], ...]
    reader: int
    answer: Shape = field(default_factory=lambda: Shape(1))
    tensors_bytes: tuple[int, ...] | None = field(default=None, repr=False, compare=False)
    even: bool = field(default=False, repr=False, compare=False)

    @property
    def num_devices(self) -> int:
        return len(self.programs)

    def messages(self) -> Iterator[Message]:
        """Every message, also those from and to the client (rank ``CLIENT``)."""
        for rank, program in enumerate(self.programs):
            for step in program:
                if isinstance(step, Send):
                    shape = step.region.shape(self.shapes[rank][step.tensor])
                    yield Message(step.tag, rank, step.to, step.tensor, shape, step.wire, step.scale)
                elif isinstance(step, Recv) and step.source == CLIENT:
                    shape = self.shapes[rank][step.tensor]
                    yield Message(step.tag, CLIENT, rank, step.tensor, shape, "fp32")

    def transfers(self) -> list[Message]:
        """The messages between devices: what ``payload_bytes`` counts."""
        return [m for m in self.messages() if CLIENT not in (m.source, m.destination)]

    def payload_bytes(self, batch: int = 1) -> int:
        """Bytes of tensors that cross between devices for one request."""
        return sum(m.payload_bytes(batch) for m in self.transfers())

    def elements(self) -> int:
        """The numbers that cross between devices for one image, in whatever format."""
        return sum(m.shape.num_values for m in self.transfers())

    def wire_bytes(self, batch: int = 1) -> int:
        """The same with the frame headers."""
        return sum(m.wire_bytes(batch) for m in self.transfers())

    def num_segments(self) -> int:
        return sum(isinstance(s, Compute) for program in self.programs for s in program)
