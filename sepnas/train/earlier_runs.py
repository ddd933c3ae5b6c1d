"""Networks of earlier training runs: teachers and initial weights."""

from __future__ import annotations

import math
from pathlib import Path

from sepnas.errors import TrainingError
from sepnas.nets.separable import SeparableNetwork
from sepnas.spec.dataset import DataFacts
from sepnas.train.checkpoint import DATA, load_network
from sepnas.train.images import ImageData


def load_teacher(run: Path, images: ImageData) -> SeparableNetwork:
    """The network of a training run; raises an error unless it was trained on the same classes and inputs."""
    network = load_network(run)
    check_same_data("teacher", run, images)
    return network


def check_same_data(role: str, run: Path, images: ImageData) -> None:
    """Raise :class:`TrainingError` unless the run was trained on the same classes with the same normalisation."""
    facts = DataFacts.load((run if run.is_dir() else run.parent) / DATA)
    if facts.classes != images.classes:
        raise TrainingError(
            f"{role} {run}: knows {len(facts.classes)} classes of {facts.name!r}, {facts.classes[0]!r} first; "
            f"{images.name!r} has {len(images.classes)}, {images.classes[0]!r} first"
        )
    pairs = zip(facts.mean + facts.std, images.mean + images.std, strict=True)
    if not all(math.isclose(a, b, abs_tol=1e-3) for a, b in pairs):
        raise TrainingError(
            f"{role} {run}: was trained on images of mean {facts.mean} and deviation {facts.std}, but those of "
            f"{images.name!r} have {images.mean} and {images.std}, so it would read them wrongly"
        )
