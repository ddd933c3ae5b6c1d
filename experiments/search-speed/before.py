"""The rate of candidates beside that of an earlier commit: two processes that work in turns, by their CPU time."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from sepnas.results.earlier import earlier_and_this
from sepnas.results.recorder import Recorder

HERE = Path(__file__).resolve().parent
GOALS = {"paper": ">= 2000", "resnext56-full": ">= 2000"}
ROUNDS = 9


def compare(record: Recorder, commit: str) -> None:
    """Measure the rates of this tree and of a commit: medians over rounds, with both ends."""
    with earlier_and_this(HERE / "contestant.py", commit) as ask:
        for space in ("paper", "resnext56-full", "demo"):
            rounds = [ask(space, number) for number in range(-1, ROUNDS)][1:]
            ratios = [now / before for before, now in rounds]
            name = space.replace("-", "_")
            record.measure(f"rate_over_before_{name}", median(ratios), "", min(ratios), max(ratios), ROUNDS)
            for title, rates in zip(("before", "now"), zip(*rounds, strict=True), strict=True):
                goal = GOALS.get(space) if title == "now" else None
                record.measure(
                    f"candidates_per_cpu_s_{name}_{title}", median(rates), "1/s", min(rates), max(rates), ROUNDS, goal
                )
                print(space, title, record.measures[f"candidates_per_cpu_s_{name}_{title}"], flush=True)
