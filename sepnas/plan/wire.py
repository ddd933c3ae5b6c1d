"""Wire formats: the encoding of a tensor's values in a message. ``_ENCODINGS`` has one entry for each format.

An entry holds every fact of its format. Sizes, options, allowed values in files, help texts, colours, costs, the numpy
codec (``sepnas.runtime.tensors.codec``) and its differentiable counterpart (``sepnas.nets.exchange``) are derived from
these facts and name no format, so a new format is one entry here. There are two kinds:

- *Floats*: IEEE 754 numbers, little-endian; values beyond the largest finite number are clipped to it.
- *Levels* (quantised formats): each value is a level, ``0 .. 2**bits - 1``; a byte holds ``8 // bits`` levels, the
  first in the lowest bits; each sample is padded to whole bytes. With the scale ``sample``, quantisation is affine per
  sample of the batch, and two fp32 numbers (minimum, step) precede the levels; with a ``learned`` scale, a value is its
  level times a step that both ends know, and values sent are not negative.

A third kind is for the client's images only: ``uint8`` sends a sample's bytes as they are, and its receiver normalises
them, ``(byte / 255 - mean) / std`` for each channel, with numbers that lie beside its weights. Policies cannot name it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

_SAMPLE_HEADER_BYTES = 8
"""Size of the minimum and the step, fp32 each."""


@dataclass(frozen=True, slots=True)
class WireEncoding:
    """The facts of a wire format.

    Attributes:
        name: the name in policies, spaces, options and plans.
        bits: per value.
        header_bytes: before each sample; 0 for floats. A learned scale needs no header either.
        highest_level: of a quantised format; None for floats, which have no levels and hence no scale.
        priced_as: the format whose measured conversion costs are used for this one if a device profile is older than
            this format.
        of_images: whether only images may be sent in it, by the client.
    """

    name: str
    bits: int
    header_bytes: int
    highest_level: int | None
    priced_as: str | None = None
    of_images: bool = False

    @classmethod
    def floats(cls, name: str, bits: int) -> WireEncoding:
        return cls(name, bits, header_bytes=0, highest_level=None)

    @classmethod
    def quantised(cls, name: str, bits: int, priced_as: str | None = None) -> WireEncoding:
        if bits not in (1, 2, 4, 8):
            raise ValueError(f"levels of `bits` (={bits}) do not fill a byte; allowed are 1, 2, 4 and 8")
        return cls(name, bits, _SAMPLE_HEADER_BYTES, (1 << bits) - 1, priced_as)

    @classmethod
    def pixels(cls, name: str, priced_as: str) -> WireEncoding:
        return cls(name, bits=8, header_bytes=0, highest_level=None, priced_as=priced_as, of_images=True)

    @property
    def levels_per_byte(self) -> int:
        """Levels per byte of a quantised format."""
        return 8 // self.bits

    def payload_bytes(self, num_values: int, batch: int = 1, learned: bool = False) -> int:
        """Bytes of ``batch`` samples of ``num_values`` values, without the frame header; ``learned``: the scale is."""
        return ((num_values * self.bits + 7 >> 3) + (0 if learned else self.header_bytes)) * batch


# from finest to coarsest; accuracy predictors number formats in this order, so new ones are appended
_ENCODINGS = (
    WireEncoding.floats("fp32", bits=32),
    WireEncoding.floats("fp16", bits=16),
    WireEncoding.quantised("int8", bits=8),
    WireEncoding.quantised("int4", bits=4),
    WireEncoding.quantised("int2", bits=2, priced_as="int4"),
    WireEncoding.pixels("uint8", priced_as="int8"),
)

ENCODINGS: dict[str, WireEncoding] = {encoding.name: encoding for encoding in _ENCODINGS}
WIRE_FORMATS: tuple[str, ...] = tuple(encoding.name for encoding in _ENCODINGS if not encoding.of_images)
"""The formats of messages between devices."""
IMAGE_FORMATS: tuple[str, ...] = tuple(encoding.name for encoding in _ENCODINGS if encoding.of_images)

if TYPE_CHECKING:
    WireFormat: TypeAlias = str
    AnyFormat: TypeAlias = str
else:
    WireFormat = Literal[WIRE_FORMATS]  # fields of this type refuse any other name, and list these
    AnyFormat = Literal[tuple(ENCODINGS)]
    """A format of messages between devices, or of the client's images."""

PIXELS: AnyFormat = "uint8"
"""The format in which the client sends images."""
UNCONVERTED: WireFormat = "fp32"
"""The format of tensors in memory: such a message is the tensor itself, and conversion costs nothing."""

CONVERTED: tuple[AnyFormat, ...] = tuple(name for name in ENCODINGS if name != UNCONVERTED)

LEVELS: Mapping[WireFormat, int] = {
    encoding.name: encoding.highest_level for encoding in _ENCODINGS if encoding.highest_level is not None
}
"""The highest level of each quantised format."""

MAX_SAMPLE_HEADER_BYTES = max(encoding.header_bytes for encoding in _ENCODINGS)

Scale = Literal["sample", "learned"]
"""The origin of the step between two levels of a quantised message: each sample's own range, or training."""

FRAME_HEADER_BYTES = 16
"""Size of the protocol's header before each payload (``sepnas.runtime.protocol.connection``)."""

PIECE_BYTES = 64 << 10
"""A writer encrypts and writes a long message in pieces of this size; a reader takes them as they arrive."""


@lru_cache(maxsize=1 << 14)  # a search asks for the same few sizes repeatedly
def payload_bytes(num_values: int, wire: AnyFormat, batch: int = 1, learned: bool = False) -> int:
    """:meth:`WireEncoding.payload_bytes` of a format, given by name."""
    return ENCODINGS[wire].payload_bytes(num_values, batch, learned)
