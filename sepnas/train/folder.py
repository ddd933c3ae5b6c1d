"""Images in folders: ``PATH/train/CLASS/*.png`` (or .jpg ...), with ``PATH/val`` or ``PATH/test``, or both, beside.

================  =====================================================================
beside ``train``  what happens
================  =====================================================================
val and test      each serves as what it is
test only         the validation split is held out of train
val only          ``val`` serves as the *test* split; validation is held out of train, so
                  that the images that an accuracy is reported on picked nothing
neither           :class:`DataError`
================  =====================================================================

All images must be square and of one size, unless ``image_size`` resizes them (bilinear). They are grayscale (one
channel) when every one of them is, else RGB; :mod:`sepnas.spec.image_file` reads them, as it does for ``sepnas infer``.
Names that begin with a dot, and files that are no images by their suffix, are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar
from unicodedata import category

import numpy as np
import torch

from sepnas.errors import DataError
from sepnas.spec.image_file import Fit, read_head, read_image
from sepnas.spec.listing import listed
from sepnas.train.display import track
from sepnas.train.folder_cache import KeptImages
from sepnas.train.images import Split

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp"})

_BUNCH = 64

Listing = Mapping[str, Mapping[str, Sequence[Path]]]
"""Part (train, val, test) -> class -> files."""

_Out = TypeVar("_Out")


def read_folder(
    folder: Path, image_size: int | None, cache: Path, resize: Fit = "stretch"
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """The classes, and the splits ``train``, ``test`` and perhaps ``val``.

    Decoded images are kept under ``cache`` (:mod:`sepnas.train.folder_cache`).
    Raises :class:`DataError` that names the paths at fault.
    """
    folder = folder.expanduser().resolve()
    listing = list_folder(folder)
    classes = tuple(listing["train"])
    paths = [path for by_class in listing.values() for files in by_class.values() for path in files]
    kept = KeptImages(cache, folder, paths, image_size, resize)
    images = kept.read()
    if images is None:
        images = _decode(paths, image_size, resize)
        kept.write(images)
    return classes, _split_up(listing, torch.from_numpy(images))


def list_folder(folder: Path) -> Listing:
    """The image files of each part and class, in order of their names; checks that the parts have the same classes."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    if not (folder / "train").is_dir():
        raise DataError(f"{folder}: has no folder `train`; expected {folder}/train/CLASS/*.png")
    parts = ["train"] + [part for part in ("val", "test") if (folder / part).is_dir()]
    if len(parts) == 1:
        raise DataError(f"{folder}: has neither `test` nor `val` beside `train`; one is needed to test on")
    listing = {part: _list_part(folder / part) for part in parts}
    for part in parts[1:]:
        _check_classes(folder, part, listing)
    if len(listing["train"]) < 2:
        raise DataError(f"{folder / 'train'}: has one class; at least two are needed to tell apart")
    if "test" not in listing:
        listing["test"] = listing.pop("val")
    return listing


def _list_part(part: Path) -> dict[str, list[Path]]:
    classes = sorted(p for p in part.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise DataError(f"{part}: is empty; expected a folder for each class, with its images")
    found = {path.name: _images_of(path) for path in classes}
    for name, files in found.items():
        if not files:
            raise DataError(f"{part / name}: holds no images (looked for {', '.join(sorted(SUFFIXES))})")
        if any(category(letter) in ("Cc", "Cs") for letter in name):
            raise DataError(f"{part}: the folder {name!r} names a class in letters that cannot be shown; rename it")
    return found


def _images_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def _check_classes(folder: Path, part: str, listing: Listing) -> None:
    for has, lacks in (("train", part), (part, "train")):
        missing = sorted(set(listing[has]) - set(listing[lacks]))
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DataError(
                f"{folder / lacks}: has no class {missing[0]!r}{more}, but {folder / has} has; "
                "both need the same classes"
            )


def _decode(paths: Sequence[Path], image_size: int | None, resize: Fit) -> np.ndarray:
    """All images as one ``(N, C, H, W)`` uint8 array, C 1 or 3: their heads first, then the pixels into their place."""
    heads = _all_good(paths, _in_threads(lambda path: read_head(path, str(path)), paths, "checking images"))
    side = image_size or _one_size(paths, [size for _, size in heads])
    channels = 1 if all(gray for gray, _ in heads) else 3
    images = np.empty((len(paths), channels, side, side), np.uint8)

    def read(path: Path) -> np.ndarray:
        return read_image(path, str(path), channels, side, resize)

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
    """The side in pixels that all images have."""
    width, height = sizes[0]
    if width != height:
        raise DataError(
            f"{paths[0]}: is {width}x{height} pixels, not square; resize all with --image-size N (image_size=)"
        )
    advice = "all images must have one size; resize them with --image-size N (image_size=)"
    _refuse(
        [
            DataError(f"{path}: is {size[0]}x{size[1]} pixels, but {paths[0]} is {width}x{height}; {advice}")
            for path, size in zip(paths, sizes, strict=True)
            if size != sizes[0]
        ],
        len(paths),
    )
    return width


def _in_threads(function: Callable[[Path], _Out], paths: Sequence[Path], what: str) -> Iterator[_Out | DataError]:
    """The results, or what is wrong with a file, in order of ``paths``; a few bunches at most wait in memory.

    Small images hold Python's lock most of the time: bunches keep the threads from fighting over it.
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
