"""Worker processes on this machine as a cluster, measured together while they run networks like the wanted one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from sepnas.console import warn
from sepnas.cost.calibrate import fit_rate
from sepnas.cost.simulator import simulate
from sepnas.cost.times import DeviceTimes
from sepnas.measure.busy import Others
from sepnas.measure.machine import DEFAULT_MEMORY_BYTES
from sepnas.plan.plan import Plan
from sepnas.separable.architecture import Architecture, DevicePart
from sepnas.separable.build import build_plan
from sepnas.separable.patterns import point, ring
from sepnas.separable.policy import Readout, TransmissionPolicy
from sepnas.spec.cluster import Cluster, Device, Link

if TYPE_CHECKING:
    from sepnas.runtime.client.session import Session
    from sepnas.runtime.client.trace import RequestRecord

LOOPBACK_BYTES_PER_S = 1e9
WARMUP, ROUNDS, TURN = 30, 10, 12
"""Requests before the measurement, rounds in which the networks alternate, and requests in a turn."""
BUSY_SHARE = 0.1
"""From this share of the processors on, other programs disturb a measurement."""
_HALVINGS = 40
_TURNS = 4
"""Both latencies contribute to each measurement: they are solved for alternately, so many times."""
_LONGEST_S = 1.0
"""Upper bound of a message's latency within one machine."""


def cluster_like(device: Device, num_devices: int, link: Link, name: str, client_link: Link | None = None) -> Cluster:
    """Equal devices, all linked alike."""
    devices = tuple(device.model_copy(update={"name": f"device{rank}"}) for rank in range(num_devices))
    return Cluster(name=name, devices=devices, links=(link,), client_link=client_link)


def measure_device(name: str = "device0", repeats: int = 15) -> Device:
    """This machine on blocks of the family: eager torch, one thread, nothing else running."""
    from sepnas.deploy.profile import time_blocks

    flops_per_s, layer_overhead_s = fit_rate(list(time_blocks(repeats)))
    return Device(
        name=name, flops_per_s=flops_per_s, layer_overhead_s=layer_overhead_s, memory_bytes=DEFAULT_MEMORY_BYTES
    )


def busy_words(others: float) -> str:
    """A phrase for a machine that other programs use too."""
    return f"other programs took {others:.0%} of this machine's processors"


def measure_local_cluster(num_devices: int, name: str = "this-machine", network: Architecture | None = None) -> Cluster:
    """Worker processes on this machine as a cluster, for networks like ``network`` [a small one].

    Two policies of the network run alternately on one worker for each device: with the first, all devices compute and
    send only logits; with the second, small messages go around. The traces show how much slower processes compute
    beside each other. The remaining latency of the first policy gives the latency of the client's link, that of the
    second policy the latency of the other links: messages, threads that wake up and processes that wait for a core, in
    one number.
    """
    alone = measure_device()
    measured, others = _run(_networks(num_devices, network or _small_network(num_devices)))
    if others > BUSY_SHARE:
        warn(f"{busy_words(others)} while it was measured, so predicted latencies may be wrong")
    slower = median(_slowdowns(measured, alone))
    device = alone.model_copy(
        update={"flops_per_s": alone.flops_per_s / slower, "layer_overhead_s": alone.layer_overhead_s * slower}
    )

    def linked(latency_s: float, client_s: float) -> Cluster:
        link, client = (
            Link(bandwidth_bytes_per_s=LOOPBACK_BYTES_PER_S, latency_s=each, medium="own")
            for each in (latency_s, client_s)
        )
        return cluster_like(device, num_devices, link, name, client)

    quiet, talking = measured
    latency_s = client_s = 0.0
    for _ in range(_TURNS):
        client_s = _solved(quiet, partial(linked, latency_s))
        latency_s = _solved(talking, partial(linked, client_s=client_s))
    return linked(latency_s, client_s)


@dataclass(frozen=True)
class _Measured:
    """A plan's requests on real workers."""

    plan: Plan
    requests: Sequence[RequestRecord]
    latency_s: float


def _solved(measured: _Measured, cluster_of: Callable[[float], Cluster]) -> float:
    """The message latency at which the prediction equals the measurement; 0 if it is too long even then."""
    low, high = 0.0, _LONGEST_S
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        too_short = simulate(measured.plan, cluster_of(middle)).latency_s < measured.latency_s
        low, high = (middle, high) if too_short else (low, middle)
    return low if low > _LONGEST_S / 2**_HALVINGS else 0.0


def _small_network(num_devices: int) -> Architecture:
    part = DevicePart(bottleneck_width=8, output_channels=16)
    return Architecture(depth=20, image_size=16, num_classes=10, parts=(part,) * num_devices)


def _networks(num_devices: int, network: Architecture) -> list[Architecture]:
    """The two policies: only logits, and int8 messages of a quarter of the channels after every second block."""
    blocks = range(0, network.num_blocks, 2)
    points = tuple(point(block, ring(num_devices, 1), fraction=0.25, wire="int8") for block in blocks)
    readout = Readout(kind="mean")
    policies = TransmissionPolicy(readout=readout), TransmissionPolicy(points=points, readout=readout)
    return [network.model_copy(update={"policy": policy}) for policy in policies]


def _run(networks: Sequence[Architecture]) -> tuple[list[_Measured], float]:
    """Run each network, with random weights, on workers of its own, which idle in the turns of others.

    Also returns the share of the processors that other programs took meanwhile.
    """
    from sepnas.deploy.export import export_deployment
    from sepnas.local.processes import LocalWorkers
    from sepnas.runtime.client.session import Session
    from sepnas.train.checkpoint import new_network

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sepnas-profile-")))
        sessions: list[Session] = []
        processes: list[int] = []
        for number, network in enumerate(networks):
            deployment = folder / str(number)
            classes, channels = [str(k) for k in range(network.num_classes)], network.in_channels
            export_deployment(
                new_network(network), deployment, name="profile", classes=classes,
                mean=(0.0,) * channels, std=(1.0,) * channels, engines=("torch",),
            )  # fmt: skip
            workers = stack.enter_context(LocalWorkers(deployment, network.num_devices))
            processes += workers.pids
            sessions.append(stack.enter_context(Session(deployment, workers.hosts)))
        others = Others(processes)
        requests = _in_turn(sessions)
        share = others.share()
    measured = [
        _Measured(build_plan(network), some, median(each.latency_s for each in some))
        for network, some in zip(networks, requests, strict=True)
    ]
    return measured, share


def _in_turn(sessions: Sequence[Session]) -> list[list[RequestRecord]]:
    from sepnas.runtime.client.bench import random_inputs

    found: list[list[RequestRecord]] = [[] for _ in sessions]
    for turn in range(-1, ROUNDS):
        for session, requests in zip(sessions, found, strict=True):
            batch = random_inputs(session.manifest, 1)
            for _ in range(WARMUP if turn < 0 else TURN):
                session.infer(batch)
            if turn >= 0:
                requests += session.trace(last=TURN).requests
    return found


def _slowdowns(measured: Sequence[_Measured], device: Device) -> Iterator[float]:
    """The time of each segment beside the other processes, divided by its time alone."""
    times = DeviceTimes(device)
    for each in measured:
        for request in each.requests:
            for record in request.devices:
                segments = each.plan.segments[record.rank]
                for step in record.steps:
                    if step.step == "compute":
                        yield (step.end_s - step.start_s) / times.segment_s(segments[step.name])
