"""Admission to a service: a bounded number of requests that are answered or wait."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sepnas.errors import BusyError

_GROWTH, _SHRINKAGE = 0.05, 0.9
"""Each answer adds 0.05 of a place, each client that gives up takes a tenth of all: in balance, about one request in
twenty is computed in vain."""


class Places:
    """A queue whose bound adapts: it shrinks while clients hang up before their answer, and grows with each answer.

    Args:
        in_flight: number of requests at the devices at once.
        queue: number of requests that wait, at most.
        min_limit: the bound never shrinks below this, or below ``in_flight + queue`` if that is less.
    """

    def __init__(self, in_flight: int, queue: int, min_limit: int) -> None:
        self._in_flight, self._queue = in_flight, queue
        self._max_limit = in_flight + queue
        self._min_limit = min(min_limit, self._max_limit)
        self._limit = float(self._max_limit)
        self.taken = 0

    @property
    def limit(self) -> int:
        """Number of requests that are answered or wait at most, now."""
        return int(self._limit)

    @property
    def is_full(self) -> bool:
        """Whether :meth:`take` would refuse."""
        return self.taken >= self.limit

    @property
    def refusal(self) -> str:
        """The message for a client that gets no place."""
        return f"{self._in_flight} requests are at the devices and {self._queue} wait; try again in a moment"

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Hold a place; raises :class:`BusyError` when there is none."""
        if self.is_full:
            raise BusyError(self.refusal)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    def note_answer(self) -> None:
        """A client got its answer."""
        self._limit = min(self._limit + _GROWTH, self._max_limit)

    def note_gave_up(self) -> None:
        """A client hung up before its answer."""
        self._limit = max(self._min_limit, _SHRINKAGE * self._limit)
