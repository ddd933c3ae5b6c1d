"""What must hold of the protocol's parser for any bytes: one input is fed in several ways, and outcomes compared."""

from __future__ import annotations

import contextlib
import copy
import struct
import tracemalloc
from collections.abc import Iterable

from sepnas.errors import LocalProtocolError, RemoteProtocolError
from sepnas.plan.wire import FRAME_HEADER_BYTES
from sepnas.runtime.protocol.connection import MAGIC, NEED_DATA, Connection, Side, events
from sepnas.runtime.protocol.events import (
    KINDS,
    Bye,
    Closed,
    Control,
    Data,
    Hello,
    PartialData,
    Refused,
    Request,
    Setup,
    Welcome,
)

_D, _L = Side.DIALER, Side.LISTENER
MAX_BATCH = 8
EXPECTED = {_D: {4: (40, 56), 6: (16384,), 7: (4 << 20,)}, _L: {3: (12,), 5: (1,), 6: (16384,), 7: (4 << 20,)}}
"""Payload bytes of a sample that each side receives, by tag; tag 4 is in two plans, and of tag 7 inputs are long enough
for headers only."""

_CLIENT = Hello(deployment_id="d" * 64, rank=-1, session="s")
_DEVICE = Hello(deployment_id="d" * 64, rank=1, session="s")
_VISITOR = Hello(deployment_id="d" * 64, rank=-1, session="s", purpose="status")
_SETUP = Setup(
    peers={"0": "127.0.0.1:17300", "1": "[::1]:17301"}, deadline_ms=5000, plans={"default": "e" * 64, "few": ""}
)
_GREETING = [(_D, _CLIENT), (_L, Welcome(rank=2))]
_READY = [*_GREETING, (_D, _SETUP), (_L, events.Ready())]

PREFIXES: dict[str, list[tuple[Side, Control | Data]]] = {
    "start": [],
    "greeted": [(_D, _CLIENT)],
    "greeted, a device": [(_D, _DEVICE)],
    "greeted, for the status": [(_D, _VISITOR)],
    "setting up": _GREETING,
    "connecting": _READY[:3],
    "serving": _READY,
    "serving, dialer said Bye": [*_READY, (_D, Bye())],
    "serving, listener said Bye": [*_READY, (_L, Bye())],
    "exchanging": [(_D, _DEVICE), (_L, Welcome(rank=2))],
    "inspecting": [(_D, _VISITOR), (_L, Welcome(rank=2))],
    "inspecting, dialer said Bye": [(_D, _VISITOR), (_L, Welcome(rank=2)), (_D, Bye())],
    "over": [(_L, Refused(code="busy", reason="another client"))],
}
"""What both sides have said before the input begins."""
STATES = [(name, side, expects) for name in PREFIXES for side in Side for expects in (True, False)]

SPOKEN: dict[Side, list[Control | Data]] = {
    _D: [
        _CLIENT, _SETUP, events.Ping(sent_ns=1),
        Request(request=7, batch=2, deadline_ms=1000, without=(1,), plan="few"),
        Data(7, 3, bytes(24)), Data(7, 5, b"x"), PartialData(7, 3, bytes(12)), events.Cancel(request=7),
        events.Recall(request=9, tag=4), events.Ask(what="trace", last=1), events.Inspect(), Bye(),
    ],
    _L: [
        Welcome(rank=2), events.Ready(), events.Pong(sent_ns=1, clock_ns=2), Data(8, 4, bytes(40)),
        PartialData(9, 4, bytes(80)), events.Failed(code="compute", rank=2, request=7, step=4, message="no"),
        events.Missed(request=9, rank=2, source=1, tag=3),
        events.DeviceReport(what="trace", data={"requests": [1, 1.5, "a", None, True]}),
        events.Status(
            rank=2, version="0.1.0", engine="torch", uptime_s=2.5, served=3, failed={"deadline": 1}, missed=0,
            session=events.SessionNow(name="1f", open_s=1.5), temperature_c=40.5,
        ),
        Refused(code="busy", reason="another client"), Bye(),
    ],
}  # fmt: skip
"""What each side may say, here or there."""


Frames = list[bytes]
Outcome = tuple[list[Control | Data], str]
"""The events, and how it ended: "closed cleanly", "closed", or the error's text."""


class BrokenTruthError(AssertionError):
    """A truth about the parser does not hold."""


def _ends(prefix: list[tuple[Side, Control | Data]], expects: bool) -> dict[Side, Connection]:
    ends = {side: Connection(side, EXPECTED[side] if expects else None, MAX_BATCH) for side in Side}
    for speaker, event in prefix:
        if isinstance(event, Data):
            raise ValueError("a prefix holds no data")
        ends[speaker.other].receive_data(b"".join(ends[speaker].send(event)))
        if ends[speaker.other].next_event() != event:
            raise BrokenTruthError(f"the prefix is not understood: {event}")
    return ends


_TEMPLATES = [_ends(PREFIXES[name], expects) for name, _, expects in STATES]


def end_of(state: int, side: Side) -> Connection:
    """One end after a state's prefix. The copy of a connection takes a thirtieth of what the prefix takes."""
    made = copy.copy(_TEMPLATES[state][side])
    made._buffer, made._said_bye = bytearray(), set(made._said_bye)
    return made


def split(stream: bytes) -> Frames:
    """The frames by the lengths that they announce, as far as that goes; the last one is the rest."""
    frames = []
    while len(stream) >= FRAME_HEADER_BYTES and stream[:2] == MAGIC:
        end = FRAME_HEADER_BYTES + int.from_bytes(stream[12:16], "big")
        frames.append(stream[:end])
        stream = stream[end:]
    return [*frames, stream] if stream else frames


def allowed(state: int) -> list[Control | Data]:
    """A conversation that the other side may have with the one that the input is for."""
    _, side, expects = STATES[state]
    sender, said = end_of(state, side.other), []
    for event in SPOKEN[side.other]:
        with contextlib.suppress(LocalProtocolError):
            if expects or not isinstance(event, Data):
                sender.send(event)
                said.append(event)
    return said


def outcome_of(end: Connection, pieces: Iterable[bytes]) -> Outcome:
    """Feed the pieces and the end of the connection; holds the parser to its promises on the way."""
    heard: list[Control | Data] = []
    fed = 0
    for piece in (*pieces, b""):
        end.receive_data(piece)
        fed += len(piece)
        while True:
            if len(end._buffer) > fed:
                raise BrokenTruthError(f"the buffer holds {len(end._buffer)} bytes, {fed} came")
            try:
                event = end.next_event()
            except RemoteProtocolError as error:
                return heard, _stays_broken(end, str(error), at_end=not piece)
            if event is NEED_DATA:
                break
            if isinstance(event, Closed):
                return heard, "closed cleanly" if event.cleanly else "closed"
            heard.append(event)
            if len(heard) * FRAME_HEADER_BYTES > fed:
                raise BrokenTruthError(f"{len(heard)} events in {fed} bytes")
    raise BrokenTruthError("NEED_DATA after the end of the connection")


def _stays_broken(end: Connection, first: str, at_end: bool) -> str:
    if not at_end:
        end.receive_data(b"more" * 8)
    for _ in range(2):
        try:
            event = end.next_event()
        except RemoteProtocolError as error:
            if str(error) != first or end._buffer:
                raise BrokenTruthError(f"first {first!r}, then {error}, {len(end._buffer)} bytes kept") from None
        else:
            raise BrokenTruthError(f"{event!r} after {first!r}")
    return first


def pieces_of(stream: bytes, size: int) -> list[bytes]:
    """The bytes in pieces of this size; at most 8."""
    size = max(size, -(-len(stream) // 8))
    return [stream[start : start + size] for start in range(0, len(stream), size)]


def check(data: bytes) -> tuple[int, Outcome]:
    """Feed one input: a byte for the state, one for what else is done, and what the peer sends.

    Of four inputs one is also fed in pieces, of a size that the second byte says, and of one what was decoded is sent
    back. Raises whatever the parser should not have raised, and :class:`BrokenTruthError`. Returns the state and the
    outcome.
    """
    state, (size, also), stream = data[0] % len(STATES), divmod(data[1], 4), data[2:]
    side = STATES[state][1]
    whole = outcome_of(end_of(state, side), [stream] if stream else [])
    _check_frames(state, whole, stream)
    if also == 0 and stream:
        in_pieces = outcome_of(end_of(state, side), pieces_of(stream, 1 + size))
        if not same(whole[0], in_pieces[0]) or whole[1] != in_pieces[1]:
            raise BrokenTruthError(f"in one piece {whole}, in pieces of {1 + size} {in_pieces}")
    elif also == 1:
        _check_echo(state, whole[0])
    return state, whole


def _check_frames(state: int, outcome: Outcome, stream: bytes) -> None:
    """The events are those of the first frames, in order, and the end is that of the frame after them.

    A payload is what came and what the plan allows.
    """
    _, side, expects = STATES[state]
    (heard, end), frames = outcome, split(stream)
    rest = frames[len(heard) :]
    fits = (
        not rest if end.startswith("closed")
        else len(rest) == 1 and f"({len(rest[0])} bytes of it came)" in end if "in the middle of a frame" in end
        else (rest[0][: len(MAGIC)] == MAGIC) == ("no sepnas peer" not in end)
    )  # fmt: skip
    if not fits:
        raise BrokenTruthError(f"{len(heard)} events, then {end!r} with {rest[:1]} to come")
    for event, came in zip(heard, frames, strict=False):
        tag, request, length = struct.unpack(">III", came[4:FRAME_HEADER_BYTES])
        right = came[3] == KINDS[type(event)] and len(came) == FRAME_HEADER_BYTES + length
        if isinstance(event, Data):
            samples = EXPECTED[side].get(tag, ()) if expects else ()
            right = right and any(length % sample == 0 and 0 < length <= sample * MAX_BATCH for sample in samples)
            right = right and (event.tag, event.request, event.payload) == (tag, request, came[FRAME_HEADER_BYTES:])
        if not right:
            raise BrokenTruthError(f"{came[:64]!r} became {event!r}")


def _check_echo(state: int, heard: list[Control | Data]) -> None:
    """What was decoded can be sent from the other side, and is decoded to the same again."""
    side = STATES[state][1]
    sender, receiver = end_of(state, side.other), end_of(state, side)
    for event in heard:
        receiver.receive_data(b"".join(sender.send(event)))
        again = receiver.next_event()
        if not same(again, event):
            raise BrokenTruthError(f"{event!r} comes back as {again!r}")


def same(one: object, other: object) -> bool:
    """Equal; NaN, which a DeviceReport may hold, is itself."""
    return one == other or repr(one) == repr(other)


def peak_bytes(data: bytes) -> int:
    """The most memory that Python held for an input, beyond what it held before."""
    tracemalloc.start()
    try:
        check(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
