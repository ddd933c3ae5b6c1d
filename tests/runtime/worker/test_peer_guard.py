"""Where a client may send a worker, and whose place a worker takes: real clients over TLS."""

import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from sepnas.deployment.verify import load_manifest
from sepnas.errors import ExchangeError, HandshakeError, PeerLostError, PeerUnreachableError, SpecError
from sepnas.runtime.client.bench import random_batch
from sepnas.runtime.client.session import Session
from sepnas.runtime.protocol.events import Failed, Hello, Setup
from sepnas.runtime.transport.handshake import dial
from sepnas.runtime.transport.identity import Identity
from sepnas.runtime.worker import peer_guard, session_slot
from sepnas.runtime.worker.log import WorkerLog
from sepnas.runtime.worker.peer_guard import FREE_FAILURES, PeerGuard, may_dial
from sepnas.runtime.worker.server import Worker
from sepnas.spec.hosts import Hosts, format_address
from tests.helpers_runtime import free_ports, threads, worker_threads

WAIT_S = 60.0


def set_up(folder, address, peers, session="s" * 16):
    """What device 1 says to a client that sends it to these peers."""
    identity = Identity(folder / "client/tls", -1, load_manifest(folder).deployment_id)
    hello = Hello(deployment_id=identity.deployment_id, rank=-1, session=session)
    deadline = time.monotonic() + WAIT_S
    channel = dial(1, address, hello, identity, {}, deadline)
    try:
        channel.send_now(Setup(peers=peers, deadline_ms=30_000), deadline)
        return channel.next_event(deadline)
    finally:
        channel.abort()


@contextmanager
def listening(says=b""):
    """A program that is no device: who comes is told ``says``, and nothing else."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept = []

        def accept():
            with suppress(OSError):
                while True:
                    sock, _ = server.accept()
                    kept.append(sock)
                    sock.sendall(says)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield format_address(*server.getsockname())
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT_S)
        for sock in kept:
            sock.close()


def test_a_client_cannot_look_around_through_a_worker(exported, monkeypatch):
    """A closed port, a program that greets, one that is silent and a port of the system: the same words, as late."""
    monkeypatch.setattr(peer_guard, "MAX_DIAL_S", 0.5)
    told, took_s = set(), []
    with worker_threads(exported) as (_, hosts), listening(b"SSH-2.0-secret\r\n") as greets, listening() as silent:
        for place in (f"127.0.0.1:{free_ports(1)[0]}", greets, silent, "127.0.0.1:22", hosts.address(1)):
            start = time.monotonic()
            failed = set_up(exported, hosts.address(1), {"0": place})
            took_s.append(time.monotonic() - start)
            assert isinstance(failed, Failed)
            told.add((failed.code, failed.message.replace(place, "PLACE")))
    assert len(told) == 1
    code, message = told.pop()
    assert code == "peer-unreachable"
    assert "device 0: nobody answers at PLACE" in message
    assert "secret" not in message
    assert min(took_s) >= 0.5


@pytest.mark.parametrize(
    ("number", "client", "may"),
    [
        ("10.0.0.2", "10.0.0.9", True),
        ("127.0.0.1", "10.0.0.9", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("::ffff:127.0.0.1", "10.0.0.9", False),
        ("::1", "fd00::1", False),
        ("::1", "::1", True),
        ("169.254.169.254", "10.0.0.9", False),
        ("169.254.7.7", "169.254.1.1", True),
        ("fe80::1%eth0", "fd00::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("0.0.0.0", "127.0.0.1", False),
        ("224.0.0.1", "127.0.0.1", False),
        ("255.255.255.255", "127.0.0.1", False),
        ("fd00::5", "fd00::1", True),
    ],
)
def test_a_worker_goes_only_where_its_client_could_be(number, client, may):
    """A client elsewhere sends no worker to the worker's own addresses, nor to those that mean many or nobody."""
    assert may_dial(number, client) is may


def test_dials_that_fail_are_rationed(monkeypatch):
    """After some failures the next dial waits, and is not made where it would wait too long; others cost nothing."""
    monkeypatch.setattr(peer_guard, "MAX_DIAL_S", 0.01)
    monkeypatch.setattr(peer_guard, "FAILURES_PER_S", 0.001)
    guard, tried = PeerGuard(1, WorkerLog(1)), []

    def attempt(error=None):
        with guard.opening(0, "10.0.0.1:5000", "10.0.0.2", time.monotonic() + WAIT_S, lambda: False):
            tried.append(1)
            if error:
                raise error

    for _ in range(50):
        attempt()
    for _ in range(FREE_FAILURES + 10):
        with pytest.raises(PeerUnreachableError):
            attempt(OSError("refused"))
    assert FREE_FAILURES <= len(tried) - 50 <= FREE_FAILURES + 1


def test_a_hosts_file_pins_the_peers_of_a_worker(exported, tmp_path):
    """`--hosts` says where the peers are, whatever a client says; one without a peer is refused at the start."""
    first = Worker(exported / "device0", "127.0.0.1", 0)
    Hosts.on([first.address, "127.0.0.1:1"]).save(tmp_path / "hosts.yaml")
    second = Worker(exported / "device1", "127.0.0.1", 0, hosts=tmp_path / "hosts.yaml")
    running = [threading.Thread(target=worker.serve_forever) for worker in (first, second)]
    for thread in running:
        thread.start()
    try:
        peers = Hosts.on([first.address, second.address])
        with Session(exported, peers, timeout_s=WAIT_S) as session:
            session._connections.dialer.hosts = Hosts.on(["10.255.255.1:5000", second.address])
            assert session.infer(random_batch(session.manifest, 1)).shape == (1, 5)
        assert second._context.guard.address(0, "10.255.255.1:5000") == first.address
    finally:
        for worker in (first, second):
            worker.stop()
        for thread in running:
            thread.join(WAIT_S)
    (tmp_path / "one.yaml").write_text('format: sepnas.hosts\ndevices: [{rank: 1, address: "127.0.0.1:5000"}]\n')
    with pytest.raises(SpecError, match="no address for rank 0"):
        Worker(exported / "device1", "127.0.0.1", 0, hosts=tmp_path / "one.yaml")


# -- whose place it is


def test_a_refused_client_hears_who_holds_the_device(exported):
    """While a client that answers is served, another one is told who it is, and since when."""
    with threads(exported) as hosts, Session(exported, hosts, timeout_s=WAIT_S) as first:
        says = r"serves another client: the client \(127\.0\.0\.1:\d+\), since 20[\d-]+ [\d:]+ UTC, last heard"
        with pytest.raises(HandshakeError, match=says):
            Session(exported, hosts, timeout_s=WAIT_S)
        assert first.infer(random_batch(first.manifest, 1)).shape == (1, 5)


def test_a_frozen_client_loses_its_place(exported, monkeypatch):
    """A client that does not answer while another one asks is left, and hears why when it wakes up."""
    monkeypatch.setattr(session_slot, "_BUSY_WAIT_S", 0.1)
    monkeypatch.setattr(session_slot, "HOLDER_ANSWER_S", 0.4)
    with threads(exported) as hosts:
        frozen = Session(exported, hosts, timeout_s=WAIT_S)
        for channel in frozen._connections.channels.values():
            channel._reader.lock.acquire()  # its threads stand still
            channel._reader.deliver = lambda event: time.sleep(WAIT_S)
            channel._reader.lock.release()
        with Session(exported, hosts, timeout_s=WAIT_S) as session:
            assert session.infer(random_batch(session.manifest, 1)).shape == (1, 5)
        for channel in frozen._connections.channels.values():
            channel.abort()


def test_a_client_that_never_sets_up_loses_its_place(exported, monkeypatch):
    """One that greets and says no more keeps a device no longer than others wait for it."""
    monkeypatch.setattr("sepnas.runtime.worker.client_link.MAX_SETTING_UP_S", 0.0)
    monkeypatch.setattr(session_slot, "_BUSY_WAIT_S", 0.1)
    monkeypatch.setattr(session_slot, "HOLDER_ANSWER_S", 0.3)
    identity = Identity(exported / "client/tls", -1, load_manifest(exported).deployment_id)
    hello = Hello(deployment_id=identity.deployment_id, rank=-1, session="frozen")
    with threads(exported) as hosts:
        channel = dial(0, hosts.address(0), hello, identity, {}, time.monotonic() + WAIT_S)
        with Session(exported, hosts, timeout_s=WAIT_S) as session:
            assert session.infer(random_batch(session.manifest, 1)).shape == (1, 5)
        channel.abort()


def test_an_idle_client_loses_its_place(exported, monkeypatch):
    """A client that answers and has asked for nothing for long makes room for one that comes, and is told so."""
    monkeypatch.setattr(session_slot, "_BUSY_WAIT_S", 0.1)
    monkeypatch.setattr(session_slot, "MAX_IDLE_S", 0.0)
    with threads(exported) as hosts, Session(exported, hosts, timeout_s=WAIT_S) as idle:
        with Session(exported, hosts, timeout_s=WAIT_S) as session:
            assert session.infer(random_batch(session.manifest, 1)).shape == (1, 5)
        with pytest.raises(PeerLostError, match=r"gave its place to another client: its own sent no request for"):
            idle.infer(random_batch(idle.manifest, 1))
        with suppress(ExchangeError):
            idle.close()
