"""Reading image files in the form that a deployment's network takes."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np

from sepnas.deployment.manifest import Manifest
from sepnas.deployment.network_facts import ImageInput
from sepnas.errors import DataError
from sepnas.runtime.tensors import codec
from sepnas.runtime.tensors.codec import Array
from sepnas.spec import image_file
from sepnas.spec.image_file import FORMATS, MAX_PIXELS, Images, Resize, Source
from sepnas.spec.listing import listed
from sepnas.spec.memory import check_images_fit
from sepnas.spec.preparation import Preparation

__all__ = ["Images", "Resize", "load_images", "normalise", "read_image", "read_images"]


def load_images(paths: Iterable[str | os.PathLike[str]], manifest: Manifest, resize: Resize | None = None) -> Images:
    """Read image files into ``(B, channels, height, width)`` uint8; colours become gray if the network reads gray.

    ``resize`` is the treatment of an image of another size: ``no`` refuses it, ``crop`` scales its central square and
    ``stretch`` the whole image (bilinear); by default as in training, or as the network's configuration says.

    Raises :class:`DataError` that names each bad file: missing, not an image, another size, more than 8 bits per
    channel.
    """
    found = read_images(paths, manifest.image, resize)
    if not found:
        raise DataError("no image was given; name at least one image file")
    if problems := [each for each in found if isinstance(each, DataError)]:
        raise DataError(listed(problems, f"{len(problems)} of {len(found)} images cannot be read"))
    return np.stack([each for each in found if not isinstance(each, DataError)])


def read_images(
    paths: Iterable[str | os.PathLike[str]], wanted: ImageInput, resize: Resize | None = None
) -> list[Images | DataError]:
    """Of each file the image, or the error that :func:`load_images` would raise."""
    found: list[Images | DataError] = []
    paths = list(paths)
    check_images_fit(len(paths), wanted.channels, (wanted.height, wanted.width), len(paths))
    for path in paths:
        try:
            found.append(read_image(path, str(path), wanted, resize))
        except DataError as error:
            found.append(error)
    return found


def read_image(
    source: Source,
    name: str,
    wanted: ImageInput,
    resize: Resize | None = None,
    formats: tuple[str, ...] = FORMATS,
    max_pixels: int = MAX_PIXELS,
) -> Images:
    """One image, ``(channels, height, width)`` uint8, as :func:`sepnas.spec.image_file.read_image` reads it.

    It is resized as in training, or as the network's configuration says, unless ``resize`` is given.
    """
    size, chosen = (wanted.height, wanted.width), resize_of(wanted, resize)
    return image_file.read_image(source, name, wanted.channels, size, chosen, formats, max_pixels)


def resize_of(wanted: ImageInput, given: Resize | None) -> Resize | Preparation:
    """The treatment of images: ``given``, or else the network's own preparation, or as in training."""
    return given or wanted.preparation or wanted.resize or "no"


def normalise(images_BCHW: Images, wanted: ImageInput, channels: slice = slice(None)) -> Array:
    """``(value / 255 - mean) / std``, float32, for images of these channels."""
    return codec.normalise(images_BCHW, np.array([wanted.mean[channels], wanted.std[channels]], np.float32))
