"""sepnas from Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sepnas.console import export_bar, warn
from sepnas.deployment.manifest import EXACT_ENGINES, EngineName, Manifest, OnMissing
from sepnas.errors import DataError, DeploymentError, SpecError, TrainingError
from sepnas.plan.wire import LEVELS, UNCONVERTED, WIRE_FORMATS, Scale
from sepnas.separable.architecture import Architecture, named_architecture, named_policy
from sepnas.separable.policy import TransmissionPolicy
from sepnas.spec.dataset import DataFacts
from sepnas.spec.document import FILE_SUFFIXES
from sepnas.spec.hosts import Hosts
from sepnas.spec.recognise import recognise
from sepnas.units import format_names

if TYPE_CHECKING:
    from torch import Tensor

    from sepnas.deploy.services import Service
    from sepnas.nets.separable import SeparableResNeXt
    from sepnas.train.images import ImageData
    from sepnas.train.recipe import Recipe
    from sepnas.train.record import TrainingResult


def train_architecture(
    architecture: Architecture,
    data: ImageData,
    recipe: Recipe,
    out: Path,
    seed: int,
    resume: bool,
    *,
    device: str = "auto",
    threads: int | None = None,
    stop_after_s: float | None = None,
    teachers: Sequence[SeparableResNeXt] = (),
    start: SeparableResNeXt | None = None,
    compiled: bool = False,
) -> TrainingResult:
    """Train from a seed or from ``start``; the run's folder then holds all that ``export`` needs."""
    from sepnas.train.loop import train_network
    from sepnas.train.start import digest_of, first_network
    from sepnas.train.threads import use_threads_for

    use_threads_for(architecture, threads)
    network = first_network(architecture, data, seed, start, "--start")
    return train_network(
        network, data, recipe, out, seed=seed, resume=resume, device=device, stop_after_s=stop_after_s,
        teachers=teachers, start=digest_of(start), compiled=compiled,
    )  # fmt: skip


def load_teacher(run: Path, images: ImageData) -> SeparableResNeXt:
    """The network of a training run, if it was trained on the same classes and inputs."""
    from sepnas.train.checkpoint import load_network

    network = load_network(run)
    check_same_data("--teacher", run, images)
    return network


def check_same_data(option: str, run: Path, images: ImageData) -> None:
    """Raise :class:`TrainingError` unless the run was trained on the same classes, normalised alike."""
    from sepnas.train.checkpoint import DATA

    facts = DataFacts.load((run if run.is_dir() else run.parent) / DATA)
    if facts.classes != images.classes:
        raise TrainingError(
            f"{option} {run}: knows {len(facts.classes)} classes of {facts.name!r}, {facts.classes[0]!r} first; "
            f"{images.name!r} has {len(images.classes)}, {images.classes[0]!r} first"
        )
    pairs = zip(facts.mean + facts.std, images.mean + images.std, strict=True)
    if not all(math.isclose(a, b, abs_tol=1e-3) for a, b in pairs):
        raise TrainingError(
            f"{option} {run}: was trained on images of mean {facts.mean} and deviation {facts.std}, but those of "
            f"{images.name!r} have {images.mean} and {images.std}: it would see them wrongly"
        )


CALIBRATION_IMAGES = 256


@dataclass(frozen=True)
class Int8Data:
    """Images for int8: those that its scales are taken from, and those that say what it costs."""

    images: ImageData

    @classmethod
    def load(cls, run: Path, name: str | None, root: Path | None) -> Int8Data:
        """The data set that a run was trained on, or another of the same classes; normalised as in training."""
        from sepnas.train.checkpoint import ARCHITECTURE, DATA
        from sepnas.train.data import load_dataset

        facts, architecture = DataFacts.load(run / DATA), Architecture.load(run / ARCHITECTURE)
        try:
            images = load_dataset(
                name or facts.name, root=root, image_size=architecture.image_size, resize=facts.resize or "stretch"
            )
        except DataError as error:
            raise DataError(
                f"--int8 needs images like those that {run} was trained on ({facts.name}); name them with --data "
                f"(folder:PATH, or with --data-root): {error}"
            ) from error
        if images.in_channels != architecture.in_channels:
            raise DataError(
                f"--data {images.name}: its images have {images.in_channels} channels, the network of {run} takes "
                f"{architecture.in_channels}"
            )
        if images.classes != facts.classes:
            raise DataError(
                f"--data {images.name}: its {len(images.classes)} classes, {images.classes[0]!r} first, are not the "
                f"{len(facts.classes)} of {run}, {facts.classes[0]!r} first; name the data set that it was trained on"
            )
        if facts.content_sha256 not in (None, images.sha256):
            warn(
                f"{images.name}: its images are not those that {run} was trained on (changed since, or others); int8's "
                "scales are taken from these, and some that it is judged by may have been trained on"
            )
        return cls(replace(images, mean=facts.mean, std=facts.std))

    def calibration_images(self) -> Tensor:
        """Training images ``(N, C, H, W)``, the same each time."""
        import torch

        chosen = torch.randperm(len(self.images.train), generator=torch.Generator().manual_seed(0))
        return self.images.normalise(self.images.train.images[chosen[:CALIBRATION_IMAGES]])

    def accuracies(self, network: SeparableResNeXt, deployment: Path) -> tuple[float, float]:
        """On the validation images, in fp32 and with the int8 graphs of a deployment."""
        from sepnas.deploy.int8 import exported_int8_network
        from sepnas.train.evaluate import accuracy

        networks = network, exported_int8_network(network, deployment)
        exact, rounded = (accuracy(each, self.images.val, self.images) for each in networks)
        return exact, rounded


def export_run(
    run: Path,
    out: Path,
    name: str | None = None,
    hosts: Hosts | None = None,
    force: bool = False,
    engines: Sequence[EngineName] = EXACT_ENGINES,
    on_missing: OnMissing = "strict",
    services: Sequence[Service] = (),
    int8: Int8Data | None = None,
) -> Manifest:
    """Export the best checkpoint of a training run so far; with ``int8`` for that engine too."""
    from sepnas.deploy.export import export_deployment
    from sepnas.train.checkpoint import DATA, load_network

    _check_run(run)
    facts = DataFacts.load(run / DATA)
    network = load_network(run)
    with export_bar() as show:
        return export_deployment(
            network, out, name=name or run.resolve().name, classes=facts.classes, mean=facts.mean, std=facts.std,
            resize=facts.resize, hosts=hosts, force=force, engines=(*engines, "onnxruntime-int8") if int8 else engines,
            calibration_NCHW=int8.calibration_images() if int8 else None,
            on_missing=on_missing, services=services, progress=show,
        )  # fmt: skip


def _check_run(run: Path) -> None:
    from sepnas.train.checkpoint import BEST, DATA

    for file in (DATA, BEST):
        if not (run / file).exists():
            raise DeploymentError(
                f"{run}: not a finished training run, nor one with a finished epoch: {file} is missing; "
                f"`sepnas train ARCHITECTURE --out {run}` makes one"
            )


def read_policy(text: str, network: Architecture) -> TransmissionPolicy:
    """A named policy for this network, or the content of a policy file; :class:`SpecError` when it does not fit."""
    if Path(text).suffix not in FILE_SUFFIXES:
        return named_policy(text, network.num_devices, network.depth)
    policy = TransmissionPolicy.load(text)
    policy.check(network.num_devices, network.blocks_per_stage, text)
    return policy


def read_architecture(
    name: str,
    devices: int | None = None,
    policy: str | None = None,
    classes: int | None = None,
    image_size: int | None = None,
    wire: str | None = None,
    learned_scales: bool | None = None,
) -> Architecture:
    """The architecture of a name or of a file, its messages in another format; what contradicts the file is refused."""
    found = _read_architecture(name, devices, policy, classes, image_size)
    return with_messages(found, wire, learned_scales)


def _read_architecture(
    name: str, devices: int | None, policy: str | None, classes: int | None, image_size: int | None
) -> Architecture:
    known = recognise(Path(name))
    if known and known[0] != "file":
        inside = f"; name {Path(name) / 'architecture.json'}" if known[0] == "run" else ""
        raise SpecError(f"architecture: {name} is {known[1]}, not an architecture's file or name{inside}")
    if Path(name).suffix in FILE_SUFFIXES:
        architecture = Architecture.load(name)
        _refuse_contradictions(name, architecture, devices, classes, image_size)
        if policy is None:
            return architecture
        return architecture.with_policy(read_policy(policy, architecture))
    plain = named_architecture(name, devices or 1, "none", classes or 100, image_size=image_size or 32)
    return plain.with_policy(read_policy("all-to-all" if policy is None else policy, plain))


def with_messages(architecture: Architecture, wire: str | None, learned_scales: bool | None) -> Architecture:
    """The same with its messages in another format, or with other scales where they are quantised."""
    if wire is not None and wire not in WIRE_FORMATS:
        raise SpecError(f"--wire {wire!r}: allowed are {', '.join(WIRE_FORMATS)}")
    if wire is None and learned_scales is None:
        return architecture
    scale: Scale | None = None if learned_scales is None else "learned" if learned_scales else "sample"
    policy = architecture.policy.written_in(wire, scale)
    if scale == "learned" and not policy.learned_scales():
        why = f"no message is quantised; add {format_names(f'--wire {wire}' for wire in LEVELS)}"
        if not any(point.transfers for point in policy.points):
            why = f"the policy of {architecture.name!r} sends nothing but logits, which stay in {UNCONVERTED}"
        raise SpecError(f"--learned-scales: {why}")
    return architecture.with_policy(policy)


def _refuse_contradictions(
    name: str, architecture: Architecture, devices: int | None, classes: int | None, image_size: int | None
) -> None:
    for option, wanted, found in (
        ("--devices", devices, architecture.num_devices),
        ("--classes", classes, architecture.num_classes),
        ("--image-size", image_size, architecture.image_size),
    ):
        if wanted not in (None, found):
            raise SpecError(f"{name}: the file says {found}, {option} says {wanted}; leave {option} out")
