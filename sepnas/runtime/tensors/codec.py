"""Wire formats in numpy: arrays to payloads and back (the layout is described in ``sepnas.plan.wire``).

The arithmetic is that of ``sepnas.nets.exchange``, operation for operation in fp32. Numbers lie little-endian.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sepnas.errors import RemoteProtocolError
from sepnas.plan.steps import Shape
from sepnas.plan.wire import AFFINE_HEADER_BYTES, LEVELS, WireFormat, payload_bytes

Array = npt.NDArray[np.float32]
Payload = bytes | bytearray | memoryview

_FLOAT32 = np.dtype("<f4")
FP16_MAX = np.float32(65504.0)


def encode(x_BCHW: Array, wire: WireFormat, scale: np.float32 | None = None) -> memoryview:
    """The payload of a batch; its length is ``payload_bytes(values of a sample, wire, batch, scale is not None)``.

    ``scale`` is the learned step of a quantised format; a NaN, which has no level, then arrives as 0.
    """
    values = np.ascontiguousarray(x_BCHW, _FLOAT32)
    if wire == "fp32":
        # A view, not a copy: tensors of a plan are never written to again.
        return values.data.cast("B") if _FLOAT32.isnative else _bytes_of(values.reshape(-1))
    rows = values.reshape(len(values), -1)
    if wire == "fp16":
        return _bytes_of(np.clip(rows, -FP16_MAX, FP16_MAX).astype("<f2"))
    if scale is not None:
        with np.errstate(over="ignore"):  # what is beyond the highest level has that level
            ratio = np.rint(rows / scale)
        levels = np.fmin(np.fmax(ratio, np.float32(0)), np.float32(LEVELS[wire])).astype(np.uint8)
        return _bytes_of(_packed(levels) if wire == "int4" else levels)
    return _bytes_of(_quantise(rows, wire))


def _bytes_of(rows: npt.NDArray[Any]) -> memoryview:
    """The array's memory; not a copy."""
    return rows.view(np.uint8).data.cast("B")


def decode(payload: Payload, wire: WireFormat, shape: Shape, scale: np.float32 | None = None) -> Array:
    """The batch that a payload holds, ``(B, channels, height, width)``; raises :class:`RemoteProtocolError`.

    An fp32 result may share the payload's memory.
    """
    sample_bytes = payload_bytes(shape.num_values, wire, learned=scale is not None)
    batch, rest = divmod(len(payload), sample_bytes)
    if rest or not batch:
        raise RemoteProtocolError(f"a {wire} payload of {len(payload)} bytes is no multiple of {sample_bytes}")
    if wire == "fp32":
        lent: Array = np.ndarray((batch, shape.channels, shape.height, shape.width), _FLOAT32, payload)
        return lent if _FLOAT32.isnative and lent.flags.aligned else lent.astype(np.float32)
    rows = np.frombuffer(payload, dtype=np.uint8).reshape(batch, sample_bytes)
    if scale is not None:
        levels = _unpacked(rows, shape.num_values) if wire == "int4" else rows
        with np.errstate(over="ignore"):
            values = levels.astype(np.float32) * scale
    else:
        values = rows.view("<f2").astype(np.float32) if wire == "fp16" else _dequantise(rows, wire, shape.num_values)
    return values.reshape(batch, shape.channels, shape.height, shape.width)


def _quantise(rows: Array, wire: WireFormat) -> npt.NDArray[np.uint8]:
    batch, num_values = rows.shape
    levels = np.float32(LEVELS[wire])
    low = rows.min(axis=1, keepdims=True)
    step = (rows.max(axis=1, keepdims=True) - low) / levels
    divisor = np.where(step == 0, np.float32(1), step)
    with np.errstate(invalid="ignore"):  # a NaN stays one: its sample has a NaN for its minimum
        level = np.clip(np.rint((rows - low) / divisor), 0, levels).astype(np.uint8)
    out = np.empty((batch, payload_bytes(num_values, wire)), np.uint8)
    out[:, :AFFINE_HEADER_BYTES] = np.concatenate((low, step), axis=1).astype("<f4").view(np.uint8)
    out[:, AFFINE_HEADER_BYTES:] = _packed(level) if wire == "int4" else level
    return out


def _packed(level: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Two levels a byte, the first in the low half."""
    if level.shape[1] % 2:
        level = np.concatenate((level, np.zeros((len(level), 1), np.uint8)), axis=1)
    packed: npt.NDArray[np.uint8] = np.bitwise_or(level[:, 0::2], level[:, 1::2] << 4, dtype=np.uint8)
    return packed


def _unpacked(packed: npt.NDArray[np.uint8], num_values: int) -> npt.NDArray[np.uint8]:
    pairs = np.empty((len(packed), 2 * packed.shape[1]), np.uint8)
    pairs[:, 0::2], pairs[:, 1::2] = packed & 15, packed >> 4
    return pairs[:, :num_values]


def _dequantise(rows: npt.NDArray[np.uint8], wire: WireFormat, num_values: int) -> Array:
    head = np.ascontiguousarray(rows[:, :AFFINE_HEADER_BYTES]).view("<f4").astype(np.float32, copy=False)
    low, step = head[:, :1], head[:, 1:]
    level = rows[:, AFFINE_HEADER_BYTES:]
    if wire == "int4":
        level = _unpacked(level, num_values)
    with np.errstate(invalid="ignore", over="ignore"):  # a peer's numbers are what they are
        values: Array = low + level.astype(np.float32) * step
    return values
