"""The provenance of a result: the command line, the commit, the machine."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sepnas.measure.machine import cpu_model, installed_version, usable_cores
from sepnas.spec.result import MachineFacts

# Result files are outputs of a tree, not inputs: they do not make it dirty.
_INPUTS_ONLY = ("--", ":/", ":(top,exclude,glob)experiments/*/result.json")


def command_line(argv: Sequence[str] | None = None) -> str:
    """The running command as typed in the repository: ``sepnas VERB ...`` or ``python PATH ...``.

    Paths inside the working folder are relative to it, because the folder's own path is this machine's.
    """
    program, *given = sys.argv if argv is None else argv
    path, arguments = Path(program), [_within_folder(each) for each in given]
    if path.stem == "sepnas" or path.name == "__main__.py":
        return shlex.join(["sepnas", *arguments])
    return shlex.join(["python", os.path.relpath(path), *arguments])


def _within_folder(argument: str) -> str:
    """An argument such as ``/here/runs``, ``--out=/here/runs`` or ``folder:/here/data`` without the path of here."""
    inside = rf"(^|[=:]){re.escape(str(Path.cwd()))}(?:/(?=.)|/?$)"
    return re.sub(inside, lambda found: found[1] + ("." if found.end() == len(argument) else ""), argument)


def git_commit(root: str | os.PathLike[str] = ".") -> str | None:
    """The commit of the tree, with ``+changes`` if it is dirty; None outside git or before the first commit."""
    commit = _output_of(["git", "-C", os.fspath(root), "rev-parse", "--verify", "--quiet", "HEAD"])
    if not commit:
        return None
    changes = _output_of(["git", "-C", os.fspath(root), "status", "--porcelain", *_INPUTS_ONLY])
    return f"{commit}+changes" if changes else commit


def machine_facts() -> MachineFacts:
    """CPU, usable cores, GPU, torch and Python; torch's version is looked up without importing it."""
    return MachineFacts(
        cpu=cpu_model(),
        cores=usable_cores(),
        gpu=_gpu_name(),
        torch=installed_version("torch"),
        python=platform.python_version(),
    )


def _output_of(command: list[str]) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _gpu_name() -> str | None:
    names = _output_of(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return ", ".join(names.splitlines()) if names else None
