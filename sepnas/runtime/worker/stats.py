"""Counts of one worker since its start; its sessions add to them, the status and the metrics read them."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from dataclasses import dataclass
from typing import get_args

from sepnas.runtime.protocol.events import FailureCode
from sepnas.runtime.transport.counters import Traffic

REQUEST_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the buckets of request times; one more bucket counts what took longer."""


@dataclass(frozen=True, slots=True)
class OpenSession:
    """The session that is served now, and since when (``time.monotonic`` seconds)."""

    name: str
    since: float

    @property
    def short_name(self) -> str:
        return short_name(self.name)


@dataclass(slots=True)
class PayloadBytes:
    """Bytes of tensors to and from one peer."""

    sent: int = 0
    received: int = 0

    def add(self, sent: Traffic, received: Traffic) -> None:
        self.sent += sent.payload_bytes
        self.received += received.payload_bytes


def short_name(session: str) -> str:
    """A session's name as logs and messages show it."""
    return session[:8]


class WorkerStats:
    """Counters, and the session that is open now.

    Requests are counted without a lock: one thread computes at a time.
    """

    def __init__(self) -> None:
        self.rank = -1
        self.engine = ""
        self.session: OpenSession | None = None
        self.served = self.missed = 0
        self.failed: dict[FailureCode, int] = dict.fromkeys(get_args(FailureCode), 0)
        self.request_s = 0.0
        """Seconds from arrival to the end of the program, summed over all served requests."""
        self.requests_by_time = [0] * (len(REQUEST_BUCKETS_S) + 1)
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._past: dict[int, PayloadBytes] = {}
        self._open: dict[int, tuple[Traffic, Traffic]] = {}

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._started

    def count_served(self, took_s: float) -> None:
        """Count a served request that took ``took_s`` seconds."""
        self.served += 1
        self.request_s += took_s
        self.requests_by_time[bisect_left(REQUEST_BUCKETS_S, took_s)] += 1

    def follow(self, rank: int, sent: Traffic, received: Traffic) -> None:
        """Count a new connection to a peer; the bytes of its earlier connections are kept."""
        with self._lock:
            before = self._open.get(rank)
            if before is not None:
                self._past.setdefault(rank, PayloadBytes()).add(*before)
            self._open[rank] = (sent, received)

    def payload_bytes(self) -> dict[int, PayloadBytes]:
        """By rank; -1 is the client."""
        with self._lock:
            found = {}
            for rank, now in sorted(self._open.items()):
                past = self._past.get(rank, PayloadBytes())
                found[rank] = PayloadBytes(past.sent, past.received)
                found[rank].add(*now)
            return found
