"""Who has connected and not yet said who it is: bounded in number, and slowed down where it fails often.

Nobody is banned: behind the address of a stranger that hammers may be a client (or a whole network, or this machine).
Its connections wait for their turn, a twentieth of a second each, so that a stranger's handshakes cost little.
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
"""So many connections may be in their handshake at once; one more closes the oldest of the address with the most."""
FREE_FAILURES = 32
"""So many handshakes of one address may fail at once before it is slowed down ..."""
FAILURES_PER_S = 20.0
"""... to so many a second."""
MAX_ADDRESSES = 1024
"""Of so many addresses it is known that they failed; one more forgets the one that was heard of longest ago."""
_TURN_S = 1 / FAILURES_PER_S
_HUNG_UP = getattr(select, "POLLRDHUP", 0)


class Doorman:
    """Counts connections by the address they come from (of IPv6: its network, /64); all threads may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: dict[socket.socket, str] = {}  # in the order of their arrival
        self._free_at_s: OrderedDict[str, float] = OrderedDict()

    def enter(self, sock: socket.socket, host: str) -> None:
        """A connection was accepted; it has a place until :meth:`greeting` of it is over."""
        with self._lock:
            if len(self._inside) >= MAX_GREETINGS:
                self._drop_one()
            self._inside[sock] = _origin(host)

    @contextlib.contextmanager
    def greeting(self, sock: socket.socket, deadline: float) -> Iterator[None]:
        """Wait for the first byte and for its turn; the block is the handshake, and fails when that does.

        Raises :class:`PeerLostError` when it hangs up meanwhile, :class:`DeadlineError`, or ``OSError``.
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
        """Nobody can greet it: its place is free again."""
        with self._lock:
            self._inside.pop(sock, None)
        sock.close()

    def _drop_one(self) -> None:
        """Who says nothing must keep nobody out; the thread that waits for it sees the end and closes it."""
        most, _ = Counter(self._inside.values()).most_common(1)[0]
        oldest = next(sock for sock, origin in self._inside.items() if origin == most)
        del self._inside[oldest]
        with contextlib.suppress(OSError):
            oldest.shutdown(socket.SHUT_RDWR)

    def _take_turn(self, origin: str) -> float:
        """How long to wait until a handshake may begin; it costs one turn until it is given back."""
        with self._lock:
            debt_s = self._debt_s(origin)
            self._owe(origin, debt_s + _TURN_S)
            return max(0.0, debt_s - FREE_FAILURES * _TURN_S)

    def _give_turn_back(self, origin: str) -> None:
        with self._lock:
            self._owe(origin, self._debt_s(origin) - _TURN_S)

    def _note_silence(self, origin: str | None) -> None:
        """Who says nothing costs little: it becomes known, and makes nobody wait."""
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
    """Wait, and no longer for who is gone or was dropped."""
    if not hasattr(select, "poll"):
        time.sleep(wait_s)
        return False
    poll = select.poll()
    poll.register(sock, _HUNG_UP)
    return bool(poll.poll(1e3 * wait_s))


def _origin(host: str) -> str:
    """An IPv6 network gives each of its machines as many addresses as it likes."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return host
    return str(address.ipv4_mapped or ipaddress.ip_network((int(address) >> 64 << 64, 64)))
