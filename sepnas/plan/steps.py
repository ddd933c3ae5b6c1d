"""The instruction set: the steps that a device carries out, in order, to answer one request.

Steps are immutable and independent of torch; tensors are named, and names are local to a device. Every step lists
the tensors that it ``reads`` and ``writes``, so that consumers need not know every kind of step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from sepnas.plan.shapes import Region
from sepnas.plan.wire import WireFormat

CLIENT = -1
"""The rank of the client: it sends the inputs to the devices and receives the outputs."""


@dataclass(frozen=True, slots=True)
class Compute:
    """Run ``segment``; its named inputs and outputs are bound to ``inputs`` and ``outputs`` in the segment's order."""

    segment: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        return self.inputs

    @property
    def writes(self) -> tuple[str, ...]:
        return self.outputs


@dataclass(frozen=True, slots=True)
class Slice:
    """``output`` is a view of a region of ``tensor``; nothing is copied."""

    tensor: str
    region: Region
    output: str

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.tensor,)

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.output,)


@dataclass(frozen=True, slots=True)
class Send:
    """Post a region of ``tensor`` to rank ``to``; never waits for the peer.

    ``scale`` names the device's number that holds the learned step between two levels; None if it is not learned.
    """

    tensor: str
    region: Region
    wire: WireFormat
    to: int
    tag: int
    scale: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.tensor,)

    @property
    def writes(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Recv:
    """Wait for message ``tag`` from rank ``source`` and store it as ``tensor``."""

    tag: int
    source: int
    tensor: str

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.tensor,)


@dataclass(frozen=True, slots=True)
class Merge:
    """Join ``inputs`` into ``output``; the kinds are defined in :mod:`sepnas.plan.merges`.

    ``axis`` is the axis along which the kind works, ``parameter`` names the numbers of a learned kind, and
    ``offsets`` places each input of ``assemble`` in the output: one number per axis.
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    parameter: str | None = None
    axis: str = "C"
    offsets: tuple[tuple[int, ...], ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        return self.inputs

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.output,)


Step: TypeAlias = Compute | Slice | Send | Recv | Merge
StepKind = Literal["compute", "slice", "send", "recv", "merge"]


def describe_step(step: Step) -> tuple[StepKind, str, int | None, int | None]:
    """A step as shown in traces and time lines: kind; segment or tensor; a message's peer and tag."""
    if isinstance(step, Compute):
        return "compute", step.segment, None, None
    if isinstance(step, Send):
        return "send", step.tensor, step.to, step.tag
    if isinstance(step, Recv):
        return "recv", step.tensor, step.source, step.tag
    return "merge" if isinstance(step, Merge) else "slice", step.output, None, None
