"""Repeating measurements until their medians stand still.

Everything is measured once a round, each round in another order, so that a machine that becomes slower is seen as
such and not taken for a property of what was measured meanwhile.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tick = Callable[[], None]
"""Called often: shows how much time has passed."""
PAUSE_S = 5e-4
"""About as long as a worker waits for a message: its processor falls asleep, caches and clocks go cold."""
_Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Stop:
    """When rounds end: the medians of the first and the second half of the rounds differ by at most ``within`` for
    ``share`` of what is measured, or it is ``deadline`` (``time.monotonic`` seconds) and every half has a round."""

    deadline: float
    within: float = 0.03
    share: float = 0.9
    least_rounds: int = 10


@dataclass(frozen=True)
class Rounds:
    """Seconds of every call, ``(rounds, items, calls)``; the first index is time."""

    seconds_rnc: _Numbers

    @property
    def num_rounds(self) -> int:
        return len(self.seconds_rnc)

    def medians_s(self) -> list[float]:
        """For each item the median of its rounds' medians."""
        found: list[float] = _medians(self.seconds_rnc).tolist()
        return found

    def differences(self) -> _Numbers:
        """For each item how far the medians of both halves are apart, relative to their mean; signed: later slower."""
        half = self.num_rounds // 2
        early, late = _medians(self.seconds_rnc[:half]), _medians(self.seconds_rnc[half:])
        found: _Numbers = 2 * (late - early) / (late + early)
        return found

    @property
    def noise(self) -> float:
        """The relative spread of medians that were measured again: the median over the items."""
        return float(np.median(np.abs(self.differences())))

    @property
    def jitter(self) -> float:
        """Standard deviation of a call relative to its mean: the lognormal one whose middle two thirds spread so wide.

        The tails, where the system ran something else, would otherwise be most of it. The median over the items.
        """
        logs = np.log(np.maximum(self.seconds_rnc, 1e-9)).transpose(1, 0, 2).reshape(self.seconds_rnc.shape[1], -1)
        low, high = np.quantile(logs, (0.16, 0.84), axis=1)
        return float(np.median(np.sqrt(np.expm1(((high - low) / 2) ** 2))))

    def is_stable(self, stop: Stop) -> bool:
        """Whether the medians stand still as ``stop`` has it."""
        enough = self.num_rounds >= stop.least_rounds
        return enough and float(np.quantile(np.abs(self.differences()), stop.share)) <= stop.within


def until_half(stop: Stop, least: int, tick: Tick) -> Callable[[int], bool]:
    """When enough is prepared for rounds until ``stop``: half of the time is up, and ``least`` is there."""
    limit = (time.monotonic() + stop.deadline) / 2

    def enough(prepared: int) -> bool:
        tick()
        return prepared >= least and time.monotonic() > limit

    return enough


def measure_rounds(
    visits: Sequence[Callable[[], Sequence[float]]], stop: Stop, tick: Tick = lambda: None, seed: int = 0
) -> Rounds:
    """Visit everything once a round, in an order drawn from ``seed``, until ``stop``; at least two rounds are made.

    A visit gives the seconds of its calls, as many at each visit.
    """
    shuffler = random.Random(seed)
    rounds: list[list[Sequence[float]]] = []
    while True:
        found: list[Sequence[float]] = [()] * len(visits)
        for index in shuffler.sample(range(len(visits)), len(visits)):
            found[index] = visits[index]()
            tick()
            if len(rounds) >= 2 and time.monotonic() > stop.deadline:
                return Rounds(np.array(rounds, np.float64))
        rounds.append(found)
        if len(rounds) >= 2:
            so_far = Rounds(np.array(rounds, np.float64))
            if so_far.is_stable(stop) or time.monotonic() > stop.deadline:
                return so_far


def timed(run: Callable[[], object], calls: int) -> Callable[[], Sequence[float]]:
    """A visit of ``run``: once untimed, so that caches hold what it needs, then ``calls`` times by the clock."""

    def visit() -> Sequence[float]:
        run()
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return times

    return visit


def timed_once(run: Callable[[], object]) -> Callable[[], Sequence[float]]:
    """A visit that runs it once, while caches hold what was visited before."""

    def visit() -> Sequence[float]:
        start = time.perf_counter()
        run()
        return [time.perf_counter() - start]

    return visit


def after_pause(visit: Callable[[], Sequence[float]], pause_s: float = PAUSE_S) -> Callable[[], Sequence[float]]:
    """A visit that sleeps before."""

    def paused() -> Sequence[float]:
        time.sleep(pause_s)
        return visit()

    return paused


def _medians(seconds_rnc: _Numbers) -> _Numbers:
    found: _Numbers = np.median(np.median(seconds_rnc, axis=2), axis=0)
    return found
