"""Protocol Buffers' wire format, read only: the fields of a message, as far as ONNX uses them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_VARINT, _BYTES, _FIXED32 = 0, 2, 5
_MAX_VARINT_BYTES = 10
_FIXED32_BYTES = 4


class NoMessageError(ValueError):
    """Bytes that are no message."""


def fields(message: memoryview) -> Iterator[tuple[int, int | float | memoryview]]:
    """Number and value (a whole number, one with a point, or bytes) of each field, in order; :class:`NoMessageError`
    for what is none. Each kind is a type of its own: readers pass over a field of another kind than they expect."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind not in (_BYTES, _FIXED32):
            raise NoMessageError(f"a field of kind {kind}")
        length, place = _varint(message, place) if kind == _BYTES else (_FIXED32_BYTES, place)
        if length > len(message) - place:
            raise NoMessageError("a field that is longer than its message")
        content = message[place : place + length]
        yield number, content if kind == _BYTES else struct.unpack("<f", content)[0]
        place += length


def packed(value: int | float | memoryview) -> list[int]:
    """The signed whole numbers of a field that holds one, or many in a row."""
    if isinstance(value, float):
        raise NoMessageError("a number with a point where a whole one is expected")
    numbers, place = [value] if isinstance(value, int) else [], 0
    while not isinstance(value, int) and place < len(value):
        number, place = _varint(value, place)
        numbers.append(number)
    return [number - (1 << 64) if number >> 63 else number for number in numbers]


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    number = 0
    for index in range(_MAX_VARINT_BYTES):
        if place >= len(message):
            break
        byte = message[place]
        place += 1
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number & ((1 << 64) - 1), place
    raise NoMessageError("a number without an end")
