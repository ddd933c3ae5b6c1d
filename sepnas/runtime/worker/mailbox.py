"""Where the messages that came wait for the step that needs them; every wait ends at a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from sepnas.errors import DeadlineError, ExchangeError, RemoteProtocolError
from sepnas.runtime.memory import max_kept_bytes
from sepnas.runtime.tensors.codec import Payload
from sepnas.runtime.transport.polling import Changed

MAX_REQUESTS_AHEAD = 64
"""Of so many requests messages may wait, and so many may be cancelled ahead: it bounds what can pile up here."""
MAX_ANNOUNCED = 256
"""Requests that the client may have announced and that are neither done nor cancelled."""


class Letter(NamedTuple):
    """A payload and when its last byte came (``time.monotonic_ns``), or should have on an emulated link.

    ``partial``: something did not go into it that was due.
    """

    payload: Payload
    arrived_ns: int
    partial: bool = False


class Mailbox:
    """Letters by (request, tag). Readers of sockets :meth:`put`, the executor :meth:`take`\\ s.

    It waits for ``changed``, and reads meanwhile, if that is a condition that pulls. Payloads of at most ``max_bytes``
    are kept: one that finds no room costs the newest request its place.
    """

    def __init__(self, changed: Changed | None = None, max_bytes: int | None = None) -> None:
        self._changed: Changed = changed or threading.Condition()
        self.max_bytes = max_bytes or max_kept_bytes()
        self._letters: dict[tuple[int, int], Letter] = {}
        self._kept_bytes = 0
        self._announced: set[int] = set()
        self._closed = False
        self._floor = 1
        self._cancelled: set[int] = set()
        self._broken: ExchangeError | None = None
        self._lost: set[int] = set()

    @property
    def kept_bytes(self) -> int:
        """Of all payloads that wait."""
        return self._kept_bytes

    def announce(self, request: int) -> bool:
        """The client asks for it; False when it is over already. Raises :class:`RemoteProtocolError` when the client
        asks without end, or twice."""
        with self._changed:
            if self._is_over(request):
                return False
            if request in self._announced:
                raise RemoteProtocolError(f"request {request} comes twice")
            if len(self._announced) >= MAX_ANNOUNCED:
                raise RemoteProtocolError(
                    f"request {request} comes while {MAX_ANNOUNCED} others from {min(self._announced)} on are not done"
                )
            self._announced.add(request)
            return True

    def put(
        self,
        request: int,
        tag: int,
        payload: Payload,
        arrived_ns: int | None = None,
        partial: bool = False,
        announced: bool = False,
    ) -> tuple[int, ...]:
        """Keep a message; one of a request that is over is dropped. Raises :class:`RemoteProtocolError`.

        Of peers it may come before the request does; of the client it must be ``announced``. Returns the announced
        requests that had to go because there was no room: one without a payload was too large to be read.
        """
        with self._changed:
            if self._is_over(request) or self._closed:
                return ()
            if announced and request not in self._announced:
                raise RemoteProtocolError(f"message {tag} is of request {request}, which was not announced")
            if not payload:
                return self._give_up(request)
            if len(self._letters) >= MAX_REQUESTS_AHEAD:
                self._check_room(request, tag)
            if (request, tag) in self._letters:
                raise RemoteProtocolError(f"message {tag} of request {request} came twice")
            self._letters[request, tag] = Letter(payload, arrived_ns or time.monotonic_ns(), partial)
            self._kept_bytes += len(payload)
            dropped = () if self._kept_bytes <= self.max_bytes else self._make_room()
            self._changed.notify_all()
            return dropped

    def _make_room(self) -> tuple[int, ...]:
        """Drop the newest requests until the rest fits."""
        dropped: list[int] = []
        while self._kept_bytes > self.max_bytes:
            dropped += self._give_up(max(request for request, _ in self._letters))
        return tuple(dropped)

    def _give_up(self, request: int) -> tuple[int, ...]:
        """The request, if its client must hear of it."""
        told = (request,) if request in self._announced else ()
        self._cancel(request)
        return told

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
                    self._kept_bytes -= len(letter.payload)
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
            if not self._is_over(request):
                self._cancel(request)

    def _cancel(self, request: int) -> None:
        if len(self._cancelled) >= MAX_REQUESTS_AHEAD:
            self._forget_before(min(self._cancelled) + 1)  # a device that rejoined never hears of those before
        self._cancelled.add(request)
        self._keep(lambda number: number != request)
        floor = self._floor
        while floor in self._cancelled:
            floor += 1
        self._forget_before(floor)

    def close(self) -> None:
        """Forget all of it, and what may still come."""
        with self._changed:
            self._closed = True
            self._keep(lambda number: False)

    def is_over(self, request: int) -> bool:
        """Whether a later one has begun, or it was cancelled."""
        with self._changed:
            return self._is_over(request)

    def _is_over(self, request: int) -> bool:
        return request < self._floor or request in self._cancelled

    def _forget_before(self, floor: int) -> None:
        self._floor = floor
        self._cancelled = {request for request in self._cancelled if request >= floor}
        self._keep(lambda number: number >= floor)
        self._changed.notify_all()

    def _keep(self, wanted: Callable[[int], bool]) -> None:
        self._letters = {key: letter for key, letter in self._letters.items() if wanted(key[0])}
        self._announced = {request for request in self._announced if wanted(request)}
        self._kept_bytes = sum(len(letter.payload) for letter in self._letters.values())


def _late(request: int, tag: int) -> DeadlineError:
    return DeadlineError(f"message {tag} of request {request} did not come in time")
