"""A message between two workers beside that of an earlier commit: two pairs of workers that are measured in turns."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from sepnas.results.earlier import earlier_and_this
from sepnas.results.recorder import Recorder

HERE = Path(__file__).resolve().parent


def compare(record: Recorder, commit: str, rounds: int) -> None:
    """Measure a message's time with this tree and with a commit: medians over rounds, with both ends."""
    with earlier_and_this(HERE / "contestant.py", commit) as ask:
        times_s = [ask("message", number) for number in range(-1, rounds)][1:]
    ratios = [now_s / before_s for before_s, now_s in times_s]
    record.measure("message_time_over_before", median(ratios), "", min(ratios), max(ratios), rounds, "<= 1.05")
    for title, seconds in zip(("before", "now"), zip(*times_s, strict=True), strict=True):
        found = [1e6 * each for each in seconds]
        record.measure(f"message_us_{title}", median(found), "us", min(found), max(found), rounds)
    for measure in record.measures.values():
        print(measure, flush=True)
