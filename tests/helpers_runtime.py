"""Tiny networks, deployments and worker processes for the tests of deploy and runtime."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch

from sepnas.deploy.export import export_deployment
from sepnas.deployment.manifest import SegmentFiles, ShardManifest
from sepnas.deployment.plans import DEFAULT_PLAN, ShardPlan
from sepnas.deployment.serial import deployed_plan, messages_of, program_of
from sepnas.deployment.verify import load_manifest
from sepnas.emulation.settings import emulations
from sepnas.nets.separable import SeparableNetwork
from sepnas.plan.serial import message_to_data, program_to_data, shape_to_data
from sepnas.runtime.engines.shard import LoadedPlan
from sepnas.runtime.engines.torch_engine import TorchEngine
from sepnas.runtime.worker.executor import Executor, RunningRequest
from sepnas.runtime.worker.mailbox import Mailbox
from sepnas.runtime.worker.server import Worker
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.spec.cluster import Cluster, Device, Link
from sepnas.spec.hosts import Hosts
from tests.limits import PROCESS_S, SOON_S

NUM_CLASSES = 5
FROZEN_S = 2.0
"""Deadline of a request that has to wait in vain. Others have SOON_S, and must not need it."""


def eventually(condition, what=None, limit_s=SOON_S):
    """Wait until it holds; what it gave."""
    limit = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < limit, what
        time.sleep(0.01)
    return found


def freeze(pid):
    """Stop a process, and wait until all of its threads stand still: one may go on for a moment on a busy machine."""
    os.kill(pid, signal.SIGSTOP)
    states = Path(f"/proc/{pid}/task")
    if states.exists():
        eventually(lambda: all(_state(task) in "TXZ" for task in states.iterdir()))


def _state(task):
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"  # it has ended


def two_emulated(deployment, clock):
    """What two devices of a deployment need to run in network namespaces whose cables can be pulled."""
    manifest = load_manifest(deployment)
    boards = tuple(Device(name=f"d{rank}", flops_per_s=1e9, memory_bytes=1 << 30) for rank in range(2))
    link = Link(bandwidth_bytes_per_s=1e8)
    cluster = Cluster(devices=boards, links=(link,), client_link=link)
    return emulations(deployed_plan(deployment), cluster, manifest.deployment_id, clock, shaping="netns")


class Gated(TorchEngine):
    """Computes only while its gate is open, and says that it was entered."""

    gate = threading.Event()
    entered = threading.Event()

    def run(self, segment, inputs):
        self.entered.set()
        assert self.gate.wait(SOON_S)
        return super().run(segment, inputs)


def tiny_architecture(points: list[dict], readout: str = "device", devices: int = 3, depth: int = 20) -> Architecture:
    """8x8 gray images, parts of different widths, 4 to 6 channels."""
    parts = [{"bottleneck_width": 2, "output_channels": 4 + rank} for rank in range(devices)]
    policy = {"points": points, "readout": {"kind": readout, "device": 0}}
    family = {"depth": depth, "num_classes": NUM_CLASSES, "in_channels": 1, "image_size": 8, "stem_channels": 4}
    return Architecture.from_data({**family, "parts": parts, "policy": policy})


def transfer(source: int, destination: int, wire: str = "fp32", lag: int = 0, fraction: float = 1.0) -> dict:
    return {"source": source, "destination": destination, "wire": wire, "lag": lag, "fraction": fraction}


def pair_architecture() -> Architecture:
    """Two devices with both directions, two wire formats and two kinds of merges."""
    points = [
        {"after": 0, "merge": "weighted", "transfers": [transfer(1, 0), transfer(0, 1, "int8")]},
        {"after": 2, "transfers": [transfer(1, 0)]},
    ]
    return tiny_architecture(points, devices=2, depth=11)


def lively_network(architecture: Architecture, seed: int = 0) -> SeparableNetwork:
    """A network whose batch norms and merge weights are not what they were made with."""
    torch.manual_seed(seed)
    network = SeparableNetwork(architecture)
    for name, tensor in [*network.named_buffers(), *network.named_parameters()]:
        if name.endswith("running_mean") or name.startswith("merges."):
            tensor.data.normal_(0.3, 0.2)
        elif name.endswith("running_var"):
            tensor.data.uniform_(0.5, 2.0)
    return network.eval()


def export_tiny(
    network: SeparableNetwork, folder: Path, engines: tuple[str, ...] = ("torch",), **options: object
) -> None:
    """A deployment for torch, which is exported sooner than for both engines."""
    names = [f"class {k}" for k in range(NUM_CLASSES)]
    export_deployment(network, folder, name="tiny", classes=names, mean=[0.25], std=[0.5], engines=engines, **options)


def whole_logits(network: SeparableNetwork, x_BCHW: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(x_BCHW)).numpy()


def free_ports(number: int) -> list[int]:
    """Ports of 127.0.0.1 that are free at the moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in sockets]


class WorkerProcess:
    """One worker in a process of its own, on a free port of 127.0.0.1."""

    def __init__(
        self,
        folder: Path,
        insecure: bool = False,
        engine: str | None = None,
        listen: str = "127.0.0.1:0",
        metrics: str | None = None,
    ) -> None:
        options = f"insecure={insecure}, engine={engine!r}, metrics={metrics!r}"
        call = f"run_worker({str(folder)!r}, {listen!r}, {options})"
        code = f"from sepnas.runtime.worker.run import run_worker; {call}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._errors: list[str] = []
        for stream, take in ((self.process.stdout, self._lines.put), (self.process.stderr, self._errors.append)):
            threading.Thread(target=lambda s, t: [t(line) for line in s], args=(stream, take), daemon=True).start()

    def address(self) -> str:
        """Where it listens; waits until it is ready."""
        try:
            return self._lines.get(timeout=PROCESS_S).split(" listens on ")[1].split()[0]
        except queue.Empty:
            raise AssertionError(f"no worker: {''.join(self._errors)}") from None

    def end(self) -> int:
        """Stop it the polite way; its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(SOON_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@contextmanager
def worker_processes(
    deployment: Path, num_devices: int, engine: str | None = None
) -> Iterator[tuple[list[WorkerProcess], Hosts]]:
    workers = [WorkerProcess(deployment / f"device{rank}", engine=engine) for rank in range(num_devices)]
    try:
        yield workers, Hosts.on([worker.address() for worker in workers])
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.end()


@contextmanager
def worker_threads(folder, devices=2, **options):
    """The workers of a deployment as threads of this process, and where they listen."""
    workers = [Worker(folder / f"device{rank}", "127.0.0.1", 0, **options) for rank in range(devices)]
    with serving(workers):
        yield workers, Hosts.on([worker.address for worker in workers])


@contextmanager
def serving(workers):
    """Workers that serve, as threads of this process."""
    running = [threading.Thread(target=worker.serve_forever) for worker in workers]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.stop()
        for thread in running:
            thread.join(SOON_S)
            assert not thread.is_alive()


@contextmanager
def threads(folder, devices=2, **options):
    """Where the workers of a deployment listen, as threads of this process."""
    with worker_threads(folder, devices, **options) as (_, hosts):
        yield hosts


class EagerEngine:
    """Runs segments as the modules of the whole network."""

    def __init__(self, network: SeparableNetwork, rank: int) -> None:
        self._modules = {
            name: network.segment(rank, segment.layers)
            for name, segment in build_plan(network.architecture).segments[rank].items()
        }

    def prepare_thread(self) -> None:
        pass

    def run(self, segment: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [self._modules[segment](*(torch.from_numpy(array) for array in inputs)).numpy()]


def plan_in_memory(network: SeparableNetwork, rank: int) -> LoadedPlan:
    """A device's part of the plan that `export` would write, without its files."""
    plan = build_plan(network.architecture)
    messages = messages_of(plan, rank)
    part = ShardPlan(
        digest="0" * 64,
        program=program_to_data(plan.programs[rank]),
        shapes={name: shape_to_data(shape) for name, shape in plan.shapes[rank].items()},
        messages=tuple(message_to_data(message) for message in messages),
        fallbacks=tuple(piece.tag for piece in plan.outputs[0].fallbacks if piece.device == rank),
    )
    manifest = ShardManifest(
        deployment_id="0" * 64,
        rank=rank,
        num_devices=plan.num_devices,
        plans={DEFAULT_PLAN: part},
        segments={
            name: SegmentFiles(files={"torch": f"segments/{name}.pt2"}, layers=segment.layers, weights=())
            for name, segment in plan.segments[rank].items()
        },
        files={},
    )
    manifest = ShardManifest.from_data(manifest.to_data(), "shard")
    weights = {name: tensor.numpy() for name, tensor in network.merge_weights(rank).items()}
    weights |= {message.scale: network.scale(message.scale).numpy() for message in messages if message.scale}
    return LoadedPlan(
        DEFAULT_PLAN,
        program_of(manifest, DEFAULT_PLAN),
        {message.tag: message for message in messages},
        weights,
        plan.shapes[rank],
        keys={name: name for name in plan.segments[rank]},
        fallbacks=frozenset(part.fallbacks),
        layers={name: segment.layers for name, segment in plan.segments[rank].items()},
    )


def run_in_threads(network: SeparableNetwork, x_BCHW: np.ndarray) -> tuple[bytes, int]:
    """The answer's payload, and all payload bytes between devices: every executor in a thread, no sockets."""
    plan = build_plan(network.architecture)
    boxes = {rank: Mailbox() for rank in range(-1, plan.num_devices)}
    sent: list[int] = []

    def post(rank, data):
        boxes[rank].put(data.request, data.tag, data.payload)
        sent.append(len(data.payload) if rank >= 0 else 0)

    def run(rank):
        engine = EagerEngine(network, rank)
        Executor(plan_in_memory(network, rank), engine, boxes[rank], post).run(
            RunningRequest(1, len(x_BCHW), deadline=1e9, normalised=True)
        )

    threads = [threading.Thread(target=run, args=(rank,)) for rank, steps in enumerate(plan.programs) if steps]
    for message in plan.messages():
        if message.source == -1:
            boxes[message.destination].put(1, message.tag, bytearray(x_BCHW.tobytes()))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON_S)
    tag = next(m.tag for m in plan.messages() if m.destination == -1)
    return boxes[-1].take(1, tag, deadline=0).payload, sum(sent)
