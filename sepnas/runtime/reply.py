"""What becomes of one request, whoever waits for it and how: no I/O."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from sepnas.errors import ExchangeError
from sepnas.runtime.events import Data, Failed
from sepnas.runtime.fleet import GATHER_S, Arrival, Fleet, late

GRACE_S = 0.25
"""How much longer than the devices the client waits: they know better what is missing."""


@dataclass
class Reply:
    """Collects what comes for a request until it is :attr:`done` or it is :attr:`until` (``time.monotonic`` seconds).

    ``reader`` is the rank that answers; ``limit_s`` is what the devices have for it.
    """

    request: int
    batch: int
    reader: int
    limit_s: float
    sent_ns: int = field(default_factory=time.monotonic_ns)
    done: bool = False
    until: float = field(init=False)
    _answer: Data | None = None
    _reports: list[Failed] = field(default_factory=list)
    _lost: ExchangeError | None = None

    def __post_init__(self) -> None:
        self.until = time.monotonic() + self.limit_s + GRACE_S

    @property
    def left_s(self) -> float:
        """How much longer to wait."""
        return max(0.0, self.until - time.monotonic())

    def take(self, arrival: Arrival) -> None:
        """After a first report others are waited for a moment, for one of them may name the cause."""
        _, event = arrival
        if isinstance(event, Failed):
            if not self._reports:
                self.until = time.monotonic() + GATHER_S
            self._reports.append(event)
        elif isinstance(event, ExchangeError):
            self._lost = self._lost or event
            self.done = not self._reports
        elif isinstance(event, Data):
            self._answer, self.done = event, True

    def answer(self, fleet: Fleet) -> Data:
        """What came; raises what it means when that is no answer."""
        if self._answer is not None:
            return self._answer
        if self._reports:
            raise fleet.explain(self._reports, self._lost)
        if self._lost is not None:
            raise fleet.lost(self._lost)
        raise late({self.reader}, f"working on request {self.request} ({self.limit_s:g} s)")
