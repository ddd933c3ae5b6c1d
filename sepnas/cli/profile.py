"""``sepnas profile cluster``: write a cluster of machines like this one, or of processes on it; and the group."""

from __future__ import annotations

import platform
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from sepnas.cli.common import FILE, say, seconds
from sepnas.cost.calibrate import fit_rate
from sepnas.cost.times import DeviceTimes
from sepnas.measure.machine import DEFAULT_MEMORY_BYTES
from sepnas.plan.build import build_plan
from sepnas.plan.steps import CLIENT, Plan
from sepnas.report.units import format_count
from sepnas.spec.architecture import Architecture, DevicePart
from sepnas.spec.cluster import Cluster, Device, Link
from sepnas.spec.document import refuse_folder
from sepnas.spec.patterns import point, ring
from sepnas.spec.policy import TransmissionPolicy

if TYPE_CHECKING:
    from sepnas.runtime.trace import Trace

DEFAULT = "cluster"
HELP = """Measure what a cluster file describes: a cluster of machines like this one, one device, or the links.

`sepnas profile` alone, or with options, is `sepnas profile cluster`: a quick file to start from. Better figures come
from `sepnas profile device` on each device: it times every operator as a worker runs it.

Example: `sepnas profile --devices 4 --out cluster.yaml`
"""
LOOPBACK_BYTES_PER_S = 1e9
WARMUP, REQUESTS = 30, 100


class ProfileGroup(TyperGroup):
    """Options without a verb are those of :data:`DEFAULT`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


def measure_device(name: str = "device0", repeats: int = 15) -> Device:
    """This machine on blocks of the family: eager torch, one thread, nothing else running."""
    from sepnas.deploy.profile import time_blocks

    flops_per_s, layer_overhead_s = fit_rate(list(time_blocks(repeats)))
    return Device(
        name=name, flops_per_s=flops_per_s, layer_overhead_s=layer_overhead_s, memory_bytes=DEFAULT_MEMORY_BYTES
    )


def cluster_like(device: Device, num_devices: int, link: Link, name: str, client_link: Link | None = None) -> Cluster:
    """Equal devices, all linked alike."""
    devices = tuple(device.model_copy(update={"name": f"device{rank}"}) for rank in range(num_devices))
    return Cluster(name=name, devices=devices, links=(link,), client_link=client_link)


def measure_local_cluster(num_devices: int, name: str = "this-machine") -> Cluster:
    """Worker processes on this machine as a cluster.

    A small network that exchanges after every block runs on real workers; from its trace come the time of a message
    and how much slower processes compute that share this machine's cores.
    """
    alone = measure_device()
    plan, trace = _run_small_network(num_devices)
    slower = statistics.median(_slowdowns(plan, trace, alone))
    device = alone.model_copy(
        update={"flops_per_s": alone.flops_per_s / slower, "layer_overhead_s": alone.layer_overhead_s * slower}
    )
    latency_s = statistics.median(_message_seconds(trace))
    link = Link(bandwidth_bytes_per_s=LOOPBACK_BYTES_PER_S, latency_s=latency_s, medium="own")
    return cluster_like(device, num_devices, link, name, link)


def _run_small_network(num_devices: int) -> tuple[Plan, Trace]:
    """The plan and the trace of a ring of small parts with random weights."""
    from sepnas.cli.workers import LocalWorkers
    from sepnas.deploy.export import export_deployment
    from sepnas.runtime.bench import random_batch
    from sepnas.runtime.session import Session
    from sepnas.train.checkpoint import new_network

    policy = TransmissionPolicy(points=tuple(point(block, ring(num_devices, 1)) for block in range(6)))
    part = DevicePart(bottleneck_width=8, output_channels=16)
    architecture = Architecture(depth=20, image_size=16, num_classes=10, parts=(part,) * num_devices, policy=policy)
    with tempfile.TemporaryDirectory(prefix="sepnas-profile-") as folder:
        deployment, classes = Path(folder) / "deployment", [str(k) for k in range(10)]
        network = new_network(architecture)
        export_deployment(network, deployment, name="profile", classes=classes, mean=(0.0,) * 3, std=(1.0,) * 3)
        with LocalWorkers(deployment, num_devices) as workers, Session(deployment, workers.hosts) as session:
            for _ in range(WARMUP + REQUESTS):
                session.infer(random_batch(session.manifest, 1))
            return build_plan(architecture), session.trace(last=REQUESTS)


def _slowdowns(plan: Plan, trace: Trace, device: Device) -> Iterator[float]:
    times = DeviceTimes(device)
    for request in trace.requests:
        for record in request.devices:
            segments = plan.segments[record.rank]
            for step in record.steps:
                if step.step == "compute":
                    yield (step.end_s - step.start_s) / times.segment_s(segments[step.name])


def _message_seconds(trace: Trace) -> Iterator[float]:
    """From the start of a send to the moment when a device that was waiting has the message."""
    for request in trace.requests:
        sent_s = {step.tag: step.start_s for d in request.devices for step in d.steps if step.step == "send"}
        for record in request.devices:
            for step in record.steps:
                waited = step.step == "recv" and step.arrived_s is not None and step.arrived_s > step.start_s
                if waited and step.peer != CLIENT and step.tag in sent_s:
                    yield step.end_s - sent_s[step.tag]


def _link(bandwidth_mbit: float, latency_ms: float) -> Link:
    # also false for nan and for infinity
    if not (0 < bandwidth_mbit < 1e9 and 0 <= latency_ms < 1e9):
        raise typer.BadParameter(
            "the bandwidth must be more than 0 and less than 1e9 Mbit/s, the latency from 0 and less than 1e9 ms; "
            f"got {bandwidth_mbit:g} Mbit/s, {latency_ms:g} ms",
            param_hint="--bandwidth-mbit, --latency-ms",
        )
    return Link(bandwidth_bytes_per_s=bandwidth_mbit * 1e6 / 8, latency_s=latency_ms / 1e3)


def profile(
    out: Annotated[Path, typer.Option(**FILE, help="The cluster file to write.")] = Path("cluster.yaml"),
    devices: Annotated[int, typer.Option("--devices", "-n", min=1, help="How many devices.")] = 4,
    local: Annotated[bool, typer.Option("--local", help="Worker processes on this machine, measured running.")] = False,
    bandwidth_mbit: Annotated[float | None, typer.Option(help="Bandwidth of the links, Mbit/s [100].")] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Latency of the links, ms [0.5].")] = None,
    name: Annotated[str | None, typer.Option(help="The cluster's name [this machine's].")] = None,
) -> None:
    """Measure this machine on blocks of the family and write a cluster file of machines like it.

    Without `--local` the devices stand behind a switch with the given bandwidth and latency. The file is plain YAML:
    edit it to describe devices that differ, a shared medium, power.

    Example: `sepnas profile cluster --devices 4 --bandwidth-mbit 100 --out cluster.yaml`
    """
    refuse_folder(out)
    if name == "":
        raise typer.BadParameter("must not be empty", param_hint="--name")
    if local and devices < 2:
        raise typer.BadParameter("--local needs at least 2 devices", param_hint="--devices")
    if local and (bandwidth_mbit, latency_ms) != (None, None):
        raise typer.BadParameter("measures the links: no --bandwidth-mbit, no --latency-ms", param_hint="--local")
    if local:
        cluster = measure_local_cluster(devices, name or "this-machine")
    else:
        link = _link(100.0 if bandwidth_mbit is None else bandwidth_mbit, 0.5 if latency_ms is None else latency_ms)
        cluster = cluster_like(measure_device(), devices, link, name or platform.node() or "cluster")
    cluster.save(out)
    device, link = cluster.devices[0], cluster.links[0]
    say(
        f"{out}: {format_count(devices, 'device')} of {device.flops_per_s / 1e9:.1f} GFLOP/s and "
        f"{seconds(device.layer_overhead_s)} a kernel (one thread); "
        f"links of {link.bandwidth_bytes_per_s * 8 / 1e6:g} Mbit/s, {seconds(link.latency_s)}"
    )
