"""The inbox for events that belong to no request: answers to questions, pongs, and the end of a session."""

from __future__ import annotations

import queue
import threading
from collections.abc import Collection

from sepnas.errors import RemoteProtocolError
from sepnas.runtime.client.inboxes import Arrival
from sepnas.runtime.protocol.events import Control, Data, DeviceReport, Pong

MAX_ARRIVALS = 1024
"""Number of events kept; a further one drops the oldest, which nobody waited for."""


class ControlInbox:
    """A bounded queue, and the record of what was asked: an answer that comes late, or unasked, is not queued.

    Thread-safe: ``lock`` is the router's and reentrant; :meth:`get` waits without it.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._arrivals: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._num_asked = 0
        self._asked: set[int] = set()
        self._clock_ping: tuple[int, int] | None = None

    def expect_reports(self, ranks: Collection[int]) -> int:
        """The number of a new question to ``ranks``; their answers to earlier questions are dropped from now on."""
        with self._lock:
            self._num_asked, self._asked = self._num_asked + 1, set(ranks)
            return self._num_asked

    def expect_pong(self, rank: int, sent_ns: int) -> None:
        """From now on only the pong to this ping is queued."""
        with self._lock:
            self._clock_ping = (rank, sent_ns)

    def take(self, rank: int, event: Control | Data) -> None:
        """Queue an event unless it is an answer that nobody waits for.

        Raises :class:`RemoteProtocolError` for an answer to a question that was never asked.
        """
        if self._is_awaited(rank, event):
            self.put((rank, event))

    def put(self, arrival: Arrival) -> None:
        """Queue an event or an error."""
        with self._lock:
            while self._arrivals.qsize() >= MAX_ARRIVALS:
                self._arrivals.get_nowait()
            self._arrivals.put(arrival)

    def get(self, timeout_s: float) -> Arrival:
        """The oldest event; raises ``queue.Empty`` if none comes in time."""
        return self._arrivals.get(timeout=max(0.0, timeout_s))

    def __len__(self) -> int:
        return self._arrivals.qsize()

    def _is_awaited(self, rank: int, event: Control | Data) -> bool:
        with self._lock:
            if isinstance(event, DeviceReport):
                if event.number > self._num_asked:
                    raise RemoteProtocolError(f"device {rank}: answers question {event.number}, which nobody asked")
                awaited = event.number == self._num_asked and rank in self._asked
                if awaited:
                    self._asked.discard(rank)
                return awaited
            if isinstance(event, Pong):
                awaited = self._clock_ping == (rank, event.sent_ns)
                self._clock_ping = None if awaited else self._clock_ping
                return awaited
            return True
