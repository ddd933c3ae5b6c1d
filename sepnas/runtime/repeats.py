"""Rate limit for log lines of one kind: the first is written at once, then one summary per period.

A stranger that triggers the same line repeatedly cannot fill the disk.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

MAX_KINDS = 100
OTHERS = "others"

LineT = TypeVar("LineT")


@dataclass(slots=True)
class _Window(Generic[LineT]):
    """Lines of one kind since the last written one."""

    timer: threading.Timer
    due: float
    last: LineT | None = None
    count: int = 0


class RepeatSummary(Generic[LineT]):
    """Counts repeated lines by kind; all threads may call it.

    Args:
        period_s: seconds between two lines of one kind.
        write: writes a summary of the last line and the number of lines; called without the lock.
        max_kinds: maximum number of kinds at a time; further ones are counted together.
    """

    def __init__(
        self, period_s: Callable[[], float], write: Callable[[LineT, int], None], max_kinds: int = MAX_KINDS
    ) -> None:
        self._period_s, self._write, self._max_kinds = period_s, write, max_kinds
        self._lock = threading.Lock()
        self._windows: dict[str, _Window[LineT]] = {}
        self._closed = False

    def is_first(self, kind: str, line: LineT) -> bool:
        """Whether the caller must write this line; otherwise it is counted."""
        overdue = None
        with self._lock:
            if kind not in self._windows and len(self._windows) >= self._max_kinds:
                kind = OTHERS
            window = self._windows.get(kind)
            if window is not None and time.monotonic() > window.due + self._period_s():
                overdue, window = self._windows.pop(kind), None  # no thread was available for its timer
            if window is not None:
                window.last = line
                window.count += 1
            elif not self._closed:
                self._open(kind)
        if overdue is not None:
            overdue.timer.cancel()
            self._summarise(overdue)
        return window is None

    def close(self) -> None:
        """Write all summaries and stop counting."""
        with self._lock:
            self._closed, windows, self._windows = True, list(self._windows.values()), {}
        for window in windows:
            window.timer.cancel()
            self._summarise(window)

    def _open(self, kind: str) -> None:
        """Start a period; the caller holds the lock."""
        timer = threading.Timer(self._period_s(), self._end, (kind,))
        timer.daemon = True
        self._windows[kind] = _Window(timer, time.monotonic() + self._period_s())
        with contextlib.suppress(RuntimeError):  # no thread available: a later line ends the period
            timer.start()

    def _end(self, kind: str) -> None:
        with self._lock:
            window = self._windows.pop(kind, None)
            if window is not None and window.count:
                self._open(kind)
        if window is not None:
            self._summarise(window)

    def _summarise(self, window: _Window[LineT]) -> None:
        if window.count and window.last is not None:
            self._write(window.last, window.count)
