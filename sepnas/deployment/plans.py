"""The plans of a deployment: what its client knows of each, and each device's part of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import Self

from sepnas.errors import SpecError
from sepnas.plan.data import (
    MessageData,
    PieceData,
    PortData,
    SegmentName,
    ShapeData,
    StepData,
    Tag,
    WithoutDefaults,
)
from sepnas.plan.serial import shape_from_data
from sepnas.plan.shapes import Region, cover_problem
from sepnas.spec.document import Part, short
from sepnas.spec.figures import Index, Sha256

DEFAULT_PLAN = "default"
"""The plan of the run's own policy; requests that name no plan use the deployment's first one."""
MAX_PLANS = 16
MAX_PLAN_NAME = 64
PLAN_NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
PlanName = Annotated[str, Field(max_length=MAX_PLAN_NAME, pattern=PLAN_NAME_PATTERN)]
"""Also used in file names."""

_T = TypeVar("_T")


def _distinct(plans: Mapping[str, _T]) -> Mapping[str, _T]:
    if len({name.lower() for name in plans}) < len(plans):
        raise ValueError("must have names that differ in more than upper and lower case")
    return plans


ByPlan = Annotated[dict[PlanName, _T], Field(min_length=1, max_length=MAX_PLANS), AfterValidator(_distinct)]


def check_new_names(names: Iterable[str]) -> None:
    """Raise :class:`SpecError` for names of plans beside the default one that a deployment may not have."""
    check_names(names, (DEFAULT_PLAN,))


def check_names(names: Iterable[str], known: Iterable[str] = ()) -> None:
    """Raise :class:`SpecError` for names of plans that a deployment with the ``known`` ones may not have."""
    taken = {name.lower() for name in known}
    for name in names:
        if len(name) > MAX_PLAN_NAME or not re.fullmatch(PLAN_NAME_PATTERN[1:-1], name, re.ASCII):
            raise SpecError(
                f"plan {short(name)}: a plan's name has 1 to {MAX_PLAN_NAME} letters, digits, '-', '_' or '.', and "
                "begins with a letter, a digit or '_'"
            )
        if name.lower() in taken:
            why = "is reserved for the run's own plan" if name.lower() in known else "is used twice"
            raise SpecError(f"plan {short(name)}: this name {why} (case does not matter); choose another name")
        taken.add(name.lower())
    if len(taken) > MAX_PLANS:
        raise SpecError(f"a deployment has at most {MAX_PLANS} plans, the run's own included; got {len(taken)}")


def plan_file(name: str) -> str:
    """The plan's document, in the deployment's folder."""
    return f"plans/{name}.json"


def overlay_file(name: str) -> str:
    """The tensors in which a plan differs from ``weights.safetensors``, in a device's folder."""
    return f"weights.{name}.safetensors"


class PlanPorts(Part):
    """What a client knows of a plan.

    ``inputs`` and ``outputs`` say which device receives which region of an input, and answers with which of an output.
    ``payload_bytes`` counts the payload between devices for one sample, without frame headers. ``messages`` are all of
    the plan, including those from and to the client. ``digest`` is that of the plan and of the weights it computes with
    (see :func:`sepnas.deploy.identity.plan_digest`): two ends with equal digests run the same.
    """

    digest: Sha256
    inputs: tuple[PortData, ...]
    outputs: tuple[PortData, ...]
    payload_bytes: Index
    messages: tuple[MessageData, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        by_tag = {message.tag: message for message in self.messages}
        if len(by_tag) < len(self.messages):
            raise ValueError("`messages` must each have a tag of its own")
        self._check_ports(by_tag)
        return self

    def _check_ports(self, messages: Mapping[int, MessageData]) -> None:
        """Check that the client's messages match the ports, and that each fallback's message comes from its device."""
        ways = {m.tag: (m.source, m.destination) for m in self.messages if -1 in (m.source, m.destination)}
        told = {piece.tag: (-1, piece.device) for port in self.inputs for piece in port.pieces}
        told |= {piece.tag: (piece.device, -1) for port in self.outputs for piece in port.pieces}
        if ways != told:
            raise ValueError("`messages` must be those that `inputs` and `outputs` list to and from the client")
        for port in (*self.inputs, *self.outputs):
            for piece in (*port.pieces, *port.fallbacks):
                self._check_piece(port, piece, messages.get(piece.tag))
        for port in self.outputs:
            problem = cover_problem(shape_from_data(port.shape), [Region(piece.region) for piece in port.pieces])
            if problem:
                raise ValueError(f"the pieces of output '{port.name}' {problem}")

    def _check_piece(self, port: PortData, piece: PieceData, message: MessageData | None) -> None:
        dims = tuple(stop - start for start, stop in piece.region)
        inside = len(piece.region) == len(port.shape.dims) and all(
            start < stop <= size for (start, stop), size in zip(piece.region, port.shape.dims, strict=True)
        )
        fits = message is not None and inside and (message.shape.dims, message.wire) == (dims, piece.wire)
        if message is None or not fits or message.scale is not None:
            raise ValueError(f"`messages` must hold {piece.tag}, a piece of '{port.name}', in its shape and format")
        if piece in port.fallbacks and (message.source != piece.device or dims != port.shape.dims):
            raise ValueError(
                f"fallback {piece.tag} must be a message from device {piece.device} with all of output '{port.name}'"
            )

    @property
    def working(self) -> tuple[int, ...]:
        """The ranks that take part in a request: those that send or receive a message."""
        return ends_of(self.messages)


class ShardPlan(WithoutDefaults):
    """One device's part of a plan: its steps, tensor shapes, and the messages that it sends or receives.

    ``digest`` is that of :class:`PlanPorts`. ``fallbacks`` are the tags of messages to a peer that the client may
    request as an output. ``aliases`` name the shard's segment for each of the plan's whose name another plan has for
    something else.
    """

    digest: Sha256
    program: tuple[StepData, ...]
    shapes: dict[str, ShapeData]
    messages: tuple[MessageData, ...]
    fallbacks: tuple[Tag, ...] = ()
    aliases: dict[SegmentName, SegmentName] = Field(default_factory=dict)

    def segment(self, name: str) -> str:
        """The shard's segment that a step of the plan calls by this name."""
        return self.aliases.get(name, name)


def ends_of(messages: Iterable[MessageData]) -> tuple[int, ...]:
    """The ranks of the devices that send or receive one of the messages."""
    ends = {rank for message in messages for rank in (message.source, message.destination)}
    return tuple(sorted(ends - {-1}))
