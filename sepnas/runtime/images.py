"""Images from files, as the network's deployment wants them."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np

from sepnas.errors import DataError
from sepnas.runtime.codec import Array
from sepnas.spec import image_file
from sepnas.spec.image_file import FORMATS, MAX_PIXELS, Images, Resize, Source
from sepnas.spec.manifest import ImageInput, Manifest

__all__ = ["Images", "Resize", "load_images", "normalise", "read_image"]


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
    source: Source,
    name: str,
    wanted: ImageInput,
    resize: Resize = "no",
    formats: tuple[str, ...] = FORMATS,
    max_pixels: int = MAX_PIXELS,
) -> Images:
    """One image, ``(channels, size, size)`` uint8, as :func:`sepnas.spec.image_file.read_image` reads it."""
    return image_file.read_image(source, name, wanted.channels, wanted.size, resize, formats, max_pixels)


def normalise(images_BCHW: Images, wanted: ImageInput) -> Array:
    """``(value / 255 - mean) / std`` for each channel, in float32."""
    mean = np.asarray(wanted.mean, np.float32)[:, None, None]
    std = np.asarray(wanted.std, np.float32)[:, None, None]
    values: Array = (images_BCHW.astype(np.float32) / np.float32(255) - mean) / std
    return values
