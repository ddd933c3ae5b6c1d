"""The images of a training run that an export calibrates with, and measures accuracy on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from sepnas.console import warn
from sepnas.deployment.plans import DEFAULT_PLAN
from sepnas.errors import DataError
from sepnas.measure.deployed_network import deployed_network
from sepnas.nets.separable import SeparableNetwork
from sepnas.options import option
from sepnas.separable.architecture import Architecture
from sepnas.spec.dataset import DataFacts
from sepnas.spec.memory import images_at_once
from sepnas.train.checkpoint import ARCHITECTURE, DATA
from sepnas.train.data import load_dataset
from sepnas.train.evaluate import accuracy
from sepnas.train.images import ImageData, Split

CALIBRATION_IMAGES = 256
STATISTICS_IMAGES = 1024
_CHOSEN_PIXELS = 1 << 24
"""Pixels of the chosen images, which are normalised at once: 1,024 of 128 x 128, and fewer larger ones."""


@dataclass(frozen=True)
class RunImages:
    """Images of a run: the training split calibrates scales and statistics, the validation split measures accuracy."""

    images: ImageData

    @classmethod
    def load(cls, run: Path, name: str | None = None, root: Path | None = None) -> RunImages:
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
                f"the export needs images like those that {run} was trained on ({facts.name}); name them with "
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
                f"{images.name}: its images differ from those that {run} was trained on; "
                "scales and statistics are taken from these, and those that measure accuracy may have been trained on"
            )
        return cls(replace(images, mean=facts.mean, std=facts.std))

    def calibration_images(self) -> Tensor:
        """Training images ``(N, C, H, W)`` for the scales of int8, the same on every call."""
        return self._chosen(CALIBRATION_IMAGES)

    def statistics_images(self) -> Tensor:
        """Training images ``(N, C, H, W)`` for batch-norm statistics and scales of messages, the same on every call."""
        return self._chosen(STATISTICS_IMAGES)

    def accuracy(
        self,
        network: SeparableNetwork,
        deployment: Path,
        plan: str = DEFAULT_PLAN,
        engine: str | None = None,
        max_images: int | None = None,
    ) -> float:
        """Accuracy, 0..1, of a deployment's plan on the validation images, or the first ``max_images`` of them.

        ``engine``: a quantised one whose graphs compute; fp32 by default.
        """
        val = self.images.val
        some = Split(val.images[:max_images], val.labels[:max_images])
        return accuracy(deployed_network(network, deployment, plan, engine), some, self.images)

    def _chosen(self, count: int) -> Tensor:
        order = torch.randperm(len(self.images.train), generator=torch.Generator().manual_seed(0))
        count = images_at_once(count, self.images.image_size, _CHOSEN_PIXELS)
        return self.images.normalise(self.images.train.images[order[:count]])
