"""The protocol without I/O: two ends in memory, and what neither side may say. Any bytes: `test_protocol_fuzz.py`."""

import json
import subprocess
import sys

import pytest

from sepnas.errors import LocalProtocolError, RemoteProtocolError
from sepnas.plan.wire import FRAME_HEADER_BYTES
from sepnas.runtime.protocol.connection import (
    HEADER,
    MAGIC,
    MAX_ANSWER_BYTES,
    MAX_BATCH,
    MAX_GREETING_BYTES,
    NEED_DATA,
    TRANSITIONS,
    Connection,
    Phase,
    Side,
    events,
)
from sepnas.runtime.protocol.events import (
    KINDS,
    PROTOCOL_VERSION,
    Bye,
    Closed,
    Data,
    Hello,
    Ready,
    Refused,
    Request,
    Setup,
    Welcome,
)
from tests.limits import PROCESS_S

HELLO = Hello(deployment_id="d" * 64, rank=-1, session="s")
TALK = [
    (Side.DIALER, HELLO),
    (Side.LISTENER, Welcome(rank=2)),
    (Side.DIALER, Setup(peers={"0": "127.0.0.1:1"}, deadline_ms=5000)),
    (Side.LISTENER, Ready()),
    (Side.DIALER, events.Ping(sent_ns=1)),
    (Side.LISTENER, events.Pong(sent_ns=1, clock_ns=2)),
    (Side.DIALER, Request(request=7, batch=2, deadline_ms=1000)),
    (Side.DIALER, Data(7, 3, bytearray(b"x" * 24))),
    (Side.LISTENER, events.Failed(code="compute", rank=2, request=7, step=4, message="no")),
    (Side.DIALER, events.Cancel(request=7)),
    (Side.LISTENER, Data(8, 4, bytearray(b"y" * 40))),
    (Side.DIALER, events.Recall(request=9, tag=4)),
    (Side.LISTENER, events.Missed(request=9, rank=2, source=1, tag=3)),
    (Side.LISTENER, events.PartialData(9, 4, bytearray(b"z" * 40))),
    (Side.DIALER, events.Ask(what="trace", last=1)),
    (Side.LISTENER, events.DeviceReport(what="trace", data={"requests": [1, "a", None]})),
    (Side.LISTENER, Bye()),
    (Side.DIALER, Bye()),
]
"""One session of a client, every kind of frame but Refused and those of the status."""
VISIT = [
    (Side.DIALER, HELLO.model_copy(update={"purpose": "status"})),
    (Side.LISTENER, Welcome(rank=2)),
    (Side.DIALER, events.Ping(sent_ns=1)),
    (Side.LISTENER, events.Pong(sent_ns=1, clock_ns=2)),
    (Side.DIALER, events.Inspect()),
    (
        Side.LISTENER,
        events.Status(
            rank=2,
            version="0.1.0",
            engine="torch",
            uptime_s=2.5,
            served=3,
            failed={"deadline": 1, "cancelled": 2},
            missed=4,
            session=events.SessionNow(name="s", open_s=0.5),
            temperature_c=-3.5,
        ),
    ),
    (Side.DIALER, events.Inspect()),
    (Side.DIALER, Bye()),
    (Side.LISTENER, Bye()),
]
"""A client that came for the status."""


def pair(between_devices=False, hello=HELLO):
    """Two ends that have greeted each other."""
    ends = {Side.DIALER: Connection(Side.DIALER, {4: 40}), Side.LISTENER: Connection(Side.LISTENER, {3: 12})}
    hello = HELLO.model_copy(update={"rank": 1}) if between_devices else hello
    for speaker, event in ((Side.DIALER, hello), (Side.LISTENER, Welcome(rank=2))):
        ends[speaker.other].receive_data(b"".join(ends[speaker].send(event)))
        assert ends[speaker.other].next_event() == event
    return ends


def serving():
    """Two ends of a client's connection that are ready for requests."""
    ends = pair()
    for speaker, event in TALK[2:4]:
        ends[speaker.other].receive_data(b"".join(ends[speaker].send(event)))
        ends[speaker.other].next_event()
    return ends


def inspecting():
    """Two ends of a connection whose client came for the status."""
    return pair(hello=VISIT[0][1])


def test_a_tag_of_two_plans_has_the_lengths_of_both():
    """A message may have the length of any plan; which one is due says its request, which is not the parser's."""
    listener = Connection(Side.LISTENER)
    listener.expect({3: frozenset({12, 40}), 4: 8})
    for tag, length in ((3, 24), (3, 40), (3, 36), (4, 16)):
        listener._check_payload(tag, length)
    for tag, length, says in ((3, 20, "12 or 40"), (4, 12, "8"), (3, 0, "12 or 40")):
        with pytest.raises(RemoteProtocolError, match=f"by the plan a sample has {says}, and"):
            listener._check_payload(tag, length)


def frame(kind, body=b"", tag=0, request=0, length=None, version=PROTOCOL_VERSION):
    return HEADER.pack(MAGIC, version, kind, tag, request, len(body) if length is None else length) + body


@pytest.mark.parametrize("talk", [TALK, VISIT], ids=["session", "status"])
def test_a_talk_fed_one_byte_at_a_time(talk):
    """Whatever the pieces in which bytes come, the same events come out, and never before their last byte."""
    ends = {Side.DIALER: Connection(Side.DIALER, {4: 40}), Side.LISTENER: Connection(Side.LISTENER, {3: 12})}
    for speaker, event in talk:
        sent, receiver = b"".join(ends[speaker].send(event)), ends[speaker.other]
        for byte in sent[:-1]:
            receiver.receive_data(bytes([byte]))
            assert receiver.next_event() is NEED_DATA
        receiver.receive_data(sent[-1:])
        assert receiver.next_event() == event
    for end in ends.values():
        end.receive_data(b"")
        assert end.next_event() == Closed(cleanly=True)


def test_the_talks_know_every_kind_of_frame():
    """The talks above hold every kind of frame but Refused: nothing goes untested."""
    assert {type(event) for _, event in TALK + VISIT} | {Refused} == set(KINDS)
    assert len(set(KINDS.values())) == len(KINDS)


def test_deep_json_is_refused_and_does_not_exhaust_the_stack():
    """A body of nested brackets is a RemoteProtocolError."""
    end = serving()[Side.DIALER]
    body = b'{"what":"trace","data":{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}}"
    end.receive_data(frame(KINDS[events.DeviceReport], body))
    with pytest.raises(RemoteProtocolError, match="DeviceReport frame"):
        end.next_event()


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize(
    "event",
    [*(event for _, event in TALK + VISIT), Refused(code="busy", reason="x")],
    ids=lambda event: type(event).__name__,
)
def test_only_what_the_table_allows_can_be_sent_first(side, event):
    """On a new connection the dialer may say Hello, the listener may refuse; all else is our own fault."""
    end = Connection(side)
    if (side, type(event)) in TRANSITIONS[Phase.START]:
        assert end.send(event)
    else:
        with pytest.raises(LocalProtocolError, match=f"the {side.value} may not send {type(event).__name__} while"):
            end.send(event)
        assert end.phase is Phase.START


def test_a_refused_send_changes_nothing():
    """After a LocalProtocolError the connection is what it was."""
    ends = serving()
    with pytest.raises(LocalProtocolError):
        ends[Side.LISTENER].send(Request(request=1, batch=1, deadline_ms=1))
    ends[Side.DIALER].receive_data(b"".join(ends[Side.LISTENER].send(Data(1, 4, b"z" * 40))))
    assert ends[Side.DIALER].next_event() == Data(1, 4, bytearray(b"z" * 40))


def test_what_breaks_the_rules_is_not_sent():
    """An event that the peer's parser would refuse is refused on this side."""
    end = serving()[Side.DIALER]
    with pytest.raises(LocalProtocolError, match="cannot send Request"):
        end.send(Request.model_construct(request=-1, batch=0, deadline_ms=1))


@pytest.mark.parametrize("speaker", list(Side))
def test_nothing_follows_a_bye(speaker):
    """Who said Bye says nothing more; the other side may still finish."""
    ends = serving()
    ends[speaker.other].receive_data(b"".join(ends[speaker].send(Bye())))
    ends[speaker.other].next_event()
    with pytest.raises(LocalProtocolError, match="after its Bye"):
        ends[speaker].send(Bye())
    ends[speaker.other].receive_data(frame(KINDS[Bye], b"{}"))
    with pytest.raises(RemoteProtocolError, match="after its Bye"):
        ends[speaker.other].next_event()
    assert ends[speaker.other].send(Bye())


@pytest.mark.parametrize(
    ("tag", "length", "says"),
    [
        (9, 12, "message 9 is not one that this peer sends by the plan"),
        (3, 0, "announces 0 bytes"),
        (3, 13, "announces 13 bytes; by the plan a sample has 12"),
        (3, 12 * (MAX_BATCH + 1), f"1..{MAX_BATCH} samples"),
        (3, 2**32 - 4, "announces 4294967292 bytes"),
    ],
)
def test_the_length_of_a_message_is_checked_with_its_header(tag, length, says):
    """A message whose length the plan does not know is refused before a byte of its body has come."""
    listener = serving()[Side.LISTENER]
    listener.receive_data(frame(KINDS[Data], b"", tag, 1, length))
    with pytest.raises(RemoteProtocolError, match=says):
        listener.next_event()


@pytest.mark.parametrize(
    ("length", "fits"),
    [(12, True), (24, True), (48, True), (12 * 64, True), (48 * 64, True), (12 * 65, False), (48 * 65, False),
     (0, False), (13, False), (12 * 64 + 4, False), (48 * 63, True)],
)  # fmt: skip
def test_an_image_may_come_as_bytes_or_in_fp32(length, fits):
    """A message of two forms may have the length of either, for any batch, and no other."""
    listener = serving()[Side.LISTENER]
    listener._max_batch = 64
    listener.expect({3: (12, 48)})
    listener.receive_data(frame(KINDS[Data], b"", 3, 1, length))
    if fits:
        assert listener.next_event() is NEED_DATA
    else:
        with pytest.raises(RemoteProtocolError, match=r"a sample has 12 or 48, and a message 1\.\.64 samples"):
            listener.next_event()


def test_a_frame_that_has_no_place_is_refused_by_its_header():
    """Nobody may announce a long answer that no answer is due from: its body is not waited for."""
    listener = serving()[Side.LISTENER]
    listener.receive_data(frame(KINDS[events.DeviceReport], b"", length=MAX_ANSWER_BYTES))
    with pytest.raises(RemoteProtocolError, match="dialer may not send DeviceReport while the connection is serving"):
        listener.next_event()


def test_a_broken_connection_keeps_nothing():
    """What comes after an error is not kept, however much it is."""
    listener = serving()[Side.LISTENER]
    for _ in range(3):
        listener.receive_data(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(RemoteProtocolError, match="no sepnas peer"):
            listener.next_event()
        assert not listener._buffer


def test_numbers_that_are_not_finite_arrive():
    """An answer's infinite number is not turned into null on its way."""
    ends = serving()
    answer = events.DeviceReport(what="counters", data={"one": float("inf"), "other": [float("-inf")]})
    ends[Side.DIALER].receive_data(b"".join(ends[Side.LISTENER].send(answer)))
    assert ends[Side.DIALER].next_event() == answer


def test_strangers_may_only_send_small_frames():
    """Before the greeting is over, a long frame is refused by its header."""
    listener = Connection(Side.LISTENER)
    listener.receive_data(frame(KINDS[Hello], b"", length=MAX_GREETING_BYTES + 1))
    with pytest.raises(RemoteProtocolError, match=f"at most {MAX_GREETING_BYTES} bytes"):
        listener.next_event()


def test_another_version_can_still_be_greeted_and_refused():
    """Hello and Refused are read whatever their version, so that both sides learn why; other frames are not."""
    listener = Connection(Side.LISTENER)
    body = b'{"protocol": 9, "deployment_id": "d", "rank": -1, "session": "s", "news": [1]}'
    listener.receive_data(frame(KINDS[Hello], body, version=9))
    hello = listener.next_event()
    assert isinstance(hello, Hello)
    assert hello.protocol == 9
    other = serving()[Side.LISTENER]
    other.receive_data(frame(KINDS[Bye], b"{}", version=9))
    with pytest.raises(RemoteProtocolError, match="version 9"):
        other.next_event()


def test_other_protocols_are_recognised():
    """Bytes that do not start like a frame are refused after the first header."""
    listener = Connection(Side.LISTENER)
    listener.receive_data(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(RemoteProtocolError, match="no sepnas peer"):
        listener.next_event()


def test_devices_exchange_and_nothing_else():
    """Between two devices there are messages and Bye: no requests, no set-up."""
    ends = pair(between_devices=True)
    for end in ends.values():
        assert end.phase is Phase.EXCHANGING
    with pytest.raises(LocalProtocolError, match="may not send Request while the connection is exchanging"):
        ends[Side.DIALER].send(Request(request=1, batch=1, deadline_ms=1))
    assert ends[Side.LISTENER].send(Data(1, 4, b"y" * 40))


def test_who_came_for_the_status_may_do_nothing_else():
    """A client that came for the status asks, and again, and leaves; it sets up no session and runs no request."""
    ends = inspecting()
    for end in ends.values():
        assert end.phase is Phase.INSPECTING
    for forbidden in (TALK[2][1], TALK[6][1], TALK[7][1], events.Ask(what="counters"), events.Recall(request=1, tag=4)):
        with pytest.raises(LocalProtocolError, match="while the connection is inspecting"):
            ends[Side.DIALER].send(forbidden)
    with pytest.raises(LocalProtocolError, match="may not send Inspect while the connection is serving"):
        serving()[Side.DIALER].send(events.Inspect())
    ends[Side.LISTENER].receive_data(frame(KINDS[Data], bytes(12), tag=3, request=1))
    with pytest.raises(RemoteProtocolError, match="may not send Data while the connection is inspecting"):
        ends[Side.LISTENER].next_event()


def test_a_greeting_of_before_or_for_another_purpose_can_be_read():
    """A Hello without a purpose is one for a session; an unknown purpose is read, so that it can be refused."""
    for purpose, body in (("session", b""), ("tea", b', "purpose": "tea"')):
        listener = Connection(Side.LISTENER)
        hello = b'{"protocol": 2, "deployment_id": "d", "rank": -1, "session": "s"' + body + b"}"
        listener.receive_data(frame(KINDS[Hello], hello, version=2))
        assert listener.next_event().purpose == purpose


@pytest.mark.parametrize(
    "spoilt", [{"uptime_s": -1}, {"failed": {"luck": 1}}, {"version": "x" * 65}, {"uptime_s": 1e999}]
)
def test_a_status_out_of_bounds_is_refused(spoilt):
    """A device cannot make its client believe or keep what a status never holds."""
    dialer, status = inspecting()[Side.DIALER], json.loads(VISIT[5][1].model_dump_json()) | spoilt
    dialer.receive_data(frame(KINDS[events.Status], json.dumps(status).encode()))
    with pytest.raises(RemoteProtocolError, match=f"Status frame: '{next(iter(spoilt))}"):
        dialer.next_event()


def test_an_end_in_the_middle_of_a_frame_is_an_error():
    """A connection that closes inside a frame did not close cleanly, nor one that closes without Bye."""
    listener = serving()[Side.LISTENER]
    listener.receive_data(frame(KINDS[Bye], b"{}")[:-1])
    listener.receive_data(b"")
    with pytest.raises(RemoteProtocolError, match="closed in the middle of a frame"):
        listener.next_event()
    listener = serving()[Side.LISTENER]
    listener.receive_data(b"")
    assert listener.next_event() == Closed(cleanly=False)


def test_a_payload_is_handed_on_and_not_copied():
    """The buffers of a message hold the very memory that was given."""
    payload = memoryview(bytearray(40))
    buffers = serving()[Side.LISTENER].send(Data(1, 4, payload))
    assert buffers[1].obj is payload.obj
    assert len(buffers[0]) == FRAME_HEADER_BYTES


def test_the_protocol_needs_neither_torch_nor_numpy():
    """Importing the protocol loads no array library, and importing sepnas loads no engine and no nni."""
    code = "import sys, sepnas, sepnas.runtime.protocol.connection; print({'torch', 'numpy', 'nni'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PROCESS_S, check=True)
    assert done.stdout.strip() == "set()"
