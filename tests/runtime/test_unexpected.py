"""What must go on: keepers survive unexpected errors, and logs that nobody reads hold nothing up."""

import fcntl
import io
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from sepnas.errors import PeerLostError
from sepnas.runtime import unexpected
from sepnas.runtime.client.bench import random_batch
from sepnas.runtime.client.rejoin import Rejoiner
from sepnas.runtime.client.session import Session
from sepnas.runtime.line_writer import MAX_LINES, LineWriter
from sepnas.runtime.protocol.connection import Connection, Side
from sepnas.runtime.transport.channel import Channel
from sepnas.runtime.transport.pipes import PlainPipe
from sepnas.runtime.unexpected import start_thread, survives
from sepnas.runtime.worker import log as log_module
from sepnas.spec.hosts import Hosts
from tests.helpers_runtime import free_ports, threads, worker_threads

WAIT_S = 60.0


@pytest.fixture
def full_pipe():
    """Both ends of a pipe that takes nothing more until somebody reads."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while os.write(writer, b"x" * 512):
            pass
    os.set_blocking(writer, True)
    yield reader, writer
    for end in (reader, writer):
        os.close(end)


# -- lines


def test_a_pipe_that_nobody_reads_holds_nothing_up(full_pipe):
    """Lines beyond the bound are dropped; who reads at last finds the others, and how many there were."""
    reader, writer = full_pipe
    with os.fdopen(os.dup(writer), "w") as stream:
        lines = LineWriter(stream)
        for number in range(3 * MAX_LINES):
            lines.write(f"line {number}")
        assert not lines.flush(0.0)
        assert len(lines._lines) <= MAX_LINES + 1
    got, limit = b"", time.monotonic() + WAIT_S
    while f"line {MAX_LINES - 1}\n".encode() not in got and time.monotonic() < limit:
        got += os.read(reader, 1 << 16)
    assert lines.flush(WAIT_S)
    lines.write("the last one")
    while b"the last one\n" not in got and time.monotonic() < limit:
        got += os.read(reader, 1 << 16)
    assert b"line 0\nline 1\n" in got
    assert b" lines before this one were dropped\n" in got


def test_a_reader_that_has_left_and_a_full_disk_are_no_errors():
    """Lines to a closed pipe, to a device without room and to a closed file go nowhere, and nothing is raised."""
    reader, writer = os.pipe()
    os.close(reader)
    for stream in (os.fdopen(writer, "w"), open("/dev/full", "w"), io.StringIO()):  # noqa: PTH123, SIM115
        lines = LineWriter(stream)
        if isinstance(stream, io.StringIO):
            stream.close()
        lines.write("hello")
        assert lines.flush(WAIT_S)


def test_a_log_whose_stream_is_closed_prints_nothing(capfd, monkeypatch):
    """A logger that writes to a closed file says nothing about it: no traceback on anybody's screen."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log_module.set_up_logging("text", "info")
    monkeypatch.undo()
    stream.close()
    log_module.WorkerLog(0).say("something happened")
    logger = logging.getLogger("sepnas")
    logger.handlers, logger.propagate = [], True
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["full pipe", "/dev/full"])
def test_a_worker_whose_log_is_stuck_serves_and_ends(exported, full_pipe, kind):
    """A worker whose standard error, or all output, takes nothing answers, and SIGTERM ends it with status 0."""
    stuck = full_pipe[1] if kind == "full pipe" else os.open("/dev/full", os.O_WRONLY)
    port = free_ports(1)[0] if kind == "full pipe" else 0
    command = [sys.executable, "-m", "sepnas", "worker", str(exported / "device1"), "--listen", f"127.0.0.1:{port}"]
    command += ["--engine", "onnxruntime", "--log-level", "debug"]
    stdout = stuck if port else subprocess.PIPE
    worker = subprocess.Popen(command, stdout=stdout, stderr=stuck, text=True)
    try:
        address = f"127.0.0.1:{port}" if port else worker.stdout.readline().split(" listens on ")[1].split()[0]
        limit = time.monotonic() + WAIT_S
        while port and not _listens(port):
            assert worker.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.05)
        with threads(exported, 1) as hosts, Session(exported, Hosts.on([hosts.address(0), address])) as session:
            assert session.infer(random_batch(session.manifest, 1)).shape == (1, 5)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(WAIT_S) == 0
    finally:
        if worker.poll() is None:
            worker.kill()
            worker.wait()
        if not port:
            worker.stdout.close()
            os.close(stuck)


def _listens(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


# -- keepers


def test_a_keeper_says_once_what_it_met(caplog, monkeypatch):
    """An unexpected error ends one round; the same kind of it is written down once, on one line."""
    monkeypatch.setattr(unexpected, "_said", set())
    with caplog.at_level(logging.ERROR):
        for number in range(5):
            with survives("who tests"):
                raise TypeError(f"no\n{number}")
    assert [record.getMessage() for record in caplog.records] == ["who tests: unexpected TypeError, it goes on: no\\n0"]


def test_lost_devices_are_brought_back_after_an_unexpected_error(monkeypatch):
    """The thread that brings devices back goes on after any error of one try, or of looking."""
    monkeypatch.setattr("sepnas.runtime.client.rejoin._LOOK_S", 0.01)
    tries, back = [], threading.Event()

    def lost():
        tries.append(1)
        if len(tries) == 1:
            raise KeyError("looking")
        return [] if back.is_set() else [3]

    def bring_back(rank):
        if len(tries) < 4:
            raise RuntimeError("can't start new thread")
        back.set()
        return True

    rejoiner = Rejoiner(lost, bring_back)
    rejoiner.start()
    assert back.wait(WAIT_S)
    rejoiner.close()


def test_a_worker_without_a_thread_refuses_one_connection_and_serves_the_next(exported, monkeypatch):
    """A connection for which no thread can be started is closed, and the worker goes on accepting."""
    left = [2]

    def start(*arguments, **options):
        if left[0]:
            left[0] -= 1
            return False
        return start_thread(*arguments, **options)

    monkeypatch.setattr("sepnas.runtime.worker.server.start_thread", start)
    with threads(exported) as hosts:
        for _ in range(2):
            with pytest.raises(Exception, match=r"closed|lost|reset|handshake"):
                Session(exported, hosts, timeout_s=WAIT_S)
        with Session(exported, hosts, timeout_s=WAIT_S) as session:
            assert session.infer(random_batch(session.manifest, 1)).shape == (1, 5)


def test_a_channel_without_a_thread_is_lost(monkeypatch):
    """Where no thread can be started for a connection, that is an error of ours and the connection is closed."""

    def no_thread(self):
        raise RuntimeError("can't start new thread")

    mine, other = socket.socketpair()
    channel = Channel(PlainPipe(mine), Connection(Side.DIALER), "device 1")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(PeerLostError, match="no thread can be started"):
            channel.start(lambda event: None, lambda error: None)
    assert other.recv(1) == b""
    other.close()


def test_a_failing_step_of_the_end_keeps_no_worker(exported, monkeypatch):
    """A worker that is told to stop ends and says so, whatever fails in its clean-up."""
    with worker_threads(exported, 1) as (workers, _):

        def fail():
            raise MemoryError

        monkeypatch.setattr(workers[0]._inspections, "close", fail)
        said = []
        monkeypatch.setattr(workers[0]._context.log, "say", lambda event, *_, **__: said.append(event))
    assert said == ["stopped"]


def test_a_session_that_meets_the_unexpected_ends_and_the_next_one_is_served(exported, monkeypatch):
    """An error that nobody expected in a session closes its connections; the device serves the next client."""
    with worker_threads(exported) as (workers, hosts):

        def fail():
            raise MemoryError("none left")

        with monkeypatch.context() as patch:
            patch.setattr(workers[0]._context.engine, "prepare_thread", fail)
            with pytest.raises(Exception, match=r"closed|lost|ended"):
                Session(exported, hosts, timeout_s=WAIT_S)
        with Session(exported, hosts, timeout_s=WAIT_S) as session:
            assert session.infer(random_batch(session.manifest, 1)).shape == (1, 5)
