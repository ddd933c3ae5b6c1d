"""``sepnas evaluate``: accuracy, confusions and calibration of a network or a deployment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sepnas.cli.grouped import grouped
from sepnas.cli.options import (
    PATH,
    TEXT,
    AsJson,
    DataRoot,
    Deadline,
    HostsFile,
    Insecure,
    PlanChoice,
    ResizeChoice,
    path_to,
)
from sepnas.console import print_json, say
from sepnas.deployment.verify import load_manifest
from sepnas.local.processes import LocalWorkers
from sepnas.results.evaluate import prepare
from sepnas.spec.arguments import MAX_COUNT
from sepnas.spec.document import short
from sepnas.spec.evaluation import EVALUATION_NAME, ClassifierEvaluation, SplitChoice
from sepnas.spec.hosts import Hosts
from sepnas.tables import DataColumn, DataTable, print_table, text_column
from sepnas.train.source import DataSource
from sepnas.units import format_count, number

_MAX_ROWS = 10
"""Classes and confusions that are printed; the file and the report have more."""


@dataclass(frozen=True)
class EvaluationData:
    """The images, and the split of them."""

    data: Annotated[
        str | None,
        typer.Option(help="digits, cifar10, cifar100, fashion-mnist or folder:PATH [a run's own].", **TEXT),
    ] = None
    data_root: DataRoot = None
    download: Annotated[bool, typer.Option("--download", help="Download a missing data set through torchvision.")] = (
        False
    )
    split: Annotated[
        SplitChoice | None,
        typer.Option(help="The images to evaluate; test is for the final figure [validation]."),
    ] = None
    resize: ResizeChoice = None
    limit: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, help="Evaluate this number of images, spread over the split.")
    ] = None

    @property
    def source(self) -> DataSource:
        return DataSource(self.data, self.data_root, download=self.download)


@dataclass(frozen=True)
class DeviceOptions:
    """How a deployment's devices are reached."""

    devices: HostsFile = None
    local: Annotated[bool, typer.Option("--local", help="Start a worker process for each device on this machine.")] = (
        False
    )
    plan: PlanChoice = None
    compare: Annotated[
        Path | None,
        typer.Option(
            help="The run or imported network that was exported: compare predictions with those of one process.",
            parser=path_to("run", "network"), metavar="FOLDER",
        ),
    ] = None  # fmt: skip
    deadline: Deadline = 10.0
    insecure: Insecure = False


@grouped
def evaluate(
    network: Annotated[
        Path,
        typer.Argument(
            help="The folder of a training run, of an imported network, or of a deployment.",
            parser=path_to("run", "network", "deployment"),
        ),
    ],
    *,
    data: EvaluationData,
    through: DeviceOptions,
    out: Annotated[
        Path | None, typer.Option(help=f"The file to add the evaluation to [NETWORK/{EVALUATION_NAME}].", **PATH)
    ] = None,
    json_: AsJson = False,
) -> None:
    """Measure accuracy, top-5 accuracy, confusions and calibration on the images of a split.

    A training run (its best epoch) and an imported network are computed by this process; a deployment by its devices,
    which must run (`sepnas worker`), or by worker processes that `--local` starts. `--compare` names the network that
    was exported: this process computes the same images, and the predictions are compared.

    `--data folder:PATH` takes a folder with `train`, `val` or `test`, or one with nothing but class folders, all of
    whose images are evaluated. The classes must be among the network's: by name, and for imported networks and
    deployments also by index (`217`) or WordNet id (`n02102040`). Fewer classes than the network's are allowed.

    The calibration error is the mean distance between confidence and accuracy, over 15 intervals of confidence. The
    result is added to `evaluation.json` in the network's folder; `sepnas report` draws it.

    Examples: `sepnas evaluate runs/training`, `sepnas evaluate resnet50 --data folder:imagenette/val`, `sepnas evaluate
    deployment --local --data digits --compare runs/training`
    """
    _refuse_both(through)
    prepared = prepare(
        network, data=data.source, split=data.split, resize=data.resize, limit=data.limit, devices=through.devices,
        local=through.local, plan=through.plan, compare=through.compare, out=out,
    )  # fmt: skip
    with _hosts(network, through) as hosts:
        found = prepared.run(hosts, through.deadline, through.insecure)
    if json_:
        print_json(found.model_dump(mode="json"))
    else:
        _print(found)
        say(f"written: {out or network / EVALUATION_NAME}")


def _refuse_both(through: DeviceOptions) -> None:
    for option, given in (("--devices", through.devices), ("--insecure", through.insecure)):
        if through.local and given:
            raise typer.BadParameter("does not go with --local, which starts its own workers", param_hint=option)


@contextmanager
def _hosts(network: Path, through: DeviceOptions) -> Iterator[Hosts | None]:
    """The addresses of the workers that `--local` starts, which run until the end of the block."""
    if not through.local:
        yield None
        return
    with LocalWorkers(network, load_manifest(network).num_devices) as workers:
        yield workers.hosts


def _print(found: ClassifierEvaluation) -> None:
    scores = found.scores
    say(f"{found.network}: {found.data_words}, through {found.through_words}")
    table = DataTable((text_column(""), DataColumn("")), show_header=False)
    table.add("accuracy", f"{scores.accuracy:.2%}")
    if scores.top5_accuracy is not None:
        table.add("top-5 accuracy", f"{scores.top5_accuracy:.2%}")
    if scores.present_accuracy is not None:
        table.add(f"accuracy among the {found.classes_in_data:,} classes of the data", f"{scores.present_accuracy:.2%}")
    table.add("accuracy, each class alike", f"{scores.mean_of_classes:.2%}")
    table.add("expected calibration error", f"{scores.calibration_error:.2%}")
    table.add("negative log likelihood", number(scores.negative_log_likelihood))
    if found.exchanged is not None:
        table.add("bytes between devices, counted", number(found.exchanged.payload_bytes))
    print_table(table)
    _print_classes(found)
    for line in _remarks(found):
        say(line)


def _print_classes(found: ClassifierEvaluation) -> None:
    lowest = sorted(found.scores.shown_classes, key=lambda each: each.accuracy)[:_MAX_ROWS]
    named = {each.index: each.name for each in found.scores.classes}
    confused: dict[int, tuple[int, int]] = {}
    for true, predicted, images in found.scores.confusions:
        confused.setdefault(true, (predicted, images))
    which = "lowest classes" if len(lowest) < len(found.scores.shown_classes) else "classes, lowest first"
    numbers = (DataColumn(name) for name in ("images", "accuracy", "precision"))
    table = DataTable((text_column(which), *numbers, text_column("mostly taken for", drop=1)))
    for each in lowest:
        other, images = confused.get(each.index, (-1, 0))
        mistaken = f"{named[other]} ({format_count(images, 'image')})" if images else ""
        table.add(each.name, number(each.images), f"{each.accuracy:.2%}", f"{each.precision:.2%}", mistaken)
    print_table(table)


def _remarks(found: ClassifierEvaluation) -> Iterator[str]:
    if found.matched_by != "name":
        way = "indices of the network's classes" if found.matched_by == "index" else "WordNet ids"
        first = found.scores.shown_classes[0]
        yield f"folder names are {way}, such as {first.index} for {short(first.name)}"
    if found.classes_in_data < found.num_classes:
        yield f"the data have {found.classes_in_data:,} of the network's {format_count(found.num_classes, 'class')}"
    if found.split == "test":
        yield "the test split is for the final figure: choose networks and recipes by the validation split"
    if found.bytes_words is not None:
        yield f"counted: {found.bytes_words}"
    if found.agreement is not None:
        yield str(found.agreement)
