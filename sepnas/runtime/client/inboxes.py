"""Where what devices say of a request goes, as long as somebody waits for it; bounded whatever they say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from sepnas.errors import ExchangeError, RemoteProtocolError
from sepnas.runtime.protocol.events import Control, Data, Failed, Missed

MAX_MISSED = 4096
"""Messages that one device may say it missed in one request."""

Arrival: TypeAlias = tuple[int, Control | Data | ExchangeError]


class Inbox(Protocol):
    """Takes what came for a request, such as a queue; called in the threads of connections."""

    def put(self, arrival: Arrival, /) -> None: ...


class _Place:
    """The inbox of one request: each device is heard once with each thing that it may say."""

    def __init__(self, inbox: Inbox, most_bytes: Mapping[int, int]) -> None:
        self.inbox, self._most_bytes = inbox, most_bytes
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
            if self._heard_before(rank, Data):
                return
        elif self._heard_before(rank, event.request if isinstance(event, Failed) else ExchangeError):
            return
        self.inbox.put(arrival)

    def _heard_before(self, *what: object) -> bool:
        before = what in self._heard
        self._heard.add(what)
        return before

    def _check_length(self, rank: int, event: Data) -> None:
        limit = self._most_bytes.get(event.tag)
        if limit is not None and len(event.payload) > limit:
            raise RemoteProtocolError(
                f"device {rank}: its answer to request {event.request} has {len(event.payload)} bytes; {limit} were due"
            )


class Inboxes:
    """The inboxes by request; whoever calls holds the lock of the routes."""

    def __init__(self) -> None:
        self._places: dict[int, _Place] = {}
        self._last = 0

    def follow(self, request: int, inbox: Inbox, most_bytes: Mapping[int, int]) -> None:
        """From now on what comes for the request goes there; ``most_bytes`` are those of a whole message, by tag."""
        self._places[request] = _Place(inbox, most_bytes)
        self._last = max(self._last, request)

    def forget(self, request: int) -> None:
        """Nobody waits for it any more."""
        self._places.pop(request, None)

    def put(self, request: int, arrival: Arrival) -> None:
        """Hand on what came for a request; raises :class:`RemoteProtocolError` when nobody sent such a request."""
        place = self._places.get(request)
        if place is not None:
            place.put(arrival)
        elif request > self._last:
            raise RemoteProtocolError(
                f"device {arrival[0]}: speaks of request {request}, but {self._last} is the last that was sent"
            )

    def put_in(self, request: int, arrival: Arrival) -> None:
        """Hand on to one request what is about all."""
        self._places[request].put(arrival)

    def put_in_all(self, arrival: Arrival) -> None:
        """Hand on what all wait for."""
        for place in list(self._places.values()):
            place.put(arrival)

    def clear(self) -> None:
        """Nobody waits for anything."""
        self._places.clear()
