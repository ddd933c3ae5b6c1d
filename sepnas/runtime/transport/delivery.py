"""How events travel between a channel and its peer: directly, or with the timing of an emulated link."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

from sepnas.errors import ExchangeError
from sepnas.runtime.protocol.events import Control, Data

Take: TypeAlias = Callable[[Control | Data], None]
Fail: TypeAlias = Callable[[ExchangeError], None]


class LinkTiming(Protocol):
    """An emulated link, as a channel uses it: delays messages to the peer and from it."""

    def open(self, take: Take, fail: Fail) -> None:
        """Hand arrived events to ``take`` from now on; ``fail`` is called once if that raises."""

    def post(self, frame_bytes: int) -> None:
        """Announce a message of ``frame_bytes``; called in the order of sending."""

    def depart(self) -> None:
        """Wait until the next announced message may be written."""

    def abandon(self) -> None:
        """Announced messages are not written any more."""

    def deliver(self, event: Control | Data) -> None:
        """Take an event that has come; events are handed on in order, each when it is due."""

    def close(self) -> None:
        """Hand on all events that are still held, then return."""


class LinkTimings(Protocol):
    """The emulated links of one device's or client's connections; provided by an emulation."""

    def link(self, peer: int) -> LinkTiming | None:
        """The link for a new connection to ``peer`` (-1: the client); None if it is not emulated."""

    def lateness(self) -> Mapping[str, Any]:
        """Numbers of received messages that were timed, and that were late, as plain data."""

    def close(self) -> None:
        """Free shared resources; called when no connection is open any more."""
