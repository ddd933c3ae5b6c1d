"""The pace of an emulated device: each step ends when that device would end it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Container, Sequence
from math import log1p, sqrt

_SPIN_NS = 100_000
"""A sleep ends so long before the wanted moment: the system wakes sleepers late by about as much."""
LATE_NS = 100_000
"""A smaller delay does not count as late."""


class Lateness:
    """Counts timed events and those later than emulated, and adds up their delays; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._timed = self._late = self._late_ns = 0

    def add(self, late_ns: int) -> None:
        """Count an event that was late by ``late_ns``; negative for an early one."""
        with self._lock:
            self._timed += 1
            if late_ns > LATE_NS:
                self._late += 1
                self._late_ns += late_ns

    def to_data(self) -> dict[str, float]:
        with self._lock:
            return {"timed": self._timed, "late": self._late, "late_s": self._late_ns / 1e9}


class EmulatedPace:
    """Every step ends when the emulated device would end it.

    The device's time, ``now_ns``, advances by the duration of each step and not by when this process wakes up: the next
    step makes up for a sleep that was too long. A step without a duration takes its real time. A message advances the
    time to its arrival.

    Args:
        steps_s: seconds of each step for a request of ``batch`` samples.
        varying: the steps whose seconds vary by a random lognormal factor of mean 1.
        jitter: the standard deviation of that factor.
        punctual: wake up exactly on time; this keeps a core busy.
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
        self._started_ns = time.monotonic_ns()  # waiting does not count as work
        self._alone = False

    def finish(self) -> None:
        done_ns = time.monotonic_ns()
        if self._alone:  # no message has told when the request began
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
    """Sleep; ``punctual`` polls the clock for the last 0.1 ms, by which a sleep may end too late."""
    spin_ns = _SPIN_NS if punctual else 0
    left_ns = moment_ns - time.monotonic_ns()
    if left_ns > spin_ns:
        time.sleep((left_ns - spin_ns) / 1e9)
    while time.monotonic_ns() < moment_ns:
        time.sleep(0)  # other threads of this process may run
