"""The socket that a worker or a service listens on, with errors that say what may help."""

from __future__ import annotations

import errno
import socket
import warnings

from sepnas.errors import ListenError
from sepnas.runtime.transport.handshake import is_loopback
from sepnas.runtime.transport.lookup import LookupTimeoutError
from sepnas.runtime.transport.sockets import listen
from sepnas.spec.hosts import format_address


def listening_socket(host: str, port: int) -> socket.socket:
    """A TCP socket that listens.

    Raises :class:`ListenError` with a hint, and warns if ``host`` is a name that only this machine reaches.
    """
    try:
        listener = listen(host, port)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ListenError(f"cannot listen on {format_address(host, port)}: {listen_hint(error, port)}") from error
    number = listener.getsockname()[0]
    if is_loopback(number) and not is_loopback(host):
        text = f"host '{host}' is {number} here, which no other machine reaches; listen on 0.0.0.0, or on its number"
        warnings.warn(text, stacklevel=2)
    return listener


def listen_hint(error: Exception, port: int, option: str = "--listen") -> str:
    """Advice for an address that cannot be listened on; ``option`` is the one that named it."""
    number = getattr(error, "errno", None)
    if isinstance(error, LookupTimeoutError):
        return "the name server did not answer; name the address as a number, or 0.0.0.0 for all"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "that name is not known here; use an address of this machine, or 0.0.0.0 for all"
    if number == errno.EADDRINUSE:
        return f"port {port} is in use; stop what listens there, or choose another port with {option}"
    if number == errno.EADDRNOTAVAIL:
        return "this machine does not have that address; use one of its own, or 0.0.0.0 for all"
    if number == errno.EACCES:
        return "ports below 1024 belong to the system; choose a higher one"
    return f"{getattr(error, 'strerror', None) or error}; name an address of this machine"
