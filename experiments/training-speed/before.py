"""Training and evaluation beside those of an earlier commit: two processes that work in turns, by their CPU time."""

from __future__ import annotations

from pathlib import Path

from contestant import BATCH, STEPS

from sepnas.results.earlier import TurnsMeasure, earlier_and_this
from sepnas.results.recorder import Recorder

HERE = Path(__file__).resolve().parent
GOALS = {"training": ">= 0.97"}
ROUNDS = 15


def compare(record: Recorder, commit: str) -> None:
    """Measure the images per CPU second of this tree and of a commit."""
    with earlier_and_this(HERE / "contestant.py", commit) as ask:
        for kind, steps in STEPS.items():
            images = steps * BATCH[kind]
            rates = [(images / before_s, images / now_s) for before_s, now_s in ask(kind, ROUNDS)]
            measure = TurnsMeasure(
                f"{kind}_speed_over_before", f"{kind}_images_per_cpu_s", "1/s", ratio_goal=GOALS.get(kind)
            )
            measure.record(record, rates)
