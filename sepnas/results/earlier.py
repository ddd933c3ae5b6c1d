"""The tree of an earlier commit, to measure it beside this one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from sepnas.console import say
from sepnas.errors import SpecError
from sepnas.results.recorder import Recorder


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
def earlier_and_this(script: Path, commit: str) -> Iterator[Callable[[str, int], list[tuple[float, float]]]]:
    """A function that asks a script ``experiments/SLUG/NAME.py`` in the trees of a commit and of this checkout.

    It takes a line and a number of rounds, and returns both answers of each round, the commit's first; a first round
    that warms the caches is left out. The two processes take turns in going first, so that a machine that slows down
    slows both.
    """
    root = script.parents[2]
    with tempfile.TemporaryDirectory(prefix="sepnas-before-") as name:
        extract_tree(root, commit, Path(name))
        with ExitStack() as stack:
            before, now = TreeProcess(script, Path(name)), TreeProcess(script, root)
            stack.callback(before.end)
            stack.callback(now.end)

            def turn(line: str, number: int) -> tuple[float, float]:
                if number % 2:
                    answer = now.ask(line)
                    return before.ask(line), answer
                answer = before.ask(line)
                return answer, now.ask(line)

            yield lambda line, rounds: [turn(line, number) for number in range(-1, rounds)][1:]


@dataclass(frozen=True)
class TurnsMeasure:
    """How turns of an earlier commit and of this checkout are recorded.

    ``ratio`` names this checkout's answers over the commit's; ``values`` with ``_before`` or ``_now`` behind it names
    the answers, which are in ``unit``.
    """

    ratio: str
    values: str
    unit: str
    ratio_goal: str | None = None
    goal: str | None = None

    def record(self, result: Recorder, turns: Sequence[tuple[float, float]]) -> None:
        """Record and print medians over the rounds, with both ends."""
        before, now = zip(*turns, strict=True)
        _spread(result, self.ratio, [late / early for early, late in turns], "", self.ratio_goal)
        _spread(result, f"{self.values}_before", before, self.unit, None)
        _spread(result, f"{self.values}_now", now, self.unit, self.goal)


def _spread(result: Recorder, name: str, found: Sequence[float], unit: str, goal: str | None) -> None:
    measure = result.measure(name, median(found), unit, min(found), max(found), len(found), goal)
    say(f"{measure.name}: {measure.value:.4g} {measure.unit} ({min(found):.4g} to {max(found):.4g})")
