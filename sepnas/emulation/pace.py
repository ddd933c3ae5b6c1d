"""The pace of a device: as fast as it can, or that of the device that it emulates."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Container, Sequence
from math import log1p, sqrt

_SPIN_NS = 100_000
"""So long before a moment a sleeper wakes up: the system lets sleepers wake late by about as much."""
LATE_NS = 100_000
"""Less than this is not called late."""


class Lateness:
    """How many things were timed, how many came later than what is emulated would have, and by how much in all.

    Threads may share one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._timed = self._late = self._late_ns = 0

    def add(self, late_ns: int) -> None:
        """Count one that came so much later, or if negative so much earlier, than it should."""
        with self._lock:
            self._timed += 1
            if late_ns > LATE_NS:
                self._late += 1
                self._late_ns += late_ns

    def to_data(self) -> dict[str, float]:
        with self._lock:
            return {"timed": self._timed, "late": self._late, "late_s": self._late_ns / 1e9}


class EmulatedPace:
    """Every step ends when the emulated device would have ended it.

    That device's time, ``now_ns``, goes from step to step by what they are to take, and not by when this process woke
    up: a sleep that lasted too long is made up by the next step. A step that is to take nothing takes what it takes
    here. A message lifts the time to its arrival.

    Args:
        steps_s: seconds of each step for a request of ``batch`` samples.
        varying: the steps whose seconds vary by chance, by a lognormal factor of mean 1.
        jitter: that factor's standard deviation.
        punctual: wake up at each moment and not a little later; this keeps a core busy.
    """

    def __init__(
        self,
        steps_s: Sequence[float | None],
        batch: int,
        varying: Container[int] = (),
        jitter: float = 0.0,
        seed: int = 0,
        punctual: bool = True,
    ) -> None:
        self._steps_s, self._batch, self._punctual = steps_s, batch, punctual
        self._varying, self._sigma, self._random = varying, sqrt(log1p(jitter**2)), random.Random(seed)
        self.lateness = Lateness()
        self._scale_ns = 1e9 / batch
        self.now_ns = 0
        self._step = 0
        self._started_ns = 0
        self._alone = True

    def begin(self, batch: int) -> None:
        self._scale_ns = 1e9 * batch / self._batch
        self._alone = True

    def start(self, step: int) -> None:
        self._step, self._started_ns = step, time.monotonic_ns()

    def arrived(self, moment_ns: int) -> None:
        self.now_ns = max(self.now_ns, moment_ns)
        self._started_ns = time.monotonic_ns()  # waiting is no work
        self._alone = False

    def finish(self) -> None:
        done_ns = time.monotonic_ns()
        if self._alone:  # nothing came yet that says when the request began
            self.now_ns, self._alone = max(self.now_ns, self._started_ns), False
        seconds = self._steps_s[self._step]
        if not seconds:
            self.now_ns += done_ns - self._started_ns
            return
        if self._sigma and self._step in self._varying:
            seconds *= self._random.lognormvariate(-(self._sigma**2) / 2, self._sigma)
        self.now_ns += round(seconds * self._scale_ns)
        self.lateness.add(done_ns - self.now_ns)
        sleep_until(self.now_ns, self._punctual)


def sleep_until(moment_ns: int, punctual: bool = True) -> None:
    """Sleep; ``punctual``: ask the clock for the last tenth of a millisecond, so much too late does a sleep end."""
    spin_ns = _SPIN_NS if punctual else 0
    left_ns = moment_ns - time.monotonic_ns()
    if left_ns > spin_ns:
        time.sleep((left_ns - spin_ns) / 1e9)
    while time.monotonic_ns() < moment_ns:
        time.sleep(0)  # other threads of this process may run
