"""What two ends of a connection say to each other: one class for each kind of frame.

A frame is a header of 16 bytes (big-endian) and a body::

    magic "SN" (2) | protocol version (1) | kind (1) | tag (4) | request (4) | body length (4)

The body of :class:`Data` is the payload of one message; every other body is a small JSON object.
:class:`Hello` and :class:`Refused` keep their form in all versions, so that any two versions understand why
they do not work together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from sepnas.deployment.manifest import OnMissing
from sepnas.deployment.plans import DEFAULT_PLAN, MAX_PLAN_NAME, MAX_PLANS

PROTOCOL_VERSION = 5

U32 = Annotated[int, Field(ge=0, lt=1 << 32)]
Rank = Annotated[int, Field(ge=-1, lt=1 << 16)]
Text = Annotated[str, Field(max_length=4000)]
Nanoseconds = Annotated[int, Field(ge=0, lt=1 << 63)]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
PlanText = Annotated[str, Field(max_length=MAX_PLAN_NAME)]
"""A plan's name as a peer says it; whether there is such a plan is not the parser's to say."""
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ErrorCode = Literal["deadline", "peer-lost", "peer-unreachable", "handshake", "compute", "protocol", "plan"]
FailureCode = Literal["deadline", "peer-lost", "compute", "protocol", "cancelled"]
"""How a request fails on a device; ``cancelled``: its client waits for it no more."""
RefusalCode = Literal["version", "deployment", "rank", "busy", "session", "certificate", "purpose"]
SESSION, STATUS = "session", "status"
"""What a dialer may come for: to take part in a session, or (the client) to ask how the device is."""


class Control(BaseModel):
    """A frame whose body is JSON; ``request`` in the header is 0."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Hello(Control):
    """The dialer's first frame. ``rank`` is -1 for the client; ``session`` is the name that the client gave it.

    ``purpose`` is :data:`SESSION` or :data:`STATUS`; an unknown one of another version can still be read and refused.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    protocol: U32 = PROTOCOL_VERSION
    deployment_id: Text
    rank: Rank
    session: Annotated[str, Field(max_length=64)]
    purpose: Annotated[str, Field(max_length=64)] = SESSION


class Welcome(Control):
    """The listener is ``rank`` of the same deployment."""

    rank: Rank


class Refused(Control):
    """The listener does not talk to this dialer; the connection ends."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    code: RefusalCode
    reason: Text


class Setup(Control):
    """From the client: where each peer listens, how long connecting may take, and whether the session goes on without a
    peer that is lost and a request without a message that is late (``degrade``).

    ``rejoin``: the others are in the session already; this device dials all that are named here, and needs no other.
    ``plans``: the digests of the plans that requests may name; none: all that the device has.
    """

    peers: Annotated[Mapping[str, Annotated[str, Field(max_length=300)]], Field(max_length=4096)]
    deadline_ms: U32
    on_missing: OnMissing = "strict"
    rejoin: bool = False
    plans: Annotated[Mapping[PlanText, Annotated[str, Field(max_length=64)]], Field(max_length=MAX_PLANS)] = {}


class Ready(Control):
    """To the client: all peers are connected."""


class Request(Control):
    """From the client: run the program of ``plan`` once on ``batch`` samples, every wait within ``deadline_ms``.

    The devices ``without`` take no part: nothing is sent to them, and nothing of them is waited for. ``normalised``:
    images come as normalised fp32 values instead of bytes.
    """

    request: U32
    batch: Annotated[int, Field(ge=1, lt=1 << 32)]
    deadline_ms: U32
    without: Annotated[tuple[Rank, ...], Field(max_length=4096)] = ()
    plan: PlanText = DEFAULT_PLAN
    normalised: bool = False


class Cancel(Control):
    """From the client: nobody waits for ``request`` any more."""

    request: U32


class Recall(Control):
    """From the client: message ``tag`` of ``request``, an output that this device computed alone and sent to a peer."""

    request: U32
    tag: U32


class Missed(Control):
    """Device ``rank`` went on with ``request`` without message ``tag`` from ``source``."""

    request: U32
    rank: Rank
    source: Rank
    tag: U32


class Failed(Control):
    """A device could not do ``request`` (0: none in particular), at ``step`` of its program."""

    code: ErrorCode
    rank: Rank
    request: U32 = 0
    step: U32 | None = None
    waiting_for: Rank | None = None
    message: Text


class Ping(Control):
    """``sent_ns`` is the clock of the sender, which comes back unread."""

    sent_ns: Nanoseconds


class Pong(Control):
    sent_ns: Nanoseconds
    clock_ns: Nanoseconds


class Ask(Control):
    """From the client, answered after all requests before it: the last ``last`` request traces, or counters.

    ``number`` comes back in the :class:`DeviceReport`: an answer that came too late is not taken for the next one.
    """

    what: Literal["trace", "counters"]
    number: U32 = 0
    last: U32 = 0


class DeviceReport(Control):
    """To the client: the answer to an :class:`Ask`."""

    model_config = ConfigDict(ser_json_inf_nan="constants")  # so that they arrive as what they are, not as null

    what: Literal["trace", "counters"]
    number: U32 = 0
    data: dict[str, Any]


class Inspect(Control):
    """From a client that came for the status: how is the device? It may ask again, until it says Bye."""


class SessionNow(BaseModel):
    """The session that is served: how its name begins, and how long it is open."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(max_length=64)]
    open_s: Amount


class Status(Control):
    """How a device is; None where its system does not tell.

    ``served`` requests went through its program, ``failed`` ones did not, by :data:`FailureCode`, and ``missed``
    messages were done without; all since the worker was started.
    """

    rank: Rank
    version: Annotated[str, Field(max_length=64)]
    engine: Annotated[str, Field(max_length=64)]
    uptime_s: Amount
    served: Count
    failed: Annotated[Mapping[FailureCode, Count], Field(max_length=16)]
    missed: Count
    session: SessionNow | None = None
    temperature_c: Annotated[float, Field(ge=-274, le=10_000)] | None = None
    load: Amount | None = None
    memory_bytes: Count | None = None


class Bye(Control):
    """The speaker's last frame."""


@dataclass(slots=True)  # not frozen, which would make making them twice as long
class Data:
    """The payload of message ``tag`` of ``request``: ``bytes``, ``bytearray`` or a contiguous ``memoryview``.

    ``arrived_ns`` (``time.monotonic_ns``) is for one that came over an emulated link: when it would have come there.
    """

    request: int
    tag: int
    payload: bytes | bytearray | memoryview
    arrived_ns: int | None = None


@dataclass(slots=True)
class PartialData(Data):
    """A message into which something did not go that was due: its sender missed it, or got such a message itself."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The peer closed the connection; ``cleanly`` when it said so before."""

    cleanly: bool


Event: TypeAlias = Control | Data | Closed

KINDS: dict[type[Control] | type[Data], int] = {
    Hello: 1,
    Welcome: 2,
    Refused: 3,
    Setup: 4,
    Ready: 5,
    Request: 6,
    Data: 7,
    Failed: 8,
    Cancel: 9,
    Ping: 10,
    Pong: 11,
    Ask: 12,
    DeviceReport: 13,
    Bye: 14,
    PartialData: 15,
    Missed: 16,
    Recall: 17,
    Inspect: 18,
    Status: 19,
}
"""The number of each kind of frame. :class:`Closed` is no frame: it is the end of the bytes."""
