"""Host name lookups with a deadline.

The system's resolver cannot be interrupted, so it runs in a thread, and callers wait for it until their deadline.
Callers that ask for the same name share one lookup: while the name server is down there is one thread per name, not
one per attempt.
"""

from __future__ import annotations

import copy
import errno
import os
import socket
import threading
import time
from typing import Any, NamedTuple


class LookupTimeoutError(TimeoutError):
    """The name server did not answer in time."""


class Address(NamedTuple):
    """An address that a socket of this family connects or binds to."""

    family: socket.AddressFamily
    sockaddr: Any

    @property
    def host(self) -> str:
        return str(self.sockaddr[0])


def look_up(host: str, port: int, deadline: float, passive: bool = False) -> list[Address]:
    """The addresses of a host, the preferred one first; numeric ones (such as ``fe80::1%eth0``) need no name server.

    Raises ``socket.gaierror`` or ``UnicodeError`` (no such name), ``OverflowError`` (no such port) or
    :class:`LookupTimeoutError` at ``deadline`` (``time.monotonic`` seconds).
    """
    flags = socket.AI_PASSIVE if passive else 0
    try:
        return _addresses(host, port, flags | socket.AI_NUMERICHOST)
    except socket.gaierror:
        return _shared(host, port, flags).result(deadline)


def _addresses(host: str, port: int, flags: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=flags)
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


class _Lookup(threading.Thread):
    """One lookup in progress."""

    def __init__(self, host: str, port: int, flags: int) -> None:
        super().__init__(name=f"look up {host}", daemon=True)
        self.key = (host, port, flags)
        self._done = threading.Event()
        self._found: list[Address] = []
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._found = _addresses(*self.key)
        except Exception as error:  # raised in the threads that wait
            self._error = error
        finally:
            with _lock:
                if _running.get(self.key) is self:
                    del _running[self.key]
            self._done.set()

    def result(self, deadline: float) -> list[Address]:
        if not self._done.wait(max(0.0, deadline - time.monotonic())):
            raise LookupTimeoutError
        if self._error is not None:
            raise copy.copy(self._error)  # others raise it too
        return self._found


_lock = threading.Lock()
_running: dict[tuple[str, int, int], _Lookup] = {}


def _shared(host: str, port: int, flags: int) -> _Lookup:
    """The lookup in progress for these, or a new one."""
    with _lock:
        lookup = _running.get((host, port, flags))
        if lookup is None:
            lookup = _Lookup(host, port, flags)
            try:
                lookup.start()
            except RuntimeError as error:
                raise OSError(errno.EAGAIN, f"no thread to look its name up: {error}") from error
            _running[host, port, flags] = lookup
        return lookup


def _forget() -> None:
    """After a fork: the threads of lookups do not run in the child."""
    global _lock
    _lock = threading.Lock()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
