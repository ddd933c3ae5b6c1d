"""Any bytes for the parser of the protocol: a short run of what `experiments/runtime-fuzz` does ten million times."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepnas.errors import RemoteProtocolError
from sepnas.runtime.protocol.connection import (
    HEADER,
    MAGIC,
    MAX_ANSWER_BYTES,
    MAX_SETUP_BYTES,
    NEED_DATA,
    PROTOCOL_VERSION,
    Side,
)
from sepnas.runtime.protocol.events import KINDS, Bye, Data, DeviceReport, Request, Setup

EXPERIMENT = Path(__file__).parents[3] / "experiments" / "runtime-fuzz"
NAMES = ("truths", "mutation")


@pytest.fixture(scope="module")
def fuzz():
    """The truths about the parser, and the mutations that know frames, of the experiment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENT)
        truths, mutation = map(importlib.import_module, NAMES)
        yield SimpleNamespace(**{**vars(truths), **vars(mutation)})
    for name in NAMES:  # that another experiment may have too
        sys.modules.pop(name, None)


def shuffled(draw):
    """Any bytes changed, inserted and removed, as libFuzzer does."""

    def mutate_bytes(data, max_bytes):
        changed = bytearray(data)
        for _ in range(draw.randrange(1, 4)):
            place = draw.randrange(len(changed) + 1)
            changed[place : place + draw.randrange(3)] = draw.randbytes(draw.randrange(3))
        return bytes(changed[:max_bytes])

    return mutate_bytes


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_a_mutated_conversation_is_events_or_a_typed_error(fuzz, draw, mutations):
    """In every state: events or RemoteProtocolError for good, the same in any pieces; what is decoded can be sent."""
    for data in fuzz.seeds():
        for _ in range(mutations):
            data = fuzz.mutate(data, fuzz.MAX_INPUT_BYTES, draw.getrandbits(32), shuffled(draw))
        fuzz.check(data.ljust(2, b"\0"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans(), st.integers(0, 255))
def test_any_bytes_are_events_or_a_typed_error(fuzz, stream, like_a_frame, also):
    """Bytes that are no frame at all, and such as only start like one, are an end or an error in every state."""
    if like_a_frame:
        stream = MAGIC + bytes([PROTOCOL_VERSION]) + stream
    for state in range(len(fuzz.STATES)):
        _, (heard, _) = fuzz.check(bytes([state, also]) + stream)
        assert len(heard) * HEADER.size <= len(stream)


def test_conversations_are_heard_one_byte_at_a_time(fuzz):
    """What the peer may say is heard in whole in every state, and byte by byte the same."""
    states = set()
    for state in range(len(fuzz.STATES)):
        said, side = fuzz.allowed(state), fuzz.STATES[state][1]
        stream = b"".join(map(fuzz.frame, said))
        whole = fuzz.outcome_of(fuzz.end_of(state, side), [stream] if said else [])
        assert whole == fuzz.outcome_of(fuzz.end_of(state, side), [bytes([byte]) for byte in stream])
        assert whole[0] == said
        states |= {(fuzz.STATES[state][0], type(event)) for event in said}
    assert {kind for _, kind in states} == set(KINDS)


ANNOUNCED = [
    ("serving", Side.LISTENER, Data, 7, 8 * (4 << 20)),
    ("exchanging", Side.DIALER, Data, 7, 8 * (4 << 20)),
    ("serving", Side.DIALER, DeviceReport, 0, MAX_ANSWER_BYTES),
    ("setting up", Side.LISTENER, Setup, 0, MAX_SETUP_BYTES),
]


@pytest.mark.parametrize(("name", "side", "kind", "tag", "length"), ANNOUNCED)
def test_what_is_announced_is_not_allocated(fuzz, name, side, kind, tag, length):
    """A header that announces the largest allowed body makes the connection wait, and takes no memory."""
    state = fuzz.STATES.index((name, side, True))
    header = HEADER.pack(MAGIC, PROTOCOL_VERSION, KINDS[kind], tag, 0, length)
    end = fuzz.end_of(state, side)
    end.receive_data(header + b"abc")
    assert end.next_event() is NEED_DATA
    assert len(end._buffer) == len(header) + 3
    assert fuzz.peak_bytes(bytes([state, 0]) + header + b"abc") < 100_000


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_memory_follows_what_came(fuzz, draw):
    """Whatever comes, memory is bounded by what came and a constant."""
    for seed in fuzz.seeds()[::3]:
        data = fuzz.mutate(seed, fuzz.MAX_INPUT_BYTES, draw.getrandbits(32), shuffled(draw))
        data = data.ljust(2, b"\0")
        assert fuzz.peak_bytes(data) < (2 << 20) + 64 * len(data)


@pytest.mark.parametrize(
    ("kind", "body", "factor"),
    [
        (Bye, "{" + ",".join(f'"{number}":1' for number in range(6000)) + "}", 8),
        (Request, '{"without":[' + ",".join(["-9"] * 20_000) + "]}", 70),  # each number is an object
        (Setup, '{"peers":{' + ",".join(f'"{number}":1' for number in range(80_000)) + "}}", 20),
    ],
)
def test_a_body_of_mistakes_costs_no_list_of_them(fuzz, kind, body, factor):
    """As many mistakes as fit take memory for what came, not for an account of each."""
    name = "setting up" if kind is Setup else "serving"
    state = fuzz.STATES.index((name, Side.LISTENER, True))
    header = HEADER.pack(MAGIC, PROTOCOL_VERSION, KINDS[kind], 0, 0, len(body))
    data = bytes([state, 2]) + header + body.encode()
    assert fuzz.check(data)[1][1].startswith(f"{kind.__name__} frame: ")
    assert fuzz.peak_bytes(data) < factor * len(data)


def test_the_peers_text_is_shown_short_and_harmless(fuzz):
    """An error names a field that the peer made up in one short line, without what a terminal would obey."""
    state = fuzz.STATES.index(("serving", Side.LISTENER, True))
    end = fuzz.end_of(state, Side.LISTENER)
    body = b'{"\\u001b[2J\\n' + b"x" * 9000 + b'":1}'
    end.receive_data(HEADER.pack(MAGIC, PROTOCOL_VERSION, KINDS[Bye], 0, 0, len(body)) + body)
    with pytest.raises(RemoteProtocolError, match="Bye frame: ") as caught:
        end.next_event()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200
