"""Where the messages that came wait for the step that needs them; every wait ends at a deadline."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from sepnas.errors import DeadlineError, ExchangeError, RemoteProtocolError
from sepnas.runtime.codec import Payload
from sepnas.runtime.pulling import Changed

MAX_REQUESTS_AHEAD = 64
"""Of so many requests messages may wait, and so many may be cancelled ahead: it bounds what can pile up here."""


class Letter(NamedTuple):
    """A payload and when its last byte came (``time.monotonic_ns``), or should have on an emulated link.

    ``partial``: something did not go into it that was due.
    """

    payload: Payload
    arrived_ns: int
    partial: bool = False


class Mailbox:
    """Letters by (request, tag). Readers of sockets :meth:`put`, the executor :meth:`take`\\ s.

    It waits for ``changed``, and reads meanwhile, if that is a condition that pulls.
    """

    def __init__(self, changed: Changed | None = None) -> None:
        self._changed: Changed = changed or threading.Condition()
        self._letters: dict[tuple[int, int], Letter] = {}
        self._floor = 1
        self._cancelled: set[int] = set()
        self._broken: ExchangeError | None = None
        self._lost: set[int] = set()

    def put(
        self, request: int, tag: int, payload: Payload, arrived_ns: int | None = None, partial: bool = False
    ) -> None:
        """Keep a message; one of a request that is over is dropped. Raises :class:`RemoteProtocolError`."""
        with self._changed:
            if self._is_over(request):
                return
            if len(self._letters) >= MAX_REQUESTS_AHEAD:
                self._check_room(request, tag)
            if (request, tag) in self._letters:
                raise RemoteProtocolError(f"message {tag} of request {request} came twice")
            self._letters[request, tag] = Letter(payload, arrived_ns or time.monotonic_ns(), partial)
            self._changed.notify_all()

    def _check_room(self, request: int, tag: int) -> None:
        waiting = {number for number, _ in self._letters}
        if request not in waiting and len(waiting) >= MAX_REQUESTS_AHEAD:
            raise RemoteProtocolError(
                f"message {tag} is of request {request}, but {len(waiting)} requests from {min(waiting)} on wait"
            )

    def take(self, request: int, tag: int, deadline: float) -> Letter:
        """Wait until ``deadline`` (``time.monotonic`` seconds); raises what :meth:`fail` gave, or DeadlineError."""
        letter = self.wait(request, tag, deadline)
        if letter is None:
            raise _late(request, tag)
        return letter

    def wait(self, request: int, tag: int, deadline: float, source: int | None = None) -> Letter | None:
        """The same, but None when it is late, or not there and ``source`` is lost.

        Raises what :meth:`fail` gave, and DeadlineError for a request that is over.
        """
        with self._changed:
            while True:
                letter = self._letters.pop((request, tag), None)
                if letter is not None:
                    return letter
                if self._broken is not None:
                    raise self._broken
                if self._is_over(request):
                    raise _late(request, tag)
                left = deadline - time.monotonic()
                if left <= 0 or source in self._lost:
                    return None
                self._changed.wait(left)

    def lose(self, source: int) -> None:
        """Nothing comes from there any more: who waits for it hears so."""
        with self._changed:
            self._lost.add(source)
            self._changed.notify_all()

    def find(self, source: int) -> None:
        """It is there again."""
        with self._changed:
            self._lost.discard(source)

    def fail(self, error: ExchangeError) -> None:
        """Wake everybody who waits, for good: they get ``error`` unless their message is here."""
        with self._changed:
            self._broken = self._broken or error
            self._changed.notify_all()

    def begin(self, request: int) -> None:
        """Forget all that belongs to requests before this one."""
        with self._changed:
            self._forget_before(max(self._floor, request))

    def cancel(self, request: int) -> None:
        """Nobody waits for this request: forget its letters, and wake who wants one of them."""
        with self._changed:
            if self._is_over(request):
                return
            if len(self._cancelled) >= MAX_REQUESTS_AHEAD:
                self._forget_before(min(self._cancelled) + 1)  # a device that rejoined never hears of those before
            self._cancelled.add(request)
            self._letters = {key: letter for key, letter in self._letters.items() if key[0] != request}
            floor = self._floor
            while floor in self._cancelled:
                floor += 1
            self._forget_before(floor)

    def is_over(self, request: int) -> bool:
        """Whether a later one has begun, or it was cancelled."""
        with self._changed:
            return self._is_over(request)

    def _is_over(self, request: int) -> bool:
        return request < self._floor or request in self._cancelled

    def _forget_before(self, floor: int) -> None:
        self._floor = floor
        self._cancelled = {request for request in self._cancelled if request >= floor}
        self._letters = {key: letter for key, letter in self._letters.items() if key[0] >= floor}
        self._changed.notify_all()


def _late(request: int, tag: int) -> DeadlineError:
    return DeadlineError(f"message {tag} of request {request} did not come in time")
