"""The protocol without I/O: bytes in, events out; events in, bytes out. Modelled on h11.

One connection has two sides, the dialer and the listener. What each may say is a table of phases:
:data:`TRANSITIONS`. Breaking it raises :class:`LocalProtocolError` when it was us and
:class:`RemoteProtocolError` when it was the peer. The receive buffer grows by bytes that came, never by
bytes that were announced, and a length is checked as soon as the header is complete.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Collection, Mapping
from typing import Final, TypeAlias

from pydantic import ValidationError

from sepnas.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from sepnas.plan.wire import FRAME_HEADER_BYTES
from sepnas.runtime.memory import max_kept_bytes
from sepnas.runtime.protocol import events
from sepnas.runtime.protocol.events import (
    KINDS,
    PROTOCOL_VERSION,
    Bye,
    Closed,
    Control,
    Data,
    Event,
    Hello,
    PartialData,
    Refused,
)
from sepnas.spec.document import short

MAGIC = b"SN"
HEADER = struct.Struct(">2sBBIII")
assert HEADER.size == FRAME_HEADER_BYTES

MAX_GREETING_BYTES = 8 << 10
MAX_CONTROL_BYTES = 64 << 10
MAX_SETUP_BYTES = 1 << 20
MAX_ANSWER_BYTES = 16 << 20
MAX_VALUES, MAX_ANSWER_VALUES = 16_384, 1_000_000
"""Values in one body, about: each takes up to a hundred times its text in memory."""
MAX_PROBLEMS = 1000
"""A body with more of them gets no list, which would take a hundred times its own memory."""
MAX_BATCH = 4096


class Side(str, enum.Enum):
    """Who of the two speaks. (Strings, for their hashes are quick, and these are looked up for every message.)"""

    DIALER = "dialer"
    LISTENER = "listener"

    @property
    def other(self) -> Side:
        return Side.LISTENER if self is Side.DIALER else Side.DIALER


class Phase(str, enum.Enum):
    """Where a connection stands; a client's goes on to SETTING_UP, or INSPECTING when it came for the status, and one
    between devices to EXCHANGING."""

    START = "start"
    GREETED = "greeted"
    SETTING_UP = "setting up"
    CONNECTING = "connecting"
    SERVING = "serving"
    EXCHANGING = "exchanging"
    INSPECTING = "inspecting"
    OVER = "over"


class NeedData(enum.Enum):
    NEED_DATA = "need data"


NEED_DATA: Final = NeedData.NEED_DATA

SampleBytes: TypeAlias = Mapping[int, int | Collection[int]]
"""Payload bytes of one sample by tag; several where plans differ, and for images, which may come in two forms."""
Table: TypeAlias = Mapping[tuple[Side, type[Control] | type[Data]], Phase]

_D, _L = Side.DIALER, Side.LISTENER
TRANSITIONS: Mapping[Phase, Table] = {
    Phase.START: {(_D, Hello): Phase.GREETED, (_L, Refused): Phase.OVER},
    # Welcome leads to EXCHANGING when the dialer is a device, to INSPECTING when it came for the status: see `_speak`.
    Phase.GREETED: {(_L, events.Welcome): Phase.SETTING_UP, (_L, Refused): Phase.OVER},
    Phase.SETTING_UP: {(_D, events.Setup): Phase.CONNECTING, (_D, Bye): Phase.SETTING_UP, (_L, Bye): Phase.SETTING_UP},
    Phase.CONNECTING: {
        (_L, events.Ready): Phase.SERVING,
        (_L, events.Ping): Phase.CONNECTING,
        (_D, events.Pong): Phase.CONNECTING,
        (_L, events.Failed): Phase.CONNECTING,
        (_D, Bye): Phase.CONNECTING,
        (_L, Bye): Phase.CONNECTING,
    },
    Phase.SERVING: {
        (_D, events.Request): Phase.SERVING,
        (_D, Data): Phase.SERVING,
        (_D, events.Cancel): Phase.SERVING,
        (_D, events.Ping): Phase.SERVING,
        (_D, events.Pong): Phase.SERVING,
        (_D, events.Ask): Phase.SERVING,
        (_D, events.Recall): Phase.SERVING,
        (_D, Bye): Phase.SERVING,
        (_L, Data): Phase.SERVING,
        (_L, PartialData): Phase.SERVING,
        (_L, events.Missed): Phase.SERVING,
        (_L, events.Failed): Phase.SERVING,
        (_L, events.Ping): Phase.SERVING,
        (_L, events.Pong): Phase.SERVING,
        (_L, events.DeviceReport): Phase.SERVING,
        (_L, Bye): Phase.SERVING,
    },
    Phase.EXCHANGING: {(side, kind): Phase.EXCHANGING for side in (_D, _L) for kind in (Data, PartialData, Bye)},
    Phase.INSPECTING: {
        (_D, events.Ping): Phase.INSPECTING,
        (_D, events.Inspect): Phase.INSPECTING,
        (_D, Bye): Phase.INSPECTING,
        (_L, events.Pong): Phase.INSPECTING,
        (_L, events.Status): Phase.INSPECTING,
        (_L, Bye): Phase.INSPECTING,
    },
    Phase.OVER: {},
}
"""For each phase: who may say what, and the phase after it. Who said Bye says nothing more."""

_CLASSES = {number: kind for kind, number in KINDS.items()}


class Connection:
    """The state of one connection as ``side`` sees it.

    Args:
        side: which side we are.
        sample_bytes: what the plans let the peer send: payload bytes of one sample by tag (see :meth:`expect`).
        max_batch: the most samples in one message.
    """

    def __init__(self, side: Side, sample_bytes: SampleBytes | None = None, max_batch: int = MAX_BATCH) -> None:
        self.side = side
        self.phase = Phase.START
        self.expect(sample_bytes or {})
        self._max_batch = max_batch
        self._after_welcome = Phase.SETTING_UP
        self._said_bye: set[Side] = set()
        self._buffer = bytearray()
        self._peer_closed = False
        self._broken: str | None = None
        self._oversized: Data | None = None
        self._to_skip = 0
        self.control_bytes_received = 0

    def expect(self, sample_bytes: SampleBytes) -> None:
        """Say what the peer may send, once it is known who it is: payload bytes of one sample by tag.

        A tag of several plans, or of an image, may have several lengths; which one is due depends on the request, and
        is not checked here.
        """
        self._sample_bytes = {
            tag: (sizes,) if isinstance(sizes, int) else tuple(sorted(sizes)) for tag, sizes in sample_bytes.items()
        }

    @property
    def peer_said_bye(self) -> bool:
        return self.side.other in self._said_bye

    @property
    def said_bye(self) -> bool:
        return self.side in self._said_bye

    @property
    def is_empty(self) -> bool:
        """Whether no byte is left of what came: :meth:`next_event` would give nothing, except after the end."""
        return not self._buffer

    def send(self, event: Control | Data) -> list[bytes | bytearray | memoryview]:
        """The buffers to write, in order; a payload is handed on and not copied.

        Raises :class:`LocalProtocolError`, and leaves the connection as it was, when the event has no place here.
        """
        if isinstance(event, Data):
            tag, request, limit, body = event.tag, event.request, 0xFFFFFFFF, _bytes_of(event.payload)
        else:
            tag, request, limit, body = 0, 0, _control_limit(type(event), self.phase), _encode(event)
        if len(body) > limit:
            raise LocalProtocolError(f"cannot send {_name(event)}: its body of {len(body)} bytes is too long")
        self._speak(self.side, event, LocalProtocolError)
        header = HEADER.pack(MAGIC, PROTOCOL_VERSION, KINDS[type(event)], tag, request, len(body))
        return [header, body] if len(body) else [header]

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes that came; ``b""`` means that the peer closed. Call :meth:`next_event` until NEED_DATA."""
        if not data:
            self._peer_closed = True
        elif self._peer_closed:
            raise LocalProtocolError("bytes were given after the end of the connection was given")
        elif not self._broken:
            self._buffer += data

    def next_event(self) -> Event | NeedData:
        """The next event in the bytes so far; raises :class:`RemoteProtocolError`, and then always again."""
        if self._broken:
            raise RemoteProtocolError(self._broken)
        try:
            return self._next_event()
        except RemoteProtocolError as error:
            self._broken, self._buffer = str(error), bytearray()
            raise

    def _next_event(self) -> Event | NeedData:
        if self._oversized is not None:
            return self._skip(self._oversized)
        if len(self._buffer) >= FRAME_HEADER_BYTES:
            kind, tag, request, length = self._read_header()
            end = FRAME_HEADER_BYTES + length
            if issubclass(kind, Data) and length > max_kept_bytes():
                self._oversized, self._to_skip = kind(request, tag, b""), end
                return self._skip(self._oversized)
            if len(self._buffer) >= end:
                body = self._take(end)
                if issubclass(kind, Data):
                    return kind(request, tag, body)  # its header was allowed, and it leads to no other phase
                event = _decode(kind, body)
                self._speak(self.side.other, event, RemoteProtocolError)
                self.control_bytes_received += end
                return event
        if not self._peer_closed:
            return NEED_DATA
        if self._buffer:
            raise RemoteProtocolError(
                f"the peer closed in the middle of a frame ({len(self._buffer)} bytes of it came)"
            )
        return Closed(cleanly=self.peer_said_bye or self.phase is Phase.OVER)

    def forget(self) -> None:
        """Nothing more is read: what came in part goes."""
        self._buffer = bytearray()

    def _skip(self, message: Data) -> Event | NeedData:
        """Nothing is kept of a message that would take too much memory: it comes, at its end, without its payload."""
        skipped = min(self._to_skip, len(self._buffer))
        del self._buffer[:skipped]
        self._to_skip -= skipped
        if self._to_skip == 0:
            self._oversized = None
            return message
        if self._peer_closed:
            raise RemoteProtocolError(f"the peer closed in the middle of a frame ({self._to_skip} bytes are missing)")
        return NEED_DATA

    def _take(self, end: int) -> bytearray | memoryview:
        """The body of the frame at the front of the buffer, which loses it; not a copy where nothing comes after it."""
        if len(self._buffer) == end:
            whole, self._buffer = self._buffer, bytearray()
            return memoryview(whole)[FRAME_HEADER_BYTES:]
        body = self._buffer[FRAME_HEADER_BYTES:end]
        del self._buffer[:end]
        return body

    def _read_header(self) -> tuple[type[Control] | type[Data], int, int, int]:
        """The header at the front of the buffer, checked before a byte of its body is waited for."""
        magic, version, number, tag, request, length = HEADER.unpack_from(self._buffer)
        if magic != MAGIC:
            raise RemoteProtocolError(f"expected a frame that starts with {MAGIC!r}, got {magic!r}: no sepnas peer")
        kind = _CLASSES.get(number)
        if kind is None or (version != PROTOCOL_VERSION and kind not in (Hello, Refused)):
            raise RemoteProtocolError(
                f"frame of version {version}, kind {number} is unknown to version {PROTOCOL_VERSION}"
            )
        self._check_allowed(self.side.other, kind, RemoteProtocolError)
        if issubclass(kind, Data):
            self._check_payload(tag, length)
        else:
            limit = _control_limit(kind, self.phase)
            if tag or request or length > limit:
                raise RemoteProtocolError(
                    f"{kind.__name__} frame with tag {tag}, request {request}, {length} bytes; "
                    f"allowed are 0, 0 and at most {limit} bytes"
                )
        return kind, tag, request, length

    def _check_payload(self, tag: int, length: int) -> None:
        sizes = self._sample_bytes.get(tag)
        if sizes is None:
            raise RemoteProtocolError(f"message {tag} is not one that this peer sends by the plan")
        if length == 0 or all(length % sample or length > sample * self._max_batch for sample in sizes):
            raise RemoteProtocolError(
                f"message {tag} announces {length} bytes; by the plan a sample has {' or '.join(map(str, sizes))}, "
                f"and a message 1..{self._max_batch} samples"
            )

    def _check_allowed(self, speaker: Side, kind: type[Control] | type[Data], error: type[ProtocolError]) -> Phase:
        after = TRANSITIONS[self.phase].get((speaker, kind))
        if after is None or speaker in self._said_bye:
            state = "after its Bye" if speaker in self._said_bye else f"while the connection is {self.phase.value}"
            raise error(f"the {speaker.value} may not send {kind.__name__} {state}")
        return after

    def _speak(self, speaker: Side, event: Control | Data, error: type[ProtocolError]) -> None:
        """Move to the next phase, or raise ``error`` and stay."""
        after = self._check_allowed(speaker, type(event), error)
        if isinstance(event, Hello):
            self._after_welcome = _after_welcome(event)
        elif isinstance(event, events.Welcome):
            after = self._after_welcome
        elif isinstance(event, Bye):
            self._said_bye.add(speaker)
        self.phase = after


def _after_welcome(hello: Hello) -> Phase:
    if hello.rank != -1:
        return Phase.EXCHANGING
    return Phase.INSPECTING if hello.purpose == events.STATUS else Phase.SETTING_UP


def _control_limit(kind: type[Control] | type[Data], phase: Phase) -> int:
    if phase in (Phase.START, Phase.GREETED):
        return MAX_GREETING_BYTES
    if kind is events.DeviceReport:
        return MAX_ANSWER_BYTES
    return MAX_SETUP_BYTES if kind is events.Setup else MAX_CONTROL_BYTES


def _name(event: Control | Data) -> str:
    return type(event).__name__


def _bytes_of(payload: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
    return payload.cast("B") if isinstance(payload, memoryview) else payload


def _encode(event: Control) -> bytes:
    try:
        # Round through the validator: what a model_construct or a wrong type would break is ours to notice.
        return type(event).model_validate(event.model_dump()).model_dump_json().encode()
    except (ValidationError, ValueError) as error:
        raise LocalProtocolError(f"cannot send {_name(event)}: {error}") from None


def _decode(kind: type[Control], body: bytearray | memoryview) -> Control:
    text = bytes(body)
    limit = MAX_ANSWER_VALUES if kind is events.DeviceReport else MAX_VALUES
    if len(text) > limit and sum(map(text.count, (b",", b"[", b"{"))) > limit:
        raise RemoteProtocolError(f"{kind.__name__} frame: more than {limit} values")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise RemoteProtocolError(f"{kind.__name__} frame: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """The first problem; its place is the peer's text, and shown short and without control characters."""
    if error.error_count() > MAX_PROBLEMS:
        return f"{error.error_count()} problems"
    problem = error.errors(include_url=False, include_input=False)[0]
    place = short(".".join(str(p) for p in problem["loc"]) or "body")
    return f"{place}: {problem['msg']}"
