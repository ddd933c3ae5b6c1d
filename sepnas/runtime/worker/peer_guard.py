"""Restricts the addresses that a worker dials for a client, and what the client learns from that.

A client belongs to the deployment, but is not trusted with the worker's network. It learns only whether a peer answers
that shows the deployment's certificate for the right rank. Whatever else is at an address, the client gets the same
message after the same time, and the number of attempts is limited.
"""

from __future__ import annotations

import contextlib
import ipaddress
import threading
import time
from collections.abc import Callable, Iterator

from sepnas.errors import ExchangeError, PeerUnreachableError, SepnasError, SpecError
from sepnas.runtime.transport.handshake import Dial
from sepnas.runtime.worker.log import WorkerLog
from sepnas.spec.hosts import Hosts, parse_address

MIN_PORT = 1024
FREE_FAILURES = 16
"""Dials that may fail at once; after that they are limited to :data:`FAILURES_PER_S`."""
FAILURES_PER_S = 1.0
"""Dials a second, as long as they fail."""
MAX_DIAL_S = 5.0
_SHARE_OF_DEADLINE = 0.8
"""Part of the deadline that dialing may take; the rest is for telling the client."""
_LOOK_S = 0.05


class PeerGuard:
    """One per worker; ``hosts`` pins the peers' addresses, whatever clients say."""

    def __init__(self, rank: int, log: WorkerLog, hosts: Hosts | None = None) -> None:
        self._rank, self._log, self._hosts = rank, log, hosts
        self._lock = threading.Lock()
        self._free_at_s = 0.0

    def address(self, rank: int, told: str | None) -> str | None:
        """The address at which a peer is dialed: the pinned one, or the one that the client ``told``."""
        return told if self._hosts is None else self._hosts.address(rank)

    @contextlib.contextmanager
    def opening(
        self, rank: int, address: str, client_host: str, deadline: float, is_over: Callable[[], bool]
    ) -> Iterator[Dial]:
        """The block connects and shakes hands; whatever fails in it raises the same error, and is logged here.

        Raises :class:`PeerUnreachableError`.
        """
        now = time.monotonic()
        until = min(now + MAX_DIAL_S, now + _SHARE_OF_DEADLINE * max(0.0, deadline - now))
        try:
            self._await_turn(until, is_over)
            self._check_port(address)
            yield Dial(address, until, lambda number: self._hosts is not None or may_dial(number, client_host))
        except (SepnasError, OSError) as error:
            self._log.say_summed("peer not reached", "peer not reached", peer=rank, address=address, reason=str(error))
            _sleep_until(until, is_over)
            raise PeerUnreachableError(
                f"device {rank}: nobody answers at {address} (there is no way to that host, no device {rank} of this "
                f"deployment, or device {self._rank} does not dial such addresses); its log says which"
            ) from None
        self._give_turn_back()

    def _check_port(self, address: str) -> None:
        if self._hosts is None and parse_address(address)[1] < MIN_PORT:
            raise SpecError(f"a client may not name ports below {MIN_PORT}; `--hosts hosts.yaml` may")

    def _await_turn(self, until: float, is_over: Callable[[], bool]) -> None:
        """Take a turn, which a successful dial gives back."""
        with self._lock:
            now = time.monotonic()
            debt_s = max(0.0, self._free_at_s - now)
            wait_s = max(0.0, debt_s - FREE_FAILURES / FAILURES_PER_S)
            if now + wait_s > until:
                raise ExchangeError(f"too many dials failed; the next one is in {wait_s:.0f} s")
            self._free_at_s = now + debt_s + 1 / FAILURES_PER_S
        _sleep_until(now + wait_s, is_over)

    def _give_turn_back(self) -> None:
        with self._lock:
            self._free_at_s -= 1 / FAILURES_PER_S


def may_dial(number: str, client_host: str) -> bool:
    """Whether a client may make a worker dial the address ``number``.

    Not if only the worker's own machine or link reaches it, unless the client is there too.
    """
    there, client = _address(number), _address(client_host)
    if there.is_multicast or there.is_unspecified or (there.is_reserved and not there.is_loopback):
        return False
    if there.is_loopback:
        return client.is_loopback
    return not there.is_link_local or client.is_link_local or client.is_loopback


def _address(number: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(number.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _sleep_until(moment: float, is_over: Callable[[], bool]) -> None:
    while (left_s := moment - time.monotonic()) > 0 and not is_over():
        time.sleep(min(left_s, _LOOK_S))
