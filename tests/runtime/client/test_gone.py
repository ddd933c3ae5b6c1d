"""Peers that are gone: cut cables, frozen devices, names that lead elsewhere."""

import asyncio
import contextlib
import gc
import os
import pickle
import signal
import subprocess
import threading
import traceback
from pathlib import Path

import pytest

from sepnas.emulation.namespaces import Namespaces
from sepnas.errors import (
    DeadlineError,
    ExchangeError,
    LocalProtocolError,
    PeerLostError,
    PeerUnreachableError,
    RemoteError,
)
from sepnas.plan.steps import CLIENT
from sepnas.runtime.client import keeper, liveness
from sepnas.runtime.client.async_session import AsyncSession
from sepnas.runtime.client.bench import random_batch
from sepnas.runtime.client.session import Session
from sepnas.runtime.engines.torch_engine import TorchEngine
from sepnas.runtime.transport import sockets
from sepnas.runtime.worker.server import Worker
from sepnas.spec.hosts import Hosts
from tests.helpers_runtime import (
    SOON_S,
    Gated,
    eventually,
    free_ports,
    freeze,
    threads,
    two_emulated,
    worker_processes,
    worker_threads,
)

needs_namespaces = pytest.mark.skipif(bool(os.geteuid()), reason="network namespaces need root")


class Wired:
    """Workers in threads, each in a network namespace with cables that can be pulled; what they give up on, they give
    up on soon."""

    def __init__(self, spaces, workers, hosts):
        self.spaces, self.workers, self.hosts = spaces, workers, hosts

    def cable(self, rank, state):
        interfaces = ("eth1-c",) if rank == CLIENT else (f"eth0-{rank}", f"eth1-{rank}")
        for interface in interfaces:
            command = ("ip", "-n", self.spaces.switch, "link", "set", interface, state)
            subprocess.run(command, check=True, capture_output=True)

    def is_free(self, rank):
        return self.workers[rank].stats.session is None


@pytest.fixture
def wired(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(sockets, "MAX_UNACKNOWLEDGED_S", 1.0)
    Gated.gate.set()
    Gated.entered.clear()
    with contextlib.ExitStack() as stack:
        spaces = stack.enter_context(Namespaces(two_emulated(exported, tmp_path / "clock")))
        workers = []
        for rank in range(2):
            with spaces.inside(rank):
                worker = Worker(exported / f"device{rank}", spaces.address(rank), 0, engine=Gated)
                thread = threading.Thread(target=worker.serve_forever)
                thread.start()
            stack.callback(thread.join, SOON_S)
            stack.callback(worker.stop)
            workers.append(worker)
        stack.enter_context(spaces.inside(CLIENT))
        yield Wired(spaces, workers, Hosts.on([worker.address for worker in workers]))
        Gated.gate.set()


@needs_namespaces
@pytest.mark.parametrize("cut", [CLIENT, 0, 1])
def test_a_cut_link_is_noticed_while_data_is_unacknowledged(wired, exported, cut):
    """Both ends give up what the other does not acknowledge, and the devices serve others when the cable is back."""
    session = Session(exported, wired.hosts, timeout_s=SOON_S)
    x_BCHW = random_batch(session.manifest, 1)
    expected = session.infer(x_BCHW)
    Gated.gate.clear()
    Gated.entered.clear()
    failures = []

    def ask():
        with pytest.raises(PeerLostError) as caught:
            session.infer(x_BCHW)
        failures.append(caught.value)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert Gated.entered.wait(SOON_S)
        wired.cable(cut, "down")
        Gated.gate.set()  # what is sent now gets lost
        for rank in range(2):
            eventually(lambda rank=rank: wired.is_free(rank))
        if cut != CLIENT:
            asking.join(SOON_S)
            assert f"device {cut}" in str(failures[0])
    finally:
        wired.cable(cut, "up")
        asking.join(SOON_S)
        session.close()
    assert failures

    def answered():
        with contextlib.suppress(ExchangeError), Session(exported, wired.hosts) as again:
            return again.infer(x_BCHW).tobytes() == expected.tobytes()

    assert eventually(answered)


# -- sessions that go on, and those that must not


def test_health_sees_a_frozen_device_that_nobody_asks(exported, monkeypatch):
    """Also a strict session pings its devices: one that is frozen is silent until it is thawed."""
    monkeypatch.setattr(liveness, "MAX_PONG_S", 0.5)
    monkeypatch.setattr(keeper, "PULSE_S", 0.1)
    with worker_processes(exported, 2, "onnxruntime") as (workers, hosts), Session(exported, hosts) as session:
        assert session.can_answer()
        freeze(workers[1].process.pid)
        try:
            eventually(lambda: session.health() == {0: "ready", 1: "silent"})
            assert not session.can_answer()
            assert not session.is_over
        finally:
            workers[1].process.send_signal(signal.SIGCONT)
        eventually(session.can_answer)
        session.infer(random_batch(session.manifest, 1))
        # where the kernel cannot be told to give up, a connection ends when pings are unanswered for as long
        monkeypatch.setattr(sockets, "KERNEL_GIVES_UP", False)
        monkeypatch.setattr(sockets, "MAX_UNACKNOWLEDGED_S", 1.0)
        freeze(workers[1].process.pid)
        try:
            eventually(lambda: session.is_over)
        finally:
            workers[1].process.send_signal(signal.SIGCONT)


def test_health_sees_a_device_whose_requests_fail(exported):
    """It is failing until it has done its part of a request."""

    class Failing(TorchEngine):
        fails = False

        def run(self, segment, inputs):
            if self.fails and threading.current_thread().name == self.name:
                raise RuntimeError("out of luck")
            return super().run(segment, inputs)

        def prepare_thread(self):
            super().prepare_thread()
            self.name = threading.current_thread().name

    with worker_threads(exported, engine=Failing) as (workers, hosts), Session(exported, hosts) as session:
        x_BCHW = random_batch(session.manifest, 1)
        workers[1]._context.engine.fails = True
        with pytest.raises(RemoteError, match="out of luck"):
            session.infer(x_BCHW)
        health = session.health()
        assert health[0] == "ready"
        assert "failing: device 1: " in health[1]
        assert "out of luck" in health[1]
        assert not session.can_answer()
        workers[1]._context.engine.fails = False
        session.infer(x_BCHW)
        assert session.can_answer()


def test_a_device_that_is_late_again_and_again_is_failing(exported):
    """One that answers pings and computes for ever is told apart from one that is ready."""
    Gated.gate.set()
    with worker_threads(exported, engine=Gated) as (_, hosts), Session(exported, hosts) as session:
        x_BCHW = random_batch(session.manifest, 1)
        Gated.gate.clear()
        for number in range(liveness.MAX_LATE):
            assert session.can_answer(), number
            with pytest.raises(DeadlineError):
                session.infer(x_BCHW, timeout_s=0.05)
        assert any(state.startswith("late: ") for state in session.health().values())
        assert not session.can_answer()
        Gated.gate.set()
        session.infer(x_BCHW, timeout_s=SOON_S)
        assert session.can_answer()


def lines_of(error):
    return len(traceback.format_exception(error))


def raised_by(call):
    with pytest.raises(PeerLostError) as caught:
        call()
    return caught.value


def test_a_strict_session_that_is_over_raises_new_errors(exported):
    """Each call raises an error of its own, caused by the same loss, whose traceback does not grow."""
    with worker_threads(exported) as (workers, hosts), Session(exported, hosts) as session:
        x_BCHW = random_batch(session.manifest, 1)
        workers[1].stop()
        eventually(lambda: session.is_over)
        raised_by(lambda: session.infer(x_BCHW))
        found = [raised_by(lambda: session.infer(x_BCHW)) for _ in range(50)]
        assert len({id(each) for each in found}) == 50
        assert len({lines_of(each) for each in found[1:]}) == 1
        assert lines_of(found[-1]) < 100
        assert "device 1 was stopped" in str(found[-1])
        assert session.is_over


@contextlib.contextmanager
def running(deployment, rank, port=0):
    """A worker in a thread."""
    worker = Worker(deployment / f"device{rank}", "127.0.0.1", port)
    thread = threading.Thread(target=worker.serve_forever)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(SOON_S)


def test_a_strict_session_reconnects_where_it_was_asked_to(exported):
    """Without the device calls raise the loss; when it is back, answers are the same as before, and so are bytes."""
    ports = free_ports(2)
    with contextlib.ExitStack() as stack:
        devices = [stack.enter_context(contextlib.ExitStack()) for _ in range(2)]
        for rank, device in enumerate(devices):
            device.enter_context(running(exported, rank, ports[rank]))
        hosts = Hosts.on([f"127.0.0.1:{port}" for port in ports])
        session = stack.enter_context(Session(exported, hosts, reconnect=True))
        x_BCHW = random_batch(session.manifest, 1)
        expected = session.infer(x_BCHW)
        for rank in (1, 0):
            devices[rank].close()
            eventually(lambda: not session.can_answer())
            assert "open a new session" not in str(raised_by(lambda: session.infer(x_BCHW)))
            devices[rank].enter_context(running(exported, rank, ports[rank]))
            eventually(session.can_answer)
            assert session.infer(x_BCHW).tobytes() == expected.tobytes()
            assert session.counters().requests == 1
            assert len(session.trace(last=5).requests) == 1


def test_a_session_that_degrades_begins_without_a_device(exported):
    """It answers without a worker that is down and says so, and takes that one when it comes."""
    port = free_ports(1)[0]
    with running(exported, 0) as first:
        both = Hosts.on([first.address, f"127.0.0.1:{port}"])
        with pytest.raises(PeerUnreachableError, match="device 1: nobody answers"):
            Session(exported, both)
        with Session(exported, both, on_missing="degrade") as session:
            x_BCHW = random_batch(session.manifest, 1)
            answer = session.ask(x_BCHW)
            assert (answer.complete, answer.without) == (False, (1,))
            assert "nobody answers" in session.health()[1]
            with running(exported, 1, port):
                eventually(lambda: session.ask(x_BCHW).complete)


def test_a_session_that_degrades_needs_one_that_can_answer(exported):
    """Without the only device with the classifier there is an error that names it."""
    ports = free_ports(2)
    with pytest.raises(PeerUnreachableError, match="device 0: nobody answers"):
        Session(exported, Hosts.on([f"127.0.0.1:{port}" for port in ports]), on_missing="degrade")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_does_not_touch_the_session(exported):
    """In the child each call says that the session is another process's, closing says nothing to the devices, and the
    parent goes on."""
    with threads(exported) as hosts, Session(exported, hosts) as session:
        x_BCHW = random_batch(session.manifest, 1)
        expected = session.infer(x_BCHW)
        calls = (
            lambda: session.infer(x_BCHW),
            lambda: session.classify(x_BCHW),
            lambda: next(session.stream([x_BCHW])),
            session.health,
            session.counters,
            session.trace,
        )
        descriptors = [channel.pipe.sock.fileno() for channel in session._connections.channels.values()]
        with session._requests.lock, session._connections.router.lock:  # as another thread may hold them
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    for call in calls:
                        with pytest.raises(LocalProtocolError, match="was forked"):
                            call()
                    session.close()
                    session.close()
                    for descriptor in descriptors:
                        with contextlib.suppress(OSError):
                            os.fstat(descriptor)
                            raise AssertionError("still open")
                    status = 0
                finally:
                    os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert session.infer(x_BCHW).tobytes() == expected.tobytes()


def test_a_session_cannot_be_sent_elsewhere(exported):
    """Pickling one, as a process that is spawned needs, says so."""
    with (
        threads(exported) as hosts,
        Session(exported, hosts) as session,
        pytest.raises(LocalProtocolError, match="open one there"),
    ):
        pickle.dumps(session)


@pytest.mark.parametrize("reconnect", [False, True])
def test_a_dropped_session_is_closed(exported, reconnect):
    """A session that nobody holds any more leaves the devices, and its threads and descriptors are gone."""

    def held():
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    with worker_threads(exported) as (workers, hosts):
        with Session(exported, hosts) as session:  # the workers have all that they keep
            session.infer(random_batch(session.manifest, 1))
        eventually(lambda: all(worker.stats.session is None for worker in workers))
        num_threads, num_descriptors = held()
        session = Session(exported, hosts, reconnect=reconnect)
        session.infer(random_batch(session.manifest, 1))
        del session
        gc.collect()
        eventually(lambda: held()[0] <= num_threads and held()[1] <= num_descriptors)
        with Session(exported, hosts) as another:
            another.infer(random_batch(another.manifest, 1))


def test_asyncio_in_a_second_loop_is_told(exported):
    """An AsyncSession belongs to the loop that opened it, and is opened once; it can be closed in another."""

    async def open_():
        session = await AsyncSession(exported, hosts).__aenter__()
        with pytest.raises(LocalProtocolError, match="opened already"):
            await session.__aenter__()
        await session.infer(random_batch(session.session.manifest, 1))
        return session

    async def ask(session):
        with pytest.raises(LocalProtocolError, match="not open in this event loop"):
            await session.infer(random_batch(session.session.manifest, 1))
        await session.__aexit__(None, None, None)

    with threads(exported) as hosts:
        session = asyncio.run(open_())
        asyncio.run(ask(session))
