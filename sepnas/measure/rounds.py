"""Repeats measurements until their medians settle.

Each round measures everything once, in a new order, so that a slowdown of the machine is spread over all items instead
of looking like a property of some.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tick = Callable[[], None]
"""Called often, to show the elapsed time."""
PAUSE_S = 5e-4
"""About as long as a worker waits for a message: the processor goes to sleep, caches cool, clocks slow down."""
_Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Stop:
    """The end of the rounds: the medians of their first and second half differ by at most ``within`` for ``share`` of
    the items, or ``deadline`` (``time.monotonic`` seconds) has passed and each half has a round."""

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
        """For each item, the median of its rounds' medians."""
        found: list[float] = _medians(self.seconds_rnc).tolist()
        return found

    def differences(self) -> _Numbers:
        """For each item, the difference of both halves' medians relative to their mean; positive: later was slower."""
        half = self.num_rounds // 2
        early, late = _medians(self.seconds_rnc[:half]), _medians(self.seconds_rnc[half:])
        found: _Numbers = 2 * (late - early) / (late + early)
        return found

    @property
    def noise(self) -> float:
        """The relative spread of repeated medians: the median over the items."""
        return float(np.median(np.abs(self.differences())))

    @property
    def jitter(self) -> float:
        """Standard deviation of a call relative to its mean: that of a lognormal with the same middle two thirds.

        Otherwise the tails, in which the system ran other programs, would dominate. The median over the items.
        """
        logs = np.log(np.maximum(self.seconds_rnc, 1e-9)).transpose(1, 0, 2).reshape(self.seconds_rnc.shape[1], -1)
        low, high = np.quantile(logs, (0.16, 0.84), axis=1)
        return float(np.median(np.sqrt(np.expm1(((high - low) / 2) ** 2))))

    def is_stable(self, stop: Stop) -> bool:
        """Whether the medians have settled by the criterion of ``stop``."""
        enough = self.num_rounds >= stop.least_rounds
        return enough and float(np.quantile(np.abs(self.differences()), stop.share)) <= stop.within


def until_half(stop: Stop, least: int, tick: Tick) -> Callable[[int], bool]:
    """A check that ends preparing for rounds until ``stop``: half of the time is up and ``least`` items are ready."""
    limit = (time.monotonic() + stop.deadline) / 2

    def enough(prepared: int) -> bool:
        tick()
        return prepared >= least and time.monotonic() > limit

    return enough


def measure_rounds(
    visits: Sequence[Callable[[], Sequence[float]]], stop: Stop, tick: Tick = lambda: None, seed: int = 0
) -> Rounds:
    """Visit every item once a round, in an order drawn from ``seed``, until ``stop``; at least two rounds are made.

    A visit returns the seconds of its calls, equally many each time.
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
    """A visit of ``run``: one untimed call to warm the caches, then ``calls`` timed ones."""

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
    """A visit with a single call, while the caches hold data of the previous visit."""

    def visit() -> Sequence[float]:
        start = time.perf_counter()
        run()
        return [time.perf_counter() - start]

    return visit


def after_pause(visit: Callable[[], Sequence[float]], pause_s: float = PAUSE_S) -> Callable[[], Sequence[float]]:
    """A visit that sleeps first."""

    def paused() -> Sequence[float]:
        time.sleep(pause_s)
        return visit()

    return paused


def _medians(seconds_rnc: _Numbers) -> _Numbers:
    found: _Numbers = np.median(np.median(seconds_rnc, axis=2), axis=0)
    return found
