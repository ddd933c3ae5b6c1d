"""How long a device waits for each message that it can do without."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Protocol

_SHARE = 0.5
"""Share of the deadline reserved for the steps after the first wait.

A device that has waited in vain is late for the devices that wait for it. The further apart the ends of their waits
are, the fewer of them give up on it too.
"""
MIN_SPARE = 2.0
"""Minimum time reserved for the steps after a wait, as a multiple of what they take, if the deadline leaves it."""
_KEPT_RUNS, _KEPT_BATCHES = 9, 8


class _Timed(Protocol):
    @property
    def end_ns(self) -> int: ...


class Patience:
    """Gives each step the moment until which it may wait, so that the following steps are done by the deadline.

    It learns from requests that miss nothing how long the steps after each one take, waits included. With less time
    than that the answer would be late, and the devices that wait for this one would do without it. Before the first
    such request all steps count as equally long.
    """

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._runs: OrderedDict[int, deque[tuple[float, ...]]] = OrderedDict()
        self._rests_s: Sequence[float] = ()
        self._deadline = 0.0

    def begin(self, batch: int, start: float, deadline: float) -> None:
        """Start a request of ``batch`` samples; times are ``time.monotonic`` seconds."""
        self._deadline, budget_s = deadline, max(0.0, deadline - start)
        runs = self._runs.get(batch)
        if runs is None:
            shares = [1 - (step + 1) / self._num_steps for step in range(self._num_steps)]
            self._rests_s = [_SHARE * budget_s * share for share in shares]
        else:
            ends_s = sorted(runs, key=lambda ends: ends[-1])[len(runs) // 2]
            max_spare = budget_s / max(ends_s[-1], 1e-9)
            spare = min(max_spare, max(MIN_SPARE, _SHARE * max_spare))
            self._rests_s = [spare * (ends_s[-1] - end_s) for end_s in ends_s]

    def until(self, step: int) -> float:
        """The moment at which the step stops waiting (``time.monotonic`` seconds)."""
        return self._deadline - self._rests_s[step]

    def learn(self, batch: int, start_ns: int, steps: Sequence[_Timed]) -> None:
        """Learn from the step times of a request that missed nothing."""
        runs = self._runs.setdefault(batch, deque(maxlen=_KEPT_RUNS))
        runs.append(tuple((step.end_ns - start_ns) / 1e9 for step in steps))
        self._runs.move_to_end(batch)
        while len(self._runs) > _KEPT_BATCHES:
            self._runs.popitem(last=False)
