"""``sepnas partition``: split an imported network over devices as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepnas import api
from sepnas.cli.options import FILE, TEXT, cluster_to_predict_with, path_to
from sepnas.console import say, warn
from sepnas.partition.counts import PartitionCounts, count_partition
from sepnas.partition.graph import Graph, load_graph
from sepnas.partition.schemes.registry import SCHEMES, on_one_device
from sepnas.plan.document import save_plan
from sepnas.plan.plan import Plan
from sepnas.spec.cluster import Cluster, uniform_cluster
from sepnas.spec.document import few
from sepnas.spec.figures import MAX_DEVICES
from sepnas.tables import DataColumn, DataTable, print_table
from sepnas.units import format_count, format_threads, number, seconds

_LISTED = ". ".join(f"{scheme.name}: {scheme.summary}" for scheme in SCHEMES.values())


def partition(
    network: Annotated[
        Path, typer.Argument(help="The folder of an imported network.", metavar="NETWORK", parser=path_to("network"))
    ],
    scheme: Annotated[str, typer.Option(help=f"{_LISTED}.", **TEXT)],
    devices: Annotated[
        int | None,
        typer.Option("--devices", "-n", min=1, max=MAX_DEVICES, help="The number of devices [the cluster's]."),
    ] = None,
    shares: Annotated[
        str | None, typer.Option(help="Shares of the work, such as 2,1,1 [the devices' speeds].", **TEXT)
    ] = None,
    cluster: Annotated[Path | None, typer.Option(help="A cluster file [equal boards on 100 Mbit/s].", **FILE)] = None,
    wire: Annotated[str, typer.Option(help="The format of messages between devices.", **TEXT)] = "fp32",
    out: Annotated[Path, typer.Option(help="The plan file to write.", **FILE)] = Path("plan.json"),
) -> None:
    """Split an imported network over devices as it is: the same answers, up to rounding.

    Operators that a scheme cannot split are computed whole by one device, and named. The plan is checked, priced on the
    cluster, and compared with the network on its fastest device alone: if no split is faster, it says so. `simulate`,
    `describe` and `report` take the plan file; `sepnas export NETWORK DEPLOYMENT --plan FILE` writes a deployment.

    Example: `sepnas partition resnet50 --scheme rows --devices 4 --out plan.json`
    """
    parts, given = _shares(shares), cluster_to_predict_with(cluster) if cluster else None
    count = devices or len(parts) or (given.num_devices if given else 0)
    if not count or (parts and len(parts) != count):
        raise typer.BadParameter("needs --devices, --shares or --cluster, and one share for each device")
    graph, where = load_graph(network), given or uniform_cluster(count)
    plan = api.partition(graph, scheme, parts or [device.flops_per_s for device in where.devices[:count]], wire=wire)
    save_plan(plan, out)
    _print(count_partition(graph, plan))
    _say_predicted(graph, plan, where)
    say(f"written: {out}")


def _shares(text: str | None) -> list[float]:
    try:
        return [float(each) for each in text.split(",")] if text else []
    except ValueError:
        raise typer.BadParameter(f"is no list of numbers: {text!r}", param_hint="--shares") from None


def _print(counts: PartitionCounts) -> None:
    table = DataTable((DataColumn("device"), DataColumn("MACs"), DataColumn("share"), DataColumn("weights, bytes")))
    for rank, (macs, stored) in enumerate(zip(counts.macs, counts.weight_bytes, strict=True)):
        table.add(str(rank), number(macs), f"{macs / max(1, counts.network_macs):.1%}", number(stored))
    print_table(table)
    say(
        f"{number(counts.payload_bytes)} bytes between devices in {format_count(counts.transfers, 'message')}; "
        f"MACs are {sum(counts.macs) / max(1, counts.network_macs):.3f} of the network's"
    )
    if counts.whole:
        warn(f"computed whole by one device: {few(counts.whole)}")


def _say_predicted(graph: Graph, plan: Plan, cluster: Cluster) -> None:
    """The predicted latency, beside that of the fastest device alone."""
    fastest = max(range(plan.num_devices), key=lambda rank: cluster.devices[rank].flops_per_s)
    latency_s = api.simulate(plan, cluster).simulation.latency_s
    alone_s = api.simulate(on_one_device(graph, fastest, plan.num_devices), cluster).simulation.latency_s
    say(
        f"predicted on {cluster.name}, {format_threads(cluster.threads[: plan.num_devices])}: {seconds(latency_s)} an "
        f"answer; device {fastest} alone, {format_count(cluster.threads[fastest], 'thread')}: {seconds(alone_s)}, "
        f"{alone_s / latency_s:.2f} times as long"
    )
    if alone_s <= latency_s and plan.num_devices > 1:
        warn(f"device {fastest} alone answers sooner: this split does not pay for one request at a time")
