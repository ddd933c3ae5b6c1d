"""Training and evaluation beside those of an earlier commit: two processes that work in turns, by their CPU time."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from contestant import BATCH, STEPS

from sepnas.results.earlier import earlier_and_this
from sepnas.results.recorder import Recorder

HERE = Path(__file__).resolve().parent
GOALS = {"training": ">= 0.97"}
ROUNDS = 15


def compare(record: Recorder, commit: str) -> None:
    """Measure the speed of this tree relative to that of a commit: the median over rounds, with both ends."""
    with earlier_and_this(HERE / "contestant.py", commit) as ask:
        for kind, steps in STEPS.items():
            rounds = [ask(kind, number) for number in range(-1, ROUNDS)][1:]
            ratios = [before_s / now_s for before_s, now_s in rounds]
            name = f"{kind}_speed_over_before"
            record.measure(name, median(ratios), "", min(ratios), max(ratios), ROUNDS, GOALS.get(kind))
            for title, seconds in zip(("before", "now"), zip(*rounds, strict=True), strict=True):
                rates = [steps * BATCH[kind] / each for each in seconds]
                record.measure(f"{kind}_images_per_cpu_s_{title}", median(rates), "1/s", min(rates), max(rates), ROUNDS)
            print(kind, record.measures[name], flush=True)
