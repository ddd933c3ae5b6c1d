"""Wire formats in numpy: arrays to payloads and back, from the facts of each format (``sepnas.plan.wire``).

The arithmetic is that of ``sepnas.nets.exchange``, operation for operation in fp32. Numbers lie little-endian.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from typing_extensions import TypeIs

from sepnas.errors import RemoteProtocolError
from sepnas.plan.shapes import Shape
from sepnas.plan.wire import (
    ENCODINGS,
    LEVELS,
    UNCONVERTED,
    WIRE_FORMATS,
    WireEncoding,
    WireFormat,
    payload_bytes,
)

Array = npt.NDArray[np.float32]
Levels: TypeAlias = npt.NDArray[np.uint8]
Images: TypeAlias = npt.NDArray[np.uint8]
Payload = bytes | bytearray | memoryview

_FLOAT32 = np.dtype("<f4")
_FLOATS = {name: np.dtype(f"<f{ENCODINGS[name].bits // 8}") for name in WIRE_FORMATS if name not in LEVELS}
_FINITE = {name: np.float32(np.finfo(dtype).max) for name, dtype in _FLOATS.items()}
_WHITE = np.float32(255)


def encode(x_BCHW: Array, wire: WireFormat, scale: np.float32 | None = None) -> memoryview:
    """The payload of a batch; its length is ``payload_bytes(values of a sample, wire, batch, scale is not None)``.

    ``scale`` is the learned step of a quantised format; a NaN, which has no level, then arrives as 0.
    """
    values = np.ascontiguousarray(x_BCHW, _FLOAT32)
    if wire == UNCONVERTED:
        # A view, not a copy: tensors of a plan are never written to again.
        return values.data.cast("B") if _FLOAT32.isnative else _bytes_of(values.reshape(-1))
    rows = values.reshape(len(values), -1)
    if wire in _FLOATS:
        return _bytes_of(np.clip(rows, -_FINITE[wire], _FINITE[wire]).astype(_FLOATS[wire]))
    encoding = ENCODINGS[wire]
    if scale is None:
        return _bytes_of(_quantise(rows, encoding))
    with np.errstate(over="ignore"):  # what is beyond the highest level has that level
        ratio = np.rint(rows / scale)
    levels = np.fmin(np.fmax(ratio, np.float32(0)), np.float32(LEVELS[wire])).astype(np.uint8)
    return _bytes_of(_packed(levels, encoding))


def _bytes_of(rows: npt.NDArray[Any]) -> memoryview:
    """The array's memory; not a copy."""
    return rows.view(np.uint8).data.cast("B")


def decode(payload: Payload, wire: WireFormat, shape: Shape, scale: np.float32 | None = None) -> Array:
    """The batch that a payload holds, ``(B, *shape.dims)``; raises :class:`RemoteProtocolError`.

    An fp32 result may share the payload's memory.
    """
    sample_bytes = payload_bytes(shape.num_values, wire, learned=scale is not None)
    batch, rest = divmod(len(payload), sample_bytes)
    if rest or not batch:
        raise RemoteProtocolError(f"a {wire} payload of {len(payload)} bytes is not a multiple of {sample_bytes}")
    if wire == UNCONVERTED:
        lent: Array = np.ndarray((batch, *shape.dims), _FLOAT32, payload)
        return lent if _FLOAT32.isnative and lent.flags.aligned else lent.astype(np.float32)
    rows = np.frombuffer(payload, dtype=np.uint8).reshape(batch, sample_bytes)
    if wire in _FLOATS:
        values = rows.view(_FLOATS[wire]).astype(np.float32)
    elif scale is None:
        values = _dequantise(rows, ENCODINGS[wire], shape.num_values)
    else:
        with np.errstate(over="ignore"):
            values = _unpacked(rows, ENCODINGS[wire], shape.num_values).astype(np.float32) * scale
    return values.reshape(batch, *shape.dims)


def is_image(batch_BCHW: Array | Images) -> TypeIs[Images]:
    """Whether a batch holds the bytes of images, and no values of a network."""
    return batch_BCHW.dtype == np.uint8


def encode_image(images_BCHW: Images) -> memoryview:
    """The payload of a batch of images, one byte for each value; not a copy if the batch is contiguous."""
    return _bytes_of(np.ascontiguousarray(images_BCHW))


def decode_image(payload: Payload, shape: Shape, normalisation_2C: Array) -> Array:
    """The normalised images that a payload holds, ``(B, *shape.dims)``; raises :class:`RemoteProtocolError`."""
    batch, rest = divmod(len(payload), shape.num_values)
    if rest or not batch:
        raise RemoteProtocolError(
            f"a payload of {len(payload)} bytes is not a multiple of an image's {shape.num_values}"
        )
    images = np.frombuffer(payload, dtype=np.uint8).reshape(batch, *shape.dims)
    return normalise(images, normalisation_2C, 1 + shape.axes.index("C"))


def normalise(images_BCHW: Images, normalisation_2C: Array, channel_axis: int = 1) -> Array:
    """``(value / 255 - mean) / std``, float32; ``normalisation_2C`` holds the means and the deviations of the channels.

    Training (``sepnas.train.images``) and devices compute the same bits: the order of operations is a contract.
    """
    places = (1,) * channel_axis + (-1,) + (1,) * (images_BCHW.ndim - channel_axis - 1)
    mean, std = normalisation_2C
    values: Array = images_BCHW.astype(np.float32)
    values /= _WHITE
    values -= mean.reshape(places)
    values /= std.reshape(places)
    return values


def _quantise(rows: Array, encoding: WireEncoding) -> Levels:
    highest, header_bytes = np.float32(encoding.highest_level), encoding.header_bytes
    low = rows.min(axis=1, keepdims=True)
    step = (rows.max(axis=1, keepdims=True) - low) / highest
    divisor = np.where(step == 0, np.float32(1), step)
    with np.errstate(invalid="ignore"):  # a NaN stays one: its sample has a NaN for its minimum
        levels = np.clip(np.rint((rows - low) / divisor), 0, highest).astype(np.uint8)
    batch, num_values = rows.shape
    out = np.empty((batch, encoding.payload_bytes(num_values)), np.uint8)
    out[:, :header_bytes] = np.concatenate((low, step), axis=1).astype("<f4").view(np.uint8)
    out[:, header_bytes:] = _packed(levels, encoding)
    return out


def _dequantise(rows: Levels, encoding: WireEncoding, num_values: int) -> Array:
    head = np.ascontiguousarray(rows[:, : encoding.header_bytes]).view("<f4").astype(np.float32, copy=False)
    low, step = head[:, :1], head[:, 1:]
    levels = _unpacked(rows[:, encoding.header_bytes :], encoding, num_values)
    with np.errstate(invalid="ignore", over="ignore"):  # a peer's numbers are what they are
        values: Array = low + levels.astype(np.float32) * step
    return values


def _packed(levels: Levels, encoding: WireEncoding) -> Levels:
    """As many levels a byte as it holds, the first in the lowest bits."""
    per_byte = encoding.levels_per_byte
    if per_byte == 1:
        return levels
    batch, num_values = levels.shape
    if num_values % per_byte:
        levels = np.concatenate((levels, np.zeros((batch, -num_values % per_byte), np.uint8)), axis=1)
    packed: Levels = levels[:, ::per_byte] | levels[:, 1::per_byte] << np.uint8(encoding.bits)
    for place in range(2, per_byte):
        packed |= levels[:, place::per_byte] << np.uint8(place * encoding.bits)
    return packed


def _unpacked(packed: Levels, encoding: WireEncoding, num_values: int) -> Levels:
    per_byte = encoding.levels_per_byte
    if per_byte == 1:
        return packed
    levels = np.empty((len(packed), per_byte * packed.shape[1]), np.uint8)
    levels[:, ::per_byte] = packed
    for place in range(1, per_byte):
        levels[:, place::per_byte] = packed >> np.uint8(place * encoding.bits)
    levels &= np.uint8((1 << encoding.bits) - 1)  # without what belongs to the places after it
    return levels[:, :num_values]
