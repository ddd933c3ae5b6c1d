"""Images from files, as the network's deployment wants them."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from sepnas.errors import DataError
from sepnas.runtime.codec import Array
from sepnas.spec.manifest import ImageInput, Manifest

Images = npt.NDArray[np.uint8]
_MODES = {1: "L", 3: "RGB"}
_DEEP_MODES = ("I", "F")  # more than 8 bits a channel: Pillow would clip, not scale


def load_images(paths: Iterable[str | os.PathLike[str]], manifest: Manifest) -> Images:
    """Read image files into ``(B, channels, size, size)`` uint8; colours become gray where the network wants gray.

    Raises :class:`DataError` that names the file: not there, not an image, another size, more than 8 bits a channel.
    """
    images = [_load(path, manifest.input) for path in paths]
    if not images:
        raise DataError("no image was given; name at least one image file")
    return np.stack(images)


def _load(path: str | os.PathLike[str], wanted: ImageInput) -> Images:
    from PIL import Image, UnidentifiedImageError

    mode = _MODES.get(wanted.channels)
    if mode is None:
        raise DataError(f"{path}: image files have 1 or 3 channels, but this network reads {wanted.channels}")
    try:
        with Image.open(path) as image:
            if image.size != (wanted.size, wanted.size):
                width, height = image.size
                side = wanted.size
                raise DataError(f"{path}: is {width}x{height} pixels, the network reads {side}x{side}; resize it first")
            if image.mode.startswith(_DEEP_MODES):
                raise DataError(f"{path}: has more than 8 bits a channel (mode {image.mode}); save it with 8")
            pixels = np.asarray(image.convert(mode), dtype=np.uint8)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise DataError(f"{path}: is not an image that can be read; expected PNG, JPEG or the like") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from None
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def normalise(images_BCHW: Images, wanted: ImageInput) -> Array:
    """``(value / 255 - mean) / std`` for each channel, in float32."""
    mean = np.asarray(wanted.mean, np.float32)[:, None, None]
    std = np.asarray(wanted.std, np.float32)[:, None, None]
    values: Array = (images_BCHW.astype(np.float32) / np.float32(255) - mean) / std
    return values
