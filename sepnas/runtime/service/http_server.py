"""The HTTP server of a service: accepts connections up to a bound, and closes idle ones to make room."""

from __future__ import annotations

import asyncio
import logging
import math
import resource
import socket
import sys
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from sepnas.runtime.service.http_connection import KEEP_ALIVE_S, MAX_HEAD_BYTES, HttpConnection
from sepnas.runtime.service.triage import Triage, answer_and_close, look_at

MAX_CONNECTIONS = 1000
"""Default bound of a service."""
BACKLOG = 1024
"""Number of connections that wait in the kernel to be accepted."""
ACCEPTED_AT_ONCE = 64
_OTHER_DESCRIPTORS = 128
_ACCEPT_PAUSE_S = 0.1
_FULL_PAUSE_S = 0.05
"""While the service is full, new clients are accepted in batches after this pause: one by one they would cost time that
the accepted requests need. The pause ends early when half of the places are free."""
MAX_GRACE_S = 40.0
"""Time that a stopping server waits for its requests."""
_LOG = logging.getLogger("sepnas.serve")


def serving_config(app: FastAPI, longest_s: float) -> uvicorn.Config:
    """The uvicorn configuration for an application whose requests take at most ``longest_s``."""
    return uvicorn.Config(
        app, http="h11", ws="none", loop="asyncio", lifespan="on", log_config=None, access_log=False,
        proxy_headers=False, server_header=False, timeout_graceful_shutdown=math.ceil(min(longest_s, MAX_GRACE_S)) + 1,
        timeout_keep_alive=math.ceil(KEEP_ALIVE_S), h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )  # fmt: skip


def allowed_connections(wanted: int) -> int:
    """``wanted``, or fewer if this process may not have the descriptors; raises its limit as far as possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    allowed = wanted if soft == resource.RLIM_INFINITY else min(wanted, max(soft - _OTHER_DESCRIPTORS, soft // 2))
    if allowed < wanted:
        _LOG.warning("at most %d connections: this process may open no more than %d files (ulimit -n)", allowed, soft)
    return allowed


class HttpServer(uvicorn.Server):
    """A uvicorn server that accepts connections itself.

    asyncio's accept loop floods the log when descriptors run out, and spends as much on clients that have left or will
    be refused as on the others.

    ``refusal`` maps the number of requests that are being answered to the raw answer for a further POST, or to None if
    it is admitted.
    """

    def __init__(self, config: uvicorn.Config, max_connections: int, refusal: Callable[[int], bytes | None]) -> None:
        super().__init__(config)
        self.max_connections, self._refusal = allowed_connections(max_connections), refusal
        self._waiting: dict[HttpConnection, None] = {}
        self._working: set[HttpConnection] = set()
        self._starting: dict[HttpConnection, bool] = {}
        """Connections that were just accepted, and whether a whole request has arrived already."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(3)
        self.servers = []
        for listener in sockets or []:
            listener.setblocking(False)
            listener.listen(BACKLOG)
            self._listen(listener)
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in sockets or []:
            asyncio.get_running_loop().remove_reader(listener)
            for sock in _accepted(listener, BACKLOG):  # left in the backlog, they would be reset
                sock.close()
            listener.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await super().shutdown(sockets)

    def waits(self, connection: HttpConnection) -> None:
        """A connection is idle; the one that has been idle longest stands first."""
        self.ended(connection)
        self._waiting[connection] = None

    def works(self, connection: HttpConnection) -> None:
        """A connection begins a request."""
        self.ended(connection)
        self._working.add(connection)

    def ended(self, connection: HttpConnection) -> None:
        """A connection has left its present state; accept again if that makes room."""
        self._waiting.pop(connection, None)
        self._starting.pop(connection, None)
        self._working.discard(connection)
        if self._paused and self._refusal(2 * self._num_working) is None:
            for listener in list(self._paused):
                self._listen(listener)

    def expired(self, state: str) -> None:
        """A connection was closed because its client was too slow in this state."""
        _LOG.warning("closed a connection whose client was too slow: %s", state)

    def refusal(self) -> bytes | None:
        """The raw answer to a further POST, or None if it is admitted."""
        return self._refusal(self._num_working)

    @property
    def _num_working(self) -> int:
        return len(self._working) + sum(self._starting.values())

    def _listen(self, listener: socket.socket) -> None:
        paused = self._paused.pop(listener, None)
        if paused is not None:
            paused.cancel()
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        """Accept a batch; under overload the newest come first, for the oldest clients are about to give up."""
        try:
            found = _accepted(listener, min(ACCEPTED_AT_ONCE, self.max_connections // 2 - len(self._starting)))
        except OSError as error:
            _LOG.warning("cannot take a connection: %s", error.strerror)
            self._make_room()
            return self._pause(listener, _ACCEPT_PAUSE_S)
        for sock in found if self.refusal() is None else reversed(found):
            self._take(sock)
        if self.refusal() is not None:
            self._pause(listener, _FULL_PAUSE_S)
        return None

    def _pause(self, listener: socket.socket, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        self._paused[listener] = loop.call_later(seconds, self._listen, listener)

    def _take(self, sock: socket.socket) -> None:
        came = look_at(sock)
        answer = self.refusal() if came is Triage.WHOLE else None
        if came is Triage.GONE:
            sock.close()
        elif answer is not None:
            answer_and_close(sock, answer)
        elif self._has_room():
            connection = HttpConnection(self, self.config, self.server_state, self.lifespan.state)
            self._starting[connection] = came is Triage.WHOLE
            task = asyncio.create_task(self._start(sock, connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            sock.close()
            _LOG.warning("refused a connection: %d are being answered already", self.max_connections)

    async def _start(self, sock: socket.socket, connection: HttpConnection) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
        except OSError:  # the client has left already
            self.ended(connection)
            sock.close()

    def _has_room(self) -> bool:
        number = len(self._waiting) + len(self._working) + len(self._starting)
        return number < self.max_connections or self._make_room()

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest; False if none is idle."""
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            return False
        self.ended(oldest)
        oldest.hang_up()
        _LOG.warning("closed a waiting connection for a new one: there were %d", self.max_connections)
        return True


def _accepted(listener: socket.socket, limit: int) -> list[socket.socket]:
    """Accept up to ``limit`` connections; raises ``OSError`` if not even one can be accepted."""
    found: list[socket.socket] = []
    while len(found) < limit:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            break
        except OSError:
            if found:
                break
            raise
        sock.setblocking(False)
        found.append(sock)
    return found
