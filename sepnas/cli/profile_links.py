"""``sepnas profile links``: measure the links between the devices with messages of the runtime."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import track

from sepnas.cli.grouped import grouped
from sepnas.cli.options import PATH, Deadline, path_of
from sepnas.console import errors, print_json, say, step_bar
from sepnas.plan.steps import CLIENT
from sepnas.runtime.client.limits import MAX_TRACES
from sepnas.runtime.client.session import Session
from sepnas.spec.cluster import Cluster
from sepnas.spec.document import refuse_folder
from sepnas.spec.folder_lock import changing
from sepnas.spec.hosts import Hosts
from sepnas.tables import DataColumn, DataTable, print_table, shorten_names, text_column
from sepnas.units import format_count, format_seconds

if TYPE_CHECKING:
    from sepnas.measure.links import MeasuredLinks
    from sepnas.runtime.client.trace import RequestRecord, Trace

WARMUP = 10
CLIENT_BATCH = 16
CLIENT_REQUESTS = 20
"""Number and batch size of the requests whose times give the client's bandwidth."""


@dataclass(frozen=True)
class ProbeOptions:
    """The probe: a deployment with almost no computation."""

    write: Annotated[
        Path | None, typer.Option("--write-probe", parser=path_of, help="Write the probe to this folder and exit.")
    ] = None
    count: Annotated[
        int | None, typer.Option("--devices-count", help="With --write-probe: number of devices, 2 to 8.")
    ] = None
    force: Annotated[bool, typer.Option("--force", help="With --write-probe: replace an existing probe.")] = False


@grouped
def links_command(
    deployment: Annotated[
        Path | None, typer.Argument(parser=path_of, help="The probe's folder, copied to the devices.")
    ] = None,
    devices: Annotated[Path | None, typer.Option(parser=path_of, help="hosts.yaml [the deployment's own].")] = None,
    *,
    cluster: Annotated[
        Path | None, typer.Option(parser=path_of, help="A cluster file with its devices in the order of ranks.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The cluster file to write [the one given].", **PATH)] = None,
    requests: Annotated[int, typer.Option(min=3, max=MAX_TRACES, help="Number of requests to measure.")] = 50,
    probe: ProbeOptions,
    local: Annotated[int | None, typer.Option(help="Measure this number of worker processes on this machine.")] = None,
    deadline: Deadline = 30.0,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure latency and bandwidth between all devices over TLS, one message at a time and all at once.

    First, `--write-probe` writes a deployment with almost no computation, in a minute for two devices: copy its folders
    to the devices and start a `sepnas worker` on each, as for any deployment. This command then queries them and writes
    a link for each pair. The figures of a pair are means of both directions, so that errors of the devices' clocks
    cancel. The client's link is the one of this machine, including its own processor time for a request.

    Example: `sepnas profile links probe --devices hosts.yaml --cluster cluster.yaml`
    """
    if (probe.write is None) != (probe.count is None):
        raise typer.BadParameter("go together", param_hint="--write-probe, --devices-count")
    if probe.write is not None and probe.count is not None:
        _write_probe(probe.write, probe.count, probe.force, out or Path("cluster.yaml"))
        return
    if cluster is None:
        raise typer.BadParameter("is missing: the cluster whose links are measured", param_hint="--cluster")
    if (deployment is None) == (local is None):
        raise typer.BadParameter("name either a probe's folder or --local N", param_hint="DEPLOYMENT")
    out = out or cluster
    refuse_folder(out)
    Cluster.load(cluster)  # a wrong file is refused before the measurement
    if local is not None:
        trace, number = _trace_local(local, requests, deadline)
    else:
        assert deployment is not None
        trace, number = _trace(deployment, devices, requests, deadline)
    _write_links(trace, number, cluster, out, requests, json_)


def _write_probe(folder: Path, num_devices: int, force: bool, cluster: Path) -> None:
    """Write a probe, and print how to measure with it."""
    from sepnas.measure.link_probe import PROBE_DAYS, write_probe

    with step_bar("export") as show:
        write_probe(folder, num_devices, force, show)
    files = ["--devices", "hosts.yaml", "--cluster", str(cluster)]
    command = shlex.join(["sepnas", "profile", "links", str(folder), *files])
    say(f"{folder}: a probe for {format_count(num_devices, 'device')}, valid for {PROBE_DAYS} days")
    folders = f"{shlex.quote(str(folder))}/deviceR"
    say(f"next: copy {folders} to device R, start `sepnas worker deviceR` there, then: {command}")


def _write_links(trace: Trace, num_devices: int, cluster: Path, out: Path, requests: int, json_: bool) -> None:
    """Write the cluster with the links of a trace, and print them."""
    from sepnas.measure.links import measure_links, with_links

    found = measure_links(trace, num_devices)
    with changing(out):  # read again: devices may have been measured meanwhile
        after = with_links(Cluster.load(cluster), found)
        after.save(out, "Links were measured by `sepnas profile links`.")
    if json_:
        print_json(found.to_data())
        return
    print_table(_table(found, after))
    say(f"written: {out}, {format_count(len(found.pairs), 'link')} from {format_count(requests, 'request')}")


def _trace(deployment: Path, hosts: Path | Hosts | None, requests: int, timeout_s: float) -> tuple[Trace, int]:
    """The trace of requests through running workers, and the number of devices."""
    from sepnas.runtime.client.bench import random_inputs

    with Session(deployment, devices=hosts, timeout_s=timeout_s) as session:
        traced: list[RequestRecord] = []
        for size, number in ((1, requests), (CLIENT_BATCH, min(requests, CLIENT_REQUESTS))):
            batch = random_inputs(session.manifest, size)
            shown = track(range(WARMUP + number), f"batches of {size}", console=errors, transient=True)
            for _ in shown:
                session.infer(batch)
            trace = session.trace(last=number)
            traced += trace.requests
        return trace.model_copy(update={"requests": tuple(traced)}), session.manifest.num_devices


def _trace_local(num_devices: int, requests: int, timeout_s: float) -> tuple[Trace, int]:
    from sepnas.local.processes import LocalWorkers
    from sepnas.measure.link_probe import write_probe

    with tempfile.TemporaryDirectory(prefix="sepnas-profile-") as folder:
        deployment = Path(folder) / "probe"
        write_probe(deployment, num_devices)
        with LocalWorkers(deployment, num_devices) as workers:
            return _trace(deployment, workers.hosts, requests, timeout_s)


def _table(found: MeasuredLinks, cluster: Cluster) -> DataTable:
    more = DataColumn("load", drop=1), DataColumn("clocks", drop=2)
    table = DataTable((text_column("link", shorten=shorten_names), *map(DataColumn, ("latency", "Mbit/s")), *more))
    names = [device.name for device in cluster.devices]

    def name_of(rank: int) -> str:
        return "client" if rank == CLIENT else names[rank]

    for each in (*found.directions, *found.pairs, *([found.client] if found.client else [])):
        arrow = "->" if each in found.directions else "<->"
        rate = f"{'' if each.bandwidth_known else '> '}{each.bandwidth_bytes_per_s * 8 / 1e6:.4g}"
        load = "" if each.load_ratio is None else f"{each.load_ratio:.2f}x"
        clocks = f"+- {format_seconds(each.uncertainty_s)}" if each.uncertainty_s else ""
        table.add(
            f"{name_of(each.source)} {arrow} {name_of(each.destination)}",
            format_seconds(each.latency_s), rate, load, clocks,
        )  # fmt: skip
    return table
