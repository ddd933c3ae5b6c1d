"""``sepnas partition``: split an imported network over devices as it is."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sepnas import api
from sepnas.assign.goal import SHORT_NAMES
from sepnas.cli.assignment_table import show_assignment
from sepnas.cli.bounds import PlanBoundOptions
from sepnas.cli.grouped import grouped
from sepnas.cli.options import FILE, PLAN_CONTENT, TEXT, AsJson, ReplacePlan, cluster_to_predict_with, path_to
from sepnas.console import print_json, say, warn
from sepnas.partition.counts import PartitionCounts, count_partition
from sepnas.partition.graph import Graph, load_graph
from sepnas.partition.schemes.registry import SCHEMES, on_one_device
from sepnas.plan.document import save_plan
from sepnas.plan.liveness import devices_used
from sepnas.plan.plan import Plan
from sepnas.spec.cluster import Cluster, uniform_cluster
from sepnas.spec.document import few
from sepnas.spec.figures import MAX_DEVICES
from sepnas.spec.writing import refuse_existing
from sepnas.tables import DataColumn, DataTable, print_table
from sepnas.units import format_count, format_threads, number, seconds

_LISTED = ". ".join(f"{scheme.name}: {scheme.summary}" for scheme in SCHEMES.values())


@grouped
def partition(
    network: Annotated[
        Path, typer.Argument(help="The folder of an imported network.", metavar="NETWORK", parser=path_to("network"))
    ],
    cluster: Annotated[Path | None, typer.Option(help="A cluster file [equal boards on 100 Mbit/s].", **FILE)] = None,
    devices: Annotated[
        int | None,
        typer.Option("--devices", "-n", min=1, max=MAX_DEVICES, help="The number of devices [the cluster's]."),
    ] = None,
    *,
    objective: Annotated[
        str | None, typer.Option(help=f"The best plan by {', '.join(SHORT_NAMES)} [latency].", **TEXT)
    ] = None,
    limits: PlanBoundOptions,
    plan: Annotated[
        list[Path] | None, typer.Option(help="A plan file to compare with; again for each.", **FILE)
    ] = None,
    scheme: Annotated[str | None, typer.Option(help=f"No search, but this scheme. {_LISTED}.", **TEXT)] = None,
    shares: Annotated[
        str | None, typer.Option(help="With --scheme: shares of the work, such as 2,1,1 [the devices' speeds].", **TEXT)
    ] = None,
    wire: Annotated[str, typer.Option(help="The format of messages between devices.", **TEXT)] = "fp32",
    json_: AsJson = False,
    out: Annotated[Path, typer.Option(help="The plan file to write.", **FILE)] = Path("plan.json"),
    force: ReplacePlan = False,
) -> None:
    """Split an imported network over devices as it is: the same answers, up to rounding.

    Searches for the best way to run the network on the cluster, and writes its plan: every scheme over all or some of
    the devices, with shares by their speeds, and mixtures of schemes. The table has the predicted costs of the
    alternatives, the best first; no split at all is always among them, and wins where more devices do not pay.
    `--scheme` takes a scheme as given instead.

    Speeds are those of the cluster file's `threads`; start each worker with the same number (`sepnas worker
    --threads`). Operators that a scheme cannot split are computed whole by one device. `simulate`, `describe` and
    `report` take the plan file; `sepnas export NETWORK DEPLOYMENT --plan FILE` writes a deployment.

    Examples: `sepnas partition resnet50 --cluster cluster.yaml --objective throughput --bound 'latency_s<=200ms'`,
    `sepnas partition resnet50 --scheme rows --devices 4 --out plan.json`
    """
    refuse_existing(out, force, PLAN_CONTENT)
    parts, given = _shares(shares), cluster_to_predict_with(cluster) if cluster else None
    count = devices or len(parts) or (given.num_devices if given else 0)
    if not count or (parts and len(parts) != count):
        raise typer.BadParameter(
            "needs --devices, --shares or --cluster, and one share for each device; a cluster file is written by: "
            "sepnas cluster --device raspberry-pi-4b:4"
        )
    graph, where = load_graph(network), _first_of(given or uniform_cluster(count), count)
    if scheme is None:
        if parts:
            raise typer.BadParameter("needs --scheme", param_hint="--shares")
        found = api.assign(
            graph, where, objective=objective or "latency", bounds=limits.bounds(), wire=wire, plans=plan or ()
        )
        made = found.chosen.plan
        save_plan(made, out)
        print_json(found.to_data()) if json_ else show_assignment(found)
    else:
        _refuse_with_scheme(objective, limits, plan)
        made = api.partition(graph, scheme, parts or [each.flops_per_s for each in where.devices], wire=wire)
        save_plan(made, out)
        _show_scheme(scheme, graph, made, where, json_)
    if not json_:
        _say_next(network, out, {where.threads[rank] for rank in devices_used(made)})


def _say_next(network: Path, out: Path, threads: Collection[int]) -> None:
    """Print the next command, and the option of workers that predictions for several threads assume."""
    say(f"written: {out}")
    if max(threads) > 1:
        each = f"--threads {max(threads)}" if len(threads) == 1 else "--threads N, with `threads` of the cluster file,"
        say(f"this prediction needs workers with {each}: without it they compute on one thread")
    folder = network if network.is_dir() else network.parent
    words = ["sepnas", "export", str(folder), str(folder.parent / "deployment"), "--plan", str(out)]
    say(f"next: {shlex.join(words)}")


def _first_of(cluster: Cluster, count: int) -> Cluster:
    """The cluster with its first devices only."""
    if count == cluster.num_devices:
        return cluster
    if count > cluster.num_devices:
        raise typer.BadParameter(f"cluster {cluster.name} has {cluster.num_devices}", param_hint="--devices")
    names = {device.name for device in cluster.devices[:count]}
    links = tuple(each for each in cluster.links if each.between == "all" or names.issuperset(each.between))
    return cluster.model_copy(update={"devices": cluster.devices[:count], "links": links})


def _refuse_with_scheme(objective: str | None, limits: PlanBoundOptions, plans: list[Path] | None) -> None:
    given = {"--objective": objective, "--bound": limits.bounds(), "--plan": plans}
    for name, value in given.items():
        if value:
            raise typer.BadParameter("belongs to a search, and --scheme takes a scheme as given", param_hint=name)


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


def _show_scheme(scheme: str, graph: Graph, plan: Plan, cluster: Cluster, as_json: bool) -> None:
    """The counts of a split, and its predicted latency beside that of the fastest device alone."""
    fastest = max(range(plan.num_devices), key=lambda rank: cluster.devices[rank].flops_per_s)
    latency_s = api.simulate(plan, cluster).simulation.latency_s
    alone_s = api.simulate(on_one_device(graph, fastest, plan.num_devices), cluster).simulation.latency_s
    counts = count_partition(graph, plan)
    if as_json:
        alone = {"device": fastest, "latency_s": alone_s}
        priced = {"cluster": cluster.name, "latency_s": latency_s, "alone": alone}
        print_json({"scheme": scheme, **asdict(counts), **priced})
        return
    _print(counts)
    _say_predicted(plan, cluster, fastest, latency_s, alone_s)


def _say_predicted(plan: Plan, cluster: Cluster, fastest: int, latency_s: float, alone_s: float) -> None:
    say(
        f"predicted on {cluster.name}, {format_threads(cluster.threads)}: {seconds(latency_s)} an "
        f"answer; device {fastest} alone, {format_count(cluster.threads[fastest], 'thread')}: {seconds(alone_s)}"
        + (f", {alone_s / latency_s:.2f} times as long" if latency_s else "")
    )
    if alone_s <= latency_s and plan.num_devices > 1:
        warn(f"device {fastest} alone answers sooner: this split does not pay for one request at a time")
