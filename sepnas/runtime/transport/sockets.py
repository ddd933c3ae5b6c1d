"""TCP sockets: connecting, listening and tuning. All sockets of the runtime come from here."""

from __future__ import annotations

import errno
import itertools
import os
import selectors
import socket
import sys
import time
from collections.abc import Callable

from sepnas.runtime.transport.lookup import Address, look_up

MAX_UNACKNOWLEDGED_S = 25.0
"""A connection ends when its peer's machine acknowledges nothing for this long."""
KERNEL_GIVES_UP = hasattr(socket, "TCP_USER_TIMEOUT") or sys.platform == "darwin"
"""Whether the kernel enforces that; elsewhere a client closes connections whose pings stay unanswered as long."""
ATTEMPT_DELAY_S = 0.25
"""Pause before the next address of a name is tried beside the ones before it (RFC 8305, "Connection Attempt Delay")."""
MAX_ATTEMPTS = 8
"""Maximum number of addresses of one name that are tried."""
LISTEN_LOOKUP_S = 10.0
_BACKLOG = 64
_KEEPALIVE_SHARES = {"TCP_KEEPIDLE": 0.4, "TCP_KEEPINTVL": 0.2}
"""Shares of that time: idle time before a connection is probed, and pause between the three probes."""
_KEEPALIVE_PROBES = 3
_DARWIN_TCP_RXT_CONNDROPTIME = 0x80


def tune(sock: socket.socket) -> None:
    """Send small messages without delay, and notice a peer whose machine has vanished.

    Keepalive notices it while nothing is sent. It does not run while sent bytes are unacknowledged: the kernel then
    repeats them for some 15 minutes unless it is told to give up earlier.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    counts = {name: max(1, round(share * MAX_UNACKNOWLEDGED_S)) for name, share in _KEEPALIVE_SHARES.items()}
    for name, value in {**counts, "TCP_KEEPCNT": _KEEPALIVE_PROBES}.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if sys.platform == "darwin":
        sock.setsockopt(socket.IPPROTO_TCP, _DARWIN_TCP_RXT_CONNDROPTIME, round(MAX_UNACKNOWLEDGED_S))
    elif KERNEL_GIVES_UP:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1e3 * MAX_UNACKNOWLEDGED_S))


def connect(
    host: str, port: int, deadline: float, allows: Callable[[str], bool] = lambda number: True
) -> socket.socket:
    """A blocking, tuned socket that is connected to the first address of the host that answers.

    Names are looked up on each call; only addresses that ``allows`` accepts are dialed. They are raced, so a dead one
    does not delay a live one. Raises ``socket.gaierror`` or ``UnicodeError`` (unknown name),
    ``TimeoutError`` (nothing answered by ``deadline``, ``time.monotonic`` seconds; :class:`LookupTimeoutError` when
    that was the name server) or ``OSError``.
    """
    addresses = [address for address in look_up(host, port, deadline) if allows(address.host)]
    if not addresses:
        raise OSError(errno.EACCES, "its addresses may not be dialed for a client that is elsewhere")
    sock = _race(addresses, deadline)
    sock.setblocking(True)
    tune(sock)
    return sock


def _race(addresses: list[Address], deadline: float) -> socket.socket:
    """A socket connected to the first address that accepts; both families take turns."""
    with selectors.DefaultSelector() as selector:
        try:
            return _first_connected(_in_turn(addresses), selector, deadline)
        finally:
            for key in list(selector.get_map().values()):
                _socket_of(key).close()


def _first_connected(waiting: list[Address], selector: selectors.BaseSelector, deadline: float) -> socket.socket:
    failure: OSError = OSError(errno.EADDRNOTAVAIL, "its name has no address")
    while waiting or selector.get_map():
        try:
            if waiting:
                address = waiting.pop(0)
                selector.register(_begin(address), selectors.EVENT_WRITE, address)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            for key, _ in selector.select(min(left_s, ATTEMPT_DELAY_S) if waiting else left_s):
                selector.unregister(key.fileobj)
                return _connected(_socket_of(key), key.data)
        except TimeoutError:
            if time.monotonic() >= deadline:
                raise
            failure = TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        except OSError as error:
            failure = error
    raise failure


def _socket_of(key: selectors.SelectorKey) -> socket.socket:
    assert isinstance(key.fileobj, socket.socket)
    return key.fileobj


def _begin(address: Address) -> socket.socket:
    """A socket that has begun to connect to an address."""
    sock = socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        number = sock.connect_ex(address.sockaddr)
        if number not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            raise OSError(number, os.strerror(number), address.host)
    except BaseException:
        sock.close()
        raise
    return sock


def _connected(sock: socket.socket, address: Address) -> socket.socket:
    """The socket of a finished attempt; raises its error, with the address as ``filename``, if it failed."""
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        sock.close()
        raise OSError(number, os.strerror(number), address.host)
    return sock


def _in_turn(addresses: list[Address]) -> list[Address]:
    """The addresses with both families in turn, starting with the family of the first."""
    first = [each for each in addresses if each.family == addresses[0].family]
    others = [each for each in addresses if each.family != addresses[0].family]
    pairs = itertools.zip_longest(first, others)
    return [each for pair in pairs for each in pair if each is not None][:MAX_ATTEMPTS]


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address, or at that of a name: an IPv6 one only if it has no other.

    Accepted connections inherit its options (on Linux). Raises ``OSError``, ``OverflowError`` or ``UnicodeError``.
    """
    addresses = look_up(host, port, time.monotonic() + LISTEN_LOOKUP_S, passive=True)
    address = min(addresses, key=lambda each: each.family != socket.AF_INET)
    # asyncio turns delays off only for sockets that name their protocol
    listener = socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tune(listener)
        listener.bind(address.sockaddr)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
