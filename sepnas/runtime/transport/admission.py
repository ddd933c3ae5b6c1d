"""Admission control for connections in their handshake: bounded in number, and slowed down per failing address.

No address is banned: a client, a whole network or this machine may share it with a stranger that hammers. Connections
from such an address take turns, one each twentieth of a second, which bounds what its handshakes cost.
"""

from __future__ import annotations

import contextlib
import ipaddress
import select
import socket
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator

from sepnas.errors import PeerLostError
from sepnas.runtime.transport.pipes import set_timeout

MAX_GREETINGS = 32
"""Maximum number of connections in their handshake; one more closes the oldest of the address that has the most."""
FREE_FAILURES = 32
"""Handshakes of one address that may fail at once before it is slowed down to :data:`FAILURES_PER_S`."""
FAILURES_PER_S = 20.0
"""Handshakes a second of an address that is slowed down."""
MAX_ADDRESSES = 1024
"""Maximum number of addresses whose failures are remembered; beyond it the least recent is forgotten."""
_TURN_S = 1 / FAILURES_PER_S
_HUNG_UP = getattr(select, "POLLRDHUP", 0)


class AdmissionControl:
    """Counts connections by address (IPv6: by /64 network); all threads may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: dict[socket.socket, str] = {}  # in the order of their arrival
        self._free_at_s: OrderedDict[str, float] = OrderedDict()

    def enter(self, sock: socket.socket, host: str) -> None:
        """Register an accepted connection; it leaves at the end of :meth:`greeting`."""
        with self._lock:
            if len(self._inside) >= MAX_GREETINGS:
                self._drop_one()
            self._inside[sock] = _origin(host)

    @contextlib.contextmanager
    def greeting(self, sock: socket.socket, deadline: float) -> Iterator[None]:
        """Wait for the connection's first byte and its turn; the block is the handshake, and raises if that fails.

        Raises :class:`PeerLostError` if the connection is closed meanwhile, :class:`DeadlineError`, or ``OSError``.
        """
        try:
            with self._lock:
                origin = self._inside.get(sock)
            set_timeout(sock, deadline)
            if origin is None or not sock.recv(1, socket.MSG_PEEK):
                self._note_silence(origin)
                raise PeerLostError("it left without a word")
            wait_s = self._take_turn(origin)
            if wait_s and _hangs_up_within(sock, wait_s):
                self._give_turn_back(origin)
                raise PeerLostError("it left while it waited for its turn")
            set_timeout(sock, deadline)
            yield
            self._give_turn_back(origin)
        finally:
            with self._lock:
                self._inside.pop(sock, None)

    def leave(self, sock: socket.socket) -> None:
        """Close a connection that no thread can greet."""
        with self._lock:
            self._inside.pop(sock, None)
        sock.close()

    def _drop_one(self) -> None:
        """Make room, so that silent connections keep no other out; the thread that greets the dropped one closes it."""
        most, _ = Counter(self._inside.values()).most_common(1)[0]
        oldest = next(sock for sock, origin in self._inside.items() if origin == most)
        del self._inside[oldest]
        with contextlib.suppress(OSError):
            oldest.shutdown(socket.SHUT_RDWR)

    def _take_turn(self, origin: str) -> float:
        """Seconds to wait before the handshake; costs a turn, which a successful handshake gives back."""
        with self._lock:
            debt_s = self._debt_s(origin)
            self._owe(origin, debt_s + _TURN_S)
            return max(0.0, debt_s - FREE_FAILURES * _TURN_S)

    def _give_turn_back(self, origin: str) -> None:
        with self._lock:
            self._owe(origin, self._debt_s(origin) - _TURN_S)

    def _note_silence(self, origin: str | None) -> None:
        """Remember a connection that was silent. It costs little, so it never makes its address wait."""
        with self._lock:
            if origin is not None and (debt_s := self._debt_s(origin)) < (FREE_FAILURES - 1) * _TURN_S:
                self._owe(origin, debt_s + _TURN_S)

    def _debt_s(self, origin: str) -> float:
        return max(0.0, self._free_at_s.get(origin, 0.0) - time.monotonic())

    def _owe(self, origin: str, debt_s: float) -> None:
        self._free_at_s[origin] = time.monotonic() + max(0.0, debt_s)
        self._free_at_s.move_to_end(origin)
        if len(self._free_at_s) > MAX_ADDRESSES:
            self._free_at_s.popitem(last=False)


def _hangs_up_within(sock: socket.socket, wait_s: float) -> bool:
    """Wait ``wait_s`` seconds; True at once if the connection is closed or dropped meanwhile."""
    if not hasattr(select, "poll"):
        time.sleep(wait_s)
        return False
    poll = select.poll()
    poll.register(sock, _HUNG_UP)
    return bool(poll.poll(1e3 * wait_s))


def _origin(host: str) -> str:
    """What failures are counted by: an IPv6 host may use any address of its network."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return host
    return str(address.ipv4_mapped or ipaddress.ip_network((int(address) >> 64 << 64, 64)))
