"""Peers that are gone: cut cables, frozen devices, names that lead elsewhere."""

import contextlib
import os
import subprocess
import threading
import time

import pytest

from sepnas.cli.netns import Namespaces
from sepnas.cost.emulated import emulations
from sepnas.deploy.verify import load_manifest
from sepnas.errors import ExchangeError, PeerLostError
from sepnas.plan.build import build_plan
from sepnas.plan.steps import CLIENT
from sepnas.runtime import sockets
from sepnas.runtime.bench import random_batch
from sepnas.runtime.engines import TorchEngine
from sepnas.runtime.session import Session
from sepnas.runtime.worker import Worker
from sepnas.spec.cluster import Cluster, Device, Link
from sepnas.spec.hosts import Hosts

SOON_S = 60.0
"""Longer than anything that does not hang takes."""
needs_namespaces = pytest.mark.skipif(bool(os.geteuid()), reason="network namespaces need root")


class Gated(TorchEngine):
    """Computes only while its gate is open, and says that it was entered."""

    gate = threading.Event()
    entered = threading.Event()

    def run(self, segment, inputs):
        self.entered.set()
        assert self.gate.wait(SOON_S)
        return super().run(segment, inputs)


def eventually(condition, limit_s=SOON_S):
    """Wait until it holds; what it gave."""
    limit = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < limit
        time.sleep(0.02)
    return found


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
        return self.workers[rank].gauges.session is None


@pytest.fixture
def wired(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(sockets, "MAX_UNACKNOWLEDGED_S", 1.0)
    manifest = load_manifest(exported)
    boards = tuple(Device(name=f"d{rank}", flops_per_s=1e9, memory_bytes=1 << 30) for rank in range(2))
    link = Link(bandwidth_bytes_per_s=1e8)
    cluster = Cluster(devices=boards, links=(link,), client_link=link)
    found = emulations(
        build_plan(manifest.architecture), cluster, manifest.deployment_id, tmp_path / "clock", shaping="netns"
    )
    Gated.gate.set()
    Gated.entered.clear()
    with contextlib.ExitStack() as stack:
        spaces = stack.enter_context(Namespaces(found))
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
    session = Session(exported, wired.hosts, deadline_s=SOON_S)
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
