"""How devices are: asked beside a session at work, with real workers, TLS, and what goes wrong."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest
from typer.testing import CliRunner

import sepnas
from sepnas.cli.main import app
from sepnas.deployment.verify import load_manifest
from sepnas.errors import DeadlineError, HandshakeError, RemoteError, SpecError
from sepnas.runtime.client.bench import random_batch
from sepnas.runtime.client.session import Session
from sepnas.runtime.client.status import Inspector
from sepnas.runtime.engines.torch_engine import TorchEngine
from sepnas.runtime.protocol.events import Hello
from sepnas.runtime.transport.handshake import dial
from sepnas.runtime.transport.identity import Identity
from sepnas.runtime.worker import status as worker_status
from sepnas.runtime.worker.status import MAX_INSPECTIONS
from sepnas.runtime.worker.vitals import load_average, memory_bytes, temperature_c
from sepnas.spec.hosts import Hosts
from tests.helpers_runtime import (
    FROZEN_S,
    SOON_S,
    WorkerProcess,
    eventually,
    export_tiny,
    freeze,
    lively_network,
    pair_architecture,
    threads,
    worker_processes,
    worker_threads,
)
from tests.limits import PROCESS_S


@pytest.fixture(scope="module")
def running(exported):
    """Two worker processes, and where they listen."""
    with worker_processes(exported, 2, "onnxruntime") as (workers, hosts):
        yield workers, hosts


def test_the_status_is_told_beside_a_session_at_work(exported, running):
    """While a client's requests are answered another one sees them served, and no answer changes."""
    _, hosts = running
    with Session(exported, hosts) as session, Inspector(exported, hosts) as inspector:
        batch = random_batch(session.manifest, 2)
        expected, before = session.infer(batch), look_when_served(inspector, 1)
        stop, answers = threading.Event(), []

        def work():
            while not stop.is_set():
                answers.append(session.infer(batch))

        worker = threading.Thread(target=work)
        worker.start()
        looks = [inspector.look(SOON_S) for _ in range(20)]
        stop.set()
        worker.join()
        after = look_when_served(inspector, 1 + len(answers))
    assert answers
    for answer in answers:
        np.testing.assert_array_equal(answer, expected)
    for rank in (0, 1):
        rows = [look[rank] for look in (before, *looks, after)]
        assert {row.state for row in rows} == {"serving"}
        assert len({row.status.session.name for row in rows}) == 1
        served = [row.status.served for row in rows]
        assert served == sorted(served)
        assert served[-1] - served[0] == len(answers)
        assert all(row.round_trip_s > 0 for row in rows)
        assert not any(rows[-1].status.failed.values())


def look_when_served(inspector, number):
    """A device that does not answer itself may count a request after the client has its answer."""
    limit = time.monotonic() + PROCESS_S
    while any(row.status.served < number for row in inspector.look(SOON_S)):
        assert time.monotonic() < limit
    return inspector.look(SOON_S)


def look_when_ready(inspector):
    """A session that was just left may still be on its way out."""
    limit = time.monotonic() + SOON_S
    while "serving" in [row.state for row in inspector.look(SOON_S)]:
        assert time.monotonic() < limit
    return inspector.look(SOON_S)


def test_a_device_tells_who_and_how_it_is(exported, running):
    """A row has the engine, the version, the end of the certificate, and what the system tells; then it is ready."""
    _, hosts = running
    with Inspector(exported, hosts) as inspector:
        found = look_when_ready(inspector)
    for rank, row in enumerate(found):
        assert (row.rank, row.state, row.why, row.status.session) == (rank, "ready", "", None)
        assert (row.status.engine, row.status.version) == ("onnxruntime", sepnas.__version__)
        assert 0 < row.status.uptime_s < 600
        assert row.status.memory_bytes > 1 << 20
        assert row.certificate_end.timestamp() > time.time()


def test_what_the_machine_tells(tmp_path):
    """The hottest zone that can be read counts; a system that has none tells nothing."""
    assert temperature_c(tmp_path) is None
    for number, text in enumerate(("41500", "-2000", "asleep", "48250\n")):
        (tmp_path / f"thermal_zone{number}").mkdir()
        (tmp_path / f"thermal_zone{number}" / "temp").write_text(text)
    (tmp_path / "thermal_zone9").mkdir()
    assert temperature_c(tmp_path) == 48.25
    assert load_average() >= 0
    assert memory_bytes() > 1 << 20


def test_a_frozen_device_does_not_answer_and_the_others_do(exported, running):
    """A stopped process is a row that says so after the bound, beside those of the others; later it is there again."""
    workers, hosts = running
    with Inspector(exported, hosts) as inspector:
        assert [row.state for row in look_when_ready(inspector)] == ["ready", "ready"]
        for connected in (True, False):
            freeze(workers[1].process.pid)
            try:
                if not connected:
                    inspector = Inspector(exported, hosts)
                start = time.monotonic()
                rows = inspector.look(FROZEN_S)
                took_s = time.monotonic() - start
            finally:
                os.kill(workers[1].process.pid, signal.SIGCONT)
            assert [row.state for row in rows] == ["ready", "does not answer"]
            assert rows[1].why.startswith(f"device 1 at {hosts.address(1)}")
            assert not rows[1].is_there
            assert 0.9 * FROZEN_S < took_s < SOON_S / 2
            assert [row.state for row in inspector.look(SOON_S)] == ["ready", "ready"]


def test_a_device_that_is_started_again_is_seen(exported):
    """A killed worker is not reachable, and ready when it is there again: the connection is made anew."""
    worker = WorkerProcess(exported / "device0", engine="onnxruntime")
    other = WorkerProcess(exported / "device1", engine="onnxruntime")
    try:
        hosts = Hosts.on([worker.address(), other.address()])
        with Inspector(exported, hosts) as inspector:
            assert [row.state for row in inspector.look(SOON_S)] == ["ready", "ready"]
            worker.process.kill()
            worker.process.wait(SOON_S)
            row = inspector.look(SOON_S)[0]
            assert (row.state, row.is_there) == ("not reachable", False)
            assert f"device 0: nobody answers at {hosts.address(0)}" in row.why
            worker = WorkerProcess(exported / "device0", engine="onnxruntime", listen=hosts.address(0))
            worker.address()
            assert inspector.look(SOON_S)[0].state == "ready"
    finally:
        for each in (worker, other):
            each.end()


def test_who_is_not_of_the_deployment_learns_nothing(exported, tmp_path):
    """Devices refuse a client of another deployment; its rows say why."""
    export_tiny(lively_network(pair_architecture(), 1), tmp_path / "other")
    with threads(exported) as hosts, Inspector(tmp_path / "other", hosts) as inspector:
        rows = inspector.look(SOON_S)
    assert {row.state for row in rows} == {"refused"}
    assert all("another deployment" in row.why for row in rows)


def test_only_the_client_may_ask(exported):
    """A device's certificate opens no connection for the status."""
    deployment_id = load_manifest(exported).deployment_id
    identity = Identity(exported / "device1/tls", 1, deployment_id)
    hello = Hello(deployment_id=deployment_id, rank=1, session="", purpose="status")
    with (
        threads(exported) as hosts,
        pytest.raises(HandshakeError, match=r"refused \(purpose\): comes for 'status'; allowed are session, and"),
    ):
        dial(0, hosts.address(0), hello, identity, {}, time.monotonic() + SOON_S)


def test_so_many_may_ask_at_once(exported):
    """One more than may ask at once is refused; when another leaves there is room again."""
    with threads(exported) as hosts, ExitStack() as stack:
        asking = [stack.enter_context(Inspector(exported, hosts)) for _ in range(MAX_INSPECTIONS)]
        assert all(row.is_there for inspector in asking for row in inspector.look(SOON_S))
        one_more = stack.enter_context(Inspector(exported, hosts))
        row = one_more.look(SOON_S)[0]
        assert row.state == "refused"
        assert f"refused (busy): {MAX_INSPECTIONS} clients ask device 0" in row.why
        asking[0].__exit__(None, None, None)
        limit = time.monotonic() + SOON_S
        while not one_more.look(SOON_S)[0].is_there:
            assert time.monotonic() < limit
        with Session(exported, hosts) as session:
            assert session.infer(random_batch(session.manifest, 1)).shape == (1, 5)


def test_who_asks_nothing_is_left(exported, monkeypatch):
    """An idle connection is closed by the worker; asked again, the device is dialed again."""
    monkeypatch.setattr(worker_status, "IDLE_S", 0.2)
    with threads(exported) as hosts, Inspector(exported, hosts) as inspector:
        assert inspector.look(SOON_S)[0].is_there
        sock = inspector._visits[0]._channel.pipe.sock
        assert select.select([sock], [], [], SOON_S)[0]
        assert inspector._visits[0]._channel.pipe.read() == b""
        assert inspector.look(SOON_S)[0].is_there


class Uneven(TorchEngine):
    """Fails where the first value of the input says so; device 1 may wait until it may go on."""

    may_go_on = threading.Event()

    def __init__(self, shard, threads=1):
        super().__init__(shard, threads)
        self._rank = shard.rank

    def run(self, segment, inputs):
        if inputs[0].flat[0] == 666:
            raise ValueError("out of luck")
        if inputs[0].flat[0] == 777 and self._rank == 1:
            assert self.may_go_on.wait(SOON_S)
        return super().run(segment, inputs)


def test_what_fails_and_what_is_missed_is_counted(exported):
    """Failed, cancelled and served requests and missed messages are counted apart."""
    Uneven.may_go_on.clear()
    with (
        worker_threads(exported, engine=Uneven) as (workers, hosts),
        Inspector(exported, hosts) as inspector,
        ExitStack() as stack,
    ):
        stack.callback(Uneven.may_go_on.set)
        with Session(exported, hosts) as session:
            good, bad, slow = (random_batch(session.manifest, 1) for _ in range(3))
            bad.flat[0], slow.flat[0] = 666, 777
            session.infer(good)
            with pytest.raises(RemoteError):
                session.infer(bad)
            with pytest.raises(DeadlineError):
                session.infer(slow, timeout_s=FROZEN_S)
            eventually(lambda: workers[1]._slot.session._queue.mailbox.is_over(3))  # it has heard that nobody waits
            Uneven.may_go_on.set()
            session.infer(good)
        rows = [row.status for row in inspector.look(SOON_S)]
        assert [row.served for row in rows] == [2, 2]
        assert [row.failed["compute"] for row in rows] == [1, 1]
        assert [sum(row.failed.values()) for row in rows] == [2, 2]
        assert rows[0].failed["deadline"] + rows[0].failed["cancelled"] == 1
        assert [row.missed for row in rows] == [0, 0]
        with Session(exported, hosts, on_missing="degrade") as session:
            for _ in range(3):
                session.infer(good)
            Uneven.may_go_on.clear()
            assert not session.ask(slow, timeout_s=FROZEN_S).complete
            Uneven.may_go_on.set()
        eventually(lambda: inspector.look(SOON_S)[0].status.missed > 0)


# -- the command


@pytest.fixture(scope="module")
def hosts_file(running, tmp_path_factory):
    return running[1].save(tmp_path_factory.mktemp("hosts") / "hosts.yaml")


def test_the_table_has_a_row_for_each_device(exported, running, hosts_file):
    """`sepnas status` shows each device; the exit code is 0, and 1 where one is missing, whose row says why."""
    result = CliRunner().invoke(app, ["status", str(exported), "--devices", str(hosts_file)])
    assert result.exit_code == 0, result.output
    head, *rows = result.output.splitlines()
    assert head.split() == [
        "device", "is", "trip", "up", "served", "failed", "missed", "session", "engine", "°C", "load", "memory",
        "certificate", "sepnas",
    ]  # fmt: skip
    assert [row.split()[:2] for row in rows] == [["0", "ready"], ["1", "ready"]]
    assert all("onnxruntime" in row and re.search(r"\d{4}-\d\d-\d\d, \d+ d", row) for row in rows)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    broken = Hosts.on([running[1].address(0), nobody]).save(hosts_file.with_name("broken.yaml"))
    result = CliRunner().invoke(app, ["status", str(exported), "--devices", str(broken)])
    assert result.exit_code == 1
    assert "not reachable" in result.output
    assert f"device 1: nobody answers at {nobody}" in result.output


def test_the_status_as_json(exported, hosts_file):
    """`--json` has the same as numbers, and the session that is served."""
    with Session(exported, hosts_file) as session:
        session.infer(random_batch(session.manifest, 1))
        result = CliRunner().invoke(app, ["status", str(exported), "--devices", str(hosts_file), "--json"])
    assert result.exit_code == 0, result.output
    for rank, row in enumerate(json.loads(result.output)):
        assert (row["rank"], row["state"], row["engine"]) == (rank, "serving", "onnxruntime")
        assert row["served"] > 0
        assert len(row["session"]["name"]) == 8
        assert set(row["failed"]) >= {"deadline", "compute", "cancelled"}
        assert row["certificate_days_left"] > 30


def test_a_certificate_that_ends_soon_is_pointed_out(tmp_path):
    """Fewer than 30 days before a device's certificate ends its row is followed by a line that says so."""
    export_tiny(lively_network(pair_architecture()), tmp_path / "d", validity_days=20.5)
    with threads(tmp_path / "d") as hosts:
        path = hosts.save(tmp_path / "hosts.yaml")
        result = CliRunner().invoke(app, ["status", str(tmp_path / "d"), "--devices", str(path)])
    assert result.exit_code == 0
    assert "device 1: its certificate ends in 20 days" in result.output


def test_mistakes_are_named(exported, hosts_file, tmp_path):
    """A hosts file that lacks a device is named before anyone is asked, and `--watch` prints no JSON."""
    path = tmp_path / "mine.yaml"
    path.write_text("devices: [{rank: 1, address: '127.0.0.1:1'}]")
    with pytest.raises(SpecError, match=rf"{re.escape(str(path))}: no address for rank 0"):
        Inspector(exported, path)
    both = CliRunner().invoke(app, ["status", str(exported), "--devices", str(hosts_file), "--watch", "--json"])
    assert both.exit_code == 2
    assert "no --watch" in " ".join(both.output.split())


def test_watching_ends_with_ctrl_c_and_leaves_the_terminal_clean(exported, running, hosts_file):
    """`--watch` draws again and again; Ctrl-C ends it with the exit code of the last look and a visible cursor."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "sepnas", "status", str(exported), "--devices", str(hosts_file), "--watch"]
    environment = os.environ | {"COLUMNS": "160", "TERM": "xterm"}
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    shown, interrupted, limit = b"", False, time.monotonic() + PROCESS_S
    try:
        while time.monotonic() < limit:
            if select.select([master], [], [], 0.2)[0]:
                try:
                    shown += os.read(master, 1 << 16)
                except OSError:  # the other end is closed
                    break
            if shown.count(b"ready") >= 6 and not interrupted:
                process.send_signal(signal.SIGINT)
                interrupted = True
        assert process.wait(SOON_S) == 0
    finally:
        os.close(master)
        if process.poll() is None:
            process.kill()
            process.wait()
    assert interrupted
    assert b"Traceback" not in shown
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")
