"""``sepnas worker``, ``infer`` and ``bench``: a deployment at work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepnas.cli.options import (
    MAX_COUNT,
    Deadline,
    Deployment,
    HostsFile,
    Insecure,
    cluster_to_predict_with,
    path_of,
)
from sepnas.cli.quantities import time_s
from sepnas.console import print_json, say, warn
from sepnas.emulation.bench import (
    EmulatedBench,  # BACK
    run_bench,
)
from sepnas.emulation.cluster import ShapingChoice, emulated_cluster, open_session, read_setting
from sepnas.emulation.link_check import LinkCheck
from sepnas.plan.steps import CLIENT
from sepnas.runtime.client.session import MAX_IN_FLIGHT, MAX_TRACES, Session
from sepnas.runtime.protocol.connection import MAX_BATCH
from sepnas.tables import DataColumn, DataTable, print_table, text_column
from sepnas.units import format_count, number, seconds

if TYPE_CHECKING:
    from sepnas.runtime.client.bench import BenchResult


def bench(
    deployment: Deployment,
    devices: HostsFile = None,
    requests: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Requests to measure.")] = 200,
    warmup: Annotated[int, typer.Option(min=0, help="Requests before the measuring.")] = 20,
    batch: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Images in one request.")] = 1,
    in_flight: Annotated[
        int, typer.Option(min=1, max=MAX_IN_FLIGHT, help="Then as many requests again, so many at once: throughput.")
    ] = 1,
    deadline: Deadline = 10.0,
    cluster: Annotated[Path | None, typer.Option(parser=path_of, help="A cluster to predict with.")] = None,
    trace: Annotated[Path | None, typer.Option(parser=path_of, help="File for the trace of the last requests.")] = None,
    traced: Annotated[int, typer.Option(min=1, max=MAX_TRACES, help="Requests in the trace.")] = 1,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    insecure: Insecure = False,
    emulate: Annotated[
        Path | None, typer.Option(parser=path_of, help="A cluster to emulate on this machine, instead of --devices.")
    ] = None,
    shaping: Annotated[
        ShapingChoice, typer.Option(help="Who shapes emulated links. netns: the kernel (root); auto: it if it can.")
    ] = "auto",
    jitter: Annotated[
        float, typer.Option(parser=time_s, metavar="TIME", help="More latency of each emulated message, at random.")
    ] = 0.0,
    check_links: Annotated[bool, typer.Option("--check-links", help="Measure the emulated links first.")] = False,
) -> None:
    """Measure latency, throughput and bytes of a deployment on random images.

    `--emulate` starts the workers itself, one process for each device of a cluster: computation takes as long as on
    that device, messages as long as on its links, and the simulator's prediction stands beside what was measured.
    `--jitter 2ms` delays each message by so much more on average, at random: as a cluster's own `jitter_s` does.

    Example: `sepnas bench deployment --emulate cluster.yaml --requests 50`
    """
    from sepnas.runtime.client.bench import bench as measure
    from sepnas.runtime.client.bench import random_batch

    _refuse_mixture(
        emulate is not None,
        {"--devices": devices, "--cluster": cluster},
        {"--jitter": jitter, "--check-links": check_links, "--shaping": shaping != "auto"},
    )
    if emulate is not None:
        setting = read_setting(deployment, emulate, shaping, batch, jitter, insecure)
        with emulated_cluster(setting) as running:
            links = running.check_links() if check_links else []
            with open_session(setting, running, deadline) as session:
                found = run_bench(setting, session, requests, warmup, links, in_flight)
                print_json(found.to_data()) if json_ else print_emulated(found)
                if trace is not None:
                    session.trace(last=traced).save(trace)
        return
    predicted_s = None if cluster is None else _predicted_latency_s(deployment, cluster, batch)
    with Session(deployment, devices=devices, deadline_s=deadline, insecure=insecure) as session:
        result = measure(session, random_batch(session.manifest, batch), requests, warmup, in_flight)
        if json_:
            print_json(result.to_data() | {"latency_predicted_s": predicted_s})
        else:
            _print_bench(result, predicted_s)
        if trace is not None:  # last: what was measured is shown even if this file cannot be written
            session.trace(last=traced).save(trace)


def _refuse_mixture(emulates: bool, real: Mapping[str, object], emulated: Mapping[str, object]) -> None:
    """Options of a real and of an emulated cluster do not go together; raises typer's ``BadParameter``."""
    for option, value in (real if emulates else emulated).items():
        if value:
            text = (
                "does not go with --emulate, which starts its own workers" if emulates else "goes with --emulate only"
            )
            raise typer.BadParameter(text, param_hint=option)


def _predicted_latency_s(deployment: Path, cluster: Path, batch: int) -> float:
    from sepnas.cost.simulator import simulate
    from sepnas.deployment.manifest import Manifest
    from sepnas.separable.build import build_plan

    architecture = Manifest.load(deployment / "manifest.json").architecture
    return simulate(build_plan(architecture), cluster_to_predict_with(cluster), batch).latency_s


def _print_bench(result: BenchResult, predicted_s: float | None) -> None:
    title = f"{format_count(result.requests, 'request')} of {format_count(result.batch, 'image')}"
    table = DataTable((text_column(""), DataColumn("")), title, show_header=False)
    table.add("latency, median", seconds(result.latency_median_s))
    table.add("latency, mean", seconds(result.latency_mean_s))
    table.add("latency, p99", seconds(result.latency_p99_s))
    if predicted_s is not None:
        table.add("latency, predicted", seconds(predicted_s))
    table.add("images a second", number(result.images_per_s))
    if result.stream is not None:
        table.add(f"images a second, {result.stream.in_flight} in flight", number(result.stream.images_per_s))
    table.add("payload bytes a request, counted", number(result.payload_bytes_per_request))
    table.add("payload bytes a request, predicted", number(result.payload_bytes_predicted))
    table.add("with frame headers, counted", number(result.frame_bytes_per_request))
    print_table(table)


_LATE_SHARE = 0.01
"""Where what came late makes up more of the latency than this, the figures are not those of the cluster."""


def print_emulated(found: EmulatedBench) -> None:
    """The table for the terminal, and a warning where the emulation does not hold."""
    setting, result = found.setting, found.result
    if found.links:
        _print_links(found.links)
    table = DataTable(
        (text_column(""), *map(DataColumn, ("measured", "predicted", "ratio"))),
        title=f"{format_count(result.requests, 'request')} of {format_count(result.batch, 'image')} on "
        f"{setting.cluster.name}, emulated",
    )
    measured, predicted = asdict(found.measured()), asdict(found.predicted)
    for name, ratio in found.ratios().items():
        table.add(f"latency, {name}", seconds(measured[name]), seconds(predicted[name]), f"{ratio:.3f}")
    table.add(
        "payload bytes a request", number(result.payload_bytes_per_request), number(result.payload_bytes_predicted), ""
    )
    table.add("images a second", number(result.images_per_s), "", "")
    if (predicted_per_s := found.stream_predicted()) is not None and result.stream is not None:
        measured_per_s = result.stream.images_per_s
        table.add(
            f"images a second, {result.stream.in_flight} in flight",
            *(number(measured_per_s), number(predicted_per_s), f"{measured_per_s / predicted_per_s:.3f}"),
        )
    print_table(table)
    say(f"links are shaped {_HOW[setting.shaping]} ({setting.why})")
    for what, words in (("steps", _SLOWER), ("messages", _LATER[setting.shaping])):
        _print_late(found, what, words)


def _print_links(links: Sequence[LinkCheck]) -> None:
    headings = ("4 bytes take", "measured", "bandwidth", "measured")
    table = DataTable((text_column("link"), *map(DataColumn, headings)), title="links, one of each kind")
    for link in links:
        table.add(
            f"{'client' if link.source == CLIENT else link.source} to {link.destination}",
            seconds(link.message_set_s),
            seconds(link.message_measured_s),
            _mbit(link.bandwidth_set_bytes_per_s),
            _mbit(link.bandwidth_measured_bytes_per_s),
        )
    print_table(table)


def _mbit(bytes_per_s: float) -> str:
    return f"{8e-6 * bytes_per_s:.4g} Mbit/s"


_HOW = {
    "process": "in the processes",
    "netns": "by the kernel, in network namespaces; latency, overhead, jitter and turns on a shared medium by the "
    "processes, which also hold what a token bucket lets through at once",
}


_SLOWER = "took longer here than on the emulated device"


_LATER = {
    "process": "took longer here than on the emulated link",
    "netns": "came later than by the description of the link (TLS, the kernel's queues, this machine's own time)",
}


def _print_late(found: EmulatedBench, what: str, words: str) -> None:
    counts = found.late(what)
    if not counts["late"]:
        return
    text = f"{counts['late']:.0f} of {counts['timed']:.0f} {what} {words}, by {_mean(counts)} on average"
    expected = what == "messages" and found.setting.shaping == "netns"
    if found.late_share(what) > _LATE_SHARE and not expected:
        warn(f"{text}: these figures are not those of the cluster")
    else:
        say(text)


def _mean(counts: Mapping[str, float]) -> str:
    return seconds(counts["late_s"] / counts["late"])
