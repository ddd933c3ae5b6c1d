"""A plan: the work of every device for one request, and the client's inputs and outputs.

The simulator prices it, the exporter cuts weights by it, and the workers execute it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from sepnas.plan.operators import Operator
from sepnas.plan.segment_node import SegmentNode
from sepnas.plan.shapes import Range, Region, Shape
from sepnas.plan.steps import CLIENT, Compute, Recv, Send, Step
from sepnas.plan.wire import FRAME_HEADER_BYTES, IMAGE_FORMATS, UNCONVERTED, AnyFormat, payload_bytes


@dataclass(frozen=True, slots=True)
class WeightSlice:
    """A region of one of the network's tensors, named by layer, so that several plans share one file of weights."""

    name: str
    region: Region

    def stored(self, dims: tuple[int, ...]) -> str:
        """Its name in a device's file: that of the tensor, which has sizes ``dims``, with the ranges of a part."""
        if self.region.dims == dims:
            return self.name
        return f"{self.name}[{','.join(f'{start}:{stop}' for start, stop in self.region.ranges)}]"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of one device's network: consecutive ``layers`` that need no other input while they run.

    ``inputs`` and ``outputs`` name the tensors of its graph, in the order in which a step binds them. ``flops`` and
    ``activation_bytes`` (the peak while it runs, fp32) are for one sample; ``num_kernels`` counts its convolutions and
    matrix products; ``operators`` lists these and all others in execution order. ``weights`` are the tensors it needs.
    ``nodes`` are its graph, in execution order, if it is a part of a traced network; otherwise its layers say it all.
    """

    # hashed on the search's hot path: fields that follow from the layers are excluded from the hash
    name: str
    device: int
    layers: tuple[str, ...]
    flops: int
    num_kernels: int
    weight_bytes: int
    activation_bytes: int
    operators: tuple[Operator, ...] = field(default=(), hash=False)
    weights: tuple[WeightSlice, ...] = field(default=(), hash=False)
    inputs: tuple[str, ...] = field(default=("x",), hash=False)
    outputs: tuple[str, ...] = field(default=("y",), hash=False)
    nodes: tuple[SegmentNode, ...] = field(default=(), hash=False)


@dataclass(frozen=True, slots=True)
class Piece:
    """A region of an input or output, and the message that carries it between the client and ``device``."""

    region: Region
    device: int
    tag: int
    wire: AnyFormat = UNCONVERTED


@dataclass(frozen=True, slots=True)
class Port:
    """A tensor that the client sends or receives: its shape for one sample, and the pieces in which it travels.

    ``fallbacks`` of an output are messages between devices, each a whole output computed by its sender alone: a client
    that tolerates losses may ask for them if an answering device is lost.
    """

    name: str
    shape: Shape
    pieces: tuple[Piece, ...]
    fallbacks: tuple[Piece, ...] = ()

    @staticmethod
    def whole(name: str, shape: Shape, *ways: tuple[int, int], wire: AnyFormat = UNCONVERTED) -> Port:
        """A whole tensor in one message for each ``(device, tag)``."""
        return Port(name, shape, tuple([Piece(Region.whole(shape), device, tag, wire) for device, tag in ways]))

    def channels(self, piece: Piece) -> Range:
        """The channels of a piece."""
        return piece.region.ranges[self.shape.axes.index("C")]

    def normalisation(self, piece: Piece) -> str | None:
        """The name of the numbers by which a device normalises a piece of an image; None for other pieces."""
        if piece.wire not in IMAGE_FORMATS:
            return None
        start, stop = self.channels(piece)
        part = "" if (start, stop) == (0, self.shape.size("C")) else f":{start}-{stop}"
        return f"normalise:{self.name}{part}"


@dataclass(frozen=True, slots=True)
class Message:
    """One transfer of a plan, with its source and destination.

    ``scale`` is that of :class:`Send`. ``normalisation`` names the mean and standard deviation of each channel by which
    the receiver normalises an image.
    """

    tag: int
    source: int
    destination: int
    tensor: str
    shape: Shape
    wire: AnyFormat
    scale: str | None = None
    normalisation: str | None = None

    def payload_bytes(self, batch: int = 1) -> int:
        return payload_bytes(self.shape.num_values, self.wire, batch, self.scale is not None)

    def wire_bytes(self, batch: int = 1) -> int:
        return self.payload_bytes(batch) + FRAME_HEADER_BYTES

    def sample_sizes(self) -> tuple[int, ...]:
        """Payload bytes of one sample, in each form in which the message may come."""
        forms = dict.fromkeys((self, self.sent_as(normalised=True)))
        return tuple(form.payload_bytes() for form in forms)

    def sent_as(self, normalised: bool) -> Message:
        """The message as it comes in one request: an image that the user has ``normalised`` comes in fp32."""
        if not normalised or self.normalisation is None:
            return self
        return replace(self, wire=UNCONVERTED, normalisation=None)


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of each device for one request.

    Tags rise along every dependency: no message depends on one with a higher tag.

    Attributes:
        programs: for each rank, its steps in order; empty for a device that the outputs do not need.
        segments: each rank's segments by name.
        shapes: each rank's tensors: the shape of one sample by name.
        inputs: the tensors that the client sends, and their destinations.
        outputs: the tensors that the devices answer with.
        tensors_bytes: peak bytes of each device's tensors and buffers for one sample, if known.
        even: whether all devices are known to do equal work, because their parts are alike.
    """

    programs: tuple[tuple[Step, ...], ...]
    segments: tuple[Mapping[str, Segment], ...]
    shapes: tuple[Mapping[str, Shape], ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    tensors_bytes: tuple[int, ...] | None = field(default=None, repr=False, compare=False)
    even: bool = field(default=False, repr=False, compare=False)

    @property
    def num_devices(self) -> int:
        return len(self.programs)

    @property
    def answering(self) -> tuple[int, ...]:
        """The ranks that send the client an output."""
        return tuple(dict.fromkeys(piece.device for port in self.outputs for piece in port.pieces))

    def messages(self) -> Iterator[Message]:
        """Every message, including those from and to the client (rank ``CLIENT``)."""
        pieces = {piece.tag: (port, piece) for port in self.inputs for piece in port.pieces}
        for rank, program in enumerate(self.programs):
            for step in program:
                if isinstance(step, Send):
                    shape = step.region.shape(self.shapes[rank][step.tensor])
                    yield Message(step.tag, rank, step.to, step.tensor, shape, step.wire, step.scale)
                elif isinstance(step, Recv) and step.source == CLIENT:
                    port, piece = pieces[step.tag]
                    yield Message(
                        step.tag, CLIENT, rank, step.tensor, self.shapes[rank][step.tensor], piece.wire,
                        normalisation=port.normalisation(piece),
                    )  # fmt: skip

    def transfers(self) -> list[Message]:
        """The messages between devices, which ``payload_bytes`` counts."""
        return [m for m in self.messages() if CLIENT not in (m.source, m.destination)]

    def payload_bytes(self, batch: int = 1) -> int:
        """Bytes of tensors sent between devices for one request."""
        return sum(m.payload_bytes(batch) for m in self.transfers())

    def input_bytes(self, batch: int = 1) -> int:
        """Bytes that the client sends to the devices for one request, without frame headers."""
        return sum(m.payload_bytes(batch) for m in self.messages() if m.source == CLIENT)

    def output_bytes(self, batch: int = 1) -> int:
        """Bytes that the devices answer with, without frame headers; fallbacks are not counted."""
        return sum(m.payload_bytes(batch) for m in self.messages() if m.destination == CLIENT)

    def total_bytes(self, batch: int = 1) -> int:
        """Bytes of all messages of one request: between devices, the input and the output, without frame headers."""
        return sum(m.payload_bytes(batch) for m in self.messages())

    def elements(self) -> int:
        """The number of values sent between devices for one image, in any format."""
        return sum(m.shape.num_values for m in self.transfers())

    def wire_bytes(self, batch: int = 1) -> int:
        """As :meth:`payload_bytes`, plus the frame headers."""
        return sum(m.wire_bytes(batch) for m in self.transfers())

    def num_segments(self) -> int:
        return sum(isinstance(s, Compute) for program in self.programs for s in program)
