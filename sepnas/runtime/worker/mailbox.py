"""Received messages, until the step that needs them takes them; every wait ends at a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from sepnas.errors import DeadlineError, ExchangeError, RemoteProtocolError
from sepnas.plan.steps import CLIENT
from sepnas.runtime.memory import max_kept_bytes
from sepnas.runtime.protocol.names import rank_name
from sepnas.runtime.tensors.codec import Payload
from sepnas.runtime.transport.polling import Changed

MAX_REQUESTS_AHEAD = 64
"""Maximum number of requests with waiting messages, and of requests cancelled ahead; bounds memory."""
MAX_ANNOUNCED = 256
"""Maximum number of announced requests that are neither done nor cancelled."""


Fits: TypeAlias = Callable[[int, int, int], bool]
"""Whether a rank sends a message with this tag and length, in bytes, by the plan of a request."""


class ReceivedPayload(NamedTuple):
    """A payload and when its last byte came (``time.monotonic_ns``), or would have come on an emulated link.

    ``partial``: its sender computed it without a message that was due.
    """

    payload: Payload
    arrived_ns: int
    partial: bool = False


class Mailbox:
    """Payloads by (request, tag). Readers of sockets call :meth:`put`, the executor :meth:`take` and :meth:`wait`.

    Args:
        changed: the condition that guards the mailbox and that takers wait on. A
            :class:`~sepnas.runtime.transport.polling.PullingCondition` reads connections while they wait.
        max_bytes: maximum sum of the waiting payloads; beyond it the newest requests are dropped.
    """

    def __init__(self, changed: Changed | None = None, max_bytes: int | None = None) -> None:
        self._changed: Changed = changed or threading.Condition()
        self.max_bytes = max_bytes or max_kept_bytes()
        self._payloads: dict[tuple[int, int], ReceivedPayload] = {}
        self._kept_bytes = 0
        self._announced: dict[int, Fits | None] = {}
        self._early: dict[int, list[tuple[int, int, int]]] = {}  # request -> source, tag and length of its messages
        self._closed = False
        self._floor = 1
        self._cancelled: set[int] = set()
        self._broken: ExchangeError | None = None
        self._lost: set[int] = set()

    @property
    def kept_bytes(self) -> int:
        """Sum of the payloads that wait."""
        return self._kept_bytes

    def announce(self, request: int, fits: Fits | None = None) -> bool:
        """Note a request of the client, and which messages ``fits`` its plan; False if it is over already.

        It is over, too, if a message that came before it does not fit. Raises :class:`RemoteProtocolError` if it was
        announced before, or too many others are not done.
        """
        with self._changed:
            if self._is_over(request):
                return False
            if request in self._announced:
                raise RemoteProtocolError(f"request {request} comes twice")
            if len(self._announced) >= MAX_ANNOUNCED:
                raise RemoteProtocolError(
                    f"request {request} comes while {MAX_ANNOUNCED} others from {min(self._announced)} on are not done"
                )
            self._announced[request] = fits
            if fits is not None and not all(fits(*each) for each in self._early.pop(request, ())):
                self._cancel(request)
                return False
            return True

    def put(
        self,
        request: int,
        tag: int,
        payload: Payload,
        arrived_ns: int | None = None,
        partial: bool = False,
        announced: bool = False,
        source: int = CLIENT,
    ) -> tuple[int, ...]:
        """Keep a message of rank ``source``; one for a request that is over is dropped.

        A peer's message may come before the request; the client's must belong to one that is ``announced``. An empty
        payload stands for a message that was too large to be read. Returns the announced requests that were dropped
        for lack of room. Raises :class:`RemoteProtocolError`.
        """
        with self._changed:
            if self._is_over(request) or self._closed:
                return ()
            if announced and request not in self._announced:
                raise RemoteProtocolError(f"message {tag} is of request {request}, which was not announced")
            if not payload:
                return self._give_up(request)
            if len(self._payloads) >= MAX_REQUESTS_AHEAD:
                self._check_room(request, tag)
            self._check_plan(request, source, tag, len(payload))
            if (request, tag) in self._payloads:
                raise RemoteProtocolError(f"message {tag} of request {request} came twice")
            self._payloads[request, tag] = ReceivedPayload(payload, arrived_ns or time.monotonic_ns(), partial)
            self._kept_bytes += len(payload)
            dropped = () if self._kept_bytes <= self.max_bytes else self._make_room()
            self._changed.notify_all()
            return dropped

    def _check_plan(self, request: int, source: int, tag: int, length: int) -> None:
        """A request's plan says who sends what; before it is known, the message is noted to be checked then."""
        if request not in self._announced:
            self._early.setdefault(request, []).append((source, tag, length))
            return
        fits = self._announced[request]
        if fits is not None and not fits(source, tag, length):
            raise RemoteProtocolError(
                f"message {tag} of {length} bytes is none that {rank_name(source)} sends by the plan of request "
                f"{request}"
            )

    def _make_room(self) -> tuple[int, ...]:
        """Drop the newest requests until the rest fits."""
        dropped: list[int] = []
        while self._kept_bytes > self.max_bytes:
            dropped += self._give_up(max(request for request, _ in self._payloads))
        return tuple(dropped)

    def _give_up(self, request: int) -> tuple[int, ...]:
        """Cancel a request; returns it if the client must be told."""
        told = (request,) if request in self._announced else ()
        self._cancel(request)
        return told

    def _check_room(self, request: int, tag: int) -> None:
        waiting = {number for number, _ in self._payloads}
        if request not in waiting and len(waiting) >= MAX_REQUESTS_AHEAD:
            raise RemoteProtocolError(
                f"message {tag} is of request {request}, but {len(waiting)} requests from {min(waiting)} on wait"
            )

    def take(self, request: int, tag: int, deadline: float) -> ReceivedPayload:
        """Remove and return a message, waiting for it until ``deadline`` (``time.monotonic`` seconds).

        Raises :class:`DeadlineError`, or the error given to :meth:`fail`.
        """
        received = self.wait(request, tag, deadline)
        if received is None:
            raise _late(request, tag)
        return received

    def wait(self, request: int, tag: int, deadline: float, source: int | None = None) -> ReceivedPayload | None:
        """Like :meth:`take`, but None at the deadline, and at once if the message is not there and ``source`` is lost.

        Raises :class:`DeadlineError` for a request that is over, or the error given to :meth:`fail`.
        """
        with self._changed:
            while True:
                received = self._payloads.pop((request, tag), None)
                if received is not None:
                    self._kept_bytes -= len(received.payload)
                    return received
                if self._broken is not None:
                    raise self._broken
                if self._is_over(request):
                    raise _late(request, tag)
                left = deadline - time.monotonic()
                if left <= 0 or source in self._lost:
                    return None
                self._changed.wait(left)

    def lose(self, source: int) -> None:
        """Nothing comes from ``source`` any more: wake those who wait for it."""
        with self._changed:
            self._lost.add(source)
            self._changed.notify_all()

    def find(self, source: int) -> None:
        """``source`` is connected again."""
        with self._changed:
            self._lost.discard(source)

    def fail(self, error: ExchangeError) -> None:
        """End all waits, now and later, with ``error``; messages that are here can still be taken."""
        with self._changed:
            self._broken = self._broken or error
            self._changed.notify_all()

    def begin(self, request: int) -> None:
        """Start a request: forget everything that belongs to earlier ones."""
        with self._changed:
            self._forget_before(max(self._floor, request))

    def cancel(self, request: int) -> None:
        """Forget a request that nobody waits for, and end the waits for its messages."""
        with self._changed:
            if not self._is_over(request):
                self._cancel(request)

    def _cancel(self, request: int) -> None:
        if len(self._cancelled) >= MAX_REQUESTS_AHEAD:
            self._forget_before(min(self._cancelled) + 1)  # a device that rejoined never hears of earlier ones
        self._cancelled.add(request)
        self._keep(lambda number: number != request)
        floor = self._floor
        while floor in self._cancelled:
            floor += 1
        self._forget_before(floor)

    def close(self) -> None:
        """Forget all messages, and drop those that still come."""
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
        self._payloads = {key: received for key, received in self._payloads.items() if wanted(key[0])}
        self._announced = {request: fits for request, fits in self._announced.items() if wanted(request)}
        self._early = {request: each for request, each in self._early.items() if wanted(request)}
        self._kept_bytes = sum(len(received.payload) for received in self._payloads.values())


def _late(request: int, tag: int) -> DeadlineError:
    return DeadlineError(f"message {tag} of request {request} did not come in time")
