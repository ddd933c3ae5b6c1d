"""``sepnas bench``: measure a deployment on random images, on its devices or on an emulated cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepnas.cli.grouped import grouped
from sepnas.cli.options import (
    Deadline,
    Deployment,
    HostsFile,
    Insecure,
    PlanChoice,
    cluster_to_predict_with,
    path_of,
    time_s,
)
from sepnas.console import print_json, say, warn
from sepnas.emulation.bench import EmulatedBench, run_bench
from sepnas.emulation.cluster import Setting, ShapingChoice, emulated_cluster, open_session, read_setting
from sepnas.emulation.link_check import LinkCheck
from sepnas.plan.steps import CLIENT
from sepnas.runtime.client.limits import MAX_IN_FLIGHT, MAX_TRACES
from sepnas.runtime.client.session import Session
from sepnas.runtime.protocol.connection import MAX_BATCH
from sepnas.spec.arguments import MAX_COUNT
from sepnas.tables import DataColumn, DataTable, print_table, text_column
from sepnas.units import format_count, format_threads, number, seconds

if TYPE_CHECKING:
    from sepnas.cost.prediction import Prediction
    from sepnas.deployment.manifest import Manifest
    from sepnas.runtime.client.bench import BenchResult


@dataclass(frozen=True)
class LoadOptions:
    """The requests that are measured."""

    requests: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Number of requests to measure.")] = 200
    warmup: Annotated[int, typer.Option(min=0, help="Number of warm-up requests.")] = 20
    batch: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Images, or other samples, in one request.")] = 1
    in_flight: Annotated[
        int,
        typer.Option(
            min=1, max=MAX_IN_FLIGHT, help="Also measure throughput, with this number of concurrent requests."
        ),
    ] = 1


@dataclass(frozen=True)
class TraceOptions:
    """The file of the trace, and the number of requests in it."""

    trace: Annotated[Path | None, typer.Option(parser=path_of, help="File for the trace of the last requests.")] = None
    traced: Annotated[int, typer.Option(min=1, max=MAX_TRACES, help="Requests in the trace.")] = 1

    def save(self, session: Session) -> None:
        if self.trace is not None:
            session.trace(last=self.traced).save(self.trace)


@dataclass(frozen=True)
class EmulationOptions:
    """A cluster that is emulated on this machine."""

    emulate: Annotated[
        Path | None, typer.Option(parser=path_of, help="A cluster to emulate on this machine, instead of --devices.")
    ] = None
    shaping: Annotated[
        ShapingChoice,
        typer.Option(help="How links are emulated. netns: by the kernel (root); auto: netns where possible."),
    ] = "auto"
    jitter: Annotated[
        float,
        typer.Option(parser=time_s, metavar="TIME", help="Mean of a random extra delay of each emulated message."),
    ] = 0.0
    check_links: Annotated[bool, typer.Option("--check-links", help="Measure the emulated links first.")] = False


@grouped
def bench(
    deployment: Deployment,
    *,
    devices: HostsFile = None,
    plan: PlanChoice = None,
    load: LoadOptions,
    deadline: Deadline = 10.0,
    cluster: Annotated[Path | None, typer.Option(parser=path_of, help="A cluster to predict with.")] = None,
    traces: TraceOptions,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    insecure: Insecure = False,
    emulation: EmulationOptions,
) -> None:
    """Measure latency, throughput and bytes of a deployment on random images, or on random tensors of its inputs.

    `--emulate` starts the workers itself, one process for each device of a cluster. Computations take as long as on the
    emulated devices, messages as long as on the emulated links, and the table compares the measurement with the
    simulator's prediction. `--jitter 2ms` adds a random delay with this mean to each message, like `jitter_s` of a
    cluster.

    `--plan` measures another plan than the default one.

    Example: `sepnas bench deployment --emulate cluster.yaml --requests 50`
    """
    from sepnas.runtime.client.bench import bench as measure
    from sepnas.runtime.client.bench import random_inputs

    _refuse_mixture(emulation, {"--devices": devices, "--cluster": cluster})
    if emulation.emulate is not None:
        setting = read_setting(
            deployment, emulation.emulate, emulation.shaping, load.batch, emulation.jitter, insecure, plan
        )
        _bench_emulated(setting, load, traces, deadline, json_, emulation.check_links)
        return
    predicted = None if cluster is None else _predicted(deployment, plan, cluster, load.batch)
    plans = None if plan is None else [plan]
    with Session(deployment, devices=devices, timeout_s=deadline, insecure=insecure, plans=plans) as session:
        result = measure(
            session, random_inputs(session.manifest, load.batch, plan=plan), load.requests, load.warmup, load.in_flight
        )
        if json_:
            latency_s = None if predicted is None else predicted.latency_s
            print_json({"plan": session.plans[0], **result.to_data(), "latency_predicted_s": latency_s})
        else:
            _print_bench(result, predicted, plan, _noun(session.manifest, plan))
        traces.save(session)  # last: the figures are shown even if this file cannot be written


def _bench_emulated(
    setting: Setting, load: LoadOptions, traces: TraceOptions, deadline: float, json_: bool, check_links: bool
) -> None:
    with emulated_cluster(setting) as running:
        links = running.check_links() if check_links else []
        with open_session(setting, running, deadline) as session:
            found = run_bench(setting, session, load.requests, load.warmup, links, load.in_flight)
            print_json(found.to_data()) if json_ else print_emulated(found)
            traces.save(session)


def _refuse_mixture(emulation: EmulationOptions, real: Mapping[str, object]) -> None:
    """Raise typer's ``BadParameter`` for options of a real cluster beside those of an emulated one."""
    emulated: Mapping[str, object] = {
        "--jitter": emulation.jitter,
        "--check-links": emulation.check_links,
        "--shaping": emulation.shaping != "auto",
    }
    if emulation.emulate is None:
        refused, why = emulated, "goes with --emulate only"
    else:
        refused, why = real, "does not go with --emulate, which starts its own workers"
    for option, value in refused.items():
        if value:
            raise typer.BadParameter(why, param_hint=option)


def _predicted(deployment: Path, plan: str | None, cluster: Path, batch: int) -> Prediction:
    from sepnas.cost.prediction import predict
    from sepnas.deployment.serial import deployed_plan

    return predict(deployed_plan(deployment, plan), cluster_to_predict_with(cluster), batch)


def _noun(manifest: Manifest, plan: str | None) -> str:
    """The word for one of a request: ``image``, or ``sample`` if an input is none."""
    return "image" if all(each.image is not None for each in manifest.inputs_of(plan).values()) else "sample"


def _title(result: BenchResult, plan: str | None, noun: str) -> str:
    follows = "" if plan is None else f", plan {plan}"
    return f"{format_count(result.requests, 'request')} of {format_count(result.batch, noun)}{follows}"


def _print_bench(result: BenchResult, predicted: Prediction | None, plan: str | None, noun: str) -> None:
    table = DataTable((text_column(""), DataColumn("")), _title(result, plan, noun), show_header=False)
    table.add("latency, median", seconds(result.latency_median_s))
    table.add("latency, mean", seconds(result.latency_mean_s))
    table.add("latency, p99", seconds(result.latency_p99_s))
    if predicted is not None:
        threads = format_threads(predicted.cluster.threads[: predicted.plan.num_devices])
        table.add(f"latency, predicted, {threads}", seconds(predicted.latency_s))
    table.add(f"{noun}s a second", number(result.samples_per_s))
    if result.stream is not None:
        table.add(f"{noun}s a second, {result.stream.in_flight} in flight", number(result.stream.samples_per_s))
    table.add("payload bytes a request, counted", number(result.payload_bytes_per_request))
    table.add("payload bytes a request, predicted", number(result.payload_bytes_predicted))
    table.add("with frame headers, counted", number(result.frame_bytes_per_request))
    table.add("input bytes a request, counted", number(result.input_bytes_per_request))
    table.add("input bytes a request, predicted", number(result.input_bytes_predicted))
    table.add("total bytes a request, counted", number(result.total_bytes_per_request))
    table.add("total bytes a request, predicted", number(result.total_bytes_predicted))
    print_table(table)


_LATE_SHARE = 0.01
"""Maximum lateness of steps and messages, as a share of the latency; beyond it the figures are meaningless."""


def print_emulated(found: EmulatedBench) -> None:
    """Print the table, and a warning if this machine was too slow for the emulation."""
    setting, result = found.setting, found.result
    noun = _noun(setting.manifest, setting.name)
    if found.links:
        _print_links(found.links)
    table = DataTable(
        (text_column(""), *map(DataColumn, ("measured", "predicted", "ratio"))),
        title=f"{_title(result, setting.name, noun)}, on {setting.cluster.name}, emulated",
    )
    measured, predicted = asdict(found.measured()), asdict(found.predicted)
    for name, ratio in found.ratios().items():
        table.add(f"latency, {name}", seconds(measured[name]), seconds(predicted[name]), f"{ratio:.3f}")
    for name, counted, predicted_bytes in (
        ("payload bytes", result.payload_bytes_per_request, result.payload_bytes_predicted),
        ("input bytes", result.input_bytes_per_request, result.input_bytes_predicted),
        ("total bytes", result.total_bytes_per_request, result.total_bytes_predicted),
    ):
        table.add(f"{name} a request", number(counted), number(predicted_bytes), "")
    table.add(f"{noun}s a second", number(result.samples_per_s), "", "")
    if (predicted_per_s := found.stream_predicted()) is not None and result.stream is not None:
        measured_per_s = result.stream.samples_per_s
        table.add(
            f"{noun}s a second, {result.stream.in_flight} in flight",
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
    "netns": "were later than the link's description allows (TLS, the kernel's queues, this machine's own time)",
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
