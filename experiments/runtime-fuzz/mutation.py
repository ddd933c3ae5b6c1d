"""Mutations that know frames: so that inputs come through the header and to what lies behind it."""

from __future__ import annotations

import random
from collections.abc import Callable

from truths import EXPECTED, SPOKEN, STATES, Frames, allowed, split

from sepnas.plan.wire import FRAME_HEADER_BYTES
from sepnas.runtime.protocol.connection import HEADER, MAGIC, Side
from sepnas.runtime.protocol.events import KINDS, PROTOCOL_VERSION, Control, Data

MAX_INPUT_BYTES = 64 << 10
_NUMBERS = (
    0, 1, 2, 3, 5, 6, 7, 12, 16, 40, 41, 255, 8192, 8193, 65536, 65537, 1 << 20, 1 << 22, 1 << 25, 1 << 26,
    (1 << 26) + 1, 0xFFFFFFFF,
)  # fmt: skip
_TOKENS = (
    b"NaN", b"-Infinity", b"1e999", b"-1", b"1.0", b"true", b"null", b"4294967296", b"9" * 40, b"[" * 300, b"{}", b'"',
    b"\\ud800", b"\\u0000", b"\xff", b"\xed\xa0\x80", b'"x":1,', b'"request":7,', b" " * 20,
)  # fmt: skip

_Mutate = Callable[[bytes, int], bytes]


def frame(event: Control | Data) -> bytes:
    """An event as a frame, allowed or not."""
    if isinstance(event, Data):
        body, tag, request = bytes(event.payload), event.tag, event.request
    else:
        body, tag, request = event.model_dump_json().encode(), 0, 0
    return HEADER.pack(MAGIC, PROTOCOL_VERSION, KINDS[type(event)], tag, request, len(body)) + body


_FRAMES = {side: [frame(event) for event in events] for side, events in SPOKEN.items()}


def seeds() -> list[bytes]:
    """For each state a conversation that is valid there, as far as the peer may say anything at all."""
    return [
        bytes([state, also]) + b"".join(map(frame, allowed(state)))
        for state in range(len(STATES))
        for also in (40, 1, 2)
    ]


def mutate(data: bytes, max_bytes: int, seed: int, mutate_bytes: _Mutate) -> bytes:
    """One or a few mutations of an input; ``mutate_bytes`` is libFuzzer's, which knows nothing of frames."""
    draw = random.Random(seed)
    if len(data) < 2 or draw.random() < 0.3:
        return mutate_bytes(data, max_bytes)
    head, frames = bytearray(data[:2]), split(data[2:])
    if draw.random() < 0.1:
        head[draw.randrange(2)] = draw.randrange(256)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        _mutate_frames(frames, STATES[head[0] % len(STATES)][1].other, draw, mutate_bytes)
    return (bytes(head) + b"".join(frames))[:max_bytes]


def _mutate_frames(frames: Frames, speaker: Side, draw: random.Random, mutate_bytes: _Mutate) -> None:
    """Insert, duplicate, remove, swap, or change one frame's header, body or end."""
    place = draw.randrange(len(frames) + 1)
    if place == len(frames) or draw.random() < 0.25:
        spoken = _FRAMES[speaker if draw.random() < 0.9 else speaker.other]
        return frames.insert(place, draw.choice(spoken))
    other = draw.randrange(len(frames))
    match draw.randrange(8):
        case 0:
            frames.insert(other, frames[place])
        case 1:
            del frames[place]
        case 2:
            frames[place], frames[other] = frames[other], frames[place]
        case 3:
            frames[place] = _with_other_number(frames[place], draw)
        case 4:
            frames[place] = frames[place][: draw.randrange(len(frames[place]) + 1)]
        case 5:
            frames[place] = _of_length(frames[place], draw)
        case 6:
            frames[place] = _with_body(frames[place], _with_token(frames[place][FRAME_HEADER_BYTES:], draw))
        case _:
            body = frames[place][FRAME_HEADER_BYTES:]
            frames[place] = _with_body(frames[place], mutate_bytes(body, len(body) + 64))
    return None


def _with_other_number(old: bytes, draw: random.Random) -> bytes:
    """A version, kind, tag, request or length that it did not have."""
    start, size = draw.choice(((2, 1), (3, 1), (4, 4), (8, 4), (12, 4)))
    number = draw.choice(_NUMBERS) if size == 4 else draw.randrange(20)
    return old[:start] + number.to_bytes(size, "big") + old[start + size :]


def _with_body(old: bytes, body: bytes) -> bytes:
    return old[:12] + len(body).to_bytes(4, "big") + body


def _with_token(body: bytes, draw: random.Random) -> bytes:
    """Something that JSON may not, or not everywhere, have; often in the place of a value."""
    start = draw.randrange(len(body) + 1)
    colon = body.find(b":", start)
    if colon >= 0 and draw.random() < 0.7:
        end = min((at for mark in b",}" if (at := body.find(mark, colon)) >= 0), default=len(body))
        return body[: colon + 1] + draw.choice(_TOKENS) + body[end:]
    return body[:start] + draw.choice(_TOKENS) + body[start:]


def _of_length(old: bytes, draw: random.Random) -> bytes:
    """Another length of the body, and that many bytes: samples, a long text in JSON, or spaces after it."""
    body = old[FRAME_HEADER_BYTES:]
    match draw.randrange(3):
        case 0:
            tag, samples = draw.choice([*EXPECTED[Side.DIALER].items(), *EXPECTED[Side.LISTENER].items()])
            sample = draw.choice(samples)
            length = sample * draw.choice((1, 2, 3, 8, 9))
            head = old[:4] + tag.to_bytes(4, "big") + old[8:12] + length.to_bytes(4, "big")
            return head + bytes(min(length, MAX_INPUT_BYTES))
        case 1:
            text = b"x" * draw.choice((63, 64, 65, 300, 301, 4000, 4001, 8200))
            return _with_body(old, body.replace(b'":"', b'":"' + text, 1))
        case _:
            return _with_body(
                old, body + b" " * draw.choice((1, 100, 8192, 65536 - len(body) if len(body) < 65536 else 0))
            )
