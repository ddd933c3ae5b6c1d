"""Sorting out new connections before resources are spent on them: under overload most of them end here."""

from __future__ import annotations

import contextlib
import re
import socket
from enum import Enum

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)
_REFUSABLE = b"POST "
_PEEKED_BYTES = 65_536
_ESTABLISHED = 1


class Triage(Enum):
    """The state of a connection that was just accepted."""

    GONE = "its client has hung up"
    WHOLE = "a whole request that may be refused"
    OTHER = "something else, or nothing yet"


def look_at(sock: socket.socket) -> Triage:
    """Look at the first bytes without consuming them, and without waiting."""
    if has_left(sock):
        return Triage.GONE
    try:
        came = sock.recv(_PEEKED_BYTES, socket.MSG_PEEK)
    except BlockingIOError:
        return Triage.OTHER
    except OSError:
        return Triage.GONE
    return Triage.WHOLE if _is_whole(came) else Triage.OTHER


def has_left(sock: socket.socket) -> bool:
    """Whether the client has closed its end, even if bytes that it sent before are unread."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _ESTABLISHED
    except (AttributeError, OSError):  # the system does not tell
        return False


def answer_and_close(sock: socket.socket, answer: bytes) -> None:
    """Answer a whole request; it is read first, for unread bytes could cost the client the answer."""
    with contextlib.suppress(OSError), sock:
        sock.recv(_PEEKED_BYTES)
        sock.send(answer)


def _is_whole(came: bytes) -> bool:
    head, end, body = came.partition(b"\r\n\r\n")
    length = _LENGTH.search(head + b"\r\n") if end and head.startswith(_REFUSABLE) else None
    return length is not None and len(body) >= int(length[1])
