"""Wire formats: how the values of a tensor lie in a message. ``_ENCODINGS`` has one entry for each format.

An entry holds every fact of its format. Sizes, options, allowed values in files, help texts, colours, costs, the numpy
codec (``sepnas.runtime.tensors.codec``) and its differentiable counterpart (``sepnas.nets.exchange``) are derived from
the facts and name no format, so a new format is one entry here. There are two kinds:

- *Floats*: IEEE 754 numbers, little-endian; what is beyond the largest finite one is sent as that one.
- *Levels* (quantised formats): one level a value, ``0 .. 2**bits - 1``, and ``8 // bits`` levels a byte, the first in
  the lowest bits; each sample is padded to whole bytes. With the scale ``sample`` they are affine over each sample of
  the batch, and two fp32 numbers (minimum, step) stand before its levels; with a ``learned`` scale a value is its
  level times a step that both ends know, and what is sent is not negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

_SAMPLE_HEADER_BYTES = 8
"""Minimum and step, fp32 each."""


@dataclass(frozen=True, slots=True)
class WireEncoding:
    """The facts of a wire format.

    Attributes:
        name: what policies, spaces, options and plans call it.
        bits: of one value.
        header_bytes: in front of each sample: 0 for floats, and nothing either where the scale is learned.
        highest_level: of a quantised format; None for floats, which have no levels and hence no scale.
        priced_as: the format whose measured conversion costs stand for this one's in a device profile that was measured
            before this one existed.
    """

    name: str
    bits: int
    header_bytes: int
    highest_level: int | None
    priced_as: str | None = None

    @classmethod
    def floats(cls, name: str, bits: int) -> WireEncoding:
        return cls(name, bits, header_bytes=0, highest_level=None)

    @classmethod
    def quantised(cls, name: str, bits: int, priced_as: str | None = None) -> WireEncoding:
        if bits not in (1, 2, 4, 8):
            raise ValueError(f"levels of `bits` (={bits}) do not fill a byte; allowed are 1, 2, 4 and 8")
        return cls(name, bits, _SAMPLE_HEADER_BYTES, (1 << bits) - 1, priced_as)

    @property
    def levels_per_byte(self) -> int:
        """Of a quantised format."""
        return 8 // self.bits

    def payload_bytes(self, num_values: int, batch: int = 1, learned: bool = False) -> int:
        """Bytes of ``batch`` samples of ``num_values`` values, without the frame header; ``learned``: their scale."""
        return ((num_values * self.bits + 7 >> 3) + (0 if learned else self.header_bytes)) * batch


# from the finest to the coarsest; predictors of accuracy number them in this order, so new ones come last
_ENCODINGS = (
    WireEncoding.floats("fp32", bits=32),
    WireEncoding.floats("fp16", bits=16),
    WireEncoding.quantised("int8", bits=8),
    WireEncoding.quantised("int4", bits=4),
    WireEncoding.quantised("int2", bits=2, priced_as="int4"),
)

ENCODINGS: dict[str, WireEncoding] = {encoding.name: encoding for encoding in _ENCODINGS}
WIRE_FORMATS: tuple[str, ...] = tuple(ENCODINGS)

if TYPE_CHECKING:
    WireFormat: TypeAlias = str
else:
    WireFormat = Literal[WIRE_FORMATS]  # fields of this type refuse any other name, and list these

UNCONVERTED: WireFormat = "fp32"
"""The format of tensors in memory: such a message is the tensor itself, and nobody pays for converting it."""

CONVERTED: tuple[WireFormat, ...] = tuple(name for name in WIRE_FORMATS if name != UNCONVERTED)

LEVELS: Mapping[WireFormat, int] = {
    encoding.name: encoding.highest_level for encoding in _ENCODINGS if encoding.highest_level is not None
}
"""The highest level of each quantised format."""

MAX_SAMPLE_HEADER_BYTES = max(encoding.header_bytes for encoding in _ENCODINGS)

Scale = Literal["sample", "learned"]
"""Where the step between two levels of a quantised message comes from: each sample's own range, or training."""

FRAME_HEADER_BYTES = 16
"""What the protocol puts in front of each payload (``sepnas.runtime.protocol.connection``)."""

PIECE_BYTES = 64 << 10
"""A writer encrypts and writes a long message in pieces of this size, and a reader reads as they come."""


@lru_cache(maxsize=1 << 14)  # a search asks for the same few over and over
def payload_bytes(num_values: int, wire: WireFormat, batch: int = 1, learned: bool = False) -> int:
    """:meth:`WireEncoding.payload_bytes` of a format by its name."""
    return ENCODINGS[wire].payload_bytes(num_values, batch, learned)
