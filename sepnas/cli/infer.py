"""``sepnas infer``: answers of the devices for images or tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import typer

from sepnas.cli.options import (
    PATH,
    Deadline,
    Deployment,
    HostsFile,
    Insecure,
    OnMissingChoice,
    PlanChoice,
    ResizeChoice,
    Top,
    path_of,
)
from sepnas.console import print_json, say, warn
from sepnas.deployment.network_facts import NetworkFacts
from sepnas.deployment.verify import verify_client
from sepnas.errors import DataError
from sepnas.runtime.client.answer import Answer
from sepnas.runtime.client.classes import likeliest
from sepnas.runtime.client.samples import Sample, batches_of, read_samples
from sepnas.runtime.client.session import Session
from sepnas.runtime.tensors.codec import Array
from sepnas.spec.listing import listed
from sepnas.spec.tensor_file import is_tensor_file, write_tensor_file
from sepnas.tables import DataColumn, DataTable, print_table, shorten_paths, text_column
from sepnas.units import format_count

INFER_BATCH = 64
"""Number of samples in one request; the deadline applies to each request."""


@dataclass(frozen=True)
class Answered:
    """One sample's name, its outputs (without a batch axis), its likeliest classes if there are any, and the answer to
    its request."""

    name: str
    outputs: dict[str, Array]
    classes: list[tuple[str, float]] | None
    answer: Answer


_Row: TypeAlias = Answered | tuple[str, DataError]


def infer(
    deployment: Deployment,
    files: Annotated[
        list[Path], typer.Argument(parser=path_of, help="Images, such as PNG or JPEG, or tensors: .npy or .npz.")
    ],
    devices: HostsFile = None,
    plan: PlanChoice = None,
    deadline: Deadline = 10.0,
    top: Top = 3,
    resize: ResizeChoice = None,
    on_missing: OnMissingChoice = None,
    out: Annotated[Path | None, typer.Option(help="Write the outputs to this .npz file, by name.", **PATH)] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    insecure: Insecure = False,
) -> None:
    """Ask the devices for the likeliest classes of each image or, without classes, for a summary of each output.

    The devices must run (`sepnas worker`); their addresses come from `--devices` or the deployment's own hosts.yaml.
    Images of another size are resized as in training (`sepnas train --image-size`), or refused if training resized
    none; for an imported network they are scaled and cut as its own configuration says. `--resize crop` scales the
    largest centred part with the network's proportions, `--resize stretch` the whole image. Unreadable files are listed
    at the end, with exit code 1; all others are answered.

    A `.npy` file holds the input of a network that has one, a `.npz` file each input by name; each is one sample or a
    batch. Values are float32 (of images: normalised); images may also be uint8. `--out` writes each output of all
    samples that were answered, in their order.

    A deployment may have several plans (`sepnas describe DEPLOYMENT` lists them): `--plan` selects one.

    Example: `sepnas infer deployment --devices hosts.yaml --resize crop --plan few-bytes photo.jpg`
    """
    manifest = verify_client(deployment, uses_hosts=devices is None)
    network = NetworkFacts(inputs=manifest.inputs_of(plan), outputs=manifest.outputs_of(plan))
    read = read_samples(files, network, resize)
    noun = "file" if any(map(is_tensor_file, files)) else "image"
    problems = [each for each in read if isinstance(each, DataError)]
    if len(problems) == len(read):
        raise DataError(listed(problems, f"none of {format_count(len(read), noun)} can be read"))
    samples = [sample for each in read if not isinstance(each, DataError) for sample in each]
    plans = None if plan is None else [plan]
    with Session(
        deployment, devices=devices, timeout_s=deadline, insecure=insecure, on_missing=on_missing, plans=plans
    ) as session:
        answered = list(_answered(session, samples, top))
    if out is not None:
        _write(out, answered, quiet=json_)
    rows = list(_in_order(files, read, answered))
    print_json([_row_data(each, network, session.plans[0]) for each in rows]) if json_ else _print_answers(answered)
    if problems:
        raise DataError(listed(problems, f"{len(problems)} of {format_count(len(read), noun)} cannot be read"))


def _answered(session: Session, samples: Sequence[Sample], top: int) -> Iterator[Answered]:
    """The answer for each sample; a request has a batch of them."""
    names = iter(samples)
    for answer in session.answers(batches_of(samples, INFER_BATCH)):
        if not answer.complete:
            warn(f"answered without {_left_out(answer)}")
        classes = session.manifest.network.classes
        found = None if classes is None or answer.scores is None else likeliest(answer.logits, classes, top)
        for index in range(len(next(iter(answer.outputs.values())))):
            outputs = {name: array[index] for name, array in answer.outputs.items()}
            yield Answered(next(names).name, outputs, None if found is None else found[index], answer)


def _in_order(
    files: Sequence[Path], read: Sequence[list[Sample] | DataError], answered: Sequence[Answered]
) -> Iterator[_Row]:
    found = iter(answered)
    for path, each in zip(files, read, strict=True):
        if isinstance(each, DataError):
            yield str(path), each
        else:
            yield from (next(found) for _ in each)


def _write(out: Path, answered: Sequence[Answered], quiet: bool) -> None:
    names = answered[0].outputs
    write_tensor_file(out, {name: np.stack([each.outputs[name] for each in answered]) for name in names})
    if not quiet:
        say(f"{out}: {', '.join(names)} of {format_count(len(answered), 'sample')}")


def _print_answers(answered: Sequence[Answered]) -> None:
    print_table(_output_table(answered) if answered[0].classes is None else _class_table(answered))


def _class_table(answered: Sequence[Answered]) -> DataTable:
    num_places = len(answered[0].classes or ())
    places = (text_column(f"{place}.", drop=place - 1) for place in range(1, num_places + 1))
    table = DataTable((text_column("image", shorten=shorten_paths), *places))
    for each in answered:
        table.add(each.name, *(f"{name} {probability:.1%}" for name, probability in each.classes or ()))
    return table


def _output_table(answered: Sequence[Answered]) -> DataTable:
    numbers = (DataColumn("min", drop=2), DataColumn("mean", drop=1), DataColumn("max", drop=2))
    texts = text_column("sample", shorten=shorten_paths), text_column("output")
    table = DataTable((*texts, DataColumn("shape"), *numbers))
    for each in answered:
        for name, array in each.outputs.items():
            summary = _summary(array)
            shape = "x".join(map(str, array.shape)) or "1"
            table.add(each.name, name, shape, *(f"{summary[key]:.4g}" for key in ("min", "mean", "max")))
    return table


def _summary(array: Array) -> dict[str, float]:
    return {"min": float(array.min()), "mean": float(array.mean()), "max": float(array.max())}


def _left_out(answer: Answer) -> str:
    devices = [f"device {rank}" for rank in answer.without]
    messages = [f"message {m.tag} from device {m.source} to device {m.device}" for m in answer.missing]
    return ", ".join(devices + messages) or "messages that no device reported"


def _row_data(row: _Row, network: NetworkFacts, plan: str) -> dict[str, Any]:
    key = "sample" if network.image is None else "image"
    if not isinstance(row, Answered):
        return {key: row[0], "error": str(row[1])}
    data: dict[str, Any] = {key: row.name, "plan": plan}
    if row.classes is None:
        data["outputs"] = {name: {"shape": array.shape, **_summary(array)} for name, array in row.outputs.items()}
    else:
        data["classes"] = [{"class": name, "probability": share} for name, share in row.classes]
    if not row.answer.complete:
        data |= {"without": row.answer.without, "missing": list(map(asdict, row.answer.missing))}
    return data
