"""Where the messages that came wait for the step that needs them; every wait ends at a deadline."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from sepnas.errors import DeadlineError, ExchangeError, RemoteProtocolError
from sepnas.runtime.codec import Payload

MAX_REQUESTS_AHEAD = 64
"""How far a peer may run ahead: it bounds what can pile up here."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A payload and when its last byte came (``time.monotonic_ns``), or should have on an emulated link."""

    payload: Payload
    arrived_ns: int


class Mailbox:
    """Letters by (request, tag). Readers of sockets :meth:`put`, the executor :meth:`take`\\ s."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._letters: dict[tuple[int, int], Letter] = {}
        self._floor = 1
        self._broken: ExchangeError | None = None

    def put(self, request: int, tag: int, payload: Payload, arrived_ns: int | None = None) -> None:
        """Keep a message; one of a request that is over is dropped. Raises :class:`RemoteProtocolError`."""
        with self._changed:
            if request < self._floor:
                return
            if request >= self._floor + MAX_REQUESTS_AHEAD:
                raise RemoteProtocolError(f"message {tag} is of request {request}, but request {self._floor} runs")
            if (request, tag) in self._letters:
                raise RemoteProtocolError(f"message {tag} of request {request} came twice")
            self._letters[request, tag] = Letter(payload, arrived_ns or time.monotonic_ns())
            self._changed.notify_all()

    def take(self, request: int, tag: int, deadline: float) -> Letter:
        """Wait until ``deadline`` (``time.monotonic`` seconds); raises what :meth:`fail` gave, or DeadlineError."""
        with self._changed:
            while True:
                letter = self._letters.pop((request, tag), None)
                if letter is not None:
                    return letter
                if self._broken is not None:
                    raise self._broken
                left = deadline - time.monotonic()
                if left <= 0 or request < self._floor:
                    raise DeadlineError(f"message {tag} of request {request} did not come in time")
                self._changed.wait(left)

    def fail(self, error: ExchangeError) -> None:
        """Wake everybody who waits, for good: they get ``error`` unless their message is here."""
        with self._changed:
            self._broken = self._broken or error
            self._changed.notify_all()

    def begin(self, request: int) -> None:
        """Forget all that belongs to requests before this one."""
        with self._changed:
            self._floor = max(self._floor, request)
            self._changed.notify_all()
            self._letters = {key: letter for key, letter in self._letters.items() if key[0] >= self._floor}
