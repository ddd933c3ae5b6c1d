"""``sepnas serve`` and clients that mean no good: slow, silent, many, endless; over real sockets."""

from __future__ import annotations

import contextlib
import logging
import re
import resource
import signal
import socket
import subprocess
import sys
import time

import pytest

import sepnas.runtime.service.http_app as http_app
import sepnas.runtime.service.http_connection as http_connection
from sepnas.runtime.service import http_body, summed_log
from sepnas.runtime.service.triage import Triage, answer_and_close, has_left, look_at
from sepnas.spec.hosts import Hosts
from tests.helpers_runtime import eventually, free_ports
from tests.runtime.service.test_serve import PNG, SOON_S, Client, closed_gate, encoded, gated, pixels, serving  # noqa: F401

POST = b"POST /classify HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def hosts_file(tmp_path_factory):
    """Addresses where nobody is: what is tried here comes before the devices are asked."""
    hosts = Hosts.on([f"127.0.0.1:{port}" for port in free_ports(2)])
    return hosts.save(tmp_path_factory.mktemp("hosts") / "hosts.yaml")


@pytest.fixture(scope="module")
def client(exported, hosts_file):
    """A service of few connections."""
    with serving(exported, hosts_file, ready=503, max_connections=20) as client:
        yield client


@contextlib.contextmanager
def connected(client: Client, number: int = 1):
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", client.port)
        yield [stack.enter_context(socket.create_connection(address, SOON_S)) for _ in range(number)]


def rest(sock: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65_536):
            found += part
    return found


def one_answer(sock: socket.socket) -> bytes:
    """Head and body, which is JSON."""
    found = b""
    while not found.endswith(b"}"):
        found += sock.recv(65_536)
    return found


def said_to(client: Client, request: bytes) -> bytes:
    with connected(client) as (sock,):
        sock.sendall(request)
        return rest(sock)


def test_idle_connections_make_room(client):
    """Of many connections that send nothing the oldest are closed, and who asks is answered."""
    with connected(client, 60) as idle:
        assert client.call("GET", "/model")[0] == 200
        for each in idle[:40]:
            assert rest(each) == b""


def test_heads_without_a_body_hold_no_place(client, monkeypatch):
    """However many clients announce an image and do not send it, one that sends its image is answered meanwhile."""
    monkeypatch.setattr(http_body, "BODY_S", 10 * SOON_S)  # no announced body is given up before the answer
    with connected(client, 60) as silent:
        for each in silent:
            with contextlib.suppress(OSError):  # closed already
                each.sendall(POST + b"Content-Length: 1000\r\n\r\n")
        assert client.classify(encoded(pixels(1)))[1]["error"]["code"] == "devices-lost"


@pytest.mark.parametrize("head", [b"", b"POST /classify HTTP/1.1\r\nX: "])
def test_a_head_that_does_not_end_is_given_up(client, monkeypatch, head):
    """A client that sends a byte now and then is closed when its head has not come in time."""
    monkeypatch.setattr(http_connection, "HEAD_S", 0.4)
    with connected(client) as (sock,):
        limit = time.monotonic() + SOON_S
        with contextlib.suppress(OSError):
            sock.sendall(head)
            while time.monotonic() < limit:
                sock.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() < limit


def test_a_second_head_has_its_time_too(client, monkeypatch):
    """On a connection that was used a head has the same time; until it begins the connection may be idle for longer
    than pollers pause."""
    assert http_connection.KEEP_ALIVE_S > 60
    monkeypatch.setattr(http_connection, "HEAD_S", 1.0)
    with connected(client) as (sock,):
        for _ in range(2):
            sock.sendall(b"GET /model HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert one_answer(sock).startswith(b"HTTP/1.1 200")
            time.sleep(1.3)  # idle for longer than a head may take
        sock.sendall(b"GET ")
        assert rest(sock) == b""


def test_an_idle_connection_is_closed_in_the_end(client, monkeypatch):
    """A connection that is not used is not kept for ever."""
    monkeypatch.setattr(http_connection, "KEEP_ALIVE_S", 0.2)
    with connected(client) as (sock,):
        sock.sendall(b"GET /model HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert rest(sock).startswith(b"HTTP/1.1 200")


def test_a_body_after_its_answer_is_not_read_for_ever(client, monkeypatch):
    """Who goes on sending a body that nobody reads is closed."""
    monkeypatch.setattr(http_connection, "HEAD_S", 0.4)
    with connected(client) as (sock,):
        sock.sendall(b"GET /model HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        limit = time.monotonic() + SOON_S
        with contextlib.suppress(OSError):
            while time.monotonic() < limit:
                sock.sendall(b"1\r\nx\r\n")
                time.sleep(0.01)
        assert time.monotonic() < limit


def test_who_does_not_read_is_closed(client, monkeypatch):
    """Requests without end whose answers are not taken neither fill the memory nor hold the connection."""
    monkeypatch.setattr(http_connection, "WRITE_S", 0.3)
    request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(client) as (sock,):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            sock.sendall(request * 1_000_000)


@pytest.mark.slow
def test_who_does_not_read_holds_no_place(exported, hosts_file, monkeypatch):
    """However many leave their answers unread, whoever sends an image is answered."""
    monkeypatch.setattr(http_connection, "WRITE_S", 600.0)
    request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with serving(exported, hosts_file, ready=503) as client, connected(client, 30) as silent:
        for each in silent:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            each.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while each.send(request * 2000):
                    pass
        eventually(lambda: client.classify(encoded(pixels(1)))[1]["error"]["code"] == "devices-lost")


def test_large_bodies_that_stay_unfinished_do_not_stop_small_ones(exported, hosts_file, monkeypatch):
    """When many bodies are on their way at once, the largest are given up: whoever sends a small one is answered."""
    monkeypatch.setattr(http_app, "MAX_BODIES_BYTES", 300_000)
    with serving(exported, hosts_file, ready=503) as client, connected(client, 8) as large:
        for each in large:
            each.sendall(POST + b"Content-Length: 99000\r\n\r\n" + bytes(90_000))
        assert client.classify(encoded(pixels(1)))[1]["error"]["code"] == "devices-lost"
        for each in large:
            each.sendall(bytes(9_000))
        told = [one_answer(each) for each in large]
    codes = [re.search(rb'"code":"([a-z-]+)"', answer)[1] for answer in told]
    assert {b"busy", b"bad-image", b"devices-lost"} >= set(codes)
    assert 0 < codes.count(b"busy") < 8


@pytest.mark.parametrize(
    "head",
    [
        b"GET /model HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000,
        b"GET /model HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 10_000,
        b"GET /" + b"x" * 100_000,
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: ten\r\n\r\n",
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        POST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n",
        POST + b"Host: localhost\r\nContent-Length: 0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        POST + b"Transfer-Encoding: gzip\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        b"\r\n" * 50_000,
        b"\x16\x03\x01\x02\x00" + bytes(500),
        b"\x00" * 100_000,
    ],
)
def test_what_is_no_request_is_refused(client, head):
    """Heads that are too large or contradict themselves end the connection, with an answer of 4xx if with any."""
    answer = said_to(client, head)
    assert answer == b"" or re.match(rb"HTTP/1.1 (4\d\d|501) ", answer)
    assert client.call("GET", "/model")[0] == 200


def test_a_client_may_wait_for_leave_to_send(client):
    """With Expect: 100-continue an image that is too large is refused before it is sent, another one is asked for."""
    expect = POST + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    with connected(client) as (sock,):
        sock.sendall(expect % 100_001)
        assert sock.recv(100).startswith(b"HTTP/1.1 413 ")
    with connected(client) as (sock,):
        sock.sendall(expect % 3)
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(b"xyz")
        assert b"HTTP/1.1 503 " in rest(sock)


def test_requests_behind_each_other_are_answered_in_order(client):
    """A client need not wait for an answer before it asks again."""
    ask = b"%s %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
    heads = (b"GET", b"/model", b""), (b"GET", b"/none", b""), (b"HEAD", b"/model", b"Connection: close\r\n")
    said = said_to(client, b"".join(ask % each for each in heads))
    assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"200", b"404", b"200"]
    assert said.endswith(b"\r\n\r\n")


def test_head_asks_as_get_does(client):
    """Load balancers that ask /health by HEAD get GET's head, and no body."""
    said = said_to(client, b"HEAD /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 503 ")
    assert said.endswith(b"\r\n\r\n")
    assert b"retry-after: 1\r\n" in said


def test_a_full_service_refuses_before_the_body(exported, gated):  # noqa: F811
    """While all places are taken a new image is refused by its head, without being parsed, read or waited for; other
    questions are answered."""
    with serving(exported, gated, in_flight=1, queue=0) as client, closed_gate(), connected(client) as (first,):
        image = encoded(pixels(1))
        first.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(image) + image)
        limit = time.monotonic() + SOON_S
        while not (said := said_to(client, POST + b"Connection: close\r\nContent-Length: 3\r\n\r\nxyz")).startswith(
            b"HTTP/1.1 503 "
        ):
            assert time.monotonic() < limit, said
        said = said_to(client, POST + b"Content-Length: 90000\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in said
        assert client.call("GET", "/health")[0] == 200
        assert client.classify(bytes(90_000))[1]["error"]["code"] == "busy"


def serve_with_few_descriptors(deployment, hosts_file, number: int) -> tuple[subprocess.Popen, int]:
    """``sepnas serve`` that may have so many descriptors, and its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    command = [sys.executable, "-m", "sepnas", "serve", str(deployment), "--devices", str(hosts_file)]
    process = subprocess.Popen(
        [*command, "--listen", f"127.0.0.1:{port}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (number, number)),
    )  # fmt: skip
    assert "listens on" in process.stdout.readline(), process.stderr.read()
    return process, port


def test_strangers_fill_neither_the_descriptors_nor_the_log(exported, hosts_file):
    """With 200 descriptors and 400 idle connections it answers; thousands of bad requests make a few lines."""
    process, port = serve_with_few_descriptors(exported, hosts_file, 200)
    try:
        client = Client(port)
        with connected(client, 400) as idle:
            for _ in range(5):
                assert client.call("GET", "/model")[0] == 200
            assert rest(idle[0]) == b""
        for _ in range(300):
            assert b" 400 " in said_to(client, b"nonsense\r\n\r\n")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=SOON_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 143
    lines = said.splitlines()
    assert len(lines) < 12, said
    assert any("at most 100 connections: this process may open no more than 200 files" in line for line in lines)
    assert any(
        re.search(r"closed a waiting connection for a new one.*\(\d+ more within 60 s\)", line) for line in lines
    )
    assert any("Invalid HTTP request received. (299 more within 60 s)" in line for line in lines)


def test_a_kind_of_lines_is_summed(monkeypatch, capsys):
    """The first line of a kind is written at once, the number of the others when its time is over; kinds are few."""
    monkeypatch.setattr(summed_log, "SUMMED_S", 2.0)
    monkeypatch.setattr(summed_log, "MAX_KINDS", 3)
    handler = summed_log.SummedLines("name")
    logger = logging.Logger("sepnas.test")
    logger.addHandler(handler)
    for number in range(10):
        logger.warning("slow: %d", number)
    assert capsys.readouterr().err == "name: slow: 0\n"
    limit, said = time.monotonic() + SOON_S, ""
    while not said:
        assert time.monotonic() < limit
        said = capsys.readouterr().err
    assert said == "name: slow: 9 (9 more within 2 s)\n"
    monkeypatch.setattr(summed_log, "SUMMED_S", 60.0)
    for number in range(100):
        logger.warning(f"kind {number}\x1b[31m")
    handler.close()
    said = capsys.readouterr().err
    assert len(said.splitlines()) < 10
    assert "\x1b" not in said


@contextlib.contextmanager
def accepted(*sent: bytes, close: bool = False):
    """The server's end of a connection on which this has come."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as ours:
        theirs, _ = listener.accept()
        with theirs:
            for part in sent:
                ours.sendall(part)
            theirs.settimeout(SOON_S)
            came = len(theirs.recv(len(b"".join(sent)), socket.MSG_PEEK | socket.MSG_WAITALL)) if sent else 0
            assert came == len(b"".join(sent))
            if close:
                ours.close()
                limit = time.monotonic() + SOON_S
                while not has_left(theirs):
                    assert time.monotonic() < limit
            theirs.setblocking(False)
            yield theirs, ours


@pytest.mark.parametrize(
    ("sent", "close", "found"),
    [
        ((), False, Triage.OTHER),
        ((), True, Triage.GONE),
        ((POST + b"Content-Length: 3\r\n\r\nxyz",), True, Triage.GONE),
        ((POST + b"content-length:3\r\n\r\n", b"xyz"), False, Triage.WHOLE),
        ((POST + b"Content-Length: 3\r\n\r\nxy",), False, Triage.OTHER),
        ((POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\nxy",), False, Triage.OTHER),
        ((POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",), False, Triage.OTHER),
        ((POST,), False, Triage.OTHER),
        ((b"GET /health HTTP/1.1\r\nContent-Length: 0\r\n\r\n",), False, Triage.OTHER),
    ],
)
def test_a_connection_is_looked_at_before_it_costs_anything(sent, close, found):
    """Clients that are gone, and whole requests, which may be refused, are told from all others, which are parsed."""
    with accepted(*sent, close=close) as (sock, _):
        assert look_at(sock) is found


def test_a_refusal_reaches_its_client():
    """The answer to a whole request is read by its client, though the connection is closed at once."""
    with accepted(POST + b"Content-Length: 3\r\n\r\nxyz") as (sock, ours):
        answer_and_close(sock, b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
        assert rest(ours) == b"HTTP/1.1 503 Service Unavailable\r\n\r\n"


def test_impatient_clients_leave_room_for_others(exported, gated):  # noqa: F811
    """While clients hang up before their answer fewer requests may wait; with answers the room comes back."""
    with serving(exported, gated, in_flight=2, queue=20) as client:
        service = client.service
        image = encoded(pixels(1))
        with closed_gate():
            for _ in range(12):
                with connected(client) as (leaving,):
                    leaving.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(image) + image)
                    eventually(lambda: service.places.taken > 0)
                eventually(lambda: service.places.taken == 0)
        assert 6 <= service.places.limit < 10
        limit = time.monotonic() + SOON_S
        before = service.places.limit
        while service.places.limit == before:
            assert time.monotonic() < limit
            assert client.classify(image)[0] == 200
