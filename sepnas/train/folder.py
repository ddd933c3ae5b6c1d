"""Image folders: ``PATH/train/CLASS/*.png`` (or .jpg ...), with ``PATH/val``, ``PATH/test`` or both.

================  =====================================================================
beside ``train``  use of the splits
================  =====================================================================
val and test      each serves as its own split
test only         the validation split is held out of train
val only          ``val`` serves as the *test* split; validation is held out of train, so
                  that the reported accuracy is on images that selected nothing
neither           :class:`DataError`
================  =====================================================================

All images must be square and of one size, unless ``image_size`` resizes them (bilinear). The data set is grayscale (one
channel) if every image is, else RGB. :mod:`sepnas.spec.image_file` reads the images, as for ``sepnas infer``.
:mod:`sepnas.train.folder_listing` counts and reports skipped files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from sepnas.errors import DataError
from sepnas.options import option
from sepnas.spec.figures import Fit
from sepnas.spec.image_file import read_head, read_image
from sepnas.spec.listing import listed, shown_path
from sepnas.spec.memory import check_images_fit
from sepnas.train.display import track
from sepnas.train.folder_cache import KeptImages
from sepnas.train.folder_listing import Listing, list_folder
from sepnas.train.images import Split

_BUNCH = 64

_Out = TypeVar("_Out")


def read_folder(
    folder: Path, image_size: int | None, cache: Path, resize: Fit = "stretch"
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """The classes, and the splits ``train``, ``test`` and, if present, ``val``.

    Decoded images are cached under ``cache`` (:mod:`sepnas.train.folder_cache`).
    Raises :class:`DataError` that names the faulty paths.
    """
    folder = _resolved(folder)
    listing = list_folder(folder)
    classes = tuple(listing["train"])
    paths = [path for by_class in listing.values() for files in by_class.values() for path in files]
    held_out = 0 if "val" in listing else sum(map(len, listing["train"].values()))  # the split copies these
    if image_size:
        check_images_fit(len(paths), 1, (image_size, image_size), held_out)
    kept = KeptImages(cache, folder, paths, image_size, resize)
    images = kept.read()
    if images is None:
        images = _decode(paths, image_size, resize, held_out)
        kept.write(images)
    return classes, _split_up(listing, torch.from_numpy(images))


def _resolved(folder: Path) -> Path:
    try:
        return folder.expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # cyclic links, too long a name
        raise DataError(f"{shown_path(folder)}: cannot be read: {error}") from None


def _decode(paths: Sequence[Path], image_size: int | None, resize: Fit, held_out: int) -> np.ndarray:
    """All images as one ``(N, C, H, W)`` uint8 array, C 1 or 3; reads all headers first, then the pixels in place."""
    heads = _all_good(paths, _in_threads(lambda path: read_head(path, shown_path(path)), paths, "checking images"))
    side = image_size or _one_size(paths, [size for _, size in heads])
    channels = 1 if all(gray for gray, _ in heads) else 3
    check_images_fit(len(paths), channels, (side, side), held_out)
    images = np.empty((len(paths), channels, side, side), np.uint8)

    def read(path: Path) -> np.ndarray:
        return read_image(path, shown_path(path), channels, (side, side), resize)

    problems = []
    for index, found in enumerate(_in_threads(read, paths, "reading images")):
        if isinstance(found, DataError):
            problems.append(found)
        else:
            images[index] = found
    _refuse(problems, len(paths))
    return images


def _all_good(paths: Sequence[Path], found: Iterable[_Out | DataError]) -> list[_Out]:
    good, problems = [], []
    for each in found:
        problems.append(each) if isinstance(each, DataError) else good.append(each)
    _refuse(problems, len(paths))
    return good


def _refuse(problems: Sequence[DataError], of: int) -> None:
    if problems:
        raise DataError(listed(problems, f"{len(problems):,} of {of:,} images cannot be used"))


def _one_size(paths: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> int:
    """The common side length of all images in pixels; raises :class:`DataError` if they differ or are not square."""
    first, (width, height) = shown_path(paths[0]), sizes[0]
    if width != height:
        raise DataError(
            f"{first}: is {width}x{height} pixels, not square; resize all with "
            + option("--image-size N", "image_size=N")
        )
    advice = f"all images must have one size; resize them with {option('--image-size N', 'image_size=N')}"
    _refuse(
        [
            DataError(f"{shown_path(path)}: is {size[0]}x{size[1]} pixels, but {first} is {width}x{height}; {advice}")
            for path, size in zip(paths, sizes, strict=True)
            if size != sizes[0]
        ],
        len(paths),
    )
    return width


def _in_threads(function: Callable[[Path], _Out], paths: Sequence[Path], what: str) -> Iterator[_Out | DataError]:
    """The result or the error for each file, in order of ``paths``; at most a few bunches are held in memory.

    Small images hold the GIL most of the time; bunches reduce contention between the threads.
    """
    remaining = iter(track(paths, what))
    threads = os.cpu_count() or 1

    def one(path: Path) -> _Out | DataError:
        try:
            return function(path)
        except DataError as error:
            return error

    def work(bunch: list[Path]) -> list[_Out | DataError]:
        return [one(path) for path in bunch]

    with ThreadPoolExecutor(threads) as pool:
        while bunches := [b for _ in range(4 * threads) if (b := list(islice(remaining, _BUNCH)))]:
            for results in pool.map(work, bunches):
                yield from results


def _split_up(listing: Listing, images: torch.Tensor) -> dict[str, Split]:
    splits, start = {}, 0
    for part, by_class in listing.items():
        counts = [len(files) for files in by_class.values()]
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        splits[part] = Split(images[start : start + len(labels)], labels)
        start += len(labels)
    return splits
