"""How a region of a tensor lies in a message: wire formats and their sizes in bytes.

Here and nowhere else, so that the estimate, the plan and the runtime cannot disagree.

``int8`` and ``int4`` are one level a value, 0..255 or 0..15 (two levels a byte, the first in the low half, padded to
a byte a sample). With the scale ``sample`` they are affine over each sample of the batch, and two fp32 numbers
(minimum, step) stand before its levels; with a ``learned`` one a value is its level times a step that both ends know,
and what is sent is not negative.
"""

from __future__ import annotations

from typing import Literal, get_args

WireFormat = Literal["fp32", "fp16", "int8", "int4"]
WIRE_FORMATS: tuple[WireFormat, ...] = get_args(WireFormat)

Scale = Literal["sample", "learned"]
"""Where the step between two levels of a quantised message comes from: each sample's own range, or training."""

LEVELS: dict[WireFormat, int] = {"int8": 255, "int4": 15}
"""The highest level of each quantised format."""

AFFINE_HEADER_BYTES = 8
"""Minimum and step, fp32 each, in front of each quantised sample."""

FRAME_HEADER_BYTES = 16
"""What the protocol puts in front of each payload (``sepnas.runtime.protocol.connection``)."""

PIECE_BYTES = 64 << 10
"""A writer encrypts and writes a long message in pieces of this size, and a reader reads as they come."""


def payload_bytes(num_values: int, wire: WireFormat, batch: int = 1, learned: bool = False) -> int:
    """Bytes of ``batch`` samples of ``num_values`` values each, without the frame header; ``learned``: their scale."""
    if wire == "fp32":
        return 4 * num_values * batch
    if wire == "fp16":
        return 2 * num_values * batch
    header_bytes = 0 if learned else AFFINE_HEADER_BYTES
    if wire == "int8":
        return (num_values + header_bytes) * batch
    return ((num_values + 1) // 2 + header_bytes) * batch
