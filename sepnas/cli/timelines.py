"""``sepnas trace``, and how time lines are shown: bars in the terminal, JSON, or a file for Perfetto."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from sepnas.cli.common import FILE, cluster_to_predict_with, console, say
from sepnas.cli.tables import DataColumn, DataTable, print_table, text_column
from sepnas.cli.traced import check_request, load_trace, measured_timeline, request_of
from sepnas.cost.simulator import simulate
from sepnas.cost.timeline import Timeline, predicted_timeline, wires_of
from sepnas.errors import SpecError
from sepnas.plan.build import build_plan
from sepnas.plan.steps import Plan
from sepnas.report.chrome_trace import chrome_trace
from sepnas.report.text_timeline import longest_steps, text_timelines
from sepnas.spec.architecture import Architecture
from sepnas.spec.cluster import Cluster
from sepnas.spec.document import write_text

TimelineFormat: TypeAlias = Literal["text", "json", "chrome"]
Out = Annotated[Path | None, typer.Option(help="Write the time line (json, chrome) to this file.", **FILE)]


def trace(
    trace: Annotated[Path, typer.Argument(help="A trace that `sepnas bench --trace` wrote.", **FILE)],
    timeline: Annotated[TimelineFormat, typer.Option(help="text: bars; chrome: for ui.perfetto.dev.")] = "text",
    request: Annotated[int | None, typer.Option(help="The number of the request [the last one].")] = None,
    architecture: Annotated[
        Path | None, typer.Option(help="The deployed architecture: show what is predicted for it, too.", **FILE)
    ] = None,
    cluster: Annotated[Path | None, typer.Option(help="Where to predict, with --architecture.", **FILE)] = None,
    out: Out = None,
) -> None:
    """Show when each device did what in a real request, alone or beside the prediction.

    `--timeline chrome` writes Chrome's trace format: open the file at ui.perfetto.dev or chrome://tracing. With
    `--architecture` and `--cluster` it holds the predicted and the measured time line, on one time axis.

    Example: `sepnas trace trace.json --architecture architecture.json --cluster cluster.yaml --timeline chrome --out
    timeline.json`
    """
    refuse_text_file(timeline, out)
    if (architecture is None) != (cluster is None):
        raise typer.BadParameter(
            "both or neither: a prediction needs a network and its devices", param_hint="--cluster"
        )
    traced = load_trace(trace)
    record = request_of(traced, request, trace)
    timelines = []
    wires: dict[int, str] = {}
    if architecture is not None and cluster is not None:
        plan = build_plan(Architecture.load(architecture))
        check_request(plan, traced, traced.requests.index(record), trace)
        where = load_cluster(cluster, plan, architecture)
        wires = wires_of(plan)
        simulation = simulate(plan, where, record.batch, timeline=True)
        timelines.append(predicted_timeline(plan, simulation, record.batch))
    show_timelines(timeline, [*timelines, measured_timeline(record, wires)], out)


def load_cluster(path: Path, plan: Plan, architecture: Path) -> Cluster:
    """A cluster that has the devices and links of the plan; :class:`SpecError` names what is missing."""
    cluster = cluster_to_predict_with(path)
    if cluster.num_devices < plan.num_devices:
        raise SpecError(
            f"{path}: field `devices`: has {cluster.num_devices}, but {architecture} needs {plan.num_devices}"
        )
    return cluster


def refuse_text_file(timeline: str | None, out: Path | None) -> None:
    """Bars have the width of the terminal: they are printed."""
    if out is not None and timeline not in ("json", "chrome"):
        raise typer.BadParameter("goes with --timeline json or chrome", param_hint="--out")


def show_timelines(form: TimelineFormat, timelines: Sequence[Timeline], out: Path | None) -> None:
    """Print time lines, or write them to ``out``."""
    if form == "text":
        for line in text_timelines(timelines, console.width).splitlines():
            say(line)
        columns = (DataColumn(timeline.title) for timeline in timelines)
        table = DataTable((text_column("what took longest"), *columns))
        for what, *times in longest_steps(timelines):
            table.add(what, *times)
        print_table(table)
        return
    data = chrome_trace(timelines) if form == "chrome" else {"timelines": [asdict(each) for each in timelines]}
    if out is None:
        say(json.dumps(data))
        return
    write_text(out, json.dumps(data) + "\n")
    where = ": open it at ui.perfetto.dev or chrome://tracing" if form == "chrome" else ""
    say(f"written: {out}{where}")
