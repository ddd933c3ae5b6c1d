"""``sepnas calibrate``: correct a cluster by traces of real requests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from sepnas.cli.options import FILE, load_cluster, path_to
from sepnas.console import say
from sepnas.cost.accept import Checked, calibrate_checked
from sepnas.cost.calibrate import Calibration
from sepnas.cost.simulator import simulate
from sepnas.cost.timeline import Timeline
from sepnas.errors import PlanError
from sepnas.plan.device_totals import is_convolving
from sepnas.plan.plan import Plan
from sepnas.plan.steps import Compute
from sepnas.report.from_trace import check_request, load_trace, measured_timeline
from sepnas.separable.read import read_plan
from sepnas.spec.cluster import Cluster
from sepnas.spec.document import refuse_folder
from sepnas.spec.folder_lock import changing
from sepnas.tables import DataColumn, DataTable, print_table, shorten_names, text_column
from sepnas.units import format_count, format_seconds, seconds


def calibrate_command(
    trace: Annotated[
        Path, typer.Argument(help="A trace of several requests, from `sepnas bench --trace`.", parser=path_to("file"))
    ],
    architecture: Annotated[Path, typer.Option(help="The deployed architecture, or its plan.", **FILE)],
    cluster: Annotated[Path, typer.Option(help="The cluster to correct; its devices in the order of ranks.", **FILE)],
    out: Annotated[Path, typer.Option(help="The corrected cluster file to write.", **FILE)],
) -> None:
    """Correct a cluster file by the measured times of real requests, so that its predictions improve.

    Computing times correct each device's `flops_per_s` and `layer_overhead_s`. Times of awaited messages correct the
    links' `latency_s` and, if their sizes differ enough, `bandwidth_bytes_per_s`. All other figures stay. The table
    shows the predictions before and after the correction beside the measurement.

    Every second request is held out: the file is written only if the corrected cluster predicts these requests no
    worse.

    Example: `sepnas calibrate trace.json --architecture architecture.json --cluster cluster.yaml --out cluster.yaml`
    """
    refuse_folder(out)
    with changing(out):
        _calibrate(trace, architecture, cluster, out)


def _calibrate(trace: Path, architecture: Path, cluster: Path, out: Path) -> None:
    record, plan = load_trace(trace), read_plan(architecture)
    before = load_cluster(cluster, plan, architecture)
    for place in range(len(record.requests)):
        check_request(plan, record, place, trace)
    timelines = [measured_timeline(request) for request in record.requests]
    checked = calibrate_checked(plan, before, timelines)
    found, number = checked.calibration, format_count(len(timelines), "request")
    print_table(_figures(found))
    print_table(_predictions(plan, before, found.cluster, timelines))
    say(f"mean error of the predicted latency: {_errors(checked)}")
    if not checked.better:
        raise PlanError(
            f"{trace}: the correction predicts worse than {cluster}: {_errors(checked)}; {out} was not written. A "
            "trace does not show work between the steps, and the machine may have been busy: measure the devices "
            "(`sepnas profile device`, `sepnas profile links`), or trace again on an idle machine"
        )
    found.cluster.save(out, f"corrected by a trace of {number}")
    say(f"written: {out}, from {number}")


def _errors(checked: Checked) -> str:
    by = (
        f"{format_count(checked.held_out, 'request')} held out"
        if checked.held_out
        else "the request that it was computed from"
    )
    return f"{checked.error_before:.1%} before, {checked.error_after:.1%} after, by {by}"


def _figures(found: Calibration) -> DataTable:
    """The corrected figures, and how each was found."""
    first = (text_column("of", shorten=shorten_names), text_column("figure"))
    table = DataTable((*first, DataColumn("before"), DataColumn("after"), text_column("how", drop=1)))
    for device in found.devices:
        name, old, new = device.before.name, device.before, device.after
        rates = (f"{each.flops_per_s / 1e9:.4g} GFLOP/s" for each in (old, new))
        table.add(name, "flops_per_s", *rates, device.how)
        overheads = (format_seconds(each.layer_overhead_s) for each in (old, new))
        table.add(name, "layer_overhead_s", *overheads, "")
    for link in found.links:
        rates = (f"{each.bandwidth_bytes_per_s / 1e6:.4g} MB/s" for each in (link.before, link.after))
        table.add(link.name, "bandwidth_bytes_per_s", *rates, link.how)
        latencies = (format_seconds(each.latency_s) for each in (link.before, link.after))
        table.add(link.name, "latency_s", *latencies, "")
    return table


def _predictions(plan: Plan, before: Cluster, after: Cluster, timelines: Sequence[Timeline]) -> DataTable:
    """The predictions of both clusters beside the measured times, for each batch size."""
    headings = ("predicted\nbefore", "predicted\nafter", "measured,\nmedian")
    table = DataTable((text_column(""), *map(DataColumn, headings)))
    batches: dict[int, list[Timeline]] = defaultdict(list)
    for timeline in timelines:
        batches[timeline.batch].append(timeline)
    for batch, some in sorted(batches.items()):
        old, new = (simulate(plan, cluster, batch) for cluster in (before, after))
        images = format_count(batch, "image")
        measured_s = median(timeline.latency_s for timeline in some)
        table.add(f"{images}: latency", *map(seconds, (old.latency_s, new.latency_s, measured_s)))
        for rank, busy_s in _computing(plan, some):
            times = map(seconds, (old.compute_s[rank], new.compute_s[rank], busy_s))
            table.add(f"{images}: {before.devices[rank].name} computes", *times)
    return table


def _computing(plan: Plan, timelines: Sequence[Timeline]) -> Iterator[tuple[int, float]]:
    """The median time of computation over all requests, also in merges that convolve, for each device that computes."""
    for rank, program in enumerate(plan.programs):
        computing = {("merge", name) for step in program if is_convolving(step) for name in step.writes}
        computing |= {("compute", step.segment) for step in program if isinstance(step, Compute)}
        if program:
            yield (
                rank,
                median(
                    sum(a.seconds for a in timeline.activities if a.rank == rank and (a.kind, a.name) in computing)
                    for timeline in timelines
                ),
            )
