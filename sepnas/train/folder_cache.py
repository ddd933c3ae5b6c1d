"""A cache of decoded image folders: one ``.npy`` file per data folder, read without pickle.

The key covers the name, size, mtime, inode and ctime of each file. Inode and ctime cannot be set, so swapped files and
files rewritten with their old size and mtime are decoded again.
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
"""Version of the decoder :mod:`sepnas.spec.image_file`; pixels from an earlier version are decoded again."""


class KeptImages:
    """The cached images of ``paths`` in ``folder`` in their current state, scaled to ``image_size`` by ``resize``.

    Raises :class:`DataError` for a file that is missing or cannot be examined.
    """

    def __init__(self, cache: Path, folder: Path, paths: Sequence[Path], image_size: int | None, resize: Fit) -> None:
        self._cache, self._paths = cache, paths
        self._place = _sha256(f"{folder}\0{image_size}\0{resize}")[:16]
        self._state = _state_of(paths)

    def read(self) -> np.ndarray | None:
        """The cached images ``(N, C, H, W)`` uint8; None if there are none for the current state."""
        try:
            images = np.load(self._file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return images if images.dtype == np.uint8 and images.ndim == 4 and len(images) == len(self._paths) else None

    def write(self, images: np.ndarray) -> None:
        """Cache the images, unless a file has changed meanwhile; deletes those of earlier states of the folder.

        On a full disk, the images are not cached; no error is raised.
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
