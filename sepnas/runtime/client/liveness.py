"""The state of each device of a session: ready, silent, failing or lost."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable

from sepnas.errors import ExchangeError
from sepnas.runtime.protocol.events import Ping, Pong

MAX_PONG_S = 3.0
"""A device that has left a ping unanswered for this long is silent."""
MAX_LATE = 3
"""A device that caused this many late answers in a row is failing."""


class Liveness:
    """Derives the state of each device from pings, late answers, failures and lost connections.

    A silent or lost device is *absent*: requests are sent without it. A failing one still takes part. Thread-safe: each
    method holds ``lock``, which is the router's and reentrant, and calls nothing outside of this class meanwhile.
    """

    def __init__(self, ranks: Iterable[int], lock: threading.RLock) -> None:
        self._ranks, self._lock = tuple(sorted(ranks)), lock
        self.lost: dict[int, ExchangeError] = {}
        self._ending: dict[int, str] = {}
        self._silent: dict[int, int] = {}
        """When the unanswered ping was sent (``time.monotonic_ns``); so for :attr:`_pinged`."""
        self._pinged: dict[int, int] = {}
        self._num_late: dict[int, int] = {}
        self._failing: dict[int, str] = {}

    @property
    def present_ranks(self) -> tuple[int, ...]:
        """The devices that are not lost."""
        return tuple(rank for rank in self._ranks if rank not in self.lost)

    @property
    def is_failing(self) -> bool:
        """Whether a device failed or delayed the latest requests."""
        return bool(self._failing)

    def lost_ranks(self) -> frozenset[int]:
        """The devices whose connection is lost."""
        with self._lock:
            return frozenset(self.lost)

    def absent(self) -> frozenset[int]:
        """The devices that are lost or silent."""
        with self._lock:
            return frozenset(self.lost) | frozenset(self._silent)

    def states(self) -> dict[int, str]:
        """Of each device: ``ready``, ``silent``, how its requests fail, or how it was lost."""
        with self._lock:
            states = dict.fromkeys(self._ranks, "ready") | self._failing
            return states | dict.fromkeys(self._silent, "silent") | self.losses()

    def useless(self) -> frozenset[int]:
        """The devices that are not ready."""
        return frozenset(rank for rank, state in self.states().items() if state != "ready")

    def losses(self) -> dict[int, str]:
        """How each device was lost; where the first loss ended the session, only that one."""
        with self._lock:
            return self._ending | {rank: str(error) for rank, error in self.lost.items()}

    # -- pings

    def begin_pings(self, now_ns: int) -> set[int]:
        """Mark the devices that have left a ping unanswered too long as silent; returns those to ping now."""
        with self._lock:
            for rank, sent_ns in list(self._pinged.items()):
                if now_ns - sent_ns > 1e9 * MAX_PONG_S:
                    self._silent.setdefault(rank, self._pinged.pop(rank))
            due = set(self._ranks) - self.lost.keys() - self._silent.keys() - self._pinged.keys()
            self._pinged.update(dict.fromkeys(due, now_ns))
            return due

    def silent_for(self, limit_s: float, now_ns: int) -> list[int]:
        """The silent devices whose ping was sent longer than ``limit_s`` ago."""
        with self._lock:
            return [rank for rank, sent_ns in self._silent.items() if now_ns - sent_ns > 1e9 * limit_s]

    def take_pong(self, rank: int, pong: Pong) -> bool:
        """Whether it answers a ping of this class; the device is then no longer silent."""
        with self._lock:
            for pings in (self._silent, self._pinged):
                if pings.get(rank) == pong.sent_ns:
                    del pings[rank]
                    return True
            return False

    def suspect(self, rank: int, ping: Ping) -> bool:
        """Mark a device as silent until it answers ``ping``; False if it is silent or lost already."""
        with self._lock:
            if rank in self._silent or rank in self.lost:
                return False
            self._silent[rank] = ping.sent_ns
            return True

    # -- requests

    def note_served(self, ranks: Collection[int]) -> None:
        """These devices did their part of a request."""
        if self._failing or self._num_late:
            with self._lock:
                for rank in ranks:
                    self._failing.pop(rank, None)
                    self._num_late.pop(rank, None)

    def note_late(self, rank: int, reason: str) -> None:
        """A device caused a late answer."""
        with self._lock:
            self._num_late[rank] = 1 + self._num_late.get(rank, 0)
            if self._num_late[rank] >= MAX_LATE:
                self._failing.setdefault(rank, f"late: {reason}")

    def note_failure(self, rank: int, reason: str) -> None:
        """A request failed on a device."""
        with self._lock:
            self._failing[rank] = f"failing: {reason}"

    # -- connections

    def note_lost(self, rank: int, error: ExchangeError) -> None:
        """A device is lost, and the session goes on without it."""
        with self._lock:
            self.lost.setdefault(rank, error)
            for notes in (self._silent, self._pinged, self._num_late, self._failing):
                notes.pop(rank, None)

    def note_back(self, rank: int) -> None:
        """A lost device is in the session again."""
        with self._lock:
            del self.lost[rank]

    def note_ending(self, rank: int, reason: str) -> None:
        """The loss of a device ended the session; the first one counts."""
        with self._lock:
            if not self._ending:
                self._ending = {rank: reason}
