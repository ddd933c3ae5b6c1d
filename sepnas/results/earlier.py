"""The tree of an earlier commit, to measure it beside this one."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from sepnas.errors import SpecError


def extract_tree(root: Path, commit: str, folder: Path) -> None:
    """Write the files of a commit of the repository ``root`` to ``folder``.

    Raises :class:`SpecError` for a commit that is not there.
    """
    done = subprocess.run(["git", "-C", str(root), "archive", commit], capture_output=True, check=False)
    if done.returncode:
        raise SpecError(f"--before {commit}: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
