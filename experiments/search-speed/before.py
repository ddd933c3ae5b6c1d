"""The rate of candidates beside that of an earlier commit: two processes that work in turns, by their CPU time."""

from __future__ import annotations

from pathlib import Path

from sepnas.results.earlier import TurnsMeasure, earlier_and_this
from sepnas.results.recorder import Recorder

HERE = Path(__file__).resolve().parent
GOALS = {"paper": ">= 2000", "resnext56-full": ">= 2000"}
ROUNDS = 9


def compare(record: Recorder, commit: str) -> None:
    """Measure the candidates per CPU second of this tree and of a commit."""
    with earlier_and_this(HERE / "contestant.py", commit) as ask:
        for space in ("paper", "resnext56-full", "demo"):
            name = space.replace("-", "_")
            measure = TurnsMeasure(
                f"rate_over_before_{name}", f"candidates_per_cpu_s_{name}", "1/s", goal=GOALS.get(space)
            )
            measure.record(record, ask(space, ROUNDS))
