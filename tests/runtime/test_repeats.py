"""Lines of one kind that repeat: the first is written at once, the others are counted."""

import threading
import time

from sepnas.runtime.repeats import MAX_KINDS, RepeatSummary
from tests.limits import SOON_S


def test_repeated_lines_are_summed_up_after_their_period():
    """The summary of a period holds its last line and the number of lines that were not written."""
    written, came = [], threading.Event()

    def write(line, count):
        written.append((line, count))
        came.set()

    repeats = RepeatSummary(lambda: 0.05, write)
    assert [repeats.is_first("kind", number) for number in range(4)] == [True, False, False, False]
    assert came.wait(SOON_S)
    assert written == [(3, 3)]
    repeats.close()


def test_the_end_writes_what_was_counted():
    """Closing writes each kind's summary at once; afterwards every line counts as the first."""
    written = []
    repeats = RepeatSummary(lambda: 600.0, lambda line, count: written.append((line, count)))
    for kind in ("a", "b"):
        for number in range(3):
            repeats.is_first(kind, f"{kind}{number}")
    repeats.close()
    assert written == [("a2", 2), ("b2", 2)]
    assert repeats.is_first("a", "a3")


def test_kinds_are_few():
    """Kinds beyond the limit are counted together."""
    repeats = RepeatSummary(lambda: 600.0, lambda line, count: None)
    firsts = sum(repeats.is_first(str(number), number) for number in range(10 * MAX_KINDS))
    assert firsts == MAX_KINDS + 1
    repeats.close()


def test_without_a_thread_a_later_line_ends_the_period(monkeypatch):
    """Where no thread is left for a timer, lines are counted all the same, and the summary comes with a later line."""

    def no_thread(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", no_thread)
    written, period_s = [], 600.0
    repeats = RepeatSummary(lambda: period_s, lambda line, count: written.append((line, count)))
    assert [repeats.is_first("kind", number) for number in range(3)] == [True, False, False]
    period_s = 0.0
    later = time.monotonic() + 601.0
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert repeats.is_first("kind", 3)
    assert written == [(2, 2)]
