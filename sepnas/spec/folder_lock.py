"""Locks for folders and files: one command at a time writes in a folder, or changes a file.

The lock is the system's: it ends with the process, however that ends. The lock file's text is only for people. On a
file system without locks, the process that the file names counts as the holder while it runs on this machine.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sepnas.errors import SepnasError, StorageError
from sepnas.spec.files import why

LOCK_FILE = ".sepnas-lock"
MAX_HOLDER_BYTES = 4096
MAX_COMMAND_LETTERS = 200
MAX_WAIT_S = 10.0
"""How long a change of a file waits for another one, in seconds."""
MAX_NAME_LETTERS = 40
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)

_taken: set[str] = set()
"""Lock files that this process holds."""


@contextmanager
def held(folder: Path, doing: str = "writing", refusal: type[SepnasError] = StorageError) -> Iterator[None]:
    """Create ``folder`` and lock it for writing until the block ends.

    Raises ``refusal``, which names the holder, and :class:`StorageError` if the folder cannot be written.
    """
    try:
        os.fspath(folder).encode()
    except UnicodeEncodeError:
        raise StorageError(
            f"{os.fsencode(folder)!r}: the folder's name is no UTF-8, in which some libraries cannot write; choose "
            "another"
        ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {why(error, folder)}") from error
    with held_by(folder / LOCK_FILE, folder, doing, refusal):
        yield


@contextmanager
def changing(file: Path) -> Iterator[None]:
    """Lock ``file`` from reading it until it is written again; other processes wait for their turn.

    A path that is no regular file is not locked. Raises :class:`StorageError`.
    """
    target = Path(os.path.realpath(file))
    try:
        special = target.exists() and not target.is_file()
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{file}: cannot be written: {why(error, file)}") from error
    if special:
        yield
        return
    lock = target.with_name(f".{target.name[:MAX_NAME_LETTERS]}{LOCK_FILE}")
    with held_by(lock, file, "changing", wait_s=MAX_WAIT_S):
        yield


@contextmanager
def held_by(
    lock: Path, place: Path, doing: str, refusal: type[SepnasError] = StorageError, wait_s: float = 0.0
) -> Iterator[None]:
    """Like :func:`held`, for a ``place`` that need not exist yet; ``lock`` is a file in an existing folder."""
    name, process = os.path.realpath(lock), os.getpid()
    try:
        handle = _take_within(lock, wait_s)
    except BlockingIOError:
        raise refusal(
            f"{place}: another process is {doing} here{_told(lock)}; wait for it, end it, or choose another folder"
        ) from None
    except OSError as error:
        raise StorageError(f"{place}: cannot be written: {why(error, place)}") from error
    _taken.add(name)
    try:
        yield
    finally:
        if os.getpid() == process:  # not in a forked child: the lock is its parent's
            _taken.discard(name)
            with suppress(OSError):
                lock.unlink()
        os.close(handle)


def refuse_held(folder: Path, doing: str = "writing", refusal: type[SepnasError] = StorageError) -> None:
    """Raise ``refusal`` at once if another process holds ``folder``; call it before work that takes long."""
    if (folder / LOCK_FILE).is_file():
        with held(folder, doing, refusal):
            pass


def _take_within(lock: Path, wait_s: float) -> int:
    until = time.monotonic() + wait_s
    while True:
        try:
            return _take(lock)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
        time.sleep(0.02)


def _take(lock: Path) -> int:
    """The open and locked file; BlockingIOError if another process holds it."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            _lock(handle, lock)
            if _is_same(handle, lock):  # not a file that its holder has removed meanwhile
                os.ftruncate(handle, 0)
                os.pwrite(handle, _holder(), 0)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, lock: Path) -> None:
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        _check_holder(lock)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _check_holder(lock)


def _check_holder(lock: Path) -> None:
    if os.path.realpath(lock) in _taken:
        raise BlockingIOError
    found = _read(lock)
    process = found.get("process")
    if found.get("machine") != platform.node() or type(process) is not int or process in (0, os.getpid()):
        return
    with suppress(ProcessLookupError, OverflowError):
        with suppress(PermissionError):  # it runs as another user
            os.kill(process, 0)
        raise BlockingIOError


def _is_same(handle: int, lock: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), lock.lstat())
    return False


def _holder() -> bytes:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:MAX_COMMAND_LETTERS]
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    found = {"process": os.getpid(), "machine": platform.node(), "since": since, "command": command}
    return json.dumps(found).encode()


def _read(lock: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError), lock.open("rb") as file:
        found = json.loads(file.read(MAX_HOLDER_BYTES))
        if isinstance(found, dict):
            return found
    return {}


def _told(lock: Path) -> str:
    """The holder that the lock file names; another user may have written it."""
    found = {key: _shown(value) for key, value in _read(lock).items()}
    if not {"process", "machine", "since", "command"} <= found.keys():
        return ""
    where = "" if found["machine"] == platform.node() else f" on {found['machine']}"
    return f" (process {found['process']}{where} since {found['since']}: {found['command']})"


def _shown(value: Any) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(value)[:MAX_COMMAND_LETTERS])
