"""Bytes through a socket, plain or in TLS.

TLS goes through memory (``ssl.MemoryBIO``): before CPython 3.13 one SSL socket is not safe for a thread that
reads beside a thread that writes. Here each touches the TLS state for a moment, under a lock, and the socket
outside of it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from typing import Any, Protocol

from sepnas.errors import DeadlineError, HandshakeError
from sepnas.runtime.codec import Payload
from sepnas.runtime.identity import reason_of

_READ_BYTES = 256 << 10
_WRITE_BYTES = 64 << 10
"""Long payloads are encrypted and written piece by piece, so that the first piece is on its way early."""

MAX_HANDSHAKE_BYTES = 64 << 10
"""So much may come before a TLS handshake is over: some times what ours takes."""


class Pipe(Protocol):
    """Both ways of one connection; ``raw_sent_bytes`` and ``raw_received_bytes`` count what the socket carried."""

    sock: socket.socket
    raw_sent_bytes: int
    raw_received_bytes: int

    def write(self, data: Payload) -> None: ...

    def read(self) -> bytes:
        """Some bytes; ``b""`` at the end. Blocks as long as the socket's timeout says."""
        ...

    def certificate(self) -> dict[str, Any] | None:
        """The peer's certificate; None without TLS."""
        ...


class PlainPipe:
    """No encryption: for one machine, where the user asked for it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.raw_sent_bytes = self.raw_received_bytes = 0

    def write(self, data: Payload) -> None:
        self.sock.sendall(data)
        self.raw_sent_bytes += len(data)

    def read(self) -> bytes:
        data = self.sock.recv(_READ_BYTES)
        self.raw_received_bytes += len(data)
        return data

    def certificate(self) -> dict[str, Any] | None:
        return None


class TlsPipe:
    """TLS 1.3 over a socket: one thread may read while another writes."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_name: str | None) -> None:
        self.sock = sock
        self.raw_sent_bytes = self.raw_received_bytes = 0
        self._lock = threading.Lock()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name
        )

    def handshake(self, deadline: float) -> None:
        """Raises :class:`HandshakeError`, :class:`DeadlineError` or ``OSError``."""
        while True:
            try:
                self._tls.do_handshake()
                return self._flush()
            except ssl.SSLWantReadError:
                self._flush()
            except ssl.SSLError as error:
                with contextlib.suppress(OSError):
                    self._flush()  # the alert that tells the peer why
                raise HandshakeError(reason_of(error)) from error
            set_timeout(self.sock, deadline)
            left_bytes = MAX_HANDSHAKE_BYTES - self.raw_received_bytes
            if left_bytes <= 0:
                raise HandshakeError(f"its TLS handshake is longer than {MAX_HANDSHAKE_BYTES >> 10} KiB")
            if not self._receive(left_bytes):
                raise HandshakeError("the other end closed the connection during the TLS handshake")

    def write(self, data: Payload) -> None:
        view = memoryview(data)
        for start in range(0, len(view), _WRITE_BYTES):
            with self._lock:
                self._tls.write(view[start : start + _WRITE_BYTES])
                encrypted = self._outgoing.read()
            self.sock.sendall(encrypted)
            self.raw_sent_bytes += len(encrypted)

    def read(self) -> bytes:
        while True:
            with self._lock:
                try:
                    return self._tls.read(_READ_BYTES)
                except ssl.SSLWantReadError:
                    pass
                except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                    return b""
                except ssl.SSLError as error:
                    raise HandshakeError(reason_of(error)) from error
            if not self._receive():
                return b""

    def certificate(self) -> dict[str, Any] | None:
        return self._tls.getpeercert()

    def _receive(self, most_bytes: int = _READ_BYTES) -> int:
        data = self.sock.recv(most_bytes)
        self.raw_received_bytes += len(data)
        with self._lock:
            self._incoming.write(data)
        return len(data)

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self.sock.sendall(data)
            self.raw_sent_bytes += len(data)


def set_timeout(sock: socket.socket, deadline: float) -> None:
    """Let the next socket call wait until ``deadline`` and no longer; raises :class:`DeadlineError` when it is past."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineError("the other end did not answer in time")
    sock.settimeout(left)
