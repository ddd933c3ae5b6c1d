"""How a network's own configuration prepares image files: scale the image, then cut its centre.

The arithmetic is that of the evaluation transforms of torchvision and timm, so that the pixels are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from sepnas.errors import DataError
from sepnas.spec.document import Part
from sepnas.spec.figures import ImageSide

if TYPE_CHECKING:
    from PIL.Image import Image

Interpolation: TypeAlias = Literal["bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"]
"""Pillow's resampling filters."""
Scaling: TypeAlias = Literal["cover", "stretch"]
"""``cover`` keeps the proportions: the scaled image just covers a size. ``stretch`` scales each side to the size."""


class Preparation(Part):
    """Scales an image to ``height`` x ``width`` pixels in the way of ``fit``; its centre has the network's size.

    What the network reads beyond the scaled image is black.
    """

    fit: Scaling
    height: ImageSide
    width: ImageSide
    interpolation: Interpolation


def prepare(image: Image, name: str, size: tuple[int, int], way: Preparation, max_pixels: int) -> Image:
    """The image with this height and width; :class:`DataError` if the scaled image would be too large to hold."""
    from PIL.Image import Resampling

    height, width = _scaled_size(image.height, image.width, way)
    if height * width > max_pixels:
        raise DataError(
            f"{name}: is {image.width}x{image.height} pixels, which the network's configuration scales to "
            f"{width}x{height}; at most {max_pixels:,} pixels are held"
        )
    scaled = image.resize((width, height), Resampling[way.interpolation.upper()])
    top, left = (_margin(found, wanted) for found, wanted in zip((height, width), size, strict=True))
    return scaled.crop((left, top, left + size[1], top + size[0]))


def _scaled_size(height: int, width: int, way: Preparation) -> tuple[int, int]:
    """Height and width of the scaled image; to a square it is scaled as by torchvision, else as by timm."""
    if way.fit == "stretch":
        return way.height, way.width
    if way.height == way.width:
        side = way.height
        return (side, int(side * width / height)) if height <= width else (int(side * height / width), side)
    ratio = min(height / way.height, width / way.width)
    return round(height / ratio), round(width / ratio)


def _margin(found: int, wanted: int) -> int:
    """Pixels to cut off before the centre; negative if the centre is larger than the image."""
    return round((found - wanted) / 2) if found >= wanted else -((wanted - found) // 2)
