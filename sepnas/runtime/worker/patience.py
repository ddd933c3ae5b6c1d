"""How a device goes on without a message: which it can miss, and how long it waits for each."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Sequence
from typing import Protocol

from sepnas.plan.merges import MERGE_KINDS
from sepnas.plan.steps import CLIENT, Merge, Recv, Step

_SHARE = 0.5
"""Of the deadline, kept for what comes after the first wait. A device that has waited in vain is late for those that
wait for it: the more room there is between the ends of their waits, the fewer of them give up on it too."""
_LEAST_SPARE = 2.0
"""What comes after a wait gets so many times what it takes at least, where the deadline leaves so much."""
_KEPT_RUNS, _KEPT_BATCHES = 9, 8


class _Timed(Protocol):
    @property
    def end_ns(self) -> int: ...


class Patience:
    """Until when a step waits for its message, so that what follows is done by the deadline.

    A request that misses nothing teaches how long each step and all that follow it take, waits included: with less than
    that after it the answer would be late, and the devices that wait for this one would miss it too. Until there was
    one, all steps are taken to be equal.
    """

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._runs: OrderedDict[int, deque[tuple[float, ...]]] = OrderedDict()
        self._rests_s: Sequence[float] = ()
        self._deadline = 0.0

    def begin(self, batch: int, start: float, deadline: float) -> None:
        """A request begins; times are ``time.monotonic`` seconds."""
        self._deadline, budget_s = deadline, max(0.0, deadline - start)
        runs = self._runs.get(batch)
        if runs is None:
            shares = [1 - (step + 1) / self._num_steps for step in range(self._num_steps)]
            self._rests_s = [_SHARE * budget_s * share for share in shares]
        else:
            ends_s = sorted(runs, key=lambda ends: ends[-1])[len(runs) // 2]
            most = budget_s / max(ends_s[-1], 1e-9)
            spare = min(most, max(_LEAST_SPARE, _SHARE * most))
            self._rests_s = [spare * (ends_s[-1] - end_s) for end_s in ends_s]

    def until(self, step: int) -> float:
        """When the step gives up (``time.monotonic`` seconds)."""
        return self._deadline - self._rests_s[step]

    def learn(self, batch: int, start_ns: int, steps: Sequence[_Timed]) -> None:
        """Of a request that missed nothing."""
        runs = self._runs.setdefault(batch, deque(maxlen=_KEPT_RUNS))
        runs.append(tuple((step.end_ns - start_ns) / 1e9 for step in steps))
        self._runs.move_to_end(batch)
        while len(self._runs) > _KEPT_BATCHES:
            self._runs.popitem(last=False)


def optional_tensors(program: Collection[Step]) -> frozenset[str]:
    """Received tensors that a program can do without: only mean and weighted merges take them, beside a tensor of the
    device itself. What exact splits exchange (sums, concatenations) cannot be missed, nor the client's image."""
    received = {step.tensor for step in program if isinstance(step, Recv) and step.source != CLIENT}
    needed: set[str] = set()
    for step in program:
        optional = isinstance(step, Merge) and MERGE_KINDS[step.kind].optional
        needed.update(step.reads[:1] if optional else step.reads)
    return frozenset(received - needed)
