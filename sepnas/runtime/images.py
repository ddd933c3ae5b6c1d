"""Images from files, as the network's deployment wants them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from sepnas.errors import DataError
from sepnas.runtime.codec import Array
from sepnas.spec.manifest import ImageInput, Manifest

if TYPE_CHECKING:
    from PIL.Image import Image

Images = npt.NDArray[np.uint8]
Resize: TypeAlias = Literal["no", "crop", "stretch"]
_MODES = {1: "L", 3: "RGB"}
MOST_PIXELS = 1 << 26
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Not all that Pillow reads: it hands EPS to a program."""
_DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError, struct.error,
)  # fmt: skip
"""What Pillow's readers raise where a damaged file has what they did not think of."""
_DEEP_MODES = ("I", "F")  # more than 8 bits a channel: Pillow would clip, not scale


def load_images(paths: Iterable[str | os.PathLike[str]], manifest: Manifest, resize: Resize = "no") -> Images:
    """Read image files into ``(B, channels, size, size)`` uint8; colours become gray where the network wants gray.

    ``resize`` says what happens to an image of another size: it is refused, or scaled (bilinear), ``crop`` the square
    in its middle, ``stretch`` all of it as training with another image size does.

    Raises :class:`DataError` that names the file: not there, not an image, another size, more than 8 bits a channel.
    """
    images = [read_image(path, str(path), manifest.input, resize) for path in paths]
    if not images:
        raise DataError("no image was given; name at least one image file")
    return np.stack(images)


def read_image(
    source: str | os.PathLike[str] | BinaryIO,
    name: str,
    wanted: ImageInput,
    resize: Resize = "no",
    formats: tuple[str, ...] = _FORMATS,
    max_pixels: int = MOST_PIXELS,
) -> Images:
    """One image, ``(channels, size, size)`` uint8, from a file or from bytes in memory (a ``BytesIO``).

    ``formats`` are those that are read (Pillow's names), ``max_pixels`` is checked before anything is decoded.

    Raises :class:`DataError` that begins with ``name``.
    """
    from PIL import Image, UnidentifiedImageError

    mode = _MODES.get(wanted.channels)
    if mode is None:
        raise DataError(f"{name}: image files have 1 or 3 channels, but this network reads {wanted.channels}")
    try:
        with Image.open(source, formats=formats) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise DataError(f"{name}: has {width}x{height} pixels; at most {max_pixels:,} are read")
            if resize == "no" and image.size != (wanted.size, wanted.size):
                raise DataError(
                    f"{name}: is {width}x{height} pixels, the network reads {wanted.size}x{wanted.size}; --resize crop "
                    "(resize=) scales the square in its middle to that, --resize stretch all of it"
                )
            if image.mode.startswith(_DEEP_MODES):
                raise DataError(f"{name}: has more than 8 bits a channel (mode {image.mode}); save it with 8")
            pixels = np.asarray(_scaled(image.convert(mode), wanted.size, resize), dtype=np.uint8)
    except FileNotFoundError:
        raise DataError(f"{name}: no such file") from None
    except Image.DecompressionBombError:
        raise DataError(f"{name}: has too many pixels; at most {max_pixels:,} are read") from None
    except UnidentifiedImageError:
        raise DataError(f"{name}: is not an image that can be read; expected one of {', '.join(formats)}") from None
    except _DAMAGED as error:
        raise DataError(f"{name}: cannot be read as an image: {error}") from None
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _scaled(image: Image, side: int, resize: Resize) -> Image:
    """The image with this side in pixels; one that has it is left as it is."""
    from PIL.Image import Resampling

    if image.size == (side, side):
        return image
    if resize == "crop":  # cut first: scaling a box would look a little beyond its edges
        width, height = image.size
        shorter = min(width, height)
        left, top = (width - shorter) // 2, (height - shorter) // 2
        image = image.crop((left, top, left + shorter, top + shorter))
    return image.resize((side, side), Resampling.BILINEAR)


def normalise(images_BCHW: Images, wanted: ImageInput) -> Array:
    """``(value / 255 - mean) / std`` for each channel, in float32."""
    mean = np.asarray(wanted.mean, np.float32)[:, None, None]
    std = np.asarray(wanted.std, np.float32)[:, None, None]
    values: Array = (images_BCHW.astype(np.float32) / np.float32(255) - mean) / std
    return values
