"""Strangers at a worker's door: many, silent, noisy, and with half a TLS handshake; those who belong get in."""

import socket
import ssl
import struct
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest

from sepnas.errors import PeerLostError
from sepnas.runtime.client.bench import random_batch
from sepnas.runtime.client.session import Session
from sepnas.runtime.transport import admission
from sepnas.runtime.transport.admission import (
    FAILURES_PER_S,
    FREE_FAILURES,
    MAX_ADDRESSES,
    MAX_GREETINGS,
    AdmissionControl,
)
from sepnas.runtime.transport.pipes import MAX_HANDSHAKE_BYTES
from sepnas.spec.hosts import parse_address
from tests.helpers_runtime import SOON_S, threads, worker_processes


@pytest.fixture
def door():
    """A admission, and what makes connections of an address that are at it."""
    with ExitStack() as stack:
        found = AdmissionControl()

        def come(host, says=b"x"):
            ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
            theirs.sendall(says)
            found.enter(ours, host)
            return ours, theirs

        yield found, come


@pytest.fixture
def slow_turns(monkeypatch):
    """Failures are forgotten so late that a slow machine forgets none."""
    monkeypatch.setattr(admission, "_TURN_S", 60.0)


def soon():
    return time.monotonic() + SOON_S


def _is_known(found, host):
    """Whether failures of that address are remembered: more than half of those that are free."""
    return found._debt_s(admission._origin(host)) > FREE_FAILURES / 2 * admission._TURN_S


def fail(found, ours):
    with suppress(ConnectionError), found.greeting(ours, soon()):
        raise ConnectionError


# -- admission control alone


def test_the_address_with_the_most_connections_loses_one(door):
    """Whoever fills all places takes none from others: its own oldest connection is closed."""
    found, come = door
    others = [come(f"10.0.0.{k}") for k in range(2, 5)]
    crowd = [come("10.0.0.1") for _ in range(MAX_GREETINGS + 20)]
    for ours, _ in others:
        with found.greeting(ours, soon()):
            pass
    lost = MAX_GREETINGS + 20 + len(others) - MAX_GREETINGS
    for place, (_, theirs) in enumerate(crowd):
        theirs.setblocking(False)
        closed = False
        with suppress(BlockingIOError):
            closed = theirs.recv(1) == b""
        assert closed == (place < lost)


def test_who_fails_often_waits_and_others_do_not(door):
    """After the free failures of an address its next connections wait, one behind the other, and are let in."""
    found, come = door
    found._owe("10.0.0.1", FREE_FAILURES / FAILURES_PER_S)
    start = time.monotonic()
    for _ in range(5):
        fail(found, come("10.0.0.1")[0])
    assert time.monotonic() - start > 3 / FAILURES_PER_S
    with found.greeting(come("10.0.0.1")[0], soon()):  # delayed, never banned
        pass
    assert found._take_turn("10.0.0.2") == 0


def test_who_gets_in_owes_nothing(door, slow_turns):
    """However often a client connects, it is neither slowed down nor known."""
    found, come = door
    for _ in range(200):
        with found.greeting(come("10.0.0.1")[0], soon()):
            pass
    assert found._take_turn("10.0.0.1") == 0
    assert not _is_known(found, "10.0.0.1")


def test_who_leaves_the_line_holds_nobody_up(door):
    """A connection that hangs up while it waits gives its turn back at once."""
    found, come = door
    found._owe("10.0.0.1", 1000.0)
    for _ in range(50):
        ours, theirs = come("10.0.0.1")
        theirs.close()
        with pytest.raises(PeerLostError, match="while it waited"), found.greeting(ours, soon()):
            pass
    assert found._debt_s("10.0.0.1") <= 1000


def test_silence_makes_nobody_wait(door, slow_turns):
    """Who connects and leaves without a word, however often, is known at last and holds nobody up."""
    found, come = door
    for _ in range(500):
        ours, theirs = come("10.0.0.1", b"")
        theirs.close()
        with pytest.raises(PeerLostError, match="without a word"), found.greeting(ours, soon()):
            pass
    assert _is_known(found, "10.0.0.1")
    assert found._take_turn("10.0.0.1") == 0


def test_a_network_of_ipv6_is_one_address(door, slow_turns):
    """Who changes the last half of an IPv6 address is still known; an IPv4 address in its IPv6 form, too."""
    found, come = door
    for k in range(FREE_FAILURES):
        fail(found, come(f"2001:db8::{k + 1:x}")[0])
        fail(found, come("::ffff:10.0.0.1")[0])
    assert _is_known(found, "2001:db8::ffff:1")
    assert _is_known(found, "10.0.0.1")
    assert not _is_known(found, "2001:db8:1::1")
    assert not _is_known(found, "fe80::1%eth0")


def test_what_is_known_of_addresses_is_bounded(door):
    """A stranger with many addresses fills no memory."""
    found, come = door
    for k in range(MAX_ADDRESSES + 100):
        ours, theirs = come(f"10.0.{k // 256}.{k % 256}")
        fail(found, ours)
        ours.close()
        theirs.close()
    assert len(found._free_at_s) == MAX_ADDRESSES
    assert not found._inside


# -- a worker


def test_a_handshake_without_end_is_cut_off(exported, caplog):
    """A stranger that goes on sending its first message is closed long before OpenSSL would mind."""
    with threads(exported) as hosts, socket.create_connection(parse_address(hosts.address(0))) as sock:
        sock.settimeout(10)
        fragment = struct.pack(">BHH", 22, 0x0301, 1 << 14)
        data = b"\x01" + (120_000).to_bytes(3, "big") + bytes((1 << 14) - 4)
        sent = 0
        with suppress(ConnectionError):
            for _ in range(7):
                sock.sendall(fragment + data)
                sent += len(data)
                data = bytes(1 << 14)
            assert sock.recv(1 << 16) == b""
        limit = time.monotonic() + SOON_S
        while "KiB" not in caplog.text and time.monotonic() < limit:
            time.sleep(0.01)
    assert sent >= MAX_HANDSHAKE_BYTES // 2
    assert f"its TLS handshake is longer than {MAX_HANDSHAKE_BYTES >> 10} KiB" in caplog.text


class Flood:
    """Strangers in threads: some say nothing, some speak no TLS, some shake hands without a certificate."""

    def __init__(self, address):
        self.address, self.over = address, threading.Event()
        self.handshakes = self.tried = 0
        self._lock = threading.Lock()

    def silent(self):
        with socket.create_connection(self.address, 10):
            self.over.wait(0.5)

    def noisy(self):
        with socket.create_connection(self.address, 10) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            sock.recv(1)

    def hasty(self):
        with socket.create_connection(self.address, 10) as sock:
            sock.sendall(b"\x16\x03\x01")

    def without_certificate(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(self.address, 10) as sock, context.wrap_socket(sock) as stranger:
            with self._lock:
                self.handshakes += 1
            stranger.recv(1)

    def _again(self, act):
        while not self.over.is_set():
            with self._lock:
                self.tried += 1
            with suppress(OSError):
                act()


@contextmanager
def flood(address):
    flood = Flood(address)
    acts = 4 * [flood.silent] + 4 * [flood.noisy] + 4 * [flood.hasty] + 8 * [flood.without_certificate]
    running = [threading.Thread(target=flood._again, args=(act,)) for act in acts]
    for thread in running:
        thread.start()
    try:
        yield flood
    finally:
        flood.over.set()
        for thread in running:
            thread.join(SOON_S)


@pytest.mark.slow
def test_a_flood_from_the_same_address_keeps_no_client_out(exported):
    """While strangers of this very address hammer at a device, sessions open and answer, and few of the strangers'
    handshakes are computed or told of."""
    with worker_processes(exported, 2) as (workers, hosts):
        with Session(exported, hosts) as session:
            batch = random_batch(session.manifest, 1)
            expected = session.infer(batch)
        start = time.monotonic()
        with flood(parse_address(hosts.address(0))) as strangers:
            while strangers.tried < 5 * FREE_FAILURES and time.monotonic() < start + SOON_S:
                time.sleep(0.05)
            for _ in range(2):
                with Session(exported, hosts, timeout_s=SOON_S) as session:
                    for _ in range(20):
                        assert (session.infer(batch) == expected).all()
        seconds = time.monotonic() - start
        assert strangers.tried >= 5 * FREE_FAILURES
        allowed = FREE_FAILURES + MAX_GREETINGS + FAILURES_PER_S * seconds
        assert 0 < strangers.handshakes <= allowed
        told = [line for line in workers[0]._errors if "code=handshake" in line]
        assert 0 < len(told) <= 2 + seconds  # at most one a second, with how many there were
