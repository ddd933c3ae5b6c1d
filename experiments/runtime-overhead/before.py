"""A message between two workers beside that of an earlier commit: two pairs of workers that are measured in turns."""

from __future__ import annotations

from pathlib import Path

from sepnas.results.earlier import TurnsMeasure, earlier_and_this
from sepnas.results.recorder import Recorder

HERE = Path(__file__).resolve().parent


def compare(record: Recorder, commit: str, rounds: int) -> None:
    """Measure a message's time with this tree and with a commit."""
    measure = TurnsMeasure("message_time_over_before", "message_us", "us", ratio_goal="<= 1.05")
    with earlier_and_this(HERE / "contestant.py", commit) as ask:
        measure.record(record, [(1e6 * before_s, 1e6 * now_s) for before_s, now_s in ask("message", rounds)])
