"""The HTTP server of a service: takes connections up to a bound, and makes room by closing what only waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import resource
import socket
import sys
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from sepnas.runtime.http_connection import KEEP_ALIVE_S, MAX_HEAD_BYTES, Connection, start

MAX_CONNECTIONS = 1000
"""The bound that a service has unless it is told another."""
BACKLOG = 1024
"""Connections that wait in the system until they are taken."""
_OTHER_DESCRIPTORS = 128
_ACCEPT_PAUSE_S = 0.1
MAX_GRACE_S = 40.0
"""A server that was told to stop waits no longer for requests."""
_LOG = logging.getLogger("sepnas.serve")


def serving_config(app: FastAPI, longest_s: float) -> uvicorn.Config:
    """How an application is served whose requests take at most so long."""
    return uvicorn.Config(
        app, http="h11", ws="none", loop="asyncio", lifespan="on", log_config=None, access_log=False,
        proxy_headers=False, server_header=False, timeout_graceful_shutdown=math.ceil(min(longest_s, MAX_GRACE_S)) + 1,
        timeout_keep_alive=math.ceil(KEEP_ALIVE_S), h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )  # fmt: skip


def allowed_connections(wanted: int) -> int:
    """So many as wanted, or as this process may have descriptors for; raises its limit as far as that helps."""
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
    """Accepts by itself: asyncio's way would fill the log and the process when descriptors run out.

    ``refusal`` gives the whole answer to a POST that begins now, or None where it may go on.
    """

    def __init__(self, config: uvicorn.Config, max_connections: int, refusal: Callable[[], bytes | None]) -> None:
        super().__init__(config)
        self.max_connections, self.refusal = allowed_connections(max_connections), refusal
        self._waiting: dict[Connection, None] = {}
        self._accepting: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(3)
        self.servers = []
        for listener in sockets or []:
            listener.setblocking(False)
            listener.listen(BACKLOG)
            self._accepting.append(asyncio.create_task(self._accept(listener)))
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for listener in sockets or []:
            _close(listener)
        await super().shutdown(sockets)

    def waits(self, connection: Connection) -> None:
        """The one that has waited longest stands first."""
        self._waiting.pop(connection, None)
        self._waiting[connection] = None

    def works(self, connection: Connection) -> None:
        self._waiting.pop(connection, None)

    def expired(self, state: str) -> None:
        _LOG.warning("closed a connection whose client was too slow: %s", state)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:
                _LOG.warning("cannot take a connection: %s", error.strerror)
                self._make_room()
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            if await self._has_room():
                await start(loop, self._new_connection, sock)
            else:
                sock.close()
                _LOG.warning("refused a connection: %d are being answered already", self.max_connections)

    async def _has_room(self) -> bool:
        connections = self.server_state.connections
        if len(connections) >= self.max_connections:
            self._make_room()
            await asyncio.sleep(0)  # until the other is over
        return len(connections) < self.max_connections

    def _make_room(self) -> None:
        """Close the connection that has waited longest for its client."""
        with contextlib.suppress(StopIteration):
            next(iter(self._waiting)).hang_up()
            _LOG.warning("closed a waiting connection for a new one: there were %d", len(self.server_state.connections))

    def _new_connection(self) -> Connection:
        return Connection(self, self.config, self.server_state, self.lifespan.state)


def _close(listener: socket.socket) -> None:
    """Take what waits in the system first: the client of a connection that is only dropped is told of an error."""
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()
    listener.close()
