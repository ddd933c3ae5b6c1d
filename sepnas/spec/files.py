"""Opening files that others may have created: regular files only, bounded in size, with readable errors."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from sepnas.errors import UnreadableError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


class FileTooLargeError(OSError):
    """The file is larger than the limit."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file to read; :class:`OSError` at once for anything else: reading a FIFO would block."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"is {kind_of(mode)}, not a file")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


_PIECE_BYTES = 1 << 20


def read_regular(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """The content of a regular file; :class:`FileTooLargeError` beyond ``max_bytes``, other errors :class:`OSError`."""
    with open_regular(path) as file:
        length = os.fstat(file.fileno()).st_size
        # Python allocates all that it is asked to read, so it is asked for a byte more than the file has
        data = b"" if length > max_bytes else file.read(length + 1)
        while length < len(data) <= max_bytes and (more := file.read(_PIECE_BYTES)):
            data += more  # it has grown, or is of a kind that has no length
    if max(length, len(data)) > max_bytes:
        raise FileTooLargeError(errno.EFBIG, f"has {max(length, len(data)):,} bytes; at most {max_bytes:,} are read")
    return data


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether the path exists; :class:`PermissionError` and the like if that cannot be determined."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def is_there(path: str | os.PathLike[str]) -> bool:
    """Like :func:`exists`, but raises :class:`UnreadableError` if that cannot be determined."""
    try:
        return exists(path)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {why(error, path)}") from error


def name_of(file: BinaryIO, path: str | os.PathLike[str]) -> str:
    """A path that opens this very file again, even if ``path`` was replaced or is not valid text."""
    name = f"/proc/self/fd/{file.fileno()}"
    return name if os.path.exists(name) else os.fspath(path)  # noqa: PTH110 - a link made by the kernel


def kind_of(mode: int) -> str:
    """The kind of file that a mode describes, such as ``a FIFO``."""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "a regular file")


def why(error: OSError, path: str | os.PathLike[str]) -> str:
    """Why ``path`` cannot be used; for a missing permission, names the owner."""
    if isinstance(error, PermissionError):
        return _forbidden(error, Path(path))
    return error.strerror or str(error)


def _forbidden(error: PermissionError, path: Path) -> str:
    """The first folder on the path that may not be entered, or the file itself, with owner and mode."""
    says = error.strerror or str(error)
    if os.name != "posix":
        return says
    for folder in [*reversed(path.absolute().parents)]:
        if not os.access(folder, os.X_OK):
            return f"{says}: {_owned(folder)} may not be entered by uid {os.geteuid()}"
    try:
        return f"{says}: {_owned(path)} may not be used so by uid {os.geteuid()}"
    except OSError:
        return f"{says}: {_owned(path.absolute().parent)} may not be used so by uid {os.geteuid()}"


def _owned(path: Path) -> str:
    found = path.stat()
    return f"{path} (mode {stat.S_IMODE(found.st_mode):04o}, of uid {found.st_uid})"
