"""``sepnas infer``: classify images through the devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
import typer

from sepnas.cli.options import (
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
from sepnas.console import print_json, warn
from sepnas.deployment.verify import verify_client
from sepnas.errors import DataError
from sepnas.runtime.client.classes import likeliest
from sepnas.runtime.client.images import Images, read_images
from sepnas.runtime.client.reply import Answer
from sepnas.runtime.client.session import Session
from sepnas.spec.listing import listed
from sepnas.tables import DataTable, print_table, shorten_paths, text_column

INFER_BATCH = 64
"""Number of images in one request; the deadline applies to each request."""


Likeliest: TypeAlias = list[tuple[str, float]]


_Row: TypeAlias = tuple[Path, "tuple[Likeliest, Answer] | DataError"]


def infer(
    deployment: Deployment,
    images: Annotated[list[Path], typer.Argument(parser=path_of, help="Image files, such as PNG or JPEG.")],
    devices: HostsFile = None,
    plan: PlanChoice = None,
    deadline: Deadline = 10.0,
    top: Top = 3,
    resize: ResizeChoice = None,
    on_missing: OnMissingChoice = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    insecure: Insecure = False,
) -> None:
    """Classify images through the devices, and print the likeliest classes of each.

    The devices must run (`sepnas worker`); their addresses come from `--devices` or the deployment's own hosts.yaml.
    Images of another size are resized as in training (`sepnas train --image-size`), or refused if training resized
    none. `--resize crop` scales their centre square, `--resize stretch` the whole image. Unreadable files are listed at
    the end, with exit code 1; all others are classified.

    A deployment may have several plans (`sepnas describe DEPLOYMENT` lists them): `--plan` selects one.

    Example: `sepnas infer deployment --devices hosts.yaml --resize crop --plan few-bytes photo.jpg`
    """
    manifest = verify_client(deployment, uses_hosts=devices is None)
    read = read_images(images, manifest.image, resize)
    problems = [each for each in read if isinstance(each, DataError)]
    if len(problems) == len(read):
        raise DataError(listed(problems, f"none of {len(read)} images can be read"))
    plans = None if plan is None else [plan]
    with Session(
        deployment, devices=devices, timeout_s=deadline, insecure=insecure, on_missing=on_missing, plans=plans
    ) as session:
        answered = _answered(session, [each for each in read if not isinstance(each, DataError)], top)
    found = iter(answered)
    rows: list[_Row] = [
        (path, each if isinstance(each, DataError) else next(found)) for path, each in zip(images, read, strict=True)
    ]
    print_json([_image_data(*row) for row in rows]) if json_ else _print_classes(rows)
    if problems:
        raise DataError(listed(problems, f"{len(problems)} of {len(read)} images cannot be read"))


def _answered(session: Session, images_CHW: Sequence[Images], top: int) -> list[tuple[Likeliest, Answer]]:
    """The likeliest classes of each image and the answer that contains them; a request has a batch of images."""
    batches = (np.stack(images_CHW[start : start + INFER_BATCH]) for start in range(0, len(images_CHW), INFER_BATCH))
    answered: list[tuple[Likeliest, Answer]] = []
    for answer in session.answers(batches):
        if not answer.complete:
            warn(f"answered without {_left_out(answer)}")
        answered += [(found, answer) for found in likeliest(answer.logits, session.manifest.classes, top)]
    return answered


def _print_classes(rows: Sequence[_Row]) -> None:
    answered = [(path, found[0]) for path, found in rows if not isinstance(found, DataError)]
    places = (text_column(f"{place}.", drop=place - 1) for place in range(1, len(answered[0][1]) + 1))
    table = DataTable((text_column("image", shorten=shorten_paths), *places))
    for path, classes in answered:
        table.add(str(path), *(f"{name} {probability:.1%}" for name, probability in classes))
    print_table(table)


def _left_out(answer: Answer) -> str:
    devices = [f"device {rank}" for rank in answer.without]
    messages = [f"message {m.tag} from device {m.source} to device {m.device}" for m in answer.missing]
    return ", ".join(devices + messages) or "messages that no device reported"


def _image_data(path: Path, found: tuple[Likeliest, Answer] | DataError) -> dict[str, object]:
    if isinstance(found, DataError):
        return {"image": str(path), "error": str(found)}
    classes, answer = found
    data: dict[str, object] = {
        "image": str(path),
        "classes": [{"class": name, "probability": share} for name, share in classes],
    }
    if not answer.complete:
        data |= {"without": answer.without, "missing": list(map(asdict, answer.missing))}
    return data
