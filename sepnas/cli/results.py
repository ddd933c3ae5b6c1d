"""``sepnas report`` and ``results``: show what came out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sepnas.cli.common import PATH, TEXT, console
from sepnas.cost.simulator import simulate
from sepnas.errors import SpecError
from sepnas.plan.build import build_plan
from sepnas.spec.architecture import Architecture
from sepnas.spec.cluster import Cluster, uniform_cluster

MOST_COLUMNS = 1000


def report(
    out: Annotated[Path, typer.Option(help="The page to write.", **PATH)] = Path("report.html"),
    search: Annotated[Path | None, typer.Option(help="A folder that `sepnas search` wrote.", **PATH)] = None,
    training: Annotated[Path | None, typer.Option(help="A folder that `sepnas train` wrote.", **PATH)] = None,
    architecture: Annotated[Path | None, typer.Option(help="The chosen architecture [the training's].", **PATH)] = None,
    cluster: Annotated[Path | None, typer.Option(help="Predict the time line on this cluster.", **PATH)] = None,
    trace: Annotated[Path | None, typer.Option(help="A trace that `sepnas bench --trace` wrote.", **PATH)] = None,
    title: Annotated[str, typer.Option(help="The page's title.", **TEXT)] = "sepnas report",
) -> None:
    """Write one self-contained HTML page of a search, a training run, a plan and a trace: whatever is given."""
    from sepnas.cli.pages import (
        machine_rows,
        measured_timeline,
        predicted_timeline,
        training_curves,
    )
    from sepnas.cli.search_page import search_parts
    from sepnas.report.content import ReportContent
    from sepnas.report.page import write_report
    from sepnas.runtime.trace import Trace

    if not any((search, training, architecture, trace)):
        raise SpecError("nothing to report: name at least one of --search, --training, --architecture, --trace")
    if architecture is None and training is not None:
        architecture = training / "architecture.json"
    timelines, chosen, key = [], None, None
    if architecture is not None:
        chosen = Architecture.load(architecture)
        plan = build_plan(chosen)
        where = Cluster.load(cluster) if cluster else uniform_cluster(chosen.num_devices)
        timelines.append(predicted_timeline(simulate(plan, where, timeline=True)))
        key = _plan_key(plan) if search else None
    if trace is not None:
        timelines += [measured_timeline(request) for request in Trace.load(trace).requests[-1:]]
    content = ReportContent(
        title=title,
        timelines=tuple(timelines),
        architecture=chosen,
        history=training_curves(training) if training else (),
        machine=machine_rows(),
    )
    if search:
        content = replace(content, **search_parts(search, key))
    console.print(f"written: {write_report(out, content).resolve().as_uri()}")


def _plan_key(plan: object) -> str:
    from sepnas.plan.steps import Plan
    from sepnas.search.canonical import plan_key

    assert isinstance(plan, Plan)
    return plan_key(plan)


def results(
    root: Annotated[Path, typer.Argument(help="The repository.")] = Path(),
) -> None:
    """Print every measure of every experiment, and refuse a result that nobody can run again."""
    from sepnas.cli.main import VERBS
    from sepnas.report.results import collect_results, results_table

    experiments = collect_results(root, VERBS)
    if not any(experiment.result for experiment in experiments):
        missing = "holds no experiments/*/result.json" if root.is_dir() else "is no folder"
        raise SpecError(f"{root}: {missing}; name the folder of the repository")
    table = results_table(experiments)
    # as wide as it is, whatever the terminal: names in columns of one letter help nobody
    Console(width=Console(width=MOST_COLUMNS).measure(table).maximum).print(table)
