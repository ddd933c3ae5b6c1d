"""``sepnas profile cluster``, which describes machines like this one or processes on it, and the group of verbs."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sepnas.cli.cluster import MEASURED, Force
from sepnas.cli.options import FILE, MAX_DEVICES
from sepnas.console import say
from sepnas.local.measured_cluster import cluster_like, measure_device, measure_local_cluster
from sepnas.spec.cluster import Link
from sepnas.spec.writing import refuse_existing
from sepnas.units import format_count, seconds

DEFAULT = "cluster"
HELP = """Measure the figures of a cluster file: machines like this one, one device, or the links.

`sepnas profile` alone, or with options, is `sepnas profile cluster`: a quick first file. Better figures come
from `sepnas profile device` on each device, which times every operator as a worker runs it.

Example: `sepnas profile --devices 4 --out cluster.yaml`
"""


class ProfileGroup(TyperGroup):
    """A group whose options without a verb belong to :data:`DEFAULT`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


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
    devices: Annotated[int, typer.Option("--devices", "-n", min=1, max=MAX_DEVICES, help="Number of devices.")] = 4,
    local: Annotated[bool, typer.Option("--local", help="Measure running worker processes on this machine.")] = False,
    bandwidth_mbit: Annotated[float | None, typer.Option(help="Bandwidth of the links, Mbit/s [100].")] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Latency of the links, ms [0.5].")] = None,
    name: Annotated[str | None, typer.Option(help="The cluster's name [this machine's].")] = None,
    force: Force = False,
) -> None:
    """Measure blocks of the networks on this machine, and write a cluster file of such machines.

    Without `--local` the devices are connected by a switch with the given bandwidth and latency. The file is plain
    YAML: edit it for devices that differ, a shared medium, or power figures.

    Example: `sepnas profile cluster --devices 4 --bandwidth-mbit 100 --out cluster.yaml`
    """
    refuse_existing(out, force, MEASURED)
    if name == "":
        raise typer.BadParameter("must not be empty", param_hint="--name")
    if local and devices < 2:
        raise typer.BadParameter("--local needs at least 2 devices", param_hint="--devices")
    if local and (bandwidth_mbit, latency_ms) != (None, None):
        raise typer.BadParameter(
            "measures the links itself: no --bandwidth-mbit, no --latency-ms", param_hint="--local"
        )
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
