"""What a worker counts of itself, from its start on: the status, the metrics and its sessions share one of these."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from dataclasses import dataclass
from typing import get_args

from sepnas.runtime.protocol.events import FailureCode
from sepnas.runtime.transport.counters import Traffic

REQUEST_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper ends of the classes in which the times of requests are counted; one more has all that took longer."""


@dataclass(frozen=True, slots=True)
class OpenSession:
    """The session that is served now; ``since`` is ``time.monotonic`` seconds."""

    name: str
    since: float

    @property
    def short_name(self) -> str:
        return short_name(self.name)


@dataclass(slots=True)
class PayloadBytes:
    """Tensors' bytes from and to one peer."""

    sent: int = 0
    received: int = 0

    def add(self, sent: Traffic, received: Traffic) -> None:
        self.sent += sent.payload_bytes
        self.received += received.payload_bytes


def short_name(session: str) -> str:
    """How a session is called where people read it."""
    return session[:8]


class Gauges:
    """Counts that only grow, and what is so now. Who computes counts without a lock: it is one thread at a time."""

    def __init__(self) -> None:
        self.rank = -1
        self.engine = ""
        self.session: OpenSession | None = None
        self.served = self.missed = 0
        self.failed: dict[FailureCode, int] = dict.fromkeys(get_args(FailureCode), 0)
        self.request_s = 0.0
        """Of all served requests, from their arrival to the end of the program."""
        self.requests_by_time = [0] * (len(REQUEST_BUCKETS_S) + 1)
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._past: dict[int, PayloadBytes] = {}
        self._open: dict[int, tuple[Traffic, Traffic]] = {}

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._started

    def count_served(self, took_s: float) -> None:
        self.served += 1
        self.request_s += took_s
        self.requests_by_time[bisect_left(REQUEST_BUCKETS_S, took_s)] += 1

    def follow(self, rank: int, sent: Traffic, received: Traffic) -> None:
        """From now on these count for the peer; what its connection before had counted is kept."""
        with self._lock:
            before = self._open.get(rank)
            if before is not None:
                self._past.setdefault(rank, PayloadBytes()).add(*before)
            self._open[rank] = (sent, received)

    def payload_bytes(self) -> dict[int, PayloadBytes]:
        """By peer; -1 is the client."""
        with self._lock:
            found = {}
            for rank, now in sorted(self._open.items()):
                past = self._past.get(rank, PayloadBytes())
                found[rank] = PayloadBytes(past.sent, past.received)
                found[rank].add(*now)
            return found
