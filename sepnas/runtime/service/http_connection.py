"""One HTTP connection: every wait for its client is bounded, and under overload it is refused cheaply."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from sepnas.runtime.service.triage import has_left

HEAD_S = 10.0
"""Time from a request's first byte (for the first request: from the connection) to the end of its head."""
KEEP_ALIVE_S = 75.0
"""Time that an idle connection is kept: longer than pollers and proxies keep theirs."""
WRITE_S = 10.0
"""Time that a client has to read what was written to it."""
MAX_HEAD_BYTES = 16_384
MAX_READ_BYTES = 65_536
"""Bytes read at once; each connection holds at most as many, and as many of a body."""
_REFUSED_S = 2.0
_REFUSABLE = b"POST "


class ConnectionWatcher(Protocol):
    """What all connections report to."""

    def waits(self, connection: HttpConnection) -> None:
        """The connection waits for its client."""

    def works(self, connection: HttpConnection) -> None:
        """The connection's request is being answered."""

    def ended(self, connection: HttpConnection) -> None:
        """The connection is closed."""

    def expired(self, state: str) -> None:
        """A connection was closed because its client took too long."""

    def refusal(self) -> bytes | None:
        """The complete answer that refuses a POST now; None if it may go on."""


class HttpConnection(H11Protocol):
    """A connection's state is what it waits for.

    ``head``, ``idle``, ``body``, ``rest`` (of a request that is answered already), ``closing``, ``refused``, or ``""``
    while it does not wait for its client. A timeout runs from the start of a state, not from the last byte.
    """

    def __init__(
        self,
        watcher: ConnectionWatcher,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._watcher = watcher
        self._state = ""
        self._alarm: asyncio.TimerHandle | None = None
        self._write_alarm: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if hasattr(transport, "max_size"):  # asyncio reads four times as much by default
            transport.max_size = MAX_READ_BYTES
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for alarm in (self._alarm, self._write_alarm):
            if alarm is not None:
                alarm.cancel()
        self._unset_keepalive_if_required()
        self._watcher.ended(self)

    def data_received(self, data: bytes) -> None:
        if self._refused or self._refuse(data):
            return
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_alarm = self.loop.call_later(WRITE_S, self._expire, "reading its answer")
        self._watcher.waits(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_alarm is not None:
            self._write_alarm.cancel()
        if not self._state:
            self._watcher.works(self)

    def hang_up(self) -> None:
        """Close at once: another connection needs the place."""
        self.transport.abort()

    def _refuse(self, data: bytes) -> bool:
        """Refuse a request that begins with these bytes without parsing it, if it is to be refused; whether it was."""
        if self._state not in ("head", "idle") or self.conn.trailing_data[0] or not data.startswith(_REFUSABLE):
            return False
        if has_left(self.transport.get_extra_info("socket")):
            self.transport.abort()
            return True
        answer = self._watcher.refusal()
        if answer is None:
            return False
        self._refused = True  # its other bytes are dropped: closing at once could lose the answer
        self._unset_keepalive_if_required()
        self.transport.write(answer)
        self.transport.write_eof()
        self._enter("refused", _REFUSED_S)
        return True

    def _look(self) -> None:
        """Enter the state that fits what is waited for now."""
        state = self._waited_for()
        if state != self._state:
            self._enter(state, {"idle": KEEP_ALIVE_S, "closing": WRITE_S, "": None, "body": None}.get(state, HEAD_S))

    def _enter(self, state: str, seconds: float | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None if seconds is None else self.loop.call_later(seconds, self._expire, state)
        if state:
            self._watcher.waits(self)
        else:
            self._watcher.works(self)
        self._state = state

    def _waited_for(self) -> str:
        if self.transport.is_closing():
            return "closing"
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            return "body" if cycle.more_body else ""
        if self.conn.their_state is not h11.IDLE:
            return "rest"
        return "head" if cycle is None or self.conn.trailing_data[0] else "idle"

    def _expire(self, state: str) -> None:
        if state != "idle":
            self._watcher.expired(state)
        self.transport.abort()
