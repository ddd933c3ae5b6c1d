"""Decoded image folders, kept in a cache folder: one ``.npy`` for each data folder, read without pickles."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from sepnas.errors import StorageError
from sepnas.spec.document import replacing
from sepnas.spec.image_file import Fit

READER = "2"
"""Of what :mod:`sepnas.spec.image_file` makes of a file: pixels of an earlier one are decoded anew."""


def read_cache(
    cache: Path, folder: Path, paths: Sequence[Path], image_size: int | None, resize: Fit
) -> np.ndarray | None:
    """The images of ``paths`` ``(N, C, H, W)`` uint8 as they were decoded before; None when anything changed since."""
    try:
        images = np.load(_file(cache, folder, paths, image_size, resize), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return images if images.dtype == np.uint8 and images.ndim == 4 and len(images) == len(paths) else None


def write_cache(
    cache: Path, folder: Path, paths: Sequence[Path], image_size: int | None, resize: Fit, images: np.ndarray
) -> None:
    """Keep the images; what was kept of an earlier state of the folder goes. A full disk only costs the cache."""
    target = _file(cache, folder, paths, image_size, resize)
    with suppress(StorageError):
        with replacing(target) as temporary, temporary.open("wb") as file:
            np.save(file, images, allow_pickle=False)
        for old in cache.glob(f"{target.name.partition('-')[0]}-*.npy"):
            if old != target:
                old.unlink(missing_ok=True)


def _file(cache: Path, folder: Path, paths: Sequence[Path], image_size: int | None, resize: Fit) -> Path:
    state = hashlib.sha256(f"{READER}\n".encode())
    for path in paths:
        stat = path.stat()
        state.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    place = hashlib.sha256(f"{folder}\0{image_size}\0{resize}".encode("utf-8", "surrogateescape"))
    return cache / f"{place.hexdigest()[:16]}-{state.hexdigest()[:32]}.npy"
