"""``sepnas profile``: write a cluster of machines like this one."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import typer

from sepnas.cli.common import console
from sepnas.cost.calibrate import fit_rate
from sepnas.spec.cluster import Cluster, Device, Link

# a message between two Python processes on one machine: TLS, a thread on each side
LOOPBACK = Link(bandwidth_bytes_per_s=1e9, latency_s=1e-4, message_overhead_s=5e-5)
DEFAULT_MEMORY_BYTES = 1 << 30


def measure_cluster(num_devices: int, link: Link = LOOPBACK, name: str | None = None, repeats: int = 15) -> Cluster:
    """Time blocks of the family here (one thread) and describe ``num_devices`` such machines, all linked alike."""
    from sepnas.deploy.profile import time_blocks

    flops_per_s, layer_overhead_s = fit_rate(list(time_blocks(repeats)))
    devices = tuple(
        Device(
            name=f"device{rank}",
            flops_per_s=flops_per_s,
            layer_overhead_s=layer_overhead_s,
            memory_bytes=DEFAULT_MEMORY_BYTES,
        )
        for rank in range(num_devices)
    )
    return Cluster(name=name or platform.machine(), devices=devices, links=(link,), client_link=link)


def profile(
    out: Annotated[Path, typer.Option(help="The cluster file to write.")] = Path("cluster.yaml"),
    devices: Annotated[int, typer.Option("--devices", "-n", min=1, help="How many devices like this one.")] = 4,
    bandwidth_mbit: Annotated[float | None, typer.Option(min=1e-6, help="Bandwidth of the links, Mbit/s.")] = None,
    latency_ms: Annotated[float | None, typer.Option(min=0, help="Latency of the links, ms.")] = None,
    name: Annotated[str | None, typer.Option(help="The cluster's name.")] = None,
) -> None:
    """Measure this machine on blocks of the family and write a cluster file.

    Without bandwidth and latency the links are those between processes of one machine. The file is plain YAML: edit
    it to describe devices that differ, a shared medium, power.
    """
    changes = {}
    if bandwidth_mbit is not None:
        changes["bandwidth_bytes_per_s"] = bandwidth_mbit * 1e6 / 8
    if latency_ms is not None:
        changes["latency_s"] = latency_ms / 1e3
    cluster = measure_cluster(devices, LOOPBACK.model_copy(update=changes), name)
    cluster.save(out)
    device = cluster.devices[0]
    console.print(
        f"{out}: {devices} devices of {device.flops_per_s / 1e9:.1f} GFLOP/s and "
        f"{1e6 * device.layer_overhead_s:.0f} us a layer, measured on one thread"
    )
