"""The inboxes of open requests; what a device can put into them is bounded, whatever it sends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from sepnas.errors import ExchangeError, RemoteProtocolError
from sepnas.runtime.protocol.events import Control, Data, Failed, Missed

MAX_MISSED = 4096
"""Number of messages that one device may report as missed in one request."""

Arrival: TypeAlias = tuple[int, Control | Data | ExchangeError]


class Inbox(Protocol):
    """Takes the events of a request, for example a queue; called in the threads of connections."""

    def put(self, arrival: Arrival, /) -> None: ...


class _BoundedInbox:
    """The inbox of one request: it takes each message and each kind of event once from each device."""

    def __init__(self, inbox: Inbox, max_bytes: Mapping[int, int]) -> None:
        self.inbox, self._max_bytes = inbox, max_bytes
        self._heard: set[tuple[object, ...]] = set()
        self._num_missed: dict[int, int] = {}

    def put(self, arrival: Arrival) -> None:
        rank, event = arrival
        if isinstance(event, Missed):
            if self._num_missed.get(rank, 0) >= MAX_MISSED or self._heard_before(rank, event.source, event.tag):
                return
            self._num_missed[rank] = self._num_missed.get(rank, 0) + 1
        elif isinstance(event, Data):
            self._check_length(rank, event)
            if self._heard_before(rank, Data, event.tag):
                return
        elif self._heard_before(rank, event.request if isinstance(event, Failed) else ExchangeError):
            return
        self.inbox.put(arrival)

    def _heard_before(self, *key: object) -> bool:
        before = key in self._heard
        self._heard.add(key)
        return before

    def _check_length(self, rank: int, event: Data) -> None:
        limit = self._max_bytes.get(event.tag)
        if limit is None:
            raise RemoteProtocolError(
                f"device {rank}: message {event.tag} is no answer by the plan of request {event.request}"
            )
        if len(event.payload) > limit:
            raise RemoteProtocolError(
                f"device {rank}: the answer to request {event.request} has {len(event.payload)} bytes; "
                f"{limit} were expected"
            )


class Inboxes:
    """The inboxes by request; the caller holds the router's lock."""

    def __init__(self) -> None:
        self._bounded: dict[int, _BoundedInbox] = {}
        self._last = 0

    def follow(self, request: int, inbox: Inbox, max_bytes: Mapping[int, int]) -> None:
        """Put the events of a request into ``inbox`` from now on; ``max_bytes``: the payload limit by tag."""
        self._bounded[request] = _BoundedInbox(inbox, max_bytes)
        self._last = max(self._last, request)

    def forget(self, request: int) -> None:
        """Nobody waits for the request any more."""
        self._bounded.pop(request, None)

    def put(self, request: int, arrival: Arrival) -> None:
        """Hand on an event of a request; raises :class:`RemoteProtocolError` for a request that was never sent."""
        bounded = self._bounded.get(request)
        if bounded is not None:
            bounded.put(arrival)
        elif request > self._last:
            raise RemoteProtocolError(
                f"device {arrival[0]}: speaks of request {request}, but {self._last} is the last that was sent"
            )

    def put_in(self, request: int, arrival: Arrival) -> None:
        """Hand one request an event that concerns all."""
        self._bounded[request].put(arrival)

    def put_in_all(self, arrival: Arrival) -> None:
        """Hand an event to all requests."""
        for bounded in list(self._bounded.values()):
            bounded.put(arrival)

    def clear(self) -> None:
        """Forget all requests."""
        self._bounded.clear()
