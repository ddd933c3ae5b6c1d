"""Training and evaluation beside those of an earlier commit: two processes that work in turns, by their CPU time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from contestant import BATCH, STEPS

from sepnas.results.earlier import extract_tree
from sepnas.results.recorder import Recorder

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
GOALS = {"training": ">= 0.97"}
ROUNDS = 15


class Contestant:
    """A process that works with the package of one tree."""

    def __init__(self, tree: Path) -> None:
        command = [sys.executable, str(HERE / "contestant.py")]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        self._process = subprocess.Popen(
            command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def cpu_s(self, kind: str) -> float:
        """CPU seconds of a round of this kind."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{kind}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def end(self) -> None:
        self._process.communicate()


def compare(record: Recorder, commit: str) -> None:
    """Measure the speed of this tree relative to that of a commit: the median over rounds, with both ends."""
    with tempfile.TemporaryDirectory(prefix="sepnas-before-") as folder:
        extract_tree(ROOT, commit, Path(folder))
        old, new = Contestant(Path(folder)), Contestant(ROOT)
        try:
            for kind, steps in STEPS.items():
                rounds = [_round(kind, number, old, new) for number in range(-1, ROUNDS)][1:]
                ratios = [before_s / now_s for before_s, now_s in rounds]
                name = f"{kind}_speed_over_before"
                record.measure(name, median(ratios), "", min(ratios), max(ratios), ROUNDS, GOALS.get(kind))
                for title, seconds in zip(("before", "now"), zip(*rounds, strict=True), strict=True):
                    rates = [steps * BATCH[kind] / each for each in seconds]
                    record.measure(
                        f"{kind}_images_per_cpu_s_{title}", median(rates), "1/s", min(rates), max(rates), ROUNDS
                    )
                print(kind, record.measures[name], flush=True)
        finally:
            old.end()
            new.end()


def _round(kind: str, number: int, old: Contestant, new: Contestant) -> tuple[float, float]:
    """CPU seconds before and now; they take turns in going first."""
    if number % 2:
        now_s = new.cpu_s(kind)
        return old.cpu_s(kind), now_s
    before_s = old.cpu_s(kind)
    return before_s, new.cpu_s(kind)
