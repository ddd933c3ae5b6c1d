"""The tree of an earlier commit, to measure it beside this one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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


_RUN = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
"""Runs a script without its folder on the path, which holds the files of this tree."""


class TreeProcess:
    """A script that runs with the package of one tree, and answers each line with a number."""

    def __init__(self, script: Path, tree: Path) -> None:
        beside = tree / script.relative_to(script.parents[2]).parent  # the tree's own files beside the script
        environment = os.environ | {"PYTHONPATH": f"{tree}{os.pathsep}{beside}"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _RUN, str(script)],
            cwd=tree,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, line: str) -> float:
        """The number that the script answers to a line."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def end(self) -> None:
        self._process.communicate()


@contextmanager
def earlier_and_this(script: Path, commit: str) -> Iterator[Callable[[str, int], tuple[float, float]]]:
    """A function that asks a script ``experiments/SLUG/NAME.py`` in the trees of a commit and of this checkout.

    It takes a line and the number of the round, and returns both answers, the commit's first. The two processes take
    turns in going first, so that a machine that slows down slows both.
    """
    root = script.parents[2]
    with tempfile.TemporaryDirectory(prefix="sepnas-before-") as name:
        extract_tree(root, commit, Path(name))
        with ExitStack() as stack:
            before, now = TreeProcess(script, Path(name)), TreeProcess(script, root)
            stack.callback(before.end)
            stack.callback(now.end)

            def ask(line: str, number: int) -> tuple[float, float]:
                if number % 2:
                    answer = now.ask(line)
                    return before.ask(line), answer
                answer = before.ask(line)
                return answer, now.ask(line)

            yield ask
