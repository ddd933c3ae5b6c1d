"""Types of the numbers and names in descriptions: finite (see :class:`Part`), bounded, on one line."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

MAX_DEVICES = 64
"""Maximum number of devices of a cluster or network; bounds everything that grows with its square."""
MAX_DEPTH = 1100
MAX_BLOCKS = 3 * ((MAX_DEPTH - 2) // 9)
MAX_SIDE = 8192
"""Maximum height and width of images, in pixels."""
MAX_CHANNELS = 1 << 16
MAX_CLASSES = 1 << 16
_MAX_FIGURE = 1e18
_MIN_FIGURE = 1e-18
"""Smaller positive numbers have no reciprocal, or no product with another, that a float holds."""

Fit: TypeAlias = Literal["crop", "stretch"]
"""How an image is scaled to the network's size."""


def _not_tiny(figure: float) -> float:
    if figure < _MIN_FIGURE:
        raise ValueError(f"must be at least {_MIN_FIGURE:g}, got {figure:g}")
    return figure


Positive = Annotated[float, Field(gt=0, le=_MAX_FIGURE), AfterValidator(_not_tiny)]
NotNegative = Annotated[float, Field(ge=0, le=_MAX_FIGURE)]
Count = Annotated[int, Field(gt=0, le=1 << 53)]
Size = Annotated[int, Field(gt=0, le=1 << 20)]
ImageSide = Annotated[int, Field(gt=0, le=MAX_SIDE, strict=True)]
"""The height or the width of an image."""
ONE_LINE = r"^[^\x00-\x1f\x7f\u0085\u2028\u2029]+$"
"""Text without line breaks and ASCII controls; :mod:`sepnas.terminal` escapes what else would steer a terminal."""
MAX_TEXT = 2000
"""Maximum number of characters of a name or a remark."""
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT, pattern=ONE_LINE)]
"""A name or a remark on one line."""
Rank = Annotated[int, Field(ge=0, lt=MAX_DEVICES)]
Block = Annotated[int, Field(ge=0, lt=MAX_BLOCKS)]
Channels = Annotated[int, Field(gt=0, le=MAX_CHANNELS)]


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


Index = Annotated[int, Field(ge=0, le=1 << 53, strict=True)]


RankOrClient = Annotated[int, Field(ge=-1, lt=MAX_DEVICES, strict=True)]


NumDevices = Annotated[int, Field(gt=0, le=MAX_DEVICES, strict=True)]
