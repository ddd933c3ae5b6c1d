"""How events travel between a channel and its peer: at once, or as an emulated link would carry them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

from sepnas.errors import ExchangeError
from sepnas.runtime.protocol.events import Control, Data

Take: TypeAlias = Callable[[Control | Data], None]
Fail: TypeAlias = Callable[[ExchangeError], None]


class Way(Protocol):
    """What a channel does with messages on their way to the peer and from it."""

    def open(self, take: Take, fail: Fail) -> None:
        """Where events go that have arrived, and what is called once if that raises."""

    def post(self, frame_bytes: int) -> None:
        """A message of so many bytes is to be sent; called in the order of sending."""

    def depart(self) -> None:
        """Wait for the turn of the message that was posted next; it may then be written."""

    def abandon(self) -> None:
        """What is posted will not be written any more."""

    def deliver(self, event: Control | Data) -> None:
        """An event has come; it is handed on in order, each when it is due."""

    def close(self) -> None:
        """Hand on what is still held, and return when that is done."""


class Ways(Protocol):
    """The ways of all connections of one end; handed in by an emulation."""

    def way(self, peer: int) -> Way | None:
        """A way for a new connection to ``peer`` (-1: the client); None: events travel as they are."""

    def lateness(self) -> Mapping[str, Any]:
        """How many messages that came in were timed and late, as plain data."""

    def close(self) -> None:
        """Free what the ways share; no connection is open any more."""
