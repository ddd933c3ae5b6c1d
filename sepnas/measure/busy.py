"""The load of other programs on this machine during a measurement."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path

from sepnas.measure.machine import usable_cores

_STAT = Path("/proc/stat")
_IDLE = (3, 4)
"""Indices of idle time and I/O wait in the first line of ``/proc/stat``."""


class Others:
    """The load of other processes from now on; ``own`` processes count as ours, as this one does. 0 except on Linux."""

    def __init__(self, own: Collection[int] = ()) -> None:
        self._own = tuple(own)
        self._at = self._now()

    def share(self) -> float:
        """The share of all processor time that was neither idle nor ours, 0..1."""
        (busy_s, own_s, at_s), (busy_before_s, own_before_s, before_s) = self._now(), self._at
        whole_s = (at_s - before_s) * usable_cores()
        taken_s = busy_s - busy_before_s - (own_s - own_before_s)
        return min(1.0, max(0.0, taken_s / whole_s)) if whole_s > 0 else 0.0

    def _now(self) -> tuple[float, float, float]:
        return _busy_s(), time.process_time() + sum(map(_process_s, self._own)), time.monotonic()


def _busy_s() -> float:
    try:
        numbers = [int(word) for word in _STAT.read_text().splitlines()[0].split()[1:9]]
        return (sum(numbers) - sum(numbers[place] for place in _IDLE)) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def _process_s(number: int) -> float:
    """Processor seconds that a process has used; 0 if it does not exist."""
    try:
        words = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
