"""A session that goes on while its devices are killed, frozen, cut off and started again, round after round."""

import contextlib
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sepnas.emulation.namespaces import Namespaces
from sepnas.errors import ExchangeError
from sepnas.plan.steps import CLIENT
from sepnas.runtime.client.bench import random_batch
from sepnas.runtime.client.session import Session
from sepnas.runtime.transport import sockets
from sepnas.spec.hosts import Hosts
from tests.helpers_runtime import two_emulated
from tests.limits import SOON_S

ROUNDS = 12
SEED = 0
TIMEOUT_S = 0.5
HANGS_S = 20.0
NOTICED_S = 1.0
PORT = 17300


class Devices:
    """Worker processes, each in a network namespace whose cable can be pulled."""

    def __init__(self, deployment, spaces):
        self._deployment, self._spaces = deployment, spaces
        self._processes = {}
        self.hosts = Hosts.on([f"{spaces.address(rank)}:{PORT}" for rank in range(2)])

    def start(self, rank):
        folder = self._deployment / f"device{rank}"
        code = (
            f"from sepnas.runtime.transport import sockets; sockets.MAX_UNACKNOWLEDGED_S = {NOTICED_S};"
            "from sepnas.runtime.worker.run import run_worker;"
            f"run_worker({str(folder)!r}, {self.hosts.address(rank)!r}, engine='onnxruntime')"
        )
        command = [*self._spaces.prefix(rank), sys.executable, "-c", code]
        process = self._processes[rank] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        lines = queue.SimpleQueue()
        threading.Thread(target=lambda: lines.put(process.stdout.readline()), daemon=True).start()
        assert b"listens on" in lines.get(timeout=SOON_S)

    def send(self, rank, number):
        self._processes[rank].send_signal(number)

    def end(self, rank, number=signal.SIGKILL):
        process = self._processes.pop(rank)
        process.send_signal(number)
        process.wait(SOON_S)
        process.stdout.close()

    def cable(self, rank, state):
        for interface in ("eth0", "eth1"):
            command = ("ip", "-n", self._spaces.switch, "link", "set", f"{interface}-{rank}", state)
            subprocess.run(command, check=True, capture_output=True)

    def close(self):
        for rank in list(self._processes):
            self.end(rank)


def faults(devices, rank):
    """How each fault begins, and how it is mended."""
    return {
        "killed": (lambda: devices.end(rank), lambda: devices.start(rank)),
        "stopped": (lambda: devices.end(rank, signal.SIGTERM), lambda: devices.start(rank)),
        "frozen": (lambda: devices.send(rank, signal.SIGSTOP), lambda: devices.send(rank, signal.SIGCONT)),
        "cut": (lambda: devices.cable(rank, "down"), lambda: devices.cable(rank, "up")),
    }


class Asking:
    """Asks, and checks the answers: those that are complete, and those that lack the same as the one before."""

    def __init__(self, session):
        self.session, self.x_BCHW = session, random_batch(session.manifest, 1)
        self.expected = {(): session.infer(self.x_BCHW).tobytes()}
        self._without = ()

    def ask(self):
        """Whether the answer was complete; False for an error too."""
        start = time.monotonic()
        try:
            answer = self.session.ask(self.x_BCHW, TIMEOUT_S)
        except ExchangeError:
            answer = None
        assert time.monotonic() - start < TIMEOUT_S + HANGS_S
        if answer is None:
            self._without = None
            return False
        if answer.complete or (answer.without == self._without and not answer.missing):
            assert answer.logits.tobytes() == self.expected.setdefault(answer.without, answer.logits.tobytes())
        self._without = answer.without
        return answer.complete


def held():
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


def settled(limits):
    """Wait until no more threads and descriptors are held than these."""
    limit = time.monotonic() + SOON_S
    while not all(now <= then for now, then in zip(held(), limits, strict=True)):
        assert time.monotonic() < limit, (held(), limits, [thread.name for thread in threading.enumerate()])
        time.sleep(0.1)


def run_rounds(deployment, tmp_path, on_missing, rounds, seed):
    draw = random.Random(seed)
    found = two_emulated(deployment, tmp_path / "clock")
    with Namespaces(found) as spaces, contextlib.closing(Devices(deployment, spaces)) as devices:
        for rank in range(2):
            devices.start(rank)
        with spaces.inside(CLIENT):
            before = held()
            with Session(deployment, devices.hosts, on_missing=on_missing, reconnect=True) as session:
                asking = Asking(session)
                open_ = held()
                for number in range(rounds):
                    rank = draw.randrange(2)
                    name, (begin, mend) = draw.choice(list(faults(devices, rank).items()))
                    begin()
                    limit = time.monotonic() + draw.choice((0.0, 0.5, 3 * NOTICED_S))
                    while asking.ask() or time.monotonic() < limit:
                        time.sleep(0.01)
                        if time.monotonic() > limit + 1.0:
                            break  # a fault that was over before it was met
                    mend()
                    limit = time.monotonic() + SOON_S
                    while not asking.ask():
                        assert time.monotonic() < limit, (number, rank, name, session.health())
                        time.sleep(0.02)
                settled(open_)
            settled(before)


@pytest.mark.slow
@pytest.mark.skipif(bool(os.geteuid()), reason="network namespaces need root")
@pytest.mark.parametrize("on_missing", ["strict", "degrade"])
def test_a_session_outlives_its_devices(exported, tmp_path, monkeypatch, on_missing):
    """No request hangs, no answer is wrong, each fault that is mended is overcome, and nothing is leaked."""
    monkeypatch.setattr(sockets, "MAX_UNACKNOWLEDGED_S", NOTICED_S)
    run_rounds(exported, tmp_path, on_missing, ROUNDS, SEED)
