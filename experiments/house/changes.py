"""How many files an addition touched: one wire format, objective, engine, merge kind, backbone, or kind of output."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sepnas.errors import SpecError

KINDS = ("wire format", "objective", "engine", "merge kind", "backbone", "output that is no class")


def chosen_commits(file: Path, given: Iterable[str]) -> dict[str, str]:
    """The commits of ``file``, by kind, then those given as ``KIND=COMMIT``; raises :class:`SpecError`."""
    commits: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for text in given:
        kind, _, commit = text.partition("=")
        if kind not in KINDS or not commit:
            raise SpecError(f"--change {text!r}: expected KIND=COMMIT; kinds are {', '.join(KINDS)}")
        commits[kind] = commit
    return commits


def touched(root: Path, package: str, commits: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row for each kind, in the order of :data:`KINDS`: the package's files that its commit touched, and the others.

    A kind without a commit has no counts. Raises :class:`SpecError` for a commit that is not there.
    """
    return [_row(root, package, kind, commits.get(kind)) for kind in KINDS]


def _row(root: Path, package: str, kind: str, commit: str | None) -> dict[str, Any]:
    if commit is None:
        return {"change": kind, "commit": "", "files_of_the_package": None, "package": "", "others": ""}
    command = ["git", "-C", str(root), "show", "--format=%h %s", "--name-only", "--no-renames", commit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SpecError(f"--change {kind}={commit}: {done.stderr.strip()}")
    subject, *names = [line for line in done.stdout.splitlines() if line]
    own = [name for name in names if name.startswith(f"{package}/")]
    return {
        "change": kind,
        "commit": subject,
        "files_of_the_package": len(own),
        "package": ", ".join(own),
        "others": ", ".join(name for name in names if name not in own),
    }
