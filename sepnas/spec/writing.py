"""Atomic writing of files, through links, and never in place of a path that is no regular file."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sepnas.errors import StorageError
from sepnas.options import option
from sepnas.spec.files import why

_OPEN = re.compile(r"/dev/(?:(stdout)|(stderr)|fd/(\d+))|/proc/self/fd/(\d+)")
"""Streams that are open already are written to directly, even regular files: their opener would not see a new file."""


def refuse_folder(path: str | os.PathLike[str]) -> None:
    """Raise :class:`StorageError` if a folder has this name, so that no file can be written."""
    with suppress(OSError):  # writing will report it
        if Path(path).is_dir():
            raise StorageError(f"'{path}' is a folder; name the file to write")


def refuse_existing(path: str | os.PathLike[str], force: bool, what: str) -> None:
    """Raise :class:`StorageError` if the file exists and ``force`` is off; ``what`` names the data it would lose."""
    refuse_folder(path)
    if not force and Path(path).is_file():
        raise StorageError(
            f"{path}: exists already, perhaps with {what}; name another file, or replace it with "
            + option("--force", "force=True")
        )


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to; at the end it replaces ``path``, or the target of the link ``path``.

    A path that is no regular file (a device, a FIFO) is kept and written to. If the block fails, the temporary file
    is removed and ``path`` is unchanged. Errors of the operating system are raised as :class:`StorageError`.
    """
    refuse_folder(path)
    try:
        if _is_special(Path(path)):
            with _written_into(Path(path)) as temporary:
                yield temporary
        else:
            with _renamed_to(Path(os.path.realpath(path))) as temporary:
                yield temporary
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {why(error, path)}") from error


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_bytes(path: str | os.PathLike[str], data: bytes, mode: int = 0o644) -> Path:
    with replacing(path) as temporary:
        temporary.chmod(mode)
        temporary.write_bytes(data)
    return Path(path)


def _is_special(path: Path) -> bool:
    if _OPEN.fullmatch(str(path)):
        return True
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:  # also for the target of a dangling link
        return False


@contextmanager
def _written_into(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sepnas-") as folder:
        temporary = Path(folder, "content")
        temporary.touch()
        yield temporary
        with os.fdopen(_opened(path), "wb", buffering=0) as target, temporary.open("rb") as source:
            shutil.copyfileobj(source, target)


def _opened(path: Path) -> int:
    found = _OPEN.fullmatch(str(path))
    if found is None:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | getattr(os, "O_NOCTTY", 0))
    out, err, *numbers = found.groups()
    number = 1 if out else 2 if err else int(numbers[0] or numbers[1])
    if number == 1 and sys.stdout is not None:
        sys.stdout.flush()
    return os.dup(number)  # not opened again: that would write from the start of the file


@contextmanager
def _renamed_to(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # cut short: the name of `path` may have the maximum length already
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:_KEPT]}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        temporary.chmod(0o644)
        yield temporary
        temporary.replace(path)
    finally:
        if temporary.exists():
            temporary.unlink()


_KEPT = 40
