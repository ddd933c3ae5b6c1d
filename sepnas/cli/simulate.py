"""``sepnas simulate``: predict time, bytes, memory and energy of one inference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepnas import api
from sepnas.cli.grouped import grouped
from sepnas.cli.options import FILE, AsJson, NameOrPlan, NetworkOptions, Out, cluster_to_predict_with, refuse_text_file
from sepnas.console import print_json, say
from sepnas.cost.jitter import has_jitter
from sepnas.cost.prediction import Prediction
from sepnas.cost.simulator import Simulation
from sepnas.cost.timeline import predicted_timeline
from sepnas.plan.plan import Plan
from sepnas.report.show_timeline import TimelineFormat, show_timelines
from sepnas.separable.build import build_plan
from sepnas.separable.read import is_plan_file
from sepnas.spec.arguments import MAX_COUNT
from sepnas.spec.cluster import Cluster
from sepnas.tables import DataColumn, DataTable, print_table, shorten_names, text_column
from sepnas.units import format_count, format_threads, number, seconds


@grouped
def simulate_command(
    name: NameOrPlan,
    cluster: Annotated[Path | None, typer.Option(help="A cluster file [equal boards on 100 Mbit/s].", **FILE)] = None,
    *,
    network: NetworkOptions,
    batch: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Images in one request.")] = 1,
    percentile: Annotated[
        float | None, typer.Option(min=0, max=100, help="Also predict this percentile of the latency.")
    ] = None,
    in_flight: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_COUNT, help="Also predict the throughput with this number of concurrent requests."),
    ] = None,
    json_: AsJson = False,
    timeline: Annotated[
        TimelineFormat | None, typer.Option(help="Show the time line. text: bars; chrome: for ui.perfetto.dev.")
    ] = None,
    out: Out = None,
) -> None:
    """Predict time, bytes, memory and energy of one inference on a cluster.

    The critical path is the time of computation, bandwidth and latency alone: messages cost no processor time and never
    queue. The difference to the answer's latency is the cost of the exchange. The cluster file says for how many
    `threads` of its worker a device is described. Percentiles draw random times from `jitter` of the devices and
    `jitter_s` of the links in the cluster file. `--timeline` shows when each device computes and waits: as bars below
    the table, or as JSON instead of it.

    Examples: `sepnas simulate resnext56_4x16d -n 4 --policy hand-made --cluster cluster.yaml --percentile 95
    --in-flight 4`, `sepnas simulate resnext20_4x4d -n 4 --policy hand-made --timeline chrome --out timeline.json`
    """
    refuse_text_file(timeline, out)
    if json_ and timeline is not None:
        raise typer.BadParameter("already includes the time line: no --timeline", param_hint="--json")
    title, plan = _plan_of(name, network)
    found = api.simulate(
        plan, cluster_to_predict_with(cluster) if cluster else None, batch=batch, percent=percentile,
        in_flight=in_flight, timeline=json_ or timeline is not None,
    )  # fmt: skip
    if json_:
        print_json(found.to_data())
        return
    if timeline in (None, "text") or out is not None:
        _print_simulation(title, found.cluster, found.simulation)
        _print_times(found)
        if percentile is not None and not has_jitter(found.cluster):
            say(f"cluster {found.cluster.name} has no `jitter` and no `jitter_s`: all answers take the same time")
    if timeline is not None:
        show_timelines(timeline, [predicted_timeline(found.plan, found.simulation, batch)], out)


def _plan_of(name: str, network: NetworkOptions) -> tuple[str, Plan]:
    """A description of the network or plan file, and its plan."""
    if is_plan_file(name):
        return f"plan {name}", network.plan(name)
    architecture = network.architecture(name)
    return f"{architecture.name}, policy {architecture.policy.name}", build_plan(architecture)


def _print_simulation(title: str, cluster: Cluster, result: Simulation) -> None:
    say(
        f"{title}, on cluster {cluster.name}: answer after {seconds(result.latency_s)} on "
        f"{format_threads(cluster.threads[: len(result.compute_s)])}, all done after {seconds(result.makespan_s)}, "
        f"{format_count(result.payload_bytes, 'byte')} between devices, {number(result.input_bytes)} of input, "
        f"{number(result.total_bytes)} in all"
    )
    numbers = DataColumn("computes"), DataColumn("busy", drop=1), DataColumn("memory,\nbytes", drop=2)
    more = DataColumn("energy, J", drop=3), DataColumn("sends,\nbytes")
    table = DataTable((text_column("device", shorten=shorten_names), *numbers, *more))
    for rank in range(len(result.compute_s)):
        sent = sum(link.payload_bytes for link in result.links if link.source == rank)
        table.add(
            cluster.devices[rank].name, seconds(result.compute_s[rank]), seconds(result.busy_s[rank]),
            number(result.peak_memory_bytes[rank]), _energy(cluster, result, rank), number(sent),
        )  # fmt: skip
    print_table(table)


def _energy(cluster: Cluster, result: Simulation, rank: int) -> str:
    """A device's energy in joules; ``-`` if the cluster gives it no power."""
    return f"{result.energy_j[rank]:.3g}" if cluster.devices[rank].has_figures("power") else "-"


def _print_times(found: Prediction) -> None:
    """Print the critical path and, where requested, the percentile and the stream."""
    table = DataTable((text_column(""), DataColumn("")), show_header=False)
    table.add("critical path: computing, bandwidth and latency alone", seconds(found.critical_path_s))
    if found.latency_over_critical_path is not None:
        table.add("answer, times the critical path", f"{found.latency_over_critical_path:.2f}")
    if found.percentile is not None:
        table.add(f"{found.percentile.percent:g}% of answers within", seconds(found.percentile.latency_s))
    if found.stream is not None:
        table.add(f"answers a second, {found.stream.in_flight} in flight", f"{found.stream.throughput_per_s:.4g}")
        table.add("their mean latency", seconds(found.stream.latency_s))
    print_table(table)
