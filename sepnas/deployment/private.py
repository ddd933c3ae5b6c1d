"""Checks that a private key is owned and readable only by the user who runs sepnas."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from sepnas.errors import DeploymentError

_NO_MODES = "if that changes nothing the file system keeps no modes (FAT, some mounts): move the folder to another"


def check_private(path: Path) -> None:
    """Raise :class:`DeploymentError`, with the command that fixes it, if other users may access a private key.

    Copying may widen modes (`scp -r` without `-p`, archives, images), and a copy belongs to the user who made it.
    Windows has no modes, so nothing is checked there.
    """
    if os.name != "posix":
        return
    found = path.stat()
    mode, user = stat.S_IMODE(found.st_mode), os.geteuid()
    quoted = shlex.quote(str(path))
    if mode & 0o077:
        raise DeploymentError(
            f"{path}: a private key that others may use (mode {mode:04o}); run: chmod 600 {quoted} ({_NO_MODES})"
        )
    if found.st_uid != user:
        raise DeploymentError(
            f"{path}: a private key that belongs to another user (uid {found.st_uid}, sepnas runs as uid {user}); "
            f"run: sudo chown {user} {quoted}, or run sepnas as that user"
        )
