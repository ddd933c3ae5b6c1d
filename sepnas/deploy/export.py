"""Exports a trained network as a deployment: one self-contained folder for each device.

All files are written into a temporary folder that is renamed at the end, so a deployment is complete or absent. The
temporary folder is beside the target, or inside an existing target, which may be a mount point or the current folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pydantic import ValidationError

from sepnas.deploy.certificates import DEFAULT_VALIDITY_DAYS
from sepnas.deploy.facts import facts_of
from sepnas.deploy.int8 import Int8Calibration
from sepnas.deploy.plan_fit import check_fits, warn_of_other_messages
from sepnas.deploy.services import Service
from sepnas.deploy.shard_writer import NamedPlan
from sepnas.deploy.variants import named_plan
from sepnas.deploy.writer import DeploymentWriter, Progress
from sepnas.deployment.engines.kind import EngineKind
from sepnas.deployment.engines.registry import engine_names, exact_engines
from sepnas.deployment.engines.registry import engines as all_engines
from sepnas.deployment.manifest import MANIFEST_NAME, Manifest, OnMissing
from sepnas.deployment.network_facts import ImageInput
from sepnas.deployment.plans import DEFAULT_PLAN, check_new_names
from sepnas.errors import DeploymentError, SpecError, StorageError
from sepnas.options import option
from sepnas.plan.plan import Plan
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.policy import TransmissionPolicy
from sepnas.spec.document import short
from sepnas.spec.figures import Fit
from sepnas.spec.folder_lock import LOCK_FILE, held, held_by
from sepnas.spec.hosts import Hosts

if TYPE_CHECKING:
    from torch import Tensor

    from sepnas.nets.separable import SeparableNetwork

MAX_VALIDITY_DAYS = 36_500
MAX_NAME_CHARACTERS = 255


def export_deployment(
    network: SeparableNetwork,
    out_dir: str | os.PathLike[str],
    *,
    name: str,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    resize: Fit | None = None,
    hosts: Hosts | None = None,
    validity_days: float = DEFAULT_VALIDITY_DAYS,
    force: bool = False,
    engines: Sequence[str] | None = None,
    calibration_NCHW: Tensor | None = None,
    on_missing: OnMissing = "strict",
    services: Sequence[Service] = (),
    progress: Progress | None = None,
    plan: Plan | None = None,
    plans: Mapping[str, Plan | TransmissionPolicy] | None = None,
    statistics_NCHW: Tensor | None = None,
) -> Manifest:
    """Cut a network by its plans and write the deployment ``out_dir``.

    Args:
        network: the trained network.
        plan: the default plan; that of the network's architecture and policy by default.
        plans: more plans or policies over the same weights, by name.
        statistics_NCHW: about a thousand normalised training images, which measure the batch-norm statistics of
            ``plans``, and the scales of their messages if these were not trained.
        classes: class names, in the order of the logits.
        mean, std: training's normalisation, one number for each channel, for values in 0..1.
        resize: how training scaled images of another size; ``infer`` and ``serve`` then do the same. None: not at all.
        hosts: content of ``hosts.yaml``; by default all devices on 127.0.0.1.
        engines: engines that a device may run; all exact ones by default. The weights are stored only once.
        calibration_NCHW: about a hundred normalised training images that set the scales of quantised engines.
        on_missing: result for a late message or a lost device: an error, or an answer without it.
        services: service files to write into each device's folder, which start the worker at boot: ``systemd``,
            ``docker``.
        force: replace an existing deployment (any other content is never replaced).

    Raises:
        SpecError: names, numbers, policies or images that do not fit the network.
        DeploymentError: ``out_dir`` exists and may not be replaced, or a plan needs weights that were not trained.
        StorageError: ``out_dir`` cannot be written; nothing is left behind.
    """
    if not os.fspath(out_dir):
        raise SpecError("export: `out_dir` is empty; name the deployment's folder")
    image = _image_input(network.architecture, mean, std, resize)
    _check_names(network.architecture, classes, hosts)
    check_options(name, validity_days, on_missing)
    chosen = engine_kinds(engines)
    if not all(kind.exact for kind in chosen):
        _check_images("calibration_NCHW", network.architecture, calibration_NCHW, "int8 needs ")
    if plan is not None:
        check_fits(plan, network)
        warn_of_other_messages(plan, network)
    plan = build_plan(network.architecture) if plan is None else plan
    check_new_names(plans or ())
    if statistics_NCHW is not None:
        _check_images("statistics_NCHW", network.architecture, statistics_NCHW)
    was_training = network.training
    network.eval()
    try:
        with writing(Path(out_dir), force) as folder:
            calibration = None if calibration_NCHW is None else Int8Calibration(network, plan, calibration_NCHW)
            named = [NamedPlan(DEFAULT_PLAN, plan, network, calibration)]
            for key, given in (plans or {}).items():
                named.append(named_plan(network, key, given, statistics_NCHW, calibration_NCHW))
            writer = DeploymentWriter(
                network, named, folder, name, validity_days, progress or silent, chosen, tuple(services)
            )  # fmt: skip
            facts = facts_of([each.plan for each in named], network.architecture, tuple(classes), image)
            return writer.write(facts, hosts, on_missing)
    finally:
        network.train(was_training)


def check_options(name: str, validity_days: float, on_missing: str) -> None:
    """Raise :class:`SpecError` for options that no deployment can have."""
    if not name.strip() or not name.isprintable() or set(name) & set("/\\") or len(name) > MAX_NAME_CHARACTERS:
        raise SpecError(
            f"export: `name` must be 1..{MAX_NAME_CHARACTERS} printable characters without slashes, got {short(name)}"
        )
    if not 0 < validity_days <= MAX_VALIDITY_DAYS:  # refuses nan too
        raise SpecError(
            f"export: `validity_days` must be more than 0 and at most {MAX_VALIDITY_DAYS}, got {validity_days!r}"
        )
    if on_missing not in get_args(OnMissing):
        raise SpecError(f"export: `on_missing` must be {' or '.join(get_args(OnMissing))}, got {short(on_missing)}")


def engine_kinds(names: Sequence[str] | None) -> tuple[EngineKind, ...]:
    names = exact_engines() if names is None else names
    if not names or not set(names) <= set(engine_names()):
        allowed = ", ".join(engine_names())
        raise SpecError(f"export: `engines` must name one or more of {allowed}, got {short(list(names))}")
    return tuple(kind for kind in all_engines().values() if kind.name in names)


def _image_input(
    architecture: Architecture, mean: Sequence[float], std: Sequence[float], resize: Fit | None
) -> ImageInput:
    try:
        return ImageInput(
            channels=architecture.in_channels, height=architecture.image_size, width=architecture.image_size,
            mean=tuple(mean), std=tuple(std), resize=resize,
        )  # fmt: skip
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise SpecError(f"export: {place} {problem['msg'].removeprefix('Value error, ')}") from None


def _check_images(name: str, architecture: Architecture, images_NCHW: Tensor | None, why: str = "") -> None:
    side = architecture.image_size
    wanted = (architecture.in_channels, side, side)
    shape = None if images_NCHW is None else tuple(images_NCHW.shape)
    if shape is None or len(shape) != 4 or not shape[0] or shape[1:] != wanted:
        raise SpecError(
            f"export: {why}`{name}`, normalised images of shape (N, {', '.join(map(str, wanted))}); got {shape}"
        )


def _check_names(architecture: Architecture, classes: Sequence[str], hosts: Hosts | None) -> None:
    if len(classes) != architecture.num_classes:
        raise SpecError(f"export: `classes` must name {architecture.num_classes} classes, got {len(classes)}")
    wrong = [label for label, count in Counter(classes).items() if not label.strip() or count > 1]
    if wrong:
        raise SpecError(f"export: `classes` must name each class once, and none is empty, got {short(wrong[0])}")
    for rank in range(architecture.num_devices if hosts else 0):
        assert hosts is not None
        hosts.address(rank)


def silent(done: int, total: int, what: str) -> None:
    """Show no progress."""


@contextmanager
def writing(target: Path, force: bool) -> Iterator[Path]:
    """Yield a temporary folder to write into; at the end its content replaces that of ``target``."""
    with _alone(target):
        _check_replaceable(target, force)
        yield from _written(target)


def _alone(target: Path) -> AbstractContextManager[None]:
    """Lock the target against other exports; the lock file is in the folder, or beside it if it does not exist yet."""
    if target.is_dir():
        return held(target, "writing")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{target}: the deployment cannot be written, nothing was left behind: {error.strerror}"
        ) from error
    return held_by(target.parent / f".{target.name}{LOCK_FILE}", target, "writing")


def _written(target: Path) -> Iterator[Path]:
    temporary: Path | None = None
    try:
        temporary = _folder_in(target if target.exists() else target.parent)
        yield temporary
        if target.exists():
            _replace_entries(temporary, target)
        else:
            temporary.chmod(0o755)
            temporary.rename(target)
    except (OSError, StorageError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise StorageError(f"{target}: the deployment cannot be written, nothing was left behind: {reason}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _folder_in(parent: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=parent, prefix=".sepnas-export-"))


def _check_replaceable(target: Path, force: bool) -> None:
    if not target.exists() or (target.is_dir() and {LOCK_FILE}.issuperset(path.name for path in target.iterdir())):
        return
    if not (target / MANIFEST_NAME).is_file():
        raise DeploymentError(f"{target}: exists and is not a deployment; choose another folder, or empty it first")
    if not force:
        raise DeploymentError(
            f"{target}: is a deployment already; choose another folder, or replace it with "
            + option("--force", "force=True")
        )


def _replace_entries(new: Path, target: Path) -> None:
    """Move the content of ``new``, a folder inside ``target``, into ``target``; an error restores the old content."""
    incoming = sorted(new.iterdir(), key=_is_manifest)
    outgoing = sorted(
        (path for path in target.iterdir() if path.name not in (new.name, LOCK_FILE)), key=_is_manifest, reverse=True
    )
    old = _folder_in(target)
    moves = [(path, old / path.name) for path in outgoing] + [(path, target / path.name) for path in incoming]
    done: list[tuple[Path, Path]] = []
    try:
        for source, place in moves:
            source.rename(place)
            done.append((source, place))
    except BaseException:
        for source, place in reversed(done):
            place.rename(source)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def _is_manifest(path: Path) -> bool:
    """The manifest is moved out first and in last: a folder without it does not count as a deployment."""
    return path.name == MANIFEST_NAME
