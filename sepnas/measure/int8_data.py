"""The images that calibrate an int8 deployment and measure its loss of accuracy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from sepnas.console import warn
from sepnas.deploy.int8 import exported_int8_network
from sepnas.errors import DataError
from sepnas.nets.separable import SeparableResNeXt
from sepnas.options import option
from sepnas.separable.architecture import Architecture
from sepnas.spec.dataset import DataFacts
from sepnas.train.checkpoint import ARCHITECTURE, DATA
from sepnas.train.data import load_dataset
from sepnas.train.evaluate import accuracy
from sepnas.train.images import ImageData

CALIBRATION_IMAGES = 256


@dataclass(frozen=True)
class Int8Data:
    """Images for int8: the training split calibrates its scales, the validation split measures its accuracy."""

    images: ImageData

    @classmethod
    def load(cls, run: Path, name: str | None = None, root: Path | None = None) -> Int8Data:
        """The data set that a run was trained on, or another one with the same classes; normalised as in training.

        Raises :class:`DataError` for missing images, and for other classes or channels.
        """
        facts, architecture = DataFacts.load(run / DATA), Architecture.load(run / ARCHITECTURE)
        try:
            images = load_dataset(
                name or facts.name, root=root, image_size=architecture.image_size, resize=facts.resize or "stretch"
            )
        except DataError as error:
            raise DataError(
                f"int8 needs images like those that {run} was trained on ({facts.name}); name them with "
                f"{option('--data', 'name=')} (folder:PATH) or {option('--data-root', 'root=')}: {error}"
            ) from error
        if images.in_channels != architecture.in_channels:
            raise DataError(
                f"data {images.name}: its images have {images.in_channels} channels, the network of {run} takes "
                f"{architecture.in_channels}"
            )
        if images.classes != facts.classes:
            raise DataError(
                f"data {images.name}: its {len(images.classes)} classes, {images.classes[0]!r} first, are not the "
                f"{len(facts.classes)} of {run}, {facts.classes[0]!r} first; name the data set that it was trained on"
            )
        if facts.content_sha256 not in (None, images.sha256):
            warn(
                f"{images.name}: its images are not those that {run} was trained on (changed since, or others); int8's "
                "scales are taken from these, and some of the images that measure its accuracy may have been trained on"
            )
        return cls(replace(images, mean=facts.mean, std=facts.std))

    def calibration_images(self) -> Tensor:
        """Training images ``(N, C, H, W)``, the same on every call."""
        chosen = torch.randperm(len(self.images.train), generator=torch.Generator().manual_seed(0))
        return self.images.normalise(self.images.train.images[chosen[:CALIBRATION_IMAGES]])

    def accuracies(self, network: SeparableResNeXt, deployment: Path) -> tuple[float, float]:
        """Accuracy on the validation images in fp32, and with a deployment's int8 graphs; both 0..1."""
        networks = network, exported_int8_network(network, deployment)
        exact, rounded = (accuracy(each, self.images.val, self.images) for each in networks)
        return exact, rounded
