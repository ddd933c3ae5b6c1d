"""``sepnas report``: one page of a search, a training, a plan and a trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepnas.cli.options import PATH, TEXT, path_of, path_to
from sepnas.console import say, step_bar
from sepnas.errors import SpecError
from sepnas.plan.plan import Plan
from sepnas.report.commands import about, chain_commands
from sepnas.report.from_inference import inference_parts
from sepnas.search.canonical import plan_key
from sepnas.separable.architecture import Architecture
from sepnas.separable.read import is_plan_file, read_plan
from sepnas.spec.cluster import Cluster, uniform_cluster
from sepnas.spec.files import is_there
from sepnas.units import parse_share

if TYPE_CHECKING:
    from sepnas.report.content import ReportContent
    from sepnas.report.from_plans import PlanParts

DEFAULT_DEVICES = 4
"""Devices of the cluster for a comparison, if no cluster is given."""


def report(
    given: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Imported networks, plans, searches, trainings, deployments: all priced on one cluster.",
            metavar="[NETWORK|PLAN|RUN|DEPLOYMENT]...",
            parser=path_of,
        ),
    ] = None,
    *,
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
    accuracy: Annotated[
        list[str] | None,
        typer.Option(
            help="The accuracy of a network or plan on the page, such as resnet50=0.8; repeat for more [that of "
            "`sepnas evaluate`].",
            **TEXT,
        ),
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help="Numbers of devices to split over, such as 2,4 [1 to the cluster's].", **TEXT)
    ] = None,
    best: Annotated[
        bool, typer.Option("--best/--no-best", help="Also search for the best split, as `sepnas partition` does.")
    ] = True,
    title: Annotated[str, typer.Option(help="The page's title.", **TEXT)] = "sepnas report",
) -> None:
    """Write one self-contained HTML page about one cluster, or about a search, a training run, a plan and a trace.

    Networks, plans, runs and deployments that are named without an option are compared on the cluster: latency against
    accuracy and bytes, for every split scheme of an imported network over one to all devices, the front of a search,
    and one device alone; and maps show which device computes which part of which layer.

    `--search`, `--training`, `--architecture`, `--trace` and `--evaluation` add their own parts of the page. The
    candidate of the search that has the chosen architecture is marked. A trace must be of the same plan.

    Examples: `sepnas report resnet50 runs/search --cluster cluster.yaml --out report.html`, `sepnas report --search
    runs/search --training runs/training --out report.html`
    """
    from sepnas.report.from_run import kept_evaluations
    from sepnas.report.page import write_report

    if not any((given, search, training, architecture, trace, evaluation)):
        raise SpecError(
            "nothing to report: name at least one of --search, --training, --architecture, --trace, --evaluation, or a "
            "network, plan, run or deployment"
        )
    if architecture is None and training is not None:
        architecture = training / "architecture.json"
        if not is_there(architecture):
            has = f"has no {architecture.name}" if training.is_dir() else "no such folder"
            raise SpecError(
                f"{training}: {has}; expected a training run, which `sepnas train ARCHITECTURE --out {training}` makes"
            )
    content = _content(title, search, training, architecture, cluster, trace)
    if given:
        parts = _compared(given, cluster, accuracy or [], devices, best)
        content = replace(content, **parts, about=about(search, training, given))
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


def _compared(
    given: list[Path], cluster: Path | None, accuracy: list[str], devices: str | None, best: bool
) -> PlanParts:
    """Everything that is given, priced on one cluster."""
    from sepnas.report.from_plans import plan_parts

    where = Cluster.load(cluster) if cluster is not None else uniform_cluster(DEFAULT_DEVICES)
    counts = _counts(devices, where.num_devices)
    with step_bar("pricing splits") as progress:
        return plan_parts(given, where, dict(map(_accuracy, accuracy)), counts, progress, best)


def _counts(text: str | None, num_devices: int) -> list[int]:
    try:
        counts = [int(each) for each in text.split(",")] if text else []
    except ValueError:
        raise typer.BadParameter(f"is no list of numbers: {text!r}", param_hint="--devices") from None
    for count in counts:
        if not 1 <= count <= num_devices:
            raise typer.BadParameter(f"must be 1 to {num_devices}, the cluster's; got {count}", param_hint="--devices")
    return sorted(set(counts))


def _accuracy(text: str) -> tuple[str, float]:
    name, equals, share = text.rpartition("=")
    if not (name and equals):
        raise typer.BadParameter(f"is no NAME=SHARE: {text!r}", param_hint="--accuracy")
    try:
        return name, parse_share(share)
    except ValueError as error:
        raise typer.BadParameter(f"{name}: {error}", param_hint="--accuracy") from None


def _cluster(given: Path | None, search: Path | None, plan: Plan | None) -> Cluster:
    """The given cluster, or the search's own, or equal boards."""
    from sepnas.search.folder import load_run

    if given is not None:
        return Cluster.load(given)
    if search is not None:
        return load_run(search).cluster
    return uniform_cluster(1 if plan is None else plan.num_devices)
