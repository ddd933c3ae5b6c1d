"""The only reader of image files: training, ``sepnas infer`` and ``sepnas serve`` see the same pixels.

==================  =========================================================================
in the file         what is read
==================  =========================================================================
EXIF orientation    the image as it is meant to be seen, turned and mirrored
transparency        the image on white; on black if its visible part is nearly white (:data:`WHITE_INK`)
several frames      the first one
1-bit, palette      the colours that the file shows
CMYK, YCbCr, L, ..  converted to gray or RGB, whichever the network reads
16-bit gray, float  refused: fewer bits would clip or darken them
==================  =========================================================================
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from sepnas.errors import DataError
from sepnas.options import option
from sepnas.spec.preparation import Preparation, prepare

if TYPE_CHECKING:
    from PIL.Image import Image

Images = npt.NDArray[np.uint8]
Resize: TypeAlias = Literal["no", "crop", "stretch"]
Source: TypeAlias = str | os.PathLike[str] | BinaryIO
MODES: dict[int, Literal["L", "RGB"]] = {1: "L", 3: "RGB"}
"""Pillow's mode for each number of channels."""
MAX_PIXELS = 1 << 26
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Fewer than Pillow reads: it hands EPS to an external program."""
WHITE_INK = 0.75 * 255
"""Mean luminance of the visible part of a transparent image above which its background is black."""

_DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError, EOFError,
    struct.error,
)  # fmt: skip
"""The exceptions that Pillow's readers raise for damaged files."""
_DEEP_MODES = ("I", "F")  # more than 8 bits a channel, which Pillow would clip instead of scaling
_GRAY_MODES = frozenset({"1", "L", "LA", "La"})
_WITH_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_ORIENTATION = 0x0112


def read_image(
    source: Source,
    name: str,
    channels: int,
    size: tuple[int, int],
    resize: Resize | Preparation = "no",
    formats: tuple[str, ...] = FORMATS,
    max_pixels: int = MAX_PIXELS,
) -> Images:
    """One image, ``(channels, height, width)`` uint8, from a file or from bytes in memory (a ``BytesIO``).

    ``size`` is its height and width. ``resize`` says how to treat an image of another size: refuse it, or scale
    (bilinear) all of it (``stretch``) or the largest part in its middle with the proportions of ``size`` (``crop``). A
    :class:`Preparation` treats images of every size.
    ``formats`` are the accepted formats (Pillow's names); ``max_pixels`` is checked before anything is decoded.

    Raises :class:`DataError` whose message begins with ``name``.
    """
    mode = MODES.get(channels)
    if mode is None:
        raise DataError(f"{name}: image files have 1 or 3 channels, but this network reads {channels}")
    with _opened(source, name, formats, max_pixels) as image:
        height, width = size
        if resize == "no" and image.size != (width, height):
            middle = "square" if height == width else "largest part with these proportions"
            raise DataError(
                f"{name}: is {_measures(image)} pixels, the network reads {width}x{height}; "
                f"{_resize('crop')} scales the {middle} in its middle to that, "
                f"{_resize('stretch')} all of it"
            )
        plain = _opaque(_upright(image), mode)
        if isinstance(resize, Preparation):
            scaled = prepare(plain, name, size, resize, max_pixels)
        else:
            scaled = _scaled(plain, size, resize)
        pixels = np.asarray(scaled, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _resize(fit: str) -> str:
    return option(f"--resize {fit}", f"resize={fit!r}")


def read_head(source: Source, name: str) -> tuple[bool, tuple[int, int]]:
    """Whether an image is gray, and its width and height as stored, without decoding. Raises as :func:`read_image`."""
    with _opened(source, name, FORMATS, MAX_PIXELS) as image:
        return image.mode in _GRAY_MODES, image.size


@contextmanager
def _opened(source: Source, name: str, formats: tuple[str, ...], max_pixels: int) -> Iterator[Image]:
    from PIL import Image, UnidentifiedImageError

    try:
        if not hasattr(source, "read"):
            _check_regular(os.fspath(source), name)
        with Image.open(source, formats=formats) as image:
            if image.width * image.height > max_pixels:
                raise DataError(f"{name}: has {_measures(image)} pixels; at most {max_pixels:,} are read")
            if image.mode.startswith(_DEEP_MODES):
                raise DataError(f"{name}: has more than 8 bits a channel (mode {image.mode}); save it with 8 bits")
            yield image
    except FileNotFoundError:
        raise DataError(f"{name}: no such file") from None
    except PermissionError:
        raise DataError(f"{name}: cannot be read: permission denied") from None
    except Image.DecompressionBombError:
        raise DataError(f"{name}: has too many pixels; at most {max_pixels:,} are read") from None
    except UnidentifiedImageError:
        raise DataError(f"{name}: is not an image that can be read; expected one of {', '.join(formats)}") from None
    except _DAMAGED as error:
        raise DataError(f"{name}: cannot be read as an image: {error}") from None


def _check_regular(path: str, name: str) -> None:
    """Refuse pipes and the like: reading one would block."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 (any path that the system accepts)
        raise DataError(f"{name}: is not a regular file; expected an image file")


def _measures(image: Image) -> str:
    return f"{image.width}x{image.height}"


def _upright(image: Image) -> Image:
    """The decoded image, turned by its EXIF orientation; an orientation that is unreadable or invalid is ignored."""
    from PIL.Image import Transpose

    image.load()  # a PNG may store EXIF data after its pixels; Pillow turns a TIFF itself
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
    }  # fmt: skip
    try:
        turn = turns.get(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGED:
        turn = None
    return image if turn is None else image.transpose(turn)


def _opaque(image: Image, mode: Literal["L", "RGB"]) -> Image:
    """The image in this mode; a transparent one on the background that keeps its visible part visible."""
    if image.mode not in _WITH_ALPHA and "transparency" not in image.info:
        return image.convert(mode)
    from PIL import Image
    from PIL.ImageStat import Stat

    premultiplied = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)
    visible = image.convert(premultiplied).convert("RGBA")
    alpha = visible.getchannel("A")
    light = Image.composite(visible.convert("L"), Image.new("L", image.size, 0), alpha)
    opacity = Stat(alpha).mean[0] / 255
    black = opacity > 0 and Stat(light).mean[0] > WHITE_INK * opacity
    background = Image.new("RGB", image.size, "black" if black else "white")
    return Image.composite(visible.convert("RGB"), background, alpha).convert(mode)


def _scaled(image: Image, size: tuple[int, int], resize: Resize) -> Image:
    """The image with this height and width; unchanged if it has that size already."""
    from PIL.Image import Resampling

    height, width = size
    if image.size == (width, height):
        return image
    if resize == "crop":  # cut first: scaling a box would sample a little beyond its edges
        cut_width = min(image.width, max(1, image.height * width // height))
        cut_height = min(image.height, max(1, image.width * height // width))
        left, top = (image.width - cut_width) // 2, (image.height - cut_height) // 2
        image = image.crop((left, top, left + cut_width, top + cut_height))
    return image.resize((width, height), Resampling.BILINEAR)
