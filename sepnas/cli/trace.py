"""``sepnas trace``: the time line of a real request, as bars, JSON or a file for Perfetto."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepnas.cli.options import FILE, Out, load_cluster, path_to, refuse_text_file
from sepnas.cost.simulator import simulate
from sepnas.cost.timeline import predicted_timeline, wires_of
from sepnas.report.from_trace import check_request, load_trace, measured_timeline, request_of
from sepnas.report.show_timeline import TimelineFormat, show_timelines
from sepnas.separable.read import read_plan


def trace(
    trace: Annotated[Path, typer.Argument(help="A trace from `sepnas bench --trace`.", parser=path_to("file"))],
    timeline: Annotated[TimelineFormat, typer.Option(help="text: bars; chrome: for ui.perfetto.dev.")] = "text",
    request: Annotated[int | None, typer.Option(help="Number of the request [the last one].")] = None,
    architecture: Annotated[
        Path | None,
        typer.Option(help="The deployed architecture, or its plan: also show the prediction; needs --cluster.", **FILE),
    ] = None,
    cluster: Annotated[
        Path | None, typer.Option(help="The cluster of the prediction, with --architecture.", **FILE)
    ] = None,
    out: Out = None,
) -> None:
    """Show the time line of a real request, alone or beside its prediction.

    `--timeline chrome` writes Chrome's trace format: open the file at ui.perfetto.dev or chrome://tracing. With
    `--architecture` and `--cluster` the file holds the predicted and the measured time line on one time axis.

    Example: `sepnas trace trace.json --architecture architecture.json --cluster cluster.yaml --timeline chrome --out
    timeline.json`
    """
    refuse_text_file(timeline, out)
    if architecture is not None and cluster is None:
        raise typer.BadParameter("--architecture needs --cluster too", param_hint="--architecture")
    if cluster is not None and architecture is None:
        raise typer.BadParameter("--cluster needs --architecture too", param_hint="--cluster")
    traced = load_trace(trace)
    record = request_of(traced, request, trace)
    timelines = []
    wires: dict[int, str] = {}
    if architecture is not None and cluster is not None:
        plan = read_plan(architecture)
        check_request(plan, traced, traced.requests.index(record), trace)
        where = load_cluster(cluster, plan, architecture)
        wires = wires_of(plan)
        simulation = simulate(plan, where, record.batch, timeline=True)
        timelines.append(predicted_timeline(plan, simulation, record.batch))
    show_timelines(timeline, [*timelines, measured_timeline(record, wires)], out)
