"""Protocol Buffers' wire format, read only: the fields of a message, as far as ONNX uses them."""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_SIZES = {_FIXED64: 8, _FIXED32: 4}


class NoMessageError(ValueError):
    """Bytes that are no message."""


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value (a whole number, or bytes) of each field, in order; :class:`NoMessageError` for what is none."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        length = _SIZES.get(kind)
        if length is None:
            if kind != _BYTES:
                raise NoMessageError(f"a field of kind {kind}")
            length, place = _varint(message, place)
        if length > len(message) - place:
            raise NoMessageError("a field that is longer than its message")
        yield number, message[place : place + length]
        place += length


def packed(value: int | memoryview) -> list[int]:
    """The signed whole numbers of a field that holds one, or many in a row."""
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
