"""What a worker writes down: which events, in which form, and what never stands there."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization

from sepnas.deployment.verify import load_manifest
from sepnas.errors import HandshakeError, PeerLostError, RemoteError
from sepnas.local.processes import Launch, LocalWorkers
from sepnas.runtime.client.bench import random_batch
from sepnas.runtime.client.images import normalise
from sepnas.runtime.client.session import Session
from sepnas.runtime.engines.torch_engine import TorchEngine
from sepnas.runtime.protocol.events import Failed, Hello, Setup
from sepnas.runtime.transport.handshake import dial
from sepnas.runtime.transport.identity import Identity
from sepnas.runtime.worker import log as log_module
from sepnas.runtime.worker.log import LOGGER, WorkerLog, set_up_logging
from sepnas.spec.hosts import parse_address
from tests.helpers_runtime import (
    SOON_S,
    eventually,
    export_tiny,
    lively_network,
    pair_architecture,
    threads,
    worker_threads,
)
from tests.limits import PROCESS_S


@pytest.fixture(autouse=True)
def _logger_as_new():
    """The worker's logger belongs to the process."""
    yield
    logger = logging.getLogger(LOGGER)
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def lines(monkeypatch):
    """Log as JSON from here on; gives what was logged since the last call."""
    written = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", written)
        set_up_logging("json", "debug")
    read = 0

    def new_lines():
        nonlocal read
        text = written.getvalue()
        found, read = text[read:].splitlines(), len(text)
        return [json.loads(line) for line in found]

    return new_lines


def events(found: list[dict], device: int = 0) -> list[str]:
    return [line["event"] for line in found if line["device"] == device]


# -- from the command line


def test_a_worker_tells_what_happens(exported, tmp_path):
    """JSON lines on stderr from start to stop, whatever ends the session; stdout has its one line, as ever."""
    out, err = (tmp_path / "out").open("w+"), (tmp_path / "err").open("w+")
    command = [sys.executable, "-m", "sepnas", "worker", str(exported / "device0"), "--listen", "127.0.0.1:0"]
    command += ["--engine", "onnxruntime", "--log-format", "json"]
    worker = subprocess.Popen(command, stdout=out, stderr=err)
    try:
        limit = time.monotonic() + PROCESS_S
        while not (said := (tmp_path / "out").read_text()).endswith("\n"):
            assert time.monotonic() < limit, (tmp_path / "err").read_text()
            time.sleep(0.02)
        address = said.split(" listens on ")[1].split()[0]
        with socket.create_connection(parse_address(address)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            stranger.settimeout(10)
            while stranger.recv(100):
                pass
        while "refused" not in (tmp_path / "err").read_text():
            assert time.monotonic() < limit
            time.sleep(0.02)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(SOON_S) == 0
    finally:
        if worker.poll() is None:
            worker.kill()
            worker.wait()
        out.close()
        err.close()
    assert len((tmp_path / "out").read_text().splitlines()) == 1
    found = [json.loads(line) for line in (tmp_path / "err").read_text().splitlines()]
    assert [line["event"] for line in found] == ["started", "refused", "stopped"]
    assert {line["device"] for line in found} == {0}
    assert (found[0]["listen"], found[0]["engine"], found[0]["level"]) == (address, "onnxruntime", "info")
    assert found[1] | {"time": ""} == {
        "time": "", "level": "warning", "event": "refused", "device": 0, "code": "handshake",
        "origin": found[1]["origin"], "reason": "the other end speaks no TLS",
    }  # fmt: skip
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in found)


def test_a_level_leaves_out_what_is_below(exported):
    """`--log-level warning` writes no word about what goes well; launchers still find the worker's address."""
    launch = Launch(options=("--engine", "onnxruntime", "--log-level", "warning"))
    with LocalWorkers(exported, 2, [launch] * 2) as workers:
        with Session(exported, workers.hosts) as session:
            session.infer(random_batch(session.manifest, 1))
        said = [list(worker._said) for worker in workers._workers]
    assert [len(each) for each in said] == [1, 1]
    assert all(" listens on 127.0.0.1:" in each[0] for each in said)


# -- which events


class Unlucky(TorchEngine):
    """Fails where the first value of the input says so, and blurts out what it was given."""

    def run(self, segment, inputs):
        if inputs[0].flat[0] == 666:
            row = inputs[0][0, 0, 1].tobytes()
            raise ValueError(f"cannot compute {row.hex()} {row!r} {base64.b64encode(row)!r}")
        return super().run(segment, inputs)


def test_sessions_and_failed_requests_are_told(exported, lines):
    """A session opens and closes, with the reason and how much it did; a failed request has its step and its code."""
    with threads(exported, engine=Unlucky) as hosts, Session(exported, hosts) as session:
        bad = random_batch(session.manifest, 1)
        session.infer(bad)
        bad.flat[0] = 666
        with pytest.raises(RemoteError):
            session.infer(bad)
        with pytest.raises(HandshakeError, match="busy"):
            Session(exported, hosts)
    found = lines()
    assert events(found) == ["started", "session opened", "request failed", "refused", "session closed", "stopped"]
    opened, failed, refused, closed = found_of(found, "session opened", "request failed", "refused", "session closed")
    assert len(opened["session"]) == 8
    assert opened["session"] == failed["session"] == closed["session"]
    assert (failed["code"], failed["request"], failed["error"]) == ("compute", 2, "ValueError")
    assert "computing segment" in failed["where"]
    assert (refused["code"], refused["level"]) == ("busy", "warning")
    assert re.fullmatch(r"the client( \(.*\))? (has left|closed the connection)", closed["reason"])
    assert closed["requests"] == 2


def found_of(found: list[dict], *names: str) -> list[dict]:
    """The first line of each event, of device 0."""
    return [next(line for line in found if (line["event"], line["device"]) == (name, 0)) for name in names]


def test_a_lost_peer_and_its_return_are_told(exported, lines):
    """In a session that degrades the devices that are left tell that a peer was lost, and when it is back."""
    with worker_threads(exported) as (workers, hosts):
        with Session(exported, hosts, on_missing="degrade") as session:
            session.infer(random_batch(session.manifest, 1))
            workers[0]._slot.session._peers.channels()[1].abort()  # as when the network drops the connection
            limit, told = time.monotonic() + SOON_S, []
            while "peer returned" not in events(told):
                told += lines()
                assert time.monotonic() < limit, told
                time.sleep(0.02)
        lost, returned = found_of(told, "peer lost", "peer returned")
    assert (lost["peer"], returned["peer"], lost["level"]) == (1, 1, "warning")
    assert "device 1" in lost["reason"]


def test_the_reason_of_a_session_that_cannot_begin_is_told(exported, lines):
    """Where a peer is not to be had the session's end says which."""
    identity = Identity(exported / "client/tls", -1, load_manifest(exported).deployment_id)
    hello = Hello(deployment_id=identity.deployment_id, rank=-1, session="s" * 16)
    with threads(exported) as hosts:
        deadline = time.monotonic() + SOON_S
        channel = dial(1, hosts.address(1), hello, identity, {}, deadline)
        channel.send_now(Setup(peers={"0": "127.0.0.1:1"}, deadline_ms=5000), deadline)
        assert isinstance(channel.next_event(deadline), Failed)
        channel.abort()
    closed = [line for line in lines() if line["event"] == "session closed"]
    assert len(closed) == 1
    assert "device 1 cannot connect to its peers: device 0: nobody answers at 127.0.0.1:1" in closed[0]["reason"]


# -- what strangers do


HOSTILE = 'a\n2026-01-01T00:00:00Z ERROR forged: \x1b[2J\x00\u202e\udc80 "quoted" \\ é'


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_hostile_word_stays_within_its_line(form, capsys):
    """Whatever a field holds, its line is one line of printable ASCII and bounded; JSON gives it back."""
    set_up_logging(form, "info")
    log = WorkerLog(3)
    log.say("refused", reason=HOSTILE, count=7, nothing=None)
    log.say("refused", reason="x\n" * 100_000)
    found = capsys.readouterr().err
    first, second = found.splitlines()
    assert found.isascii()
    assert first.isprintable()
    assert len(second) < 1500
    if form == "json":
        assert json.loads(first) | {"time": ""} == {
            "time": "", "level": "info", "event": "refused", "device": 3, "reason": HOSTILE, "count": 7,
        }  # fmt: skip
    else:
        assert re.fullmatch(r'\S+Z INFO refused: device=3 reason="a\\n2026.*" count=7', first)


def test_a_client_cannot_forge_a_line(exported, capsys):
    """The name that a client gives its session is escaped, wherever it is told."""
    set_up_logging("text", "info")
    identity = Identity(exported / "client/tls", -1, load_manifest(exported).deployment_id)
    forging = Hello(deployment_id=identity.deployment_id, rank=-1, session="\nERROR ")
    with threads(exported) as hosts:
        dial(0, hosts.address(0), forging, identity, {}, time.monotonic() + SOON_S).abort()
        hello = forging.model_copy(update={"purpose": "\nERROR"})
        with pytest.raises(HandshakeError, match="purpose"):
            dial(0, hosts.address(0), hello, identity, {}, time.monotonic() + SOON_S)
    found = capsys.readouterr().err.splitlines()
    assert any('session="\\nERROR "' in line for line in found)
    assert any("code=purpose" in line and "\\nERROR" in line for line in found)
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z (INFO|WARNING) [a-z ]+: device=[01] ", line) for line in found)


def test_strangers_cannot_fill_the_disk(exported, lines):
    """Of many refusals one line a second is written, and the counts add up to all of them."""
    strangers = 60
    with threads(exported) as hosts:
        address, start = parse_address(hosts.address(0)), time.monotonic()
        for _ in range(strangers):
            with socket.create_connection(address) as sock:
                sock.sendall(b"\x16\x03\x01\x00\x05hello")
                sock.settimeout(SOON_S)
                try:
                    while sock.recv(100):
                        pass
                except ConnectionError:
                    pass
        refused = []
        while sum(line.get("repeated", 1) for line in refused) < strangers:
            assert time.monotonic() < start + PROCESS_S, refused
            refused += [line for line in lines() if line["event"] == "refused"]
            time.sleep(0.02)
        took_s = time.monotonic() - start
    assert sum(line.get("repeated", 1) for line in refused) == strangers
    assert len(refused) <= took_s / log_module.SUMMED_S + 2


def test_what_is_summed_up_is_told_though_nothing_follows(lines, monkeypatch):
    """The last of many is told after a moment, kinds apart, and what is left at the end is told then."""
    monkeypatch.setattr(log_module, "SUMMED_S", 0.2)
    log = WorkerLog(0)
    for number in range(5):
        log.say_summed("a", "refused", code="a", number=number)
    log.say_summed("b", "refused", code="b")
    found, limit = lines(), time.monotonic() + SOON_S
    assert [line["code"] for line in found] == ["a", "b"]
    while len(found) < 3:
        assert time.monotonic() < limit
        found += lines()
        time.sleep(0.01)
    assert (found[2]["code"], found[2]["number"], found[2]["repeated"]) == ("a", 4, 4)
    monkeypatch.setattr(log_module, "SUMMED_S", 60)
    for number in range(2):
        log.say_summed("c", "refused", code="c", number=number)
    log.close()
    assert [line.get("repeated") for line in lines()][-2:] == [None, 1]


# -- what never stands there


def spellings(secret: bytes) -> list[bytes]:
    """How bytes could stand in a text: as they are, escaped, in hex, in base64 (at any offset), as decimals."""
    encoded = [
        base64.b64encode(b"\0" * shift + secret)[first : (shift + len(secret)) * 8 // 6]
        for shift, first in ((0, 0), (1, 2), (2, 3))
    ]
    escaped = repr(secret)[2:-1]
    texts = [
        escaped,
        escaped.replace("\\", "\\\\"),
        secret.hex(),
        ", ".join(map(str, secret)),
        " ".join(map(str, secret)),
    ]
    return [secret, *encoded, *(text.encode() for text in texts)]


def leaks(text: bytes, secrets: list[bytes]) -> list[bytes]:
    return [secret for secret in secrets if any(spelling in text for spelling in spellings(secret))]


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_line_holds_an_image_or_a_key(exported, tmp_path, capfd, form):
    """After served and failed requests and failed handshakes neither image rows nor pieces of a key are in the log."""
    images = np.random.default_rng(5).integers(1, 256, (1, 1, 8, 8), np.uint8)
    set_up_logging(form, "debug")
    heard = []
    hearing = logging.Handler()
    hearing.emit = lambda record: heard.append(getattr(record, "event", ""))
    logging.getLogger("sepnas").addHandler(hearing)
    export_tiny(lively_network(pair_architecture(), 2), tmp_path / "other")
    with threads(exported, engine=Unlucky) as hosts:
        with Session(exported, hosts) as session:
            session.infer(images)
            floats = normalise(images, session.manifest.image)
            floats.flat[0] = 666
            with pytest.raises(RemoteError, match=floats[0, 0, 1].tobytes().hex()):  # the client is told all of it
                session.infer(floats)
        with pytest.raises(HandshakeError):
            Session(tmp_path / "other", hosts)
        with socket.create_connection(parse_address(hosts.address(0))) as stranger:
            stranger.sendall(images.tobytes())
        eventually(lambda: heard.count("refused") == 2)  # read while somebody writes, a capture loses lines
    text = "".join(capfd.readouterr())
    assert text.count("WARNING refused" if form == "text" else '"refused"') == 2  # the other client, the stranger
    said = text.encode()
    assert b"request failed" in said
    rows = [row.tobytes() for array in (images, floats) for row in array[0, 0]]
    keys = [exported / "device0/tls/key.pem", exported / "client/tls/key.pem", tmp_path / "other/client/tls/key.pem"]
    pieces = [piece for key in keys for piece in _pieces(key)]
    assert not leaks(said, rows + pieces)
    for secret in (rows[0], rows[-1], pieces[0], pieces[-1]):  # the search would find them
        for spelling in spellings(secret):
            assert leaks(said + b"x" + spelling, [secret])


def _pieces(path) -> list[bytes]:
    """The lines of a key file, and the key itself in pieces of 16 bytes."""
    pem = path.read_bytes()
    key = serialization.load_pem_private_key(pem, None)
    number = key.private_numbers().private_value.to_bytes(32, "big")
    body = [line for line in pem.splitlines() if not line.startswith(b"-----")]
    return [*body, number[:16], number[16:]]


def test_a_lost_client_is_told_as_lost(exported, lines):
    """The end of a session whose client vanished says so, and not that it left."""
    with threads(exported) as hosts:
        session = Session(exported, hosts)
        for channel in session._connections.channels.values():
            channel.abort()
        with pytest.raises(PeerLostError):
            session.infer(random_batch(session.manifest, 1))
        session.close()
    closed = [line["reason"] for line in lines() if line["event"] == "session closed"]
    assert len(closed) == 2
    assert all("closed the connection" in reason or "ended" in reason for reason in closed)
