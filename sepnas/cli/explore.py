"""``sepnas explore``: search the knobs of `sepnas separate` for a network."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sepnas import api
from sepnas.cli.options import FILE, FOLDER, TEXT, AsJson, DataRoot, Resume, cluster_to_predict_with, path_to, resumable
from sepnas.console import print_json, say
from sepnas.objectives import ACCURACY, LATENCY_S, MEMORY_BYTES, OBJECTIVES, PAYLOAD_BYTES
from sepnas.search.explorer import STRATEGIES, StrategyName
from sepnas.spec.arguments import MAX_COUNT, MAX_THREADS
from sepnas.spec.figures import MAX_DEVICES
from sepnas.tables import DataColumn, DataTable, print_table, text_column
from sepnas.train.source import DataSource
from sepnas.units import format_bytes, format_count, format_seconds, format_share

if TYPE_CHECKING:
    from sepnas.exploration.candidate import SeparationCandidate
    from sepnas.exploration.run import ExplorationResult

_IMAGES = 512
PAGE = "front.html"


def explore(
    network: Annotated[
        Path, typer.Argument(help="The folder of an imported network.", metavar="NETWORK", parser=path_to("network"))
    ],
    out: Annotated[Path, typer.Option(help="The run's folder; created, or continued by --resume.", **FOLDER)],
    data: Annotated[str, typer.Option(help="Images to measure and to validate on: cifar100, folder:PATH, ...", **TEXT)],
    devices: Annotated[
        int | None,
        typer.Option("--devices", "-n", min=1, max=MAX_DEVICES, help="The number of devices [the cluster's]."),
    ] = None,
    cluster: Annotated[
        Path | None,
        typer.Option(help="A cluster file, to predict with and to group by [equal boards on 100 Mbit/s].", **FILE),
    ] = None,
    data_root: DataRoot = None,
    images: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, help="Training images on which activations are measured.")
    ] = _IMAGES,
    val_images: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, help="Validation images on which accuracies are measured.")
    ] = 1000,
    candidates: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, metavar="N", help="Number of candidates to evaluate.")
    ] = 60,
    strategy: Annotated[
        StrategyName, typer.Option(metavar="NAME", help=f"One of {', '.join(STRATEGIES)}.")
    ] = "predictive",
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of the grouping, the validation images and the search.")
    ] = 0,
    resume: Resume = False,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MAX_THREADS, help="Threads of torch [1 for small networks, otherwise all].")
    ] = None,
    json_: AsJson = False,
) -> None:
    """Search with NNI for the best ways to separate a trained network over devices, before any training.

    The knobs of `sepnas separate` are searched: where the exact tiles end (`--tiles-until`), the exchange points, the
    bytes, and the wire format. A candidate is separated; its latency, bytes and the memory of the fullest device are
    predicted for the cluster; its accuracy is measured on validation images, with rounded messages, without training.
    Fine-tuning then gives back part of what is lost.

    Prints the Pareto front, with the network on one device above it, and the command that separates the network as at
    the knee, which is the point nearest to the ideal one; front.html shows all candidates. Every candidate is one line
    of candidates.jsonl; `--resume` continues an interrupted exploration with the same result, and shows a finished one
    again.

    Example: `sepnas explore mobilenet --cluster cluster.yaml --data folder:images --out runs/explored`
    """
    from sepnas.search.folder import RUN_FILE

    with resumable(out, RUN_FILE):
        result = api.explore(
            network, out, DataSource(data, root=data_root), devices=devices,
            cluster=cluster_to_predict_with(cluster) if cluster else None, candidates=candidates, images=images,
            val_images=val_images, strategy=strategy, seed=seed, resume=resume, threads=threads,
        )  # fmt: skip
    given = {"--devices": devices, "--cluster": cluster, "--data": data, "--data-root": data_root}
    given |= {"--images": None if images == _IMAGES else images, "--seed": seed or None}
    following = _separate_command(network, given, result.knee, out)
    page = _write_page(result, following)
    if json_:
        print_json(_data(result) | {"next": following})
        return
    _show(result)
    if page is not None:
        say(f"all candidates, with pictures: {page}")
    say(f"next: {following}")


def _write_page(result: ExplorationResult, command: str) -> Path | None:
    """The page of an exploration in its folder; None without the libraries of the extra `report`."""
    if any(find_spec(module) is None for module in ("jinja2", "matplotlib")):
        return None
    from sepnas.report.from_exploration import exploration_content
    from sepnas.report.page import write_report

    return write_report(result.run_dir / PAGE, exploration_content(result, command))


def _separate_command(network: Path, given: dict[str, Any], knee: SeparationCandidate, out: Path) -> str:
    """The command that separates the network as a candidate is, and fine-tunes it."""
    same = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    to = str(out.parent / f"{out.name}-separated")
    return shlex.join(["sepnas", "separate", str(network), *same, *knee.knobs.options(), "--epochs", "3", "--out", to])


def _show(result: ExplorationResult) -> None:
    front, knee = result.front, result.knee
    headings = ("points", "bytes", "wire", "messages", "latency", "KB", "memory", "accuracy")
    drops = {"memory": 2, "bytes": 1, "points": 3, "messages": 5}
    columns = [text_column("candidate"), text_column("tiles until", drop=4)]
    table = DataTable(
        (*columns, *(DataColumn(name, name not in ("wire", "messages"), drops.get(name, 0)) for name in headings))
    )
    table.add("one device", "", "", "", "", "", *_numbers(front.original_costs), format_share(front.original_accuracy))
    for each in front.candidates:
        at_knee, knobs, points = each.key == knee.key, each.knobs, str(each.points)
        table.add(
            f"{each.index} knee" if at_knee else str(each.index), knobs.tiles_until, points, format_share(knobs.budget),
            knobs.wire, knobs.messages, *_numbers(each.costs), format_share(each.objectives[ACCURACY.name]),
            style="bold" if at_knee else None,
        )  # fmt: skip
    print_table(table)
    say(
        f"{format_count(len(front.candidates), 'point')} on the front of {format_count(front.evaluated, 'candidate')}; "
        f"not evaluated: {front.rejected} infeasible, {front.duplicates} duplicates; accuracies of "
        f"{format_count(front.val_images, 'validation image')}, before any training; costs predicted for cluster "
        f"'{result.run.cluster.name}'; 100 % of bytes are {format_bytes(front.exact_bytes)}"
    )


def _numbers(costs: dict[str, float]) -> tuple[str, str, str]:
    """Latency, KB and memory, as cells."""
    return (
        format_seconds(costs[LATENCY_S.name]),
        f"{costs[PAYLOAD_BYTES.name] / 1e3:,.1f}",
        format_bytes(costs[MEMORY_BYTES.name]),
    )


def _data(result: ExplorationResult) -> dict[str, Any]:
    run, front = result.run, result.front
    return {
        "network": run.network, "devices": run.num_devices, "cluster": run.cluster.name, "data": run.data,
        "original_accuracy": front.original_accuracy, "original_costs": _known(front.original_costs),
        "val_images": front.val_images, "exact_bytes": front.exact_bytes, "evaluated": front.evaluated,
        "wanted": front.wanted, "rejected": front.rejected, "duplicates": front.duplicates,
        "hypervolume": front.hypervolume, "knee": result.knee.index,
        "candidates": [
            {"candidate": c.index, "key": c.key, **c.knobs.arguments(), "points": c.points, **_known(c.measured)}
            for c in front.candidates
        ],
    }  # fmt: skip


def _known(measured: dict[str, float]) -> dict[str, float]:
    """The known values of each objective; counts are integers."""
    named = {name: known for name, known in OBJECTIVES.items() if name in measured}
    return {name: known.data(measured[name]) for name, known in named.items()
            if known.known_value(measured) is not None}  # fmt: skip
