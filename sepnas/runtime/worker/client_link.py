"""A session's side of the connection to its client: what the client is told, and by whom the device is held."""

from __future__ import annotations

import contextlib
import time
from datetime import datetime, timedelta, timezone

from sepnas.errors import ExchangeError, LocalProtocolError
from sepnas.runtime.protocol.connection import Phase
from sepnas.runtime.protocol.events import Control, ErrorCode, Failed, Ping
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.worker.stats import short_name

MAX_SETTING_UP_S = 15.0
"""Time within which a new client sends its Setup; until then it keeps its place, though it says nothing."""
_BEFORE_SETUP = (Phase.GREETED, Phase.SETTING_UP)
_MAX_MESSAGE_CHARACTERS = 4000


class ClientLink:
    """The client's channel, greeted and not yet welcomed.

    Args:
        channel: the connection.
        rank: this device's rank, which every failure names.
        session: the session's name.
    """

    def __init__(self, channel: Channel, rank: int, session: str) -> None:
        self.channel = channel
        self.rank, self._session = rank, session
        self._opened_s = self.heard_s = time.monotonic()

    @property
    def host(self) -> str:
        """The client's address."""
        return str(self.channel.pipe.sock.getpeername()[0])

    @property
    def is_setting_up(self) -> bool:
        return self.channel.connection.phase in _BEFORE_SETUP

    # -- what it is told

    def tell(self, event: Control) -> None:
        """Send an event; nothing happens if the connection does not allow it any more."""
        with contextlib.suppress(LocalProtocolError):
            self.channel.send(event)

    def tell_failed(
        self,
        code: ErrorCode,
        message: str,
        *,
        request: int = 0,
        step: int | None = None,
        waiting_for: int | None = None,
    ) -> None:
        """Report a failure of a request, or of the session (request 0)."""
        text = message[:_MAX_MESSAGE_CHARACTERS]
        failed = Failed(
            code=code, rank=self.rank, request=request, step=step, waiting_for=waiting_for, message=text
        )  # fmt: skip
        self.tell(failed)

    # -- whether it holds the device

    @property
    def holder(self) -> str:
        """The client, for another one that is refused: its address, since when, and when it was last heard."""
        now = time.monotonic()
        since = datetime.now(timezone.utc) - timedelta(seconds=now - self._opened_s)
        return (
            f"{self.channel.peer}, since {since:%Y-%m-%d %H:%M:%S} UTC, last heard {now - self.heard_s:.0f} s ago, "
            f"session {short_name(self._session)}"
        )

    def ping(self) -> None:
        """Ask whether it is there; before its setup it cannot be asked."""
        with contextlib.suppress(ExchangeError):
            self.channel.send(Ping(sent_ns=time.monotonic_ns()))

    def was_heard_since(self, moment: float) -> bool:
        """Whether anything has come since ``moment`` (``time.monotonic`` seconds).

        A new client counts as heard: it is still connecting to other devices.
        """
        is_new = self.is_setting_up and time.monotonic() - self._opened_s < MAX_SETTING_UP_S
        return self.heard_s >= moment or is_new
