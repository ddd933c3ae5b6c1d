"""Bytes through a socket, plain or in TLS.

TLS goes through memory (``ssl.MemoryBIO``): before CPython 3.13 an SSL socket is not safe for one thread that reads
beside another that writes. Here both hold a lock while they touch the TLS state, and use the socket outside of it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading
import time
from typing import Any, Protocol

from sepnas.errors import DeadlineError, HandshakeError
from sepnas.runtime.tensors.codec import Payload
from sepnas.runtime.transport.identity import reason_of

_READ_BYTES = 64 << 10
CAN_DO_WITHOUT_WAITING = sys.platform == "linux"  # macOS has MSG_DONTWAIT, and may wait all the same
_DO_NOT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
_WRITE_BYTES = 64 << 10
"""Long payloads are encrypted and written piece by piece, so that the first piece is on its way early."""

MAX_HANDSHAKE_BYTES = 64 << 10
"""Maximum number of bytes received during a TLS handshake; several times what an honest one takes."""


class Pipe(Protocol):
    """One connection in both directions; ``raw_sent_bytes`` and ``raw_received_bytes`` count bytes on the socket."""

    sock: socket.socket
    raw_sent_bytes: int
    raw_received_bytes: int

    holds_more: bool
    """Whether bytes may have been taken from the socket that :meth:`read` has not returned yet."""

    def write(self, data: Payload) -> None: ...

    def write_some(self, data: Payload) -> Payload:
        """Write as much as possible without waiting; returns the rest, for :meth:`write_rest`.

        Raises ``OSError`` if nothing was written and all of ``data`` is still to be written.
        """
        ...

    def write_rest(self, rest: Payload) -> None: ...

    def read(self, wait: bool = True) -> Payload:
        """Some bytes, which the next call overwrites; ``b""`` at the end.

        Blocks up to the socket's timeout; without ``wait`` raises ``BlockingIOError`` if nothing has come.
        """
        ...

    def certificate(self) -> dict[str, Any] | None:
        """The peer's certificate; None without TLS."""
        ...


class PlainPipe:
    """No encryption: for loopback, where the user asked for it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.raw_sent_bytes = self.raw_received_bytes = 0
        self.holds_more = False
        self._received = memoryview(bytearray(_READ_BYTES))

    def write(self, data: Payload) -> None:
        self.sock.sendall(data)
        self.raw_sent_bytes += len(data)

    def write_some(self, data: Payload) -> Payload:
        count = self.sock.send(data, _DO_NOT_WAIT)
        self.raw_sent_bytes += count
        return memoryview(data)[count:]

    def write_rest(self, rest: Payload) -> None:
        self.write(rest)

    def read(self, wait: bool = True) -> Payload:
        count = self.sock.recv_into(self._received, 0, 0 if wait else _DO_NOT_WAIT)
        self.raw_received_bytes += count
        self.holds_more = count == _READ_BYTES
        return self._received[:count]

    def certificate(self) -> dict[str, Any] | None:
        return None


class TlsPipe:
    """TLS 1.3 over a socket: one thread may read while another writes."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_name: str | None) -> None:
        self.sock = sock
        self.raw_sent_bytes = self.raw_received_bytes = 0
        self._lock = threading.Lock()
        self._received, self._plain = memoryview(bytearray(_READ_BYTES)), memoryview(bytearray(_READ_BYTES))
        self.holds_more, self._filled = True, False
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
            if not self._receive(max_bytes=min(left_bytes, _READ_BYTES)):
                raise HandshakeError("the other end closed the connection during the TLS handshake")

    def write(self, data: Payload) -> None:
        view = memoryview(data)
        for start in range(0, len(view), _WRITE_BYTES):
            with self._lock:
                self._tls.write(view[start : start + _WRITE_BYTES])
                encrypted = self._outgoing.read()
            self.write_rest(encrypted)

    def write_some(self, data: Payload) -> Payload:
        with self._lock:
            self._tls.write(data)
            encrypted = self._outgoing.read()
        try:
            count = self.sock.send(encrypted, _DO_NOT_WAIT)
        except OSError:
            return encrypted  # writing the rest meets the error too
        self.raw_sent_bytes += count
        return memoryview(encrypted)[count:]

    def write_rest(self, rest: Payload) -> None:
        self.sock.sendall(rest)
        self.raw_sent_bytes += len(rest)

    def read(self, wait: bool = True) -> Payload:
        while True:
            if self.holds_more and (data := self._decrypted()) is not None:
                return data
            if not self._receive(wait):
                return b""

    def _decrypted(self) -> Payload | None:
        """Bytes decrypted from what has come; None if it is no complete record."""
        with self._lock:
            count = 0
            try:
                while count < _READ_BYTES and (self._incoming.pending or not count):  # a read gives one record at most
                    length: int = self._tls.read(_READ_BYTES - count, self._plain[count:])  # type: ignore[assignment]
                    if not length:  # the peer has ended TLS; after other bytes the next read returns it
                        return self._plain[:count]
                    count += length
                self.holds_more = count == _READ_BYTES or self._filled
            except ssl.SSLWantReadError:
                self.holds_more = self._filled and count > 0
                if not count:
                    return None
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                pass  # first the bytes before the end; the next read returns the end
            except ssl.SSLError as error:
                raise HandshakeError(reason_of(error)) from error
            return self._plain[:count]

    def certificate(self) -> dict[str, Any] | None:
        return self._tls.getpeercert()

    def _receive(self, wait: bool = True, max_bytes: int = _READ_BYTES) -> int:
        count = self.sock.recv_into(self._received, max_bytes, 0 if wait else _DO_NOT_WAIT)
        self.raw_received_bytes += count
        self._filled = count == _READ_BYTES
        with self._lock:
            self._incoming.write(self._received[:count])
        self.holds_more = True
        return count

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
