"""``sepnas report``: one page of a search, a training, a plan and a trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepnas.cli.options import PATH, TEXT, path_to
from sepnas.console import say
from sepnas.errors import SpecError
from sepnas.plan.plan import Plan
from sepnas.report.commands import about, chain_commands
from sepnas.report.from_inference import inference_parts
from sepnas.search.canonical import plan_key
from sepnas.separable.architecture import Architecture
from sepnas.separable.read import is_plan_file, read_plan
from sepnas.spec.cluster import Cluster, uniform_cluster

if TYPE_CHECKING:
    from sepnas.report.content import ReportContent


def report(
    out: Annotated[Path, typer.Option(help="The page to write.", **PATH)] = Path("report.html"),
    search: Annotated[
        Path | None,
        typer.Option(help="The folder of a search, finished or not.", parser=path_to("search"), metavar="PATH"),
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option(help="The folder of a training, finished or not.", parser=path_to("run"), metavar="PATH"),
    ] = None,
    architecture: Annotated[
        Path | None, typer.Option(help="The chosen architecture, or a plan [the training's].", **PATH)
    ] = None,
    cluster: Annotated[
        Path | None,
        typer.Option(help="The cluster of the predicted time line [the search's, or equal boards].", **PATH),
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="A trace that `sepnas bench --trace` wrote.", **PATH)] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(
            help="A network or deployment that `sepnas evaluate` evaluated, or its file; repeat for more "
            "[the training's].",
            **PATH,
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="The page's title.", **TEXT)] = "sepnas report",
) -> None:
    """Write one self-contained HTML page about a search, a training run, a plan, a trace, evaluations, or any of them.

    At least one of `--search`, `--training`, `--architecture`, `--trace` and `--evaluation` is needed; each adds its
    part of the page.
    The candidate of the search that has the chosen architecture is marked. A trace must be of the same plan.

    Example: `sepnas report --search runs/search --training runs/training --out report.html`
    """
    from sepnas.report.from_run import kept_evaluations
    from sepnas.report.page import write_report

    if not any((search, training, architecture, trace, evaluation)):
        raise SpecError(
            "nothing to report: name at least one of --search, --training, --architecture, --trace, --evaluation"
        )
    if architecture is None and training is not None:
        architecture = training / "architecture.json"
    content = _content(title, search, training, architecture, cluster, trace)
    candidate = next((point.index for point in content.candidates if point.chosen), None)
    content = replace(content, classifiers=kept_evaluations(evaluation or (), training))
    content = replace(content, commands=chain_commands(search, training, architecture, candidate, trace))
    say(f"written: {write_report(out, content).resolve().as_uri()}")


def _content(
    title: str,
    search: Path | None,
    training: Path | None,
    architecture: Path | None,
    cluster: Path | None,
    trace: Path | None,
) -> ReportContent:
    """The content of the page from all given folders and files."""
    from sepnas.report.content import ReportContent
    from sepnas.report.from_run import machine_rows, split_accuracies, training_curves
    from sepnas.report.from_search import search_parts

    plan = None if architecture is None else read_plan(architecture)
    chosen = None if architecture is None or is_plan_file(architecture) else Architecture.load(architecture)
    content = ReportContent(
        title=title,
        architecture=chosen,
        history=training_curves(training) if training else (),
        evaluations=split_accuracies(training) if training else (),
        machine=machine_rows(),
        about=about(search, training),
        **inference_parts(plan, _cluster(cluster, search, plan), trace, training, str(architecture)),
    )
    if not search:
        return content
    key = None if plan is None else plan_key(plan)
    return replace(content, **search_parts(search, key))


def _cluster(given: Path | None, search: Path | None, plan: Plan | None) -> Cluster:
    """The given cluster, or the search's own, or equal boards."""
    from sepnas.search.folder import load_run

    if given is not None:
        return Cluster.load(given)
    if search is not None:
        return load_run(search).cluster
    return uniform_cluster(1 if plan is None else plan.num_devices)
