"""Decoded image folders, kept in a cache folder: one ``.npy`` for each data folder, read without pickles.

The key has of each file its name, size, time of change, inode and the time at which the inode changed. The last two
cannot be set: files that were swapped, or written anew with their old size and time, are decoded anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from sepnas.errors import DataError, StorageError
from sepnas.spec.document import replacing
from sepnas.spec.figures import Fit
from sepnas.spec.listing import shown_path

READER = "2"
"""Of what :mod:`sepnas.spec.image_file` makes of a file: pixels of an earlier one are decoded anew."""


class KeptImages:
    """The images of ``paths`` in ``folder``, scaled to ``image_size`` by ``resize``, as they are now.

    Raises :class:`DataError` for a file that is gone or cannot be looked at.
    """

    def __init__(self, cache: Path, folder: Path, paths: Sequence[Path], image_size: int | None, resize: Fit) -> None:
        self._cache, self._paths = cache, paths
        self._place = _sha256(f"{folder}\0{image_size}\0{resize}")[:16]
        self._state = _state_of(paths)

    def read(self) -> np.ndarray | None:
        """``(N, C, H, W)`` uint8 as they were decoded before; None when anything changed since."""
        try:
            images = np.load(self._file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return images if images.dtype == np.uint8 and images.ndim == 4 and len(images) == len(self._paths) else None

    def write(self, images: np.ndarray) -> None:
        """Keep the images, unless a file changed meanwhile; those of an earlier state of the folder go.

        A full disk only costs the cache.
        """
        with suppress(StorageError, DataError):
            if _state_of(self._paths) != self._state:
                return
            with replacing(self._file) as temporary, temporary.open("wb") as file:
                np.save(file, images, allow_pickle=False)
            for old in self._cache.glob(f"{self._place}-*.npy"):
                if old != self._file:
                    old.unlink(missing_ok=True)

    @property
    def _file(self) -> Path:
        return self._cache / f"{self._place}-{self._state[:32]}.npy"


def _state_of(paths: Sequence[Path]) -> str:
    lines = [READER]
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(f"{shown_path(path)}: cannot be read: {error.strerror}") from None
        lines.append(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ino}\0{stat.st_ctime_ns}")
    return _sha256("\n".join(lines))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
