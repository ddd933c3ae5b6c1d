"""Writes renewed certificates and keys beside the old ones, and activates them by one rename."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from sepnas.deployment.manifest import FileEntry
from sepnas.deployment.renewal import RENEWAL_NAME, Renewal
from sepnas.deployment.verify import KEY_NAME, file_entry
from sepnas.errors import StorageError

_UNFINISHED = ".renewing-"


def write_renewal(folder: Path, files: Mapping[str, bytes], replaces: FileEntry) -> Path:
    """Activate ``files`` (ca.pem, cert.pem, key.pem) in ``folder``, and return the folder that contains them.

    The exported files stay as the manifest lists them; files of earlier renewals are removed. If it is interrupted, the
    old files stay active. Raises :class:`StorageError`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=_UNFINISHED))
        try:
            return _write(folder, temporary, files, replaces)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written, the old certificates count: {error.strerror}") from error


def _write(folder: Path, temporary: Path, files: Mapping[str, bytes], replaces: FileEntry) -> Path:
    for name, data in files.items():
        _write_file(temporary / name, data, 0o600 if name == KEY_NAME else 0o644)
    entries = {name: file_entry(temporary / name) for name in sorted(files)}
    place = folder / f"renewed-{entries[KEY_NAME].sha256[:16]}"
    renewal = Renewal(replaces=replaces.sha256, folder=place.name, files=entries).seal()
    _write_file(temporary / RENEWAL_NAME, renewal.dumps().encode(), 0o644)
    temporary.chmod(0o755)
    _keep(temporary)
    temporary.rename(place)
    try:
        _keep(folder)
        (place / RENEWAL_NAME).replace(folder / RENEWAL_NAME)
    except BaseException:
        if (place / RENEWAL_NAME).exists():  # else it is active already
            shutil.rmtree(place, ignore_errors=True)
        raise
    _keep(folder)
    for earlier in (*folder.glob("renewed-*"), *folder.glob(f"{_UNFINISHED}*")):
        if earlier.is_dir() and earlier != place:
            shutil.rmtree(earlier, ignore_errors=True)
    return place


def _write_file(path: Path, data: bytes, mode: int) -> None:
    # created with its final mode: a key is never readable by others, not even briefly
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _keep(folder: Path) -> None:
    """Sync a folder, so that its names survive a power failure, where the system supports it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
