"""Export: a trained network becomes a deployment, a folder for each device with all that it needs.

Everything is written into a folder beside the target and renamed over it at the end: a deployment is whole
or not there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from sepnas.deploy.certificates import DEFAULT_VALIDITY_DAYS
from sepnas.deploy.writer import DeploymentWriter, Progress
from sepnas.errors import DeploymentError, SpecError, StorageError
from sepnas.spec.architecture import Architecture
from sepnas.spec.hosts import Hosts
from sepnas.spec.manifest import MANIFEST_NAME, ImageInput, Manifest

if TYPE_CHECKING:
    from sepnas.nets.separable import SeparableResNeXt


def export_deployment(
    network: SeparableResNeXt,
    out_dir: str | os.PathLike[str],
    *,
    name: str,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    hosts: Hosts | None = None,
    validity_days: float = DEFAULT_VALIDITY_DAYS,
    force: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Cut a network by its plan and write the deployment ``out_dir``.

    Args:
        network: the trained network; its architecture and policy decide the plan.
        classes: the classes' names, in the order of the logits.
        mean, std: what training normalised with, one number for each channel, for values in 0..1.
        hosts: what to write as ``hosts.yaml``; by default all devices on 127.0.0.1.
        force: replace a deployment that stands there already (anything else is never replaced).

    Raises:
        SpecError: names or numbers that do not fit the network.
        DeploymentError: ``out_dir`` exists and may not be replaced.
        StorageError: it cannot be written; nothing is left behind then.
    """
    image = _image_input(network.architecture, mean, std)
    _check_names(network.architecture, name, classes, hosts)
    was_training = network.training
    network.eval()
    try:
        with _writing(Path(out_dir), force) as folder:
            writer = DeploymentWriter(network, folder, name, validity_days, progress or _silent)
            return writer.write(tuple(classes), image, hosts)
    finally:
        network.train(was_training)


def _image_input(architecture: Architecture, mean: Sequence[float], std: Sequence[float]) -> ImageInput:
    try:
        return ImageInput(
            channels=architecture.in_channels, size=architecture.image_size, mean=tuple(mean), std=tuple(std)
        )
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise SpecError(f"export: {place} {problem['msg'].removeprefix('Value error, ')}") from None


def _check_names(architecture: Architecture, name: str, classes: Sequence[str], hosts: Hosts | None) -> None:
    if not name:
        raise SpecError("export: `name` is empty; give the deployment a name")
    if len(classes) != architecture.num_classes:
        raise SpecError(f"export: `classes` must name {architecture.num_classes} classes, got {len(classes)}")
    for rank in range(architecture.num_devices if hosts else 0):
        assert hosts is not None
        hosts.address(rank)


def _silent(done: int, total: int, what: str) -> None:
    """No progress is shown."""


@contextmanager
def _writing(target: Path, force: bool) -> Iterator[Path]:
    """Give a folder beside ``target`` to write into, and put it in the place of ``target`` at the end."""
    _check_replaceable(target, force)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
        temporary.chmod(0o755)
        yield temporary
        _put_in_place(temporary, target)
    except (OSError, StorageError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise StorageError(f"{target}: the deployment cannot be written, nothing was left behind: {reason}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_replaceable(target: Path, force: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / MANIFEST_NAME).is_file():
        raise DeploymentError(f"{target}: exists and is not a deployment; choose another folder, or empty it first")
    if not force:
        raise DeploymentError(f"{target}: a deployment stands there already; choose another folder, or pass --force")


def _put_in_place(temporary: Path, target: Path) -> None:
    """Rename over ``target``; what stood there is gone only once the new one is in its place."""
    if not target.exists():
        temporary.rename(target)
        return
    old = temporary.with_suffix(".old")
    target.rename(old)
    try:
        temporary.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
